"""What holds for all tests: Hypothesis draws the same examples in every run, so that red means something.

A shell that starts the tests in the background has Ctrl-C ignored, for the programs that tests start, too. Tests about
Ctrl-C need it as it is in a terminal.
"""

from __future__ import annotations

import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)  # make test ARGS=--hypothesis-profile=explore draws new ones
settings.load_profile("suite")
