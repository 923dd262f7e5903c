"""Fifty processes on one host, at rest and when five of them are killed. ``make test-net``.

How much they send and compute, and how soon they know, is measured and shown, not asserted: that depends on the machine
and on what else runs there. ``benchmarks/idle_cluster.py`` is the measurement, also to be run by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "idle_cluster.py"
TIMEOUT = 600


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux, which tells memory per process")
def test_fifty_processes_notice_five_that_are_killed_and_accuse_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--json"], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    with capsys.disabled():
        print(f"\n{done.stderr}")
    figures = json.loads(done.stdout)
    assert figures["nodes"] == 50
    assert len(figures["killed"]) == 5
    assert figures["not_noticed"] == 0
    assert figures["falsely_failed"] == []
    assert figures["datagrams"] > 0
