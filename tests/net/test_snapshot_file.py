from __future__ import annotations

import logging
import os
from pathlib import Path
from random import Random

import attrs
import cbor2
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from rpcnet._core.members import MAX_BOOT_ID
from rpcnet._net.memory import MemoryNetwork, SimulatedEnvironment
from rpcnet._net.ports import Environment
from rpcnet._net.snapshot_file import (
    KnownPeer,
    Snapshot,
    SnapshotFile,
    _checksum,
    decode_snapshot,
    encode_snapshot,
    next_boot_id,
)
from rpcnet._net.udp import RealEnvironment


def peer(number: int) -> KnownPeer:
    return KnownPeer(f"{number:032x}", f"n{number}", f"10.0.{number // 250}.{number % 250 + 1}:7946")


SNAPSHOT = Snapshot(boot_id=1_900_000_000_000, incarnation=3, peers=(peer(1), peer(2)))
DATA = encode_snapshot(SNAPSHOT, "prod", "a")
FLAWS = r"is damaged|is no snapshot|has version"
PATH = "/var/lib/rpcnet/a.snapshot"


def simulated() -> SimulatedEnvironment:
    return SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1)


def file_of(environment: Environment, path: str | Path = PATH, cluster: str = "prod", name: str = "a") -> SnapshotFile:
    return SnapshotFile(str(path), environment, cluster, name)


# --- the content


@given(
    boot_id=st.integers(0, MAX_BOOT_ID - 1),
    incarnation=st.integers(0, 2**32 - 1),
    peers=st.lists(st.integers(0, 2**32).map(peer), max_size=256),
)
@settings(deadline=None)
def test_what_is_written_is_read(boot_id: int, incarnation: int, peers: list[KnownPeer]) -> None:
    snapshot = Snapshot(boot_id, incarnation, tuple(peers))
    assert decode_snapshot(encode_snapshot(snapshot, "prod", "a"), "prod", "a") == snapshot


def test_a_file_with_any_byte_changed_is_refused() -> None:
    for position in range(len(DATA)):
        damaged = bytearray(DATA)
        damaged[position] ^= 1 + position % 255
        with pytest.raises(ValueError, match=FLAWS):
            decode_snapshot(bytes(damaged), "prod", "a")


def test_a_file_that_was_cut_anywhere_is_damaged() -> None:
    for size in range(len(DATA)):
        with pytest.raises(ValueError, match="is damaged"):
            decode_snapshot(DATA[:size], "prod", "a")


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, DATA[:18] + noise):
        with pytest.raises(ValueError, match=FLAWS):
            decode_snapshot(data, "prod", "a")


@pytest.mark.parametrize(("cluster", "name"), [("test", "a"), ("prod", "b")])
def test_the_file_of_another_node_is_refused_by_name(cluster: str, name: str) -> None:
    with pytest.raises(ValueError, match="is of node 'a' of cluster 'prod'"):
        decode_snapshot(DATA, cluster, name)


def content(**changes: object) -> bytes:
    """Return a file with a right checksum and some content changed."""
    file = cbor2.loads(DATA)
    told = {**cbor2.loads(file["content"]), **changes}
    inner = cbor2.dumps(told)
    return cbor2.dumps({**file, "checksum": _checksum(inner), "content": inner})


GOOD_PEER = ["0" * 32, "b", "10.0.0.2:7946"]


@pytest.mark.parametrize(
    "changes",
    [
        {"boot_id": -1},
        {"boot_id": MAX_BOOT_ID},
        {"boot_id": 1.5},
        {"boot_id": True},
        {"boot_id": None},
        {"incarnation": 2**32},
        {"incarnation": "3"},
        {"peers": None},
        {"peers": {}},
        {"peers": [GOOD_PEER] * 257},
        {"peers": ["x"]},
        {"peers": [GOOD_PEER[:2]]},
        {"peers": [["0" * 31, "b", "10.0.0.2:7946"]]},
        {"peers": [["G" * 32, "b", "10.0.0.2:7946"]]},
        {"peers": [["0" * 32, "", "10.0.0.2:7946"]]},
        {"peers": [["0" * 32, "b" * 129, "10.0.0.2:7946"]]},
        {"peers": [["0" * 32, "b", "10.0.0.2"]]},
        {"peers": [["0" * 32, 5, "10.0.0.2:7946"]]},
    ],
)
def test_content_out_of_range_is_damage(changes: dict[str, object]) -> None:
    assert decode_snapshot(content(peers=[GOOD_PEER]), "prod", "a").peers[0].name == "b"
    with pytest.raises(ValueError, match="is damaged"):
        decode_snapshot(content(**changes), "prod", "a")


def test_what_a_newer_version_adds_is_ignored() -> None:
    assert decode_snapshot(content(mood="good", peers=[[*GOOD_PEER, "more"]]), "prod", "a").incarnation == 3


def test_a_file_of_another_version_is_refused_by_number() -> None:
    file = cbor2.loads(DATA)
    file["rpcnet snapshot"] = 2
    with pytest.raises(ValueError, match="has version 2, and only version 1 is known"):
        decode_snapshot(cbor2.dumps(file), "prod", "a")


def test_no_more_peers_are_written_than_are_read() -> None:
    many = attrs.evolve(SNAPSHOT, peers=tuple(peer(number) for number in range(1000)))
    data = encode_snapshot(many, "prod", "a")
    assert decode_snapshot(data, "prod", "a").peers == many.peers[:256]


