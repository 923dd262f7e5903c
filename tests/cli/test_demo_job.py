from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet.cli.demo.job import (
    FREQUENT,
    FileReport,
    Snapshot,
    analyse,
    compare,
    merge,
    serial,
    snapshot,
    standard_library,
)

TEXT = "To be, or not to be:\nthat is the question.\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "plays" / "tragedies").mkdir(parents=True)
    (tmp_path / "plays" / "hamlet.txt").write_text(TEXT)
    (tmp_path / "plays" / "tragedies" / "list").write_text("hamlet\nmacbeth")
    (tmp_path / "zero").write_bytes(b"")
    (tmp_path / "binary.py").write_bytes(bytes(range(256)))
    return tmp_path


def test_a_report_counts_and_hashes_what_is_in_the_file(tree: Path) -> None:
    report = analyse(tree, "plays/hamlet.txt")
    assert report == FileReport(
        path="plays/hamlet.txt",
        size_bytes=len(TEXT),
        lines=2,
        words=10,
        frequent={"be": 2, "to": 2, "is": 1, "not": 1, "or": 1, "question": 1, "that": 1, "the": 1},
        sha256=hashlib.sha256(TEXT.encode()).hexdigest(),
    )


def test_frequent_words_come_in_the_order_of_their_counts_then_of_the_alphabet(tree: Path) -> None:
    assert list(analyse(tree, "plays/hamlet.txt").frequent)[:4] == ["be", "to", "is", "not"]


def test_a_report_names_a_bounded_number_of_words(tmp_path: Path) -> None:
    (tmp_path / "many").write_text(" ".join(f"w{number}" for number in range(1000)))
    report = analyse(tmp_path, "many")
    assert (report.words, len(report.frequent)) == (1000, FREQUENT)


def test_bytes_that_are_no_text_are_counted_all_the_same(tree: Path) -> None:
    assert (analyse(tree, "binary.py").size_bytes, analyse(tree, "binary.py").error) == (256, "")


def test_a_file_that_cannot_be_read_is_reported_as_such(tree: Path) -> None:
    assert analyse(tree, "gone") == FileReport("gone", error="FileNotFoundError")


def test_a_snapshot_lists_regular_files_in_order_and_no_links(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "zero")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    assert list(snapshot(tree).files) == ["binary.py", "plays/hamlet.txt", "plays/tragedies/list", "zero"]


def test_a_snapshot_can_be_narrowed(tree: Path) -> None:
    assert list(snapshot(tree, only_suffix=".py").files) == ["binary.py"]
    assert list(snapshot(tree, skip=frozenset({"tragedies"})).files) == ["binary.py", "plays/hamlet.txt", "zero"]


def test_a_snapshot_leaves_out_names_that_are_no_text(tree: Path) -> None:
    (tree / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    assert len(snapshot(tree).files) == 4


def test_the_standard_library_is_sources_and_nothing_installed() -> None:
    found = standard_library()
    assert {"os.py", "json/decoder.py"} <= found.files.keys()
    assert not any("site-packages" in path or not path.endswith(".py") for path in found.files)


WORDS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5), max_size=4)
REPORTS = st.lists(
    st.builds(
        FileReport, path=st.text(max_size=3), size_bytes=st.integers(0, 99), words=st.integers(0, 9), frequent=WORDS
    ),
    max_size=8,
    unique_by=lambda report: report.path,
)


@settings(deadline=None)
@given(REPORTS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter_and_neither_does_a_repetition(
    reports: list[FileReport], rng: random.Random
) -> None:
    shuffled = reports * 2
    rng.shuffle(shuffled)
    assert merge(shuffled) == merge(reports)


@settings(deadline=None)
@given(REPORTS.filter(bool))
def test_a_difference_in_one_report_shows_in_the_totals(reports: list[FileReport]) -> None:
    other = [attrs.evolve(reports[0], sha256="another"), *reports[1:]]
    assert merge(other) != merge(reports)


def test_totals_add_up(tree: Path) -> None:
    totals = merge([*serial(snapshot(tree)).values(), FileReport("gone", error="FileNotFoundError")])
    assert (totals.files, totals.unreadable, totals.lines) == (5, 1, 4)
    assert totals.size_bytes == len(TEXT) + 14 + 256


def test_totals_do_not_depend_on_the_order_of_words_within_a_report() -> None:
    one, two = FileReport("f", frequent={"a": 1, "b": 1}), FileReport("f", frequent={"b": 1, "a": 1})
    assert merge([one]) == merge([two])


def test_the_same_job_done_twice_is_equal(tree: Path) -> None:
    files = snapshot(tree)
    comparison = compare(files, serial(files), serial(files))
    assert (comparison.equal, comparison.differing, comparison.changed) == (True, (), ())


def test_a_missing_report_is_a_difference(tree: Path) -> None:
    files = snapshot(tree)
    ours = serial(files)
    del ours["zero"]
    comparison = compare(files, ours, serial(files))
    assert (comparison.equal, comparison.differing) == (False, ("zero",))


def test_a_wrong_report_is_a_difference(tree: Path) -> None:
    files = snapshot(tree)
    ours = {**serial(files), "zero": FileReport("zero", words=1)}
    assert compare(files, ours, serial(files)).differing == ("zero",)


def test_a_file_that_somebody_wrote_to_is_left_out_and_named(tree: Path) -> None:
    files = snapshot(tree)
    ours = serial(files)
    (tree / "zero").write_text("not any more")
    (tree / "binary.py").unlink()
    comparison = compare(files, ours, serial(files))
    assert (comparison.equal, comparison.changed) == (True, ("binary.py", "zero"))


def test_nothing_equals_nothing(tmp_path: Path) -> None:
    assert compare(Snapshot(tmp_path, {}), {}, {}).equal
