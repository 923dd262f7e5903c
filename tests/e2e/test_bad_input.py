"""Garbage, replays, half-open handshakes, and members that break the rules: refused, and nobody else notices."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import attrs
import cbor2
import pytest
import trio
from _peer import PATIENCE, Peer, config, eventually, pattern
from _raw_client import HELLO, RawClient, call, open_lane, raw_client, say_hello

import rpcnet
from rpcnet._core.bodies import encode_hello
from rpcnet._core.framing import FrameKind, StreamKind, encode_frame
from rpcnet._net.addresses import parse_address
from rpcnet._net.quic import QuicLink
from rpcnet._net.sealing import REFUSALS, Sealer
from rpcnet._net.session import CLOSE_PROTOCOL_ERROR, CLOSE_VERSION_MISMATCH
from rpcnet.service import definition_of

SECURITY = rpcnet.Security.shared_secret("q8ZtL2vXk0Rw7mYpB4sNcHdG")
OTHER_SECURITY = rpcnet.Security.shared_secret("Gq7_bYt2-VnXw5Zr9KdLm1sT")
BATCH = 64
"""Datagrams sent before a call has to get through: they fit into any socket's buffer, so none is lost unseen."""


def node(name: str, *seeds: str, rpc: rpcnet.RpcConfig | None = None, **settings: str) -> rpcnet.Node:
    cfg = attrs.evolve(config(), rpc=rpc or rpcnet.RpcConfig())
    return rpcnet.Node(name, seeds=seeds, services=[Peer(name)], security=SECURITY, config=cfg, **settings)  # type: ignore[arg-type]


def refused(target: rpcnet.Node) -> int:
    """Return how many datagrams a node has read that were no good to it."""
    counted = target.statistics()
    quic = counted.quic
    unopened: int = sum(getattr(counted.sealing, reason) for reason in REFUSALS)
    unrouted = quic.garbage + quic.unknown_connection + quic.unknown_version + quic.refused
    return counted.pump.datagrams_dropped + unopened + unrouted


def assert_that_all_is_well(target: rpcnet.Node, friend: rpcnet.Node) -> None:
    for each in (target, friend):
        assert set(each.statistics().restarts.values()) == {0}
        assert each.statistics().quic.engine_errors == 0
        assert [info.name for info in each.registry.alive()] == sorted([target.name, friend.name])
    assert target.statistics().quic.handshaking == 0


async def pelt(
    target: rpcnet.Node, friend: rpcnet.Node, datagrams: list[bytes], to: tuple[str, int] | None = None
) -> None:
    """Send datagrams to a node from a strange address, and calls from a friendly one in between."""
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        for start in range(0, len(datagrams), BATCH):
            for datagram in datagrams[start : start + BATCH]:
                stranger.sendto(datagram, to or parse_address(target.address))
            assert await friend.stub(Peer, node=target.name).who() == target.name  # read after all of the above
        stranger.setblocking(False)
        replies = []
        while True:
            try:
                replies.append(stranger.recv(65536))
            except BlockingIOError:
                break
    assert [reply for reply in replies if reply[1:5] != bytes(4)] == []  # version negotiation is the one reply there is


def every_first_byte(rng: random.Random) -> Iterator[bytes]:
    for size in (1, 2, 7, 35, 36, 60, 600, 1199, 1200, 1201, 1400, 9000):
        for first in range(256):
            yield bytes([first]) + rng.randbytes(size - 1)
    yield b""


def long_headers(rng: random.Random) -> Iterator[bytes]:
    """Packets that begin as QUIC version 1 does, and lie afterwards."""
    for first in range(0xC0, 0x100):
        for cid_bytes in (0, 1, 8, 20, 21, 255):
            yield bytes([first]) + b"\0\0\0\1" + bytes([cid_bytes]) + rng.randbytes(1200)
    for version in (0, 2, 0x6B3343CF, 0xFFFFFFFF):
        yield b"\xc0" + version.to_bytes(4, "big") + b"\x08" + rng.randbytes(1200)