@pytest.mark.parametrize(
    ("last", "wall_clock", "boot_id"),
    [
        (None, 1_900_000_000.5, 1_900_000_000_500),
        (SNAPSHOT, 1_900_000_001.0, 1_900_000_001_000),
        (SNAPSHOT, 1_900_000_000.0, 1_900_000_000_001),
        (SNAPSHOT, 0.0, 1_900_000_000_001),
        (None, -5.0, 0),
    ],
)
def test_a_boot_id_is_above_the_last_one_whatever_the_clock_says(
    last: Snapshot | None, wall_clock: float, boot_id: int
) -> None:
    assert next_boot_id(last, wall_clock) == boot_id


# --- the file


async def test_a_node_finds_what_its_last_start_wrote(autojump_clock: MockClock) -> None:
    environment = simulated()
    first = file_of(environment)
    assert await first.load() is None
    await first.save(SNAPSHOT)
    assert await file_of(environment).load() == SNAPSHOT


async def test_what_has_not_changed_is_not_written(autojump_clock: MockClock) -> None:
    environment = simulated()
    environment.files[PATH] = DATA
    file = file_of(environment)
    await file.load()
    environment.files.clear()
    await file.save(SNAPSHOT)
    assert environment.files == {}
    await file.save(attrs.evolve(SNAPSHOT, incarnation=4))
    assert list(environment.files) == [PATH]


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA[:-1] + b"\0", DATA[:10]])
async def test_a_damaged_file_is_reported_in_one_line_and_replaced(
    data: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    environment = simulated()
    environment.files[PATH] = data
    file = file_of(environment)
    assert await file.load() is None
    assert [PATH in record.getMessage() and "is damaged" in record.getMessage() for record in caplog.records] == [True]
    await file.save(SNAPSHOT)
    assert environment.files == {PATH: DATA}


NEWER = cbor2.dumps({"rpcnet snapshot": 2, "more": 0, "content": b""})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode_snapshot(SNAPSHOT, "prod", "b"), "is of node 'b' of cluster 'prod'"),
        (encode_snapshot(SNAPSHOT, "test", "a"), "is of node 'a' of cluster 'test'"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "is no snapshot"),
        (NEWER, "has version 2"),
    ],
)
async def test_what_is_not_this_nodes_is_reported_in_one_line_and_left_alone(
    data: bytes, why: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    environment = simulated()
    environment.files[PATH] = data
    file = file_of(environment)
    assert await file.load() is None
    await file.save(SNAPSHOT)
    assert environment.files == {PATH: data}
    assert [why in record.getMessage() for record in caplog.records] == [True]


async def test_a_disk_that_does_not_answer_is_not_waited_for_for_ever(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(SimulatedEnvironment):
        async def read_file(self, path: str) -> bytes | None:
            await trio.sleep_forever()

    environment = Hanging(MemoryNetwork(Random(1)), seed=1)
    file = file_of(environment)
    start = trio.current_time()
    assert await file.load() is None
    assert trio.current_time() - start == pytest.approx(10.0)
    await file.save(SNAPSHOT)
    assert environment.files == {}
    assert ["could not be read within 10 s" in record.getMessage() for record in caplog.records] == [True]


# --- the real disk


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


async def test_the_real_disk_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    await file_of(RealEnvironment(), path).save(SNAPSHOT)
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o600
    assert await file_of(RealEnvironment(), path).load() == SNAPSHOT
    assert names_in(tmp_path) == ["a.snapshot"]


async def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    for incarnation in (3, 4):
        await file_of(RealEnvironment(), link).save(attrs.evolve(SNAPSHOT, incarnation=incarnation))
        assert decode_snapshot(real.read_bytes(), "prod", "a").incarnation == incarnation
    assert link.is_symlink()


async def test_a_missing_file_is_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert await file_of(RealEnvironment(), tmp_path / "none").load() is None
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_what_cannot_be_read_is_reported_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe, directory = tmp_path / "pipe", tmp_path / "directory"
    os.mkfifo(pipe)
    directory.mkdir()
    for path in (pipe, directory):
        caplog.clear()
        file = file_of(RealEnvironment(), path)
        with trio.fail_after(5):
            assert await file.load() is None
            await file.save(SNAPSHOT)
        assert ["cannot be read" in record.getMessage() for record in caplog.records] == [True]
    assert pipe.is_fifo()
    assert directory.is_dir()


async def test_what_cannot_be_written_is_reported_once_until_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "a.snapshot"
    file = file_of(RealEnvironment(), path)
    for _ in range(3):
        await file.save(SNAPSHOT)
    assert ["cannot be written" in record.getMessage() for record in caplog.records] == [True]
    assert file.last is None
    path.parent.mkdir()
    await file.save(SNAPSHOT)
    assert path.read_bytes() == DATA
    path.unlink()
    path.mkdir()
    for incarnation in (4, 5):
        await file.save(attrs.evolve(SNAPSHOT, incarnation=incarnation))
    assert len(caplog.records) == 2
    assert names_in(path.parent) == ["a.snapshot"]


async def test_a_writing_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.snapshot"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rpcnet._net.file_writing.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        await RealEnvironment().write_file(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.snapshot"]
