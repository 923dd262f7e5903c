"""What holds for all tests: Hypothesis draws the same examples in every run, so that red means something."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)  # make test ARGS=--hypothesis-profile=explore draws new ones
settings.load_profile("suite")