async def test_garbage_of_every_kind_is_counted_and_changes_nothing() -> None:
    rng = random.Random(7)
    garbage = [*every_first_byte(rng), *long_headers(rng)]
    rng.shuffle(garbage)
    with trio.fail_after(PATIENCE):
        async with node("target") as target, node("friend", target.address) as friend:
            await target.registry.wait_for(2)
            assert await friend.stub(Peer, node="target").who() == "target"
            links = target.statistics().quic.links
            before = refused(target)
            await pelt(target, friend, garbage)
            assert refused(target) - before == len(garbage)
            assert target.statistics().quic.links == links
            assert_that_all_is_well(target, friend)
    assert len(garbage) > 3000


@attrs.define(eq=False)
class Relay:
    """A UDP relay in front of a node that remembers what went through it, in both directions."""

    front: trio.socket.SocketType
    there: list[bytes] = attrs.field(factory=list)
    back: list[bytes] = attrs.field(factory=list)
    target: tuple[str, int] = ("", 0)
    _behind: dict[tuple[str, int], trio.socket.SocketType] = attrs.field(factory=dict)

    @property
    def address(self) -> str:
        host, port = self.front.getsockname()
        return f"{host}:{port}"

    async def run(self, nursery: trio.Nursery) -> None:
        while True:
            data, source = await self.front.recvfrom(65536)
            if source not in self._behind:
                self._behind[source] = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
                await self._behind[source].bind(("127.0.0.1", 0))
                nursery.start_soon(self._bring_back, source)
            self.there.append(data)
            await self._behind[source].sendto(data, self.target)

    async def _bring_back(self, source: tuple[str, int]) -> None:
        with self._behind[source] as behind:
            while True:
                data = await behind.recv(65536)
                self.back.append(data)
                await self.front.sendto(data, source)

    def sealed(self) -> list[bytes]:
        return [data for data in self.there if 0x20 <= data[0] < 0x40]

    def quic(self) -> list[bytes]:
        return [data for data in self.there if data[0] & 0x40]


async def test_what_was_captured_is_worth_nothing_replayed_truncated_or_changed() -> None:
    rng = random.Random(7)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as front:
                await front.bind(("127.0.0.1", 0))
                relay = Relay(front)
                async with node("target", advertise=relay.address) as target:
                    port = int(target._parts.endpoint.address.rpartition(":")[2])  # type: ignore[union-attr]
                    relay.target = ("127.0.0.1", port)
                    nursery.start_soon(relay.run, nursery)
                    async with node("friend", relay.address) as friend:
                        await target.registry.wait_for(2)
                        for _ in range(8):
                            await friend.stub(Peer, node="target").who()
                            await friend.update_tags({"seen": str(rng.random())})
                        await eventually(lambda: len(relay.sealed()) >= 8)
                        await replay(relay, target, friend, rng)
                nursery.cancel_scope.cancel()


