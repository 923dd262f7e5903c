"""Seeds: what is taken as one, what each kind says, and a book of them that is asked for ever."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints

import rpcnet
from rpcnet._net.file_reading import read_head_now
from rpcnet._net.memory import MemoryNetwork, SimulatedEnvironment
from rpcnet._net.ports import ServiceRecord
from rpcnet._net.seed_sources import in_order
from rpcnet._net.seeds import Finding, SeedBook, check_seed
from rpcnet._net.udp import RealEnvironment
from rpcnet._signals import SeedsResolved
from rpcnet._tasks.bus import Bus
from rpcnet._tasks.seeding import SeedTask

A, B, C = "10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946"
NAME, SERVICE = "dns://nodes.example:7946", "dns+srv://_rpcnet._udp.example"


@attrs.define(eq=False)
class Source:
    """A source of the user's that does what it is told."""

    do: Callable[[], object]

    def __repr__(self) -> str:
        return "<source>"

    async def addresses(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return self.do()  # type: ignore[return-value] # whatever a user's may return


@attrs.define(eq=False)
class World:
    """A book of seeds and the simulated names that it asks for."""

    network: MemoryNetwork = attrs.field(factory=lambda: MemoryNetwork(Random(1)))

    def book(self, *seeds: object, own: Sequence[str] = (), is_ipv6: bool | None = None) -> SeedBook:
        checked = [check_seed("seeds", seed) for seed in seeds]
        environment = SimulatedEnvironment(self.network, seed=1)
        return SeedBook(checked, environment=environment, rng=Random(1), own=own, is_ipv6=is_ipv6)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def raiser(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


# --- what is taken as a seed


WRONG = {
    "no port": ("host", "seeds: address 'host': has no port"),
    "port 0": ("host:0", "nobody can dial it"),
    "a number": (7, "seeds: address 7: must be a string like 'host:port' or a rpcnet.SeedSource"),
    "bytes": (b"host:1", "must be a string"),
    "a class": (Source, "an object with an async method addresses"),
    "another scheme": ("http://host:1", "seeds = 'http://host:1': has an unknown scheme; write 'host:port', 'dns://"),
    "no scheme": ("://host:1", "unknown scheme"),
    "dns without a port": ("dns://name", "seeds = 'dns://name': has no port; write 'dns://name:port'"),
    "dns without a name": ("dns://:7946", "has no usable host"),
    "dns with port 0": ("dns://name:0", "nobody can dial it"),
    "dns with a word for a port": ("dns://name:rpc", "the port must be a number"),
    "dns with a path": ("dns://name:1/x", "the port must be a number"),
    "dns with a user": ("dns://me@name:1", "has no usable host"),
    "dns with an address": ("dns://10.0.0.1:1", "10.0.0.1 is no name; write '10.0.0.1:1' without a scheme"),
    "dns with an IPv6 address": ("dns://[::1]:1", "::1 is no name"),
    "srv with a port": ("dns+srv://_rpcnet._udp.example:7946", "must have no port, because the records have one"),
    "srv without a name": ("dns+srv://", "has no usable name"),
    "srv with a path": ("dns+srv://name/x", "has no usable name"),
    "srv with an address": ("dns+srv://10.0.0.1", "has no usable name"),
    "a relative file": ("file://seeds.txt", "the path must be absolute"),
    "a file on another host": ("file://host/seeds.txt", "the path must be absolute"),
    "no file": ("file:///", "must be that of a file"),
    "a directory": ("file:///etc/", "must be that of a file"),
    "a file with a zero": ("file:///a%00b", "must be that of a file"),
}


@pytest.mark.parametrize(("seed", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_seed_is_refused_when_it_is_given(seed: object, message: str) -> None:
    for give in (
        lambda: rpcnet.Node("a", seeds=["10.0.0.1:1", seed]),  # type: ignore[list-item]
        lambda: rpcnet.connect_cluster([seed]),  # type: ignore[list-item]
    ):
        with pytest.raises(rpcnet.ConfigError) as caught:
            give()
        assert message in str(caught.value)
        assert str(caught.value).startswith("seeds")


@pytest.mark.parametrize("seed", [A, "[::1]:7946", "node-a.example:1", NAME, "DNS://x:1", SERVICE, "file:///a%20b"])
def test_what_is_a_seed_is_called_what_it_was_given_as(seed: str) -> None:
    assert check_seed("seeds", seed).label == seed


def test_one_string_is_no_list_of_seeds() -> None:
    with pytest.raises(rpcnet.ConfigError, match="not one string"):
        rpcnet.Node("a", seeds=NAME)


@pytest.mark.parametrize("seed", [NAME, SERVICE])
def test_dns_without_dnspython_is_refused_with_the_name_of_the_extra(
    seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(rpcnet.ConfigError, match=r"rpcnet\[dns\] has to be installed") as caught:
        rpcnet.Node("a", seeds=[seed])
    assert seed in str(caught.value)
    rpcnet.Node("a", seeds=[A, "file:///seeds", Source(list)])


# --- what each kind says


async def test_an_address_says_itself_without_waiting() -> None:
    book = World().book(A)
    with assert_no_checkpoints():
        assert await book.ask(A) == Finding((A,), "1 address", is_answer=True)


async def test_a_name_says_each_of_its_addresses_with_its_port() -> None:
    world = World()
    world.network.set_name("nodes.example", ["10.0.0.1", "fd00::1"])
    book = world.book("dns://nodes.example:5000")
    assert await book.addresses() == ["10.0.0.1:5000", "[fd00::1]:5000"]
    world.network.set_name("nodes.example", ["10.0.0.2"])
    assert await book.addresses() == ["10.0.0.2:5000"]


async def test_a_service_says_the_addresses_of_its_targets_in_the_order_of_the_records() -> None:
    world = World()
    records = [(20, 0, 3, "c"), (10, 0, 2, "b"), (5, 0, 9, "unknown"), (5, 0, 1, "a")]
    world.network.set_service("_rpcnet._udp.example", [ServiceRecord(p, w, port, t) for p, w, port, t in records])
    for name, ip in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "fd00::3")):
        world.network.set_name(name, [ip])
    assert await world.book(SERVICE).addresses() == ["10.0.0.1:1", "10.0.0.2:2", "[fd00::3]:3"]


async def test_a_service_none_of_whose_targets_is_known_says_why() -> None:
    world = World()
    world.network.set_service("_rpcnet._udp.example", [ServiceRecord(1, 1, 1, "x.example")])
    book = world.book(SERVICE)
    assert "x.example" in (await book.ask(SERVICE)).answer
    assert not book.last(SERVICE).is_answer


def test_records_are_tried_by_priority_and_among_equals_by_chance_in_proportion_to_weight() -> None:
    heavy, light, none = ServiceRecord(1, 30, 1, "heavy"), ServiceRecord(1, 10, 1, "light"), ServiceRecord(1, 0, 1, "0")
    last = ServiceRecord(2, 99, 1, "last")
    rng = Random(1)
    orders = [in_order([last, light, none, heavy], rng) for _ in range(2000)]
    assert all(sorted(order[:3], key=str) == sorted([heavy, light, none], key=str) for order in orders)
    assert all(order[3] == last for order in orders)
    firsts = Counter(order[0].target for order in orders)
    assert 0.70 < firsts["heavy"] / 2000 < 0.78
    assert 0.20 < firsts["light"] / 2000 < 0.28
    assert 0 < firsts["0"] < 100


def test_the_order_of_many_records_is_bounded_work() -> None:
    records = [ServiceRecord(1, 1, 1, f"{number}.example") for number in range(5000)]
    assert len(set(in_order(records, Random(1)))) == 64


async def test_a_file_says_its_lines_without_comments_and_blanks(tmp_path: Path) -> None:
    path = tmp_path / "the seeds.txt"
    path.write_bytes(b"\xef\xbb\xbf# the first three\r\n\r\n  10.0.0.1:7946\r\n10.0.0.2:7946# here\n\t\nb.example:1")
    book = World().book(path.as_uri())
    assert "%20" in path.as_uri()
    assert await book.addresses() == [A, B, "b.example:1"]
    path.write_text(C)
    assert await book.addresses() == [C]


async def test_a_bad_line_is_named_and_skipped_and_told_once_per_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seeds"
    path.write_text(f"{A}\nno-port\n{B}\n")
    book = World().book(path.as_uri())
    assert await book.addresses() == [A, B]
    assert await book.addresses() == [A, B]
    assert told(caplog) == [f"{path}, line 2, is skipped: address 'no-port': has no port; write 'host:port'"]
    path.write_bytes(b"\xff\xfe\xff")
    assert await book.addresses() == []
    assert book.last(path.as_uri()).answer.startswith("none of its lines is an address: ")
    assert len(told(caplog)) == 1
    path.write_text("x\n" * 1000)
    await book.addresses()
    lines = told(caplog)
    assert len(lines) == 11
    assert lines[-1] == "and 990 more like that"


async def test_a_file_that_cannot_be_read_is_empty_and_told_once_per_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seeds"
    book = World().book(path.as_uri())

    async def ask() -> tuple[str, list[str]]:
        assert await book.addresses() == []
        return book.last(path.as_uri()).answer, told(caplog)

    missing = "cannot be read: No such file or directory"
    assert await ask() == (missing, [f"the seed file {path} {missing}"])
    assert await ask() == (missing, [])
    path.mkdir()
    no_file = f"cannot be read: {path} is no regular file"
    assert await ask() == (no_file, [f"the seed file {path} {no_file}"])
    path.rmdir()
    os.mkfifo(path)
    assert await ask() == (no_file, [])
    path.unlink()
    path.write_text(f"{A}\n" * 10_000)
    assert (await ask())[0] == "is larger than 65536 bytes"
    path.write_text(A)
    assert await book.addresses() == [A]
    path.unlink()
    assert await ask() == (missing, [f"the seed file {path} {missing}"])


async def test_lines_are_counted_as_editors_count_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "seeds"
    path.write_bytes(b"# \x0b\x0c\xc2\x85 one comment\nbad\n10.0.0.1:7946")
    assert await World().book(path.as_uri()).addresses() == [A]
    assert told(caplog)[0].startswith(f"{path}, line 2, is skipped")


async def test_a_real_node_joins_through_a_real_file(tmp_path: Path) -> None:
    security = rpcnet.Security.shared_secret("a secret for real files")
    with trio.fail_after(30):
        async with rpcnet.Node("a", security=security) as first:
            (tmp_path / "seeds").write_text(first.address)
            async with rpcnet.Node("b", seeds=[(tmp_path / "seeds").as_uri()], security=security) as other:
                assert [info.name for info in other.registry.alive()] == ["a", "b"]


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "\ufffd"])
async def test_what_cannot_be_a_host_name_is_a_seed_that_does_not_answer(host: str, tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    path.write_text(f"{host}:7946")
    security, config = rpcnet.Security.shared_secret("a secret for real files"), rpcnet.NodeConfig(join_timeout=0.3)
    with pytest.raises(rpcnet.JoinError, match="is not a host name"):
        async with rpcnet.Node("a", seeds=[f"{host}:7946", path.as_uri()], security=security, config=config):
            pass


async def test_the_real_environment_reads_a_file_and_refuses_a_pipe(tmp_path: Path) -> None:
    environment = RealEnvironment()
    before = open_files()
    (tmp_path / "file").write_bytes(b"0123456789")
    assert await environment.read_head(str(tmp_path / "file"), 4) == b"0123"
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(OSError, match=r"no regular file|No such file"):
            await environment.read_head(str(tmp_path / name), 4)
    assert read_head_now(str(tmp_path / "file"), 99) == b"0123456789"
    assert open_files() == before


ANSWERS: dict[str, tuple[object, tuple[str, ...], str]] = {
    "a list": ([A, B], (A, B), "names 2 addresses"),
    "a tuple with one twice": ((A, A), (A,), "names 1 address"),
    "nothing": ([], (), "names no address"),
    "None": (None, (), "TypeError: 'NoneType' object is not iterable"),
    "one string": (A, (), "TypeError: answered with str, not with a sequence of addresses"),
    "what is none among them": ([A, "x", 7, None, "h:0", B], (A, B), "names 2 addresses"),
    "too many": ([f"10.0.0.1:{port}" for port in range(1, 5000)], tuple(f"10.0.0.1:{p}" for p in range(1, 65)), ""),
    "no end": (iter(lambda: A, ""), (A,), "names 1 address"),
}


@pytest.mark.parametrize(("answer", "addresses", "text"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_what_a_source_answers_is_checked(answer: object, addresses: tuple[str, ...], text: str) -> None:
    finding = await World().book(Source(lambda: answer)).ask("<source>")
    assert finding.addresses == addresses
    assert text in finding.answer


async def test_a_source_whose_method_is_not_async_is_told_so() -> None:
    class Plain:
        def __repr__(self) -> str:
            return "<plain>"

        def addresses(self) -> list[str]:
            return [A]

    finding = await World().book(Plain()).ask("<plain>")
    assert finding.answer.startswith("TypeError: ")


async def test_what_is_no_address_is_told_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = [A, "x"]
    book = World().book(Source(lambda: said))
    await book.addresses()
    await book.addresses()
    assert told(caplog) == ["<source>, an answer of it is skipped: address 'x': has no port; write 'host:port'"]
    said[1] = "y"
    await book.addresses()
    assert len(told(caplog)) == 1


# --- the book


async def test_what_a_source_said_last_stays_in_use_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    world, source = World(), Source(lambda: [A])
    world.network.set_name("nodes.example", ["10.0.0.2"])
    book = world.book(source, NAME)
    assert await book.addresses() == [A, B]
    source.do = raiser(LookupError("down"))
    world.network.set_name("nodes.example", [])
    for _ in range(3):
        assert await book.addresses() == [A, B]
    assert sorted(told(caplog)) == [
        "no seeds from <source>: LookupError: down",
        f"no seeds from {NAME}: [Errno -2] nodes.example: unknown in this simulation",
    ]
    source.do = raiser(LookupError("still down"))
    await book.addresses()
    assert told(caplog) == ["no seeds from <source>: LookupError: still down"]
    source.do = list
    assert await book.addresses() == [B]


RAISED: dict[str, tuple[Exception, str]] = {
    "an error": (LookupError("down"), "LookupError: down"),
    "an error of the system": (OSError(5, "no disk"), "[Errno 5] no disk"),
    "an error with lines": (ValueError("one\n  two\n"), "ValueError: one two"),
    "an error without end": (ValueError("x" * 9999), "ValueError: " + "x" * 488),
    "a group of one": (ExceptionGroup("nursery", [ExceptionGroup("", [KeyError("a")])]), "KeyError: 'a'"),
    "a group": (ExceptionGroup("two", [KeyError("a"), KeyError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
}


@pytest.mark.parametrize(("error", "text"), RAISED.values(), ids=RAISED.keys())
async def test_what_a_source_raises_is_told_in_one_line(error: Exception, text: str) -> None:
    assert await World().book(Source(raiser(error))).ask("<source>") == Finding((), text)


async def test_a_source_has_fifteen_seconds_and_the_others_do_not_wait_to_be_asked(autojump_clock: MockClock) -> None:
    class Silent:
        def __repr__(self) -> str:
            return "<silence>"

        async def addresses(self) -> Sequence[str]:
            await trio.sleep_forever()
            raise AssertionError

    asked: list[float] = []

    def answer() -> list[str]:
        asked.append(trio.current_time())
        return [A]

    book = World().book(Silent(), Source(answer))
    assert await book.addresses(within=2) == [A]
    assert trio.current_time() == 2
    assert await book.addresses() == [A]
    assert (trio.current_time(), asked) == (17, [0, 2])
    assert book.last("<silence>") == Finding((), "no answer within 15 s")


async def test_a_source_is_asked_by_one_at_a_time(autojump_clock: MockClock) -> None:
    class Slow:
        running = 0

        def __repr__(self) -> str:
            return "<slow>"

        async def addresses(self) -> Sequence[str]:
            assert not self.running
            self.running += 1
            await trio.sleep(1)
            self.running -= 1
            return [A]

    book = World().book(Slow())
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(book.ask, "<slow>")
    assert trio.current_time() == 3
    assert book.last("<slow>") == Finding((A,), "names 1 address", is_answer=True)


async def test_of_all_sources_the_first_come_first_and_no_more_than_256() -> None:
    def source(host: int) -> Source:
        return Source(lambda: [f"10.0.{host}.1:{port}" for port in range(1, 100)])

    addresses = await World().book(*(source(host) for host in range(5))).addresses()
    assert addresses[:6] == [*(f"10.0.{host}.1:1" for host in range(5)), "10.0.0.1:2"]
    assert len(addresses) == 256


async def test_the_nodes_own_address_and_the_other_family_are_left_out() -> None:
    world = World()
    world.network.set_name("nodes.example", ["10.0.0.1", "10.0.0.2", "fd00::1"])
    seeds = (A, NAME, "[fd00::2]:1", "b.example:1")
    assert await world.book(*seeds, own=[A], is_ipv6=False).addresses() == [
        "b.example:1",
        B,
    ]
    assert await world.book(*seeds, own=[A], is_ipv6=True).addresses() == [
        "[fd00::2]:1",
        "b.example:1",
        "[fd00::1]:7946",
    ]


def test_a_book_is_empty_when_it_can_name_nobody_else() -> None:
    world = World()
    assert not world.book()
    assert not world.book(A, own=[A])
    assert world.book(A, B, own=[A])
    assert world.book(A, NAME, own=[A])
    assert world.book(A, B).is_static
    assert not world.book(A, NAME).is_static
    assert world.book(A, A, NAME, NAME).labels == (A, NAME)


async def test_what_is_known_of_a_source_is_known_to_all_books_of_a_node(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @attrs.define  # with eq, so it cannot be hashed
    class Slow:
        asked: int = 0

        async def addresses(self) -> Sequence[str]:
            self.asked += 1
            await trio.sleep(1)
            raise LookupError("down")

    slow, twin = Slow(), Slow()
    book = World().book(slow, twin, A)
    other = book.others([*book, B, check_seed("seeds", slow)])
    assert other.labels == (*book.labels, B)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.addresses)
        nursery.start_soon(other.addresses)
    assert (slow.asked, twin.asked) == (2, 2)
    assert trio.current_time() == 2
    assert len(told(caplog)) == 2
    other.note_own(A)
    assert book.is_own(A)
    apart = book.others([check_seed("seeds", twin)])
    assert apart.last(repr(twin)).answer == "no answer"
    assert await other.addresses() == [B]


# --- for ever


async def test_sources_are_asked_for_ever_and_membership_is_told_what_they_say(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bus, asked = Bus(64), list[float]()
    mailbox = bus.mailbox("membership", SeedsResolved)

    def answer() -> list[str]:
        asked.append(trio.current_time())
        return [A, f"10.0.1.1:{len(asked)}"]

    config, seeds = rpcnet.GossipConfig(heal_interval=4.0), World().book(C, Source(answer), own=[A])
    task = SeedTask(bus=bus, seeds=seeds, config=config, rng=Random(1))
    await nursery.start(task.run)
    for number in range(1, 6):
        event = await mailbox.get()
        assert event == SeedsResolved((C, f"10.0.1.1:{number}"), at=trio.current_time())
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert len(set(pauses)) == 4
    assert all(3.2 <= pause <= 4.8 for pause in pauses)


async def test_plain_addresses_are_told_again_to_a_membership_that_was_restarted(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bus = Bus(64)
    mailbox = bus.mailbox("membership", SeedsResolved)
    seeds = World().book(A, B, own=[B])
    await nursery.start(SeedTask(bus=bus, seeds=seeds, config=rpcnet.GossipConfig(), rng=Random(1)).run)
    assert await mailbox.get() == SeedsResolved((A,), at=0.0)
    again = bus.mailbox("membership", SeedsResolved)
    with trio.fail_after(12.5):
        assert await again.get() == SeedsResolved((A,), at=trio.current_time())


async def test_a_source_that_fails_does_not_end_the_task(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    bus = Bus(64)
    mailbox = bus.mailbox("membership", SeedsResolved)
    source = Source(raiser(LookupError("down")))
    config = rpcnet.GossipConfig(heal_interval=1.0)
    await nursery.start(SeedTask(bus=bus, seeds=World().book(source), config=config, rng=Random(1)).run)
    assert await mailbox.get() == SeedsResolved((), at=0.0)
    source.do = lambda: [A]
    assert (await mailbox.get()) == SeedsResolved((A,), at=trio.current_time())
