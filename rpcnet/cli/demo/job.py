"""The work of the demo, without any cluster: look at files, add up what was found, compare two ways to do it.

The rules of this file:

* A report depends on the content of one file only, so a file analysed twice counts once.
* :func:`merge` does not depend on the order in which reports arrive.
* A file that cannot be read is a report too, with its ``error`` set, on whichever side tried.
* The list of files is taken once, with size and time of change, so that a file somebody writes to in the meantime is
  told from a wrong result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

__all__ = [
    "Comparison",
    "FileReport",
    "Snapshot",
    "Totals",
    "analyse",
    "compare",
    "merge",
    "serial",
    "snapshot",
    "standard_library",
]

FREQUENT = 20
"""How many words a report names."""
_WORD = re.compile(r"\w+")
_NOT_SOURCES = frozenset({"site-packages", "dist-packages", "__pycache__"})


@attrs.frozen
class FileReport:
    """What was found in one file."""

    path: str
    """Relative to the directory of the job, with ``/`` between its parts."""
    size_bytes: int = 0
    """Its length."""
    lines: int = 0
    """How many line ends it has."""
    words: int = 0
    """How many words it has: runs of letters, digits and underscores, as UTF-8."""
    frequent: dict[str, int] = attrs.field(factory=dict)
    """The most frequent words in lower case, with their counts; those of equal count in alphabetical order."""
    sha256: str = ""
    """Its content's hash."""
    error: str = ""
    """The kind of error that reading it raised; empty when it was read."""


@attrs.frozen
class Totals:
    """What was found in all files together."""

    files: int
    """How many reports were added up."""
    unreadable: int
    """How many of them say that the file could not be read."""
    size_bytes: int
    """Bytes of all files."""
    lines: int
    """Lines of all files."""
    words: int
    """Words of all files."""
    frequent: dict[str, int]
    """The words most frequent in the reports' own lists, with the sum of their counts there."""
    sha256: str
    """A hash over every field of every report, by path: equal totals mean equal reports."""


@attrs.frozen
class Snapshot:
    """The files of a job as they were when it began."""

    root: Path
    """The directory."""
    files: Mapping[str, tuple[int, int]]
    """Size in bytes and time of change in nanoseconds, by path relative to ``root``."""


@attrs.frozen
class Comparison:
    """How the cluster's result compares with the serial one."""

    equal: bool
    """Whether every file that did not change has the same report, and the totals over these are the same."""
    differing: tuple[str, ...]
    """Files with different reports although nobody changed them."""
    changed: tuple[str, ...]
    """Files that somebody wrote to while the demo ran; they are left out of the comparison."""


def standard_library() -> Snapshot:
    """List the sources of the running Python's own library.

    That is every ``*.py``, tests included, outside of ``site-packages``: some 30 MB in 1,800 files where nothing was
    stripped, which one core reads and counts in a few seconds.
    """
    return snapshot(Path(sysconfig.get_path("stdlib")), only_suffix=".py", skip=_NOT_SOURCES)


def snapshot(root: Path, *, only_suffix: str = "", skip: frozenset[str] = frozenset()) -> Snapshot:
    """List the regular files under a directory, in order.

    Args:
        root: the directory. Links below it are not followed, and files whose names are no valid text are left out.
        only_suffix: take only files whose name ends so.
        skip: names of directories that are not entered.
    """
    return Snapshot(root, dict(sorted(_regular_files(root, only_suffix, skip))))


def _regular_files(root: Path, only_suffix: str, skip: frozenset[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if name not in skip]
        for path in (Path(directory, name) for name in names if name.endswith(only_suffix)):
            found = _fingerprint(path)
            if found is not None and _is_text(relative := path.relative_to(root).as_posix()):
                yield relative, found


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _fingerprint(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def analyse(root: Path, path: str) -> FileReport:
    """Read one file and report on it. Takes the processor for as long as the file is long."""
    try:
        content = (root / path).read_bytes()
    except OSError as error:
        return FileReport(path, error=type(error).__name__)
    counts = Counter(_WORD.findall(content.decode("utf-8", "replace").casefold()))
    return FileReport(
        path,
        size_bytes=len(content),
        lines=content.count(b"\n"),
        words=counts.total(),
        frequent=_most_frequent(counts),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT])


def serial(files: Snapshot) -> dict[str, FileReport]:
    """Do the whole job here and now, one file after the other."""
    return {path: analyse(files.root, path) for path in files.files}


def merge(reports: Iterable[FileReport]) -> Totals:
    """Add up reports, whatever their order; a path reported twice counts once."""
    by_path = {report.path: report for report in reports}
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    for _, report in sorted(by_path.items()):
        counts.update(report.frequent)
        digest.update(json.dumps(attrs.asdict(report), sort_keys=True).encode())
    return Totals(
        files=len(by_path),
        unreadable=sum(bool(report.error) for report in by_path.values()),
        size_bytes=sum(report.size_bytes for report in by_path.values()),
        lines=sum(report.lines for report in by_path.values()),
        words=sum(report.words for report in by_path.values()),
        frequent=_most_frequent(counts),
        sha256=digest.hexdigest(),
    )


def compare(files: Snapshot, ours: Mapping[str, FileReport], theirs: Mapping[str, FileReport]) -> Comparison:
    """Compare two results of the same job; looks at the files again only where the results differ."""
    unequal = [path for path in files.files if ours.get(path) != theirs.get(path)]
    changed = {path for path in unequal if _fingerprint(files.root / path) != files.files[path]}
    differing = tuple(path for path in unequal if path not in changed)
    totals = [
        merge(side[path] for path in files.files if path in side and path not in changed) for side in (ours, theirs)
    ]
    return Comparison(not differing and totals[0] == totals[1], differing, tuple(sorted(changed)))