async def replay(relay: Relay, target: rpcnet.Node, friend: rpcnet.Node, rng: random.Random) -> None:
    async def throw(datagrams: list[bytes], *reasons: str) -> None:
        """Send datagrams, and see that all of them were refused for one of these reasons."""
        before = target.statistics().sealing
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            for datagram in datagrams:
                stranger.sendto(datagram, relay.target)
            assert await friend.stub(Peer, node="target").who() == "target"
        after = target.statistics().sealing
        grown = {reason: getattr(after, reason) - getattr(before, reason) for reason in REFUSALS}
        assert {reason for reason in REFUSALS if grown[reason]} == set(reasons)
        assert sum(grown.values()) == len(datagrams)

    sealed, quic = relay.sealed()[:30], relay.quic()[:30]
    tags = dict(friend.tags)
    await throw(sealed, "replayed")
    await throw(sealed[::-1], "replayed")
    await throw([data[:size] for data in sealed for size in (1, 19, 35)], "malformed")
    await throw([data[:-1] for data in sealed], "replayed")
    await throw([renumbered(data) for data in sealed], "forged")
    await throw([flipped(renumbered(data), rng)[:-1] for data in sealed], "forged")
    await throw([bytes([0x21]) + data[1:] for data in sealed], "malformed")
    await throw([data + bytes(1201 - len(data)) for data in sealed], "too_long")
    stranger = Sealer(OTHER_SECURITY.cluster, OTHER_SECURITY.gossip_keys, b"12345678")
    same_id = attrs.evolve(OTHER_SECURITY.gossip_keys[0], key_id=SECURITY.gossip_keys[0].key_id)
    await throw([stranger.seal(b"hello") for _ in range(20)], "unknown_key")
    await throw([Sealer(SECURITY.cluster, [same_id], b"12345678").seal(b"hello") for _ in range(20)], "forged")
    foreign = Sealer("other", SECURITY.gossip_keys, b"12345678")
    await throw([foreign.seal(b"hello") for _ in range(20)], "foreign_cluster")
    await throw(reflected(target), "own")
    halves, changed = [data[: len(data) // 2] for data in quic], [flipped(data, rng) for data in quic]
    await pelt(target, friend, [*quic, *halves, *changed], to=relay.target)
    assert_that_all_is_well(target, friend)
    info = target.registry.get("friend")
    assert info is not None
    assert dict(info.tags) == tags


def renumbered(data: bytes) -> bytes:
    """Return a sealed datagram with a number that has not been seen."""
    return data[:14] + (1 << 40).to_bytes(6, "big") + data[20:]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Return a sealed or QUIC datagram with one bit of what it protects changed."""
    position = rng.randrange(20, len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def reflected(target: rpcnet.Node) -> list[bytes]:
    """Return datagrams that the target itself might have sealed."""
    sealer = target._parts.endpoint._sealer  # type: ignore[union-attr]
    return [sealer.seal(b"hello") for _ in range(5)]


async def test_what_a_member_seals_but_cannot_be_read_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = random.Random(7)
    sealer = Sealer(SECURITY.cluster, SECURITY.gossip_keys, b"a member")
    payloads = [b"", *(bytes([kind]) + rng.randbytes(size) for kind in range(256) for size in (0, 3, 200))]
    with trio.fail_after(PATIENCE):
        async with node("target") as target, node("friend", target.address) as friend:
            await target.registry.wait_for(2)
            await pelt(target, friend, [sealer.seal(payload) for payload in payloads])
            await eventually(lambda: target.statistics().membership.malformed >= len(payloads) - 10)
            assert_that_all_is_well(target, friend)
    lines = [record for record in caplog.records if "malformed membership message" in record.message]
    assert len(lines) == 1


async def test_the_log_says_in_one_line_what_did_not_open(caplog: pytest.LogCaptureFixture) -> None:
    foreign = Sealer("other", SECURITY.gossip_keys, b"12345678")
    with trio.fail_after(PATIENCE):
        async with (
            node("target", rpc=rpcnet.RpcConfig(idle_timeout=1.0)) as target,
            node("friend", target.address) as friend,
        ):
            await pelt(target, friend, [foreign.seal(b"hello"), b"\x20", b"\x20", b"\x20"])
            await eventually(lambda: "did not open" in caplog.text)
    assert "membership datagrams that did not open: 3 malformed, 1 foreign cluster" in caplog.text


# --- half-open handshakes


async def test_half_open_handshakes_are_bounded_and_a_good_client_still_gets_in() -> None:
    narrow = rpcnet.RpcConfig(max_unauthenticated=8, connect_timeout=1.0)
    with trio.fail_after(PATIENCE):
        async with node("target", rpc=narrow) as target, trio.open_nursery() as nursery:

            async def begin_only() -> None:
                async with raw_client(target.address, None):
                    await trio.sleep_forever()

            for _ in range(40):
                nursery.start_soon(begin_only)
            await eventually(lambda: target.statistics().quic.retried >= 38)  # a quarter of 8 may begin unproved
            assert target.statistics().quic.handshaking == 2
            async with node("friend", target.address) as friend:
                assert await friend.stub(Peer, node="target").who() == "target"
            await eventually(lambda: target.statistics().quic.handshaking == 0)
            assert target.statistics().quic.handshakes_failed == 2
            nursery.cancel_scope.cancel()


# --- members that break the rules of the connection


@pytest.fixture
def limits() -> rpcnet.RpcConfig:
    return rpcnet.RpcConfig(max_calls_per_connection=4, max_message_bytes=100_000)


async def against_a_member_gone_bad(
    misbehave: Callable[[RawClient], None], judge: Callable[[RawClient], object], limits: rpcnet.RpcConfig
) -> None:
    """Let a verified client misbehave; while and after it does, others are served."""
    with trio.fail_after(PATIENCE):
        async with node("target", rpc=limits) as target, node("friend", target.address) as friend:
            await target.registry.wait_for(2)
            async with raw_client(target.address, SECURITY.issue("mallory"), misbehave) as mallory:
                judged = judge(mallory)
                if judged is not None:
                    await judged  # type: ignore[misc]
                assert await friend.stub(Peer, node="target").who() == "target"
            assert_that_all_is_well(target, friend)


def say(stream_id: int, data: bytes) -> Callable[[RawClient], None]:
    """Say HELLO, then something on a stream."""

    def misbehave(client: RawClient) -> None:
        say_hello(client)
        client.write(stream_id, data)

    return misbehave


def lane(data: bytes) -> Callable[[RawClient], None]:
    return say(4, bytes([StreamKind.LANE]) + data)


def twice(data: bytes) -> bytes:
    return data + data


def hello_of(**changes: object) -> Callable[[RawClient], None]:
    return lambda client: say_hello(client, attrs.evolve(HELLO, **changes))  # type: ignore[arg-type]


HELLO_FRAME = encode_frame(FrameKind.HELLO, 0, body=encode_hello(HELLO))


@pytest.mark.parametrize(
    ("misbehave", "why"),
    [
        (lambda client: client.write(0, b"\x63garbage"), "stream of unknown kind 99"),
        (lambda client: client.write(0, bytes([StreamKind.LANE]) + call(1, 0)), "LANE stream before HELLO"),
        (lambda client: client.write(0, bytes([StreamKind.STATE])), "STATE stream before HELLO"),
        (
            lambda client: client.write(
                0, bytes([StreamKind.CONTROL]) + encode_frame(FrameKind.HELLO, 0, body=b"\xff")
            ),
            "HELLO frame: the body is not valid CBOR",
        ),
        (
            lambda client: client.write(
                0, bytes([StreamKind.CONTROL]) + encode_frame(FrameKind.HELLO, 0, body=b"\xa0")
            ),
            "HELLO frame: a field is missing, of the wrong type or out of range",
        ),
        (lambda client: client.write(0, bytes([StreamKind.CONTROL]) + call(1, 0)), "CALL frame on a control stream"),
        (
            lambda client: client.write(0, bytes([StreamKind.CONTROL]) + twice(HELLO_FRAME)),
            "HELLO frame: it was said already",
        ),
        (say(4, bytes([StreamKind.CONTROL])), "a second CONTROL stream"),
        (say(4, bytes([StreamKind.RESULT])), "a client may not open a RESULT stream"),
        (lane(encode_frame(FrameKind.RESULT, 1)), "RESULT frame on a lane stream"),
        (lane(encode_frame(FrameKind.GOAWAY, 1)), "GOAWAY frame on a lane stream"),
        (lane(encode_frame(77, 1)), "frame of unknown kind 77"),
        (
            lane(encode_frame(FrameKind.CALL, 1, body=bytes(200_000))),
            "CALL frame of 200000 bytes on a stream limited to",
        ),
        (lane(b"\xff" * 15), "frame of unknown kind 255"),
        (
            say(4, bytes([StreamKind.CALL]) + encode_frame(FrameKind.CALL, 1, body=bytes(200_000))),
            "CALL frame of 200000 bytes on a stream limited to",
        ),
        (say(4, bytes([StreamKind.CALL]) + encode_frame(FrameKind.CANCEL, 1)), "CANCEL frame on a call stream"),
    ],
)
async def test_a_frame_out_of_place_closes_its_connection_and_the_reason_names_it(
    misbehave: Callable[[RawClient], None], why: str, limits: rpcnet.RpcConfig
) -> None:
    async def judge(mallory: RawClient) -> None:
        end = await mallory.until_terminated()
        assert (end.error_code, end.frame_type) == (CLOSE_PROTOCOL_ERROR, None)
        assert end.reason_phrase.startswith(why)

    await against_a_member_gone_bad(misbehave, judge, limits)


async def test_a_client_of_another_protocol_version_is_told_both_ranges(limits: rpcnet.RpcConfig) -> None:
    async def judge(mallory: RawClient) -> None:
        end = await mallory.until_terminated()
        assert end.error_code == CLOSE_VERSION_MISMATCH
        assert "speaks 1 to 1, the peer (rpcnet raw) 7 to 9; this side is older" in end.reason_phrase

    await against_a_member_gone_bad(hello_of(protocol_min=7, protocol_max=9), judge, limits)


def number_of(method: str) -> int:
    """Return the number that a node gives to a method of its only service."""
    return list(definition_of(Peer).methods).index(method)


def raw_call(method: str, body: bytes) -> Callable[[RawClient], None]:
    return lane(encode_frame(FrameKind.CALL, 1, number_of(method), 0, body))


@pytest.mark.parametrize(
    ("misbehave", "status", "why"),
    [
        (lane(call(1, 60_000)), rpcnet.Status.UNIMPLEMENTED, "no method has the number 60000"),
        (raw_call("echo", cbor2.dumps([])), rpcnet.Status.INVALID_ARGUMENT, "Peer.echo: parameter 'data' is missing"),
        (raw_call("who", cbor2.dumps([1])), rpcnet.Status.INVALID_ARGUMENT, "Peer.who: takes 0 arguments, got 1"),
        (raw_call("square", cbor2.dumps(["x"])), rpcnet.Status.INVALID_ARGUMENT, "Peer.square: number: "),
        (raw_call("who", b""), rpcnet.Status.INVALID_ARGUMENT, "Peer.who: the arguments cannot be read"),
        (raw_call("who", cbor2.dumps({"a": 1})), rpcnet.Status.INVALID_ARGUMENT, "Peer.who: the arguments cannot"),
        (raw_call("echo", b"\x81" * 9000 + b"\0"), rpcnet.Status.INVALID_ARGUMENT, "Peer.echo: the arguments cannot"),
        (raw_call("echo", b"\x9b" + b"\xff" * 8), rpcnet.Status.INVALID_ARGUMENT, "Peer.echo: the arguments cannot"),
        (
            raw_call("echo", b"\x81\x5b" + b"\x7f" * 8),
            rpcnet.Status.INVALID_ARGUMENT,
            "Peer.echo: the arguments cannot",
        ),
        (
            raw_call("square", cbor2.dumps([1 << 9000])),
            rpcnet.Status.INVALID_ARGUMENT,
            "Peer.square: the arguments cannot be read",
        ),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused_by_itself(
    misbehave: Callable[[RawClient], None], status: rpcnet.Status, why: str, limits: rpcnet.RpcConfig
) -> None:
    async def judge(mallory: RawClient) -> None:
        got, message = await mallory.error(1)
        assert got == status
        assert message.startswith(why)

    await against_a_member_gone_bad(misbehave, judge, limits)


async def test_calls_beyond_what_a_connection_may_have_in_flight_are_refused_and_the_others_run(
    limits: rpcnet.RpcConfig,
) -> None:
    square = number_of("square")

    async def judge(mallory: RawClient) -> None:
        for call_id in range(1, 5):
            assert (await mallory.answer(call_id)).kind == FrameKind.RESULT
        for call_id in range(5, 9):
            status, message = await mallory.error(call_id)
            assert status == rpcnet.Status.RESOURCE_EXHAUSTED
            assert message == "more than 4 calls in flight on one connection"

    calls = b"".join(call(call_id, square, call_id) for call_id in range(1, 9))
    await against_a_member_gone_bad(lane(calls), judge, limits)


async def test_a_call_number_that_is_in_flight_already_closes_the_connection(limits: rpcnet.RpcConfig) -> None:
    async def judge(mallory: RawClient) -> None:
        assert (await mallory.until_terminated()).reason_phrase == "CALL frame: call 1 is in flight already"

    await against_a_member_gone_bad(lane(twice(call(1, number_of("square"), 1))), judge, limits)


async def test_a_result_above_the_callers_limit_becomes_an_error_with_both_sizes(limits: rpcnet.RpcConfig) -> None:
    def misbehave(client: RawClient) -> None:
        say_hello(client, attrs.evolve(HELLO, max_message_bytes=1000))
        open_lane(client)
        client.write(4, call(1, number_of("give"), 5000))

    async def judge(mallory: RawClient) -> None:
        status, message = await mallory.error(1)
        assert status == rpcnet.Status.RESOURCE_EXHAUSTED
        assert message == "result of 5003 bytes is above the limit of 1000"

    await against_a_member_gone_bad(misbehave, judge, limits)


async def test_a_client_that_only_opens_streams_keeps_nobody_waiting(limits: rpcnet.RpcConfig) -> None:
    def misbehave(client: RawClient) -> None:
        say_hello(client)
        for number in range(1, 128):
            client.write(4 * number, bytes([StreamKind.CALL]) + call(number, 0)[: number % 15])

    async def judge(mallory: RawClient) -> None:
        await mallory.until(lambda: bool(mallory.frames))

    await against_a_member_gone_bad(misbehave, judge, limits)


async def test_a_client_that_reads_nothing_costs_a_bounded_number_of_bytes_and_then_its_connection() -> None:
    size, watermark, in_flight = 50_000, 1 << 20, 8
    limits = rpcnet.RpcConfig(send_watermark_bytes=watermark, max_calls_per_connection=in_flight)
    give = number_of("give")
    with trio.fail_after(PATIENCE):
        async with node("target", rpc=limits) as target, node("friend", target.address) as friend:
            await target.registry.wait_for(2)
            async with raw_client(target.address, SECURITY.issue("mallory"), say_hello, max_data=20_000) as mallory:
                mallory.quic._local_max_data.used = -(1 << 40)  # so that it never grants more
                await mallory.until(lambda: bool(mallory.frames))
                open_lane(mallory)
                [link] = [link for link in links_of(target) if link.peer_name == "mallory"]
                for first in range(1, 400, in_flight):
                    calls = [call(first + number, give, size) for number in range(in_flight)]
                    mallory.write(4, b"".join(calls))
                    await mallory.flush()
                    assert await friend.stub(Peer, node="target").who() == "target"
                    await mallory.until(lambda: target.statistics().active_calls == 0)
                    assert link.buffered_bytes <= watermark + in_flight * (size + 100)
                end = await mallory.until_terminated()
                assert end.error_code == CLOSE_PROTOCOL_ERROR
                assert end.reason_phrase == "CALL frame: more than 8 calls in flight, and their answers are not read"
            assert_that_all_is_well(target, friend)


def links_of(target: rpcnet.Node) -> list[QuicLink]:
    return list(target._parts.endpoint._quic._links)  # type: ignore[union-attr]


async def test_answers_far_above_the_watermark_all_arrive_when_they_are_read() -> None:
    limits = rpcnet.RpcConfig(send_watermark_bytes=65536, max_calls_per_connection=16)
    answers: list[bytes] = []
    with trio.fail_after(PATIENCE):
        async with node("target", rpc=limits) as target, node("friend", target.address) as friend:

            async def ask() -> None:
                answers.append(await friend.stub(Peer, node="target").give(50_000))

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(ask)
            assert_that_all_is_well(target, friend)
    assert answers == [pattern(50_000)] * 100


# --- what the caller's own side refuses


async def test_a_request_above_the_limit_is_refused_before_it_is_sent(limits: rpcnet.RpcConfig) -> None:
    with trio.fail_after(PATIENCE):
        async with node("target", rpc=limits) as target, node("friend", target.address) as friend:
            stub = friend.stub(Peer, node="target")
            await stub.who()
            sent = friend.statistics().port.bytes_sent
            with pytest.raises(rpcnet.ResourceExhausted, match="request of 200005 bytes is above the limit of 100000"):
                await stub.echo(bytes(200_000 - 1))
            assert friend.statistics().port.bytes_sent - sent < 10_000
            with pytest.raises(rpcnet.ResourceExhausted, match="result has 200005 bytes, at most 100000 are allowed"):
                await stub.give(200_000)
            with pytest.raises(rpcnet.Unimplemented, match="target does not serve"):
                await friend.client.call_worker("Peer.fly", node="target")
            assert_that_all_is_well(target, friend)
