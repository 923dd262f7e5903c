"""Fuzz every target, one after the other; the exit code says whether anything was found.

``FUZZ_SECONDS`` is the time for all of them, 600 if it is not set. ``python fuzz/run.py NAME ...`` takes only those.
Corpora are kept in ``.fuzz/corpus`` and grow from run to run; what was found is in ``.fuzz/found``, as the bytes that
do it. A run whose memory grows above ``_MEMORY_MIB``, or that hangs for ``_HANG_SECONDS``, has found something as well.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from targets import TARGETS, Target

_ROOT = Path(__file__).resolve().parent.parent / ".fuzz"
_MEMORY_MIB = 700
_HANG_SECONDS = 20


def corpus_of(name: str, target: Target) -> Path:
    """Return the folder of a target's corpus, with its seeds in it."""
    folder = _ROOT / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    return folder


def fuzz(name: str, target: Target, seconds: int) -> bool:
    """Fuzz one target for a while; return whether nothing was found."""
    found = _ROOT / "found"
    found.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {seconds} s", end="", flush=True)
    command = [
        *(sys.executable, str(Path(__file__).with_name("one.py")), name, str(corpus_of(name, target))),
        *(f"-max_total_time={seconds}", f"-max_len={target.max_bytes}", f"-artifact_prefix={found}/{name}-"),
        *(f"-rss_limit_mb={_MEMORY_MIB}", f"-timeout={_HANG_SECONDS}", "-print_final_stats=1", "-verbosity=0"),
    ]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = [line for line in ended.stdout.splitlines() if not line.startswith("INFO: Instrumenting")]
    numbers = dict(re.findall(r"stat::(\w+):\s+(\d+)", ended.stdout))
    runs, memory = numbers.get("number_of_executed_units", "?"), numbers.get("peak_rss_mb", "?")
    print(f", {runs} runs, {memory} MiB", flush=True)
    if ended.returncode:
        print("\n".join(said[-60:]), flush=True)
    return ended.returncode == 0


def main(names: list[str]) -> int:
    """Share the time out, and fuzz."""
    chosen = {name: target for name, target in TARGETS.items() if not names or name in names}
    seconds = int(os.environ.get("FUZZ_SECONDS", "600"))
    share = seconds / sum(target.weight for target in chosen.values())
    bad = [name for name, target in chosen.items() if not fuzz(name, target, max(1, round(share * target.weight)))]
    print(f"found something in: {', '.join(bad)}" if bad else "nothing was found", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
