"""Peers that have the secret and break the rules: their connection ends with the rule's name, nobody else notices."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from _raw_peer import Connection, RawPeer, hello, open_raw_peer
from _world import Work, World, stub

import rpcnet
from rpcnet._core.bodies import Hello
from rpcnet._core.framing import FrameKind, FrameReader, StreamKind, encode_frame
from rpcnet._core.members import MemberRecord
from rpcnet._core.values import compile_service
from rpcnet._net.session import CLOSE_PROTOCOL_ERROR, CLOSE_VERSION_MISMATCH
from rpcnet.service import definition_of
from rpcnet.testing import SimulatedCluster, run

CODECS = compile_service(definition_of(Work), max_depth=64, max_bytes=1 << 20)
NUMBERS = {name: number for number, name in enumerate(CODECS)}
CONTROL, LANE, CALL, RESULT, STATE = (bytes([kind]) for kind in StreamKind)


def call(call_id: int, method: str = "who", *args: object) -> bytes:
    """Return a CALL frame."""
    return encode_frame(FrameKind.CALL, call_id, NUMBERS[method], 0, CODECS[method].encode_arguments(args, {}))


def simulate(scenario: Callable[[World, RawPeer], Awaitable[None]]) -> None:
    """Run a scenario with a cluster of two and a raw peer, and check afterwards that the two are unharmed."""

    async def main(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        noticed = len(cluster.trace)
        async with open_raw_peer(cluster.security) as peer, trio.open_nursery() as nursery:
            answers: list[str] = []

            async def go_on_calling() -> None:
                while True:
                    answers.append(await stub(one, other).who())
                    await trio.sleep(0.2)

            nursery.start_soon(go_on_calling)
            await scenario(world, peer)
            before = len(answers)
            await trio.sleep(5)
            assert len(answers) > before + 20
            nursery.cancel_scope.cancel()
        await trio.sleep(5)
        assert cluster.trace[noticed:] == ()
        assert one.node.statistics().client.retries == 0
        for node in (one, other):
            assert set(node.node.statistics().restarts.values()) == {0}
            assert node.node.statistics().active_calls == 0

    run(main)


BROKEN: dict[str, tuple[bool, Callable[[Connection], object], str]] = {
    "a stream of no kind": (True, lambda c: c.open(b"\x63"), "stream of unknown kind 99"),
    "a lane before hello": (False, lambda c: c.open(LANE), "LANE stream before HELLO"),
    "a call before hello": (False, lambda c: c.open(CALL + call(1)), "CALL stream before HELLO"),
    "a state before hello": (False, lambda c: c.open(STATE), "STATE stream before HELLO"),
    "no hello on the control stream": (False, lambda c: c.open(CONTROL + call(1)), "CALL frame on a control stream"),
    "a second hello": (True, lambda c: c.send(c.control, hello()), "HELLO frame: it was said already"),
    "a goaway": (True, lambda c: c.send(c.control, encode_frame(FrameKind.GOAWAY, 0)), "GOAWAY frame on a control"),
    "a second control stream": (True, lambda c: c.open(CONTROL + hello()), "a second CONTROL stream"),
    "a hello of garbage": (
        False,
        lambda c: c.open(CONTROL + encode_frame(FrameKind.HELLO, 0, body=b"\xff" * 50)),
        "HELLO frame: the body is not valid CBOR",
    ),
    "a hello of limits of zero": (False, lambda c: c.open(CONTROL + hello(max_calls=0)), "HELLO frame: a field"),
    "the end of the control stream": (True, lambda c: c.send(c.control, b"", end=True), "closed the CONTROL stream"),
    "a result stream": (True, lambda c: c.open(RESULT + call(1), unidirectional=True), "may not open a RESULT"),
    "a result on a lane": (
        True,
        lambda c: c.open(LANE + encode_frame(FrameKind.RESULT, 1)),
        "RESULT frame on a lane stream",
    ),
    "a hello on a lane": (True, lambda c: c.open(LANE + hello()), "HELLO frame on a lane stream"),
    "a state on a lane": (True, lambda c: c.open(LANE + encode_frame(FrameKind.STATE, 1)), "STATE frame on a lane"),
    "a frame of no kind": (
        True,
        lambda c: c.open(LANE + struct.pack(">IBIHI", 0, 77, 0, 0, 0)),
        "frame of unknown kind 77",
    ),
    "a frame of two gigabytes": (
        True,
        lambda c: c.open(LANE + struct.pack(">IBIHI", 1 << 31, 0, 1, 0, 0)),
        "CALL frame of 2147483648 bytes",
    ),
    "a hello of two gigabytes": (
        False,
        lambda c: c.open(CONTROL + struct.pack(">IBIHI", 1 << 31, 8, 0, 0, 0)),
        "HELLO frame of 2147483648 bytes",
    ),
    "two calls of one number": (
        True,
        lambda c: c.open(LANE + call(7, "once", "key", 1000.0) + call(7)),
        "call 7 is in flight already",
    ),
    "two calls on one stream": (True, lambda c: c.open(CALL + call(1) + call(2)), "CALL frame on a call stream"),
    "a call stream that ends early": (True, lambda c: c.open(CALL, end=True), "CALL stream without a frame"),
    "a call stream that ends inside": (
        True,
        lambda c: c.open(CALL + call(1)[:-1], end=True),
        "CALL stream ended in the middle of a frame",
    ),
    "a state stream that ends early": (True, lambda c: c.open(STATE, end=True), "STATE stream without a frame"),
}


@pytest.mark.parametrize(("greets", "misbehave", "rule"), BROKEN.values(), ids=BROKEN)
def test_who_breaks_a_rule_loses_his_connection_and_is_told_which(
    greets: bool, misbehave: Callable[[Connection], object], rule: str
) -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        if greets:
            await connection.greet()
        misbehave(connection)
        with trio.fail_after(1):
            await connection.ended.wait()
        closed = connection.closed
        assert closed is not None
        assert closed.code == CLOSE_PROTOCOL_ERROR
        assert closed.by_peer
        assert rule in closed.message

    simulate(scenario)


def test_a_peer_without_a_common_version_is_told_both_ranges() -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        connection.open(CONTROL + hello(protocol_min=7, protocol_max=9))
        await connection.ended.wait()
        assert connection.closed is not None
        assert connection.closed.code == CLOSE_VERSION_MISMATCH
        assert "1 to 1" in connection.closed.message
        assert "7 to 9" in connection.closed.message

    simulate(scenario)


@pytest.mark.parametrize("dialler_is_newer", [False, True])
def test_nodes_without_a_common_version_tell_each_other(
    dialler_is_newer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = rpcnet.Node._hello

    def other_hello(node: rpcnet.Node, first: MemberRecord) -> Hello:
        said = original(node, first)
        is_new = (first.name == "late") is dialler_is_newer
        return attrs.evolve(said, protocol_min=7, protocol_max=9) if is_new else said

    monkeypatch.setattr(rpcnet.Node, "_hello", other_hello)

    async def scenario(cluster: SimulatedCluster) -> None:
        async with (
            rpcnet.Node("first", security=cluster.security) as first,
            rpcnet.Node("late", security=cluster.security) as late,
        ):
            with pytest.raises(rpcnet.JoinError) as caught:
                await late.join([first.address])
            answer = caught.value.answers[first.address]
            assert "1 to 1" in answer
            assert "7 to 9" in answer
            assert late._parts is not None
            await trio.sleep(20)  # until the address may be dialled again
            with pytest.raises(rpcnet.VersionMismatch, match="7 to 9"):
                await late._parts.endpoint.connect(first.address)
            assert len(first.registry.nodes()) == 1

    run(scenario)


def answers_of(connection: Connection, stream_id: int) -> list[tuple[int, int, int]]:
    """Return kind, call id and status of every frame that came on a stream."""
    frames = FrameReader(1 << 20).feed(connection.received.get(stream_id, b""))
    return [(frame.kind, frame.call_id, frame.a) for frame in frames]


def test_calls_that_make_no_sense_are_refused_one_by_one() -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        await connection.greet()
        unknown = encode_frame(FrameKind.CALL, 1, 60_000, 0, b"\x80")
        garbled = encode_frame(FrameKind.CALL, 2, NUMBERS["who"], 0, b"\xff\xff\xff")
        cancel = encode_frame(FrameKind.CANCEL, 99)
        lane = connection.open(LANE + unknown + garbled + cancel + call(3))
        await trio.sleep(0.1)
        unimplemented, invalid = rpcnet.Unimplemented.status, rpcnet.InvalidArgument.status
        assert answers_of(connection, lane)[:2] == [(FrameKind.ERROR, 1, unimplemented), (FrameKind.ERROR, 2, invalid)]
        assert answers_of(connection, lane)[2][:2] == (FrameKind.RESULT, 3)
        assert connection.closed is None

    simulate(scenario)


def test_more_calls_than_allowed_are_refused_and_do_not_run() -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        await connection.greet()
        slow = [call(number, "once", "key", 1000.0) for number in range(1, 1201)]
        lane = connection.open(LANE + b"".join(slow))
        await trio.sleep(1)
        assert world.ran("key") == 1024
        assert answers_of(connection, lane) == [
            (FrameKind.ERROR, number, rpcnet.ResourceExhausted.status) for number in range(1025, 1201)
        ]
        assert connection.link is not None
        connection.link.close(0x100, "enough")
        connection.pump.flush()
        await trio.sleep(1)
        assert world.handles[1].node.statistics().active_calls <= 1

    simulate(scenario)


def test_a_state_of_garbage_is_not_answered_and_changes_nothing() -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        await connection.greet()
        for body in (
            b"",
            b"\xff" * 1000,
            b"\x01\x01" + bytes(511),
            b"\x01\x03" + b"\xff" * 99,
        ):
            stream = connection.open(STATE + encode_frame(FrameKind.STATE, 1, body=body), end=True)
            await trio.sleep(0.1)
            assert stream not in connection.received

    simulate(scenario)


@pytest.mark.parametrize("opening", [b"", CONTROL, CONTROL + hello()[:20]], ids=["nothing", "a kind", "half a hello"])
def test_a_peer_that_says_nothing_is_let_go_after_the_idle_timeout(opening: bytes) -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        if opening:
            connection.open(opening)
        await trio.sleep(70)
        assert connection.closed is not None

    simulate(scenario)


def test_a_peer_that_opens_streams_and_says_nothing_more_disturbs_nobody() -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        connection = await peer.dial(world.handles[1].address)
        await connection.greet()
        for _ in range(60):
            connection.open(LANE + call(1)[:7])
            connection.open(CALL + call(2)[:9])
        await trio.sleep(10)
        assert connection.closed is None

    simulate(scenario)


# --- servers that break the rules


def open_a_lane(connection: Connection) -> None:
    connection.send(0, hello())
    connection.open(LANE)


def close_the_connection(connection: Connection) -> None:
    assert connection.link is not None
    connection.link.close(7, "go away")


BAD_SERVERS: dict[str, tuple[Callable[[Connection], object], str]] = {
    "says nothing": (lambda c: None, "no connection"),
    "says a hello of garbage": (
        lambda c: c.send(0, encode_frame(FrameKind.HELLO, 0, body=b"\xff")),
        "HELLO frame: the body is not valid CBOR",
    ),
    "opens a lane": (open_a_lane, "may not open a LANE stream"),
    "calls": (lambda c: c.send(0, hello() + call(1)), "CALL frame on a control"),
    "closes the control stream": (lambda c: c.send(0, hello(), end=True), "closed a CONTROL stream"),
    "closes the connection": (close_the_connection, "go away"),
}


@pytest.mark.parametrize(("misbehave", "reason"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_a_server_that_breaks_a_rule_is_left_and_named(misbehave: Callable[[Connection], object], reason: str) -> None:
    async def scenario(world: World, peer: RawPeer) -> None:
        peer.on_accepted = misbehave
        parts = world.handles[0].node._parts
        assert parts is not None
        endpoint = parts.endpoint
        with pytest.raises(rpcnet.RpcNetError, match=reason), trio.fail_after(60):
            await endpoint.membership.exchange(peer.address, b"state")

    simulate(scenario)
