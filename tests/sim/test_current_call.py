"""What a handler knows of the call that it serves, and who may make it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import cbor2
import pytest
import trio
from _raw_peer import Connection, hello, open_raw_peer

import rpcnet
from rpcnet._core.bodies import decode_error, join_metadata
from rpcnet._core.framing import FrameKind, FrameReader, StreamKind, encode_frame
from rpcnet.testing import SimulatedCluster, run

LONG = 3000.0
"""Seconds that nobody has set as a deadline here; the simulation itself ends after an hour."""


@attrs.frozen
class Seen:
    method: str
    peer: str
    tags: dict[str, str]
    metadata: dict[str, str]
    left: float
    node: str


def seen() -> Seen:
    """Return what a handler sees of its call."""
    call = rpcnet.current_call()
    assert call is rpcnet.current_call()
    left = call.deadline - trio.current_time()
    return Seen(call.method, call.peer.name, dict(call.peer.tags), dict(call.metadata), left, call.node.name)


@rpcnet.service
class Looking:
    """A service that tells its callers what it sees of them."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.background: trio.Nursery | None = None
        self.later: list[float] = []

    @rpcnet.rpc
    async def look(self) -> Seen:
        self.runs.append("look")
        return seen()

    @rpcnet.rpc
    async def look_from_a_task(self) -> Seen:
        found: list[Seen] = []

        async def child() -> None:
            await trio.sleep(0.25)
            found.append(seen())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        return found[0]

    @rpcnet.rpc
    async def stream(self, words: AsyncIterator[str]) -> AsyncIterator[Seen]:
        async for _ in words:
            yield seen()

    @rpcnet.rpc
    async def arguments(self, word: str, number: int = 7) -> str:
        return repr(rpcnet.current_call().arguments)

    @rpcnet.rpc
    async def wait_for_draining(self) -> float:
        await rpcnet.current_call().draining.wait()
        return trio.current_time()

    @rpcnet.rpc
    async def ask(self, node: str, detached: bool) -> Seen:
        """Ask another node what it sees of a call that this one makes."""
        stub = rpcnet.current_call().node.stub(Looking, node=node)
        if not detached:
            return await stub.look()
        with rpcnet.detached():
            with pytest.raises(RuntimeError, match="no call is being served here"):
                rpcnet.current_call()
            return await stub.look()

    @rpcnet.rpc
    async def ask_later(self, node: str, detached: bool) -> None:
        """Ask it when the call has ended, from a task that outlives it."""
        stub = rpcnet.current_call().node.stub(Looking, node=node)

        async def ask() -> None:
            await trio.sleep(1)
            try:
                self.later.append((await stub.look()).left)
            except rpcnet.DeadlineExceeded:
                self.later.append(-1)

        assert self.background is not None
        if detached:
            with rpcnet.detached():
                self.background.start_soon(ask)
        else:
            self.background.start_soon(ask)

    @rpcnet.rpc(allow="role=admin,zone in (eu,us)")
    async def restricted(self, number: int) -> str:
        self.runs.append("restricted")
        return "done"

    @rpcnet.rpc(allow="role!=guest")
    async def open_stream(self) -> AsyncIterator[int]:
        yield 1


@attrs.define(eq=False)
class Three:
    """Three nodes: ``n0`` has the tag ``role=admin``, and all look at their callers."""

    cluster: SimulatedCluster
    nodes: list[rpcnet.Node]
    services: dict[str, Looking]

    def stub(self, caller: int, called: int, **metadata: str) -> Looking:
        return self.nodes[caller].stub(Looking, node=f"n{called}", metadata=metadata)


def simulate(scenario: Callable[[Three], Awaitable[None]], **rpc: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        services: dict[str, Looking] = {}

        def make(name: str) -> list[object]:
            services[name] = Looking()
            return [services[name]]

        config = rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(**rpc))  # type: ignore[arg-type]
        handles = await cluster.start(
            3,
            services=make,
            tags=lambda name: {"role": "admin" if name == "n0" else "user", "zone": "eu"},
            config=config,
        )
        await cluster.converged()
        three = Three(cluster, [handle.node for handle in handles], services)
        async with trio.open_nursery() as nursery:
            for service in services.values():
                service.background = nursery
            await scenario(three)

    run(main)


# --- what a handler sees


def test_a_handler_sees_who_calls_with_what_and_until_when() -> None:
    async def scenario(three: Three) -> None:
        with trio.fail_after(5):
            found = await three.stub(0, 1, trace="abc", user="ann").look()
        assert 4.9 < found.left <= 5
        assert attrs.evolve(found, left=5) == Seen(
            method="Looking.look",
            peer="n0",
            tags={"role": "admin", "zone": "eu"},
            metadata={"trace": "abc", "user": "ann"},
            left=5,
            node="n1",
        )

    simulate(scenario)


def test_without_metadata_and_deadline_there_is_none() -> None:
    async def scenario(three: Three) -> None:
        found = await three.stub(2, 1).look()
        assert found.metadata == {}
        assert found.left > LONG
        assert found.peer == "n2"

    simulate(scenario)


def test_a_node_that_calls_itself_is_its_own_peer() -> None:
    async def scenario(three: Three) -> None:
        found = await three.stub(0, 0).look()
        assert (found.peer, found.node, found.tags["role"]) == ("n0", "n0", "admin")

    simulate(scenario)


def test_a_task_of_a_handler_sees_the_same_call() -> None:
    async def scenario(three: Three) -> None:
        with trio.fail_after(2):
            found = await three.stub(0, 1, trace="abc").look_from_a_task()
        assert found.metadata == {"trace": "abc"}
        assert 1.7 < found.left <= 1.75

    simulate(scenario)


def test_the_handler_of_a_stream_sees_its_call_at_every_value() -> None:
    async def words() -> AsyncIterator[str]:
        yield "one"
        await trio.sleep(1)
        yield "two"

    async def scenario(three: Three) -> None:
        with trio.fail_after(5):
            async with three.stub(0, 1, trace="abc").stream(words()) as values:
                found = [value async for value in values]
        assert [value.metadata for value in found] == [{"trace": "abc"}] * 2
        assert [round(value.left) for value in found] == [5, 4]

    simulate(scenario)


def test_the_arguments_are_those_that_the_caller_gave() -> None:
    async def scenario(three: Three) -> None:
        stub = three.stub(0, 1)
        assert await stub.arguments("a") == "{'word': 'a'}"
        assert await stub.arguments("a", number=3) == "{'word': 'a', 'number': 3}"

    simulate(scenario)


def test_a_running_handler_hears_that_its_node_drains() -> None:
    async def scenario(three: Three) -> None:
        heard: list[float] = []

        async def call() -> None:
            heard.append(await three.stub(0, 1).wait_for_draining())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(3)
            assert heard == []
            begun = trio.current_time()
            await three.nodes[1].drain()
        assert begun <= heard[0] <= begun + 0.5

    simulate(scenario)


def test_outside_of_a_handler_no_call_is_served() -> None:
    async def scenario(three: Three) -> None:
        await three.stub(0, 1).look()
        with pytest.raises(RuntimeError, match=r"no call is being served here: current_call\(\) is for handlers"):
            rpcnet.current_call()

    simulate(scenario)


# --- deadlines of calls inside of calls


def test_a_call_of_a_handler_inherits_what_is_left_of_its_deadline_unless_it_is_detached() -> None:
    async def scenario(three: Three) -> None:
        with trio.fail_after(5):
            inherited = await three.stub(0, 1).ask("n2", detached=False)
            free = await three.stub(0, 1).ask("n2", detached=True)
        assert 4.9 < inherited.left < 5
        assert free.left > LONG
        assert inherited.peer == free.peer == "n1"
        assert (await three.stub(0, 1).ask("n2", detached=False)).left > LONG

    simulate(scenario)


def test_a_task_that_outlives_its_handler_keeps_the_deadline_unless_it_was_started_detached() -> None:
    async def scenario(three: Three) -> None:
        with trio.fail_after(0.5):
            await three.stub(0, 1).ask_later("n2", detached=False)
            await three.stub(0, 1).ask_later("n2", detached=True)
        await trio.sleep(2)
        refused, free = sorted(three.services["n1"].later)
        assert refused == -1
        assert free > LONG
        assert three.services["n2"].runs == ["look"]

    simulate(scenario)


# --- metadata that is refused


def test_metadata_above_the_limit_is_refused_before_it_is_sent() -> None:
    async def scenario(three: Three) -> None:
        with pytest.raises(rpcnet.ResourceExhausted, match=r"metadata of \d+ bytes is above the limit of 100"):
            three.stub(0, 1, trace="x" * 200)
        with pytest.raises(rpcnet.InvalidArgument, match="must be text"):
            three.stub(0, 1, trace=7)  # type: ignore[arg-type]

    simulate(scenario, max_metadata_bytes=100)


MALFORMED = {
    "not CBOR": (b"\xff\xff", rpcnet.InvalidArgument, "not valid CBOR"),
    "no map": (cbor2.dumps(["a", "b"]), rpcnet.InvalidArgument, "must be a map"),
    "a number": (cbor2.dumps({"a": 1}), rpcnet.InvalidArgument, "must be text"),
    "too large": (cbor2.dumps({"a": "x" * 10_000}), rpcnet.ResourceExhausted, "limit of 8192"),
}


@pytest.mark.parametrize(("metadata", "kind", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_metadata_is_refused_before_the_handler_runs(
    metadata: bytes, kind: type[rpcnet.StatusError], message: str
) -> None:
    async def scenario(three: Three) -> None:
        async with open_raw_peer(three.cluster.security) as peer:
            connection = await peer.dial(three.nodes[1].address)
            await connection.greet()
            number = method_number(three.nodes[1], "look")
            body = join_metadata(metadata, cbor2.dumps([]))
            error = await call(connection, encode_frame(FrameKind.CALL_WITH_METADATA, 1, number, 0, body))
            assert isinstance(error, kind)
            assert message in error.message
            assert error.never_ran
            assert isinstance(await call(connection, encode_frame(FrameKind.CALL, 2, number, 0, b"\x80")), dict)
        assert three.services["n1"].runs == ["look"]

    simulate(scenario)


def method_number(node: rpcnet.Node, name: str) -> int:
    (numbers,) = [
        [method.number for method in entry.methods if method.name == name]
        for entry in node._table.entries
        if entry.name == "Looking"
    ]
    return numbers[0]


async def call(connection: Connection, frame: bytes) -> object:
    """Make a call on a stream of its own, and return its result undecoded or its error."""
    stream_id = connection.open(bytes([StreamKind.LANE]) + frame)
    await trio.sleep(0.5)
    reader = FrameReader(1 << 20)
    (answer,) = reader.feed(connection.received[stream_id])
    if answer.kind == FrameKind.ERROR:
        return decode_error(answer.a, answer.body, never_ran=bool(answer.b))
    return cbor2.loads(answer.body)


# --- who may call


def test_a_caller_whose_tags_match_may_call() -> None:
    async def scenario(three: Three) -> None:
        assert await three.stub(0, 1).restricted(1) == "done"
        async with three.stub(0, 1).open_stream() as values:
            assert [value async for value in values] == [1]

    simulate(scenario)


def test_a_caller_whose_tags_do_not_match_is_told_which_rule_before_its_arguments_are_read() -> None:
    async def scenario(three: Three) -> None:
        for arguments in ((1,), ("nonsense",)):
            with pytest.raises(rpcnet.PermissionDenied) as caught:
                await three.nodes[2].client.call_worker("Looking.restricted", *arguments, node="n1")
            assert caught.value.never_ran
            assert "Looking.restricted" in caught.value.message
            assert "role=admin" in caught.value.message
            assert "zone in (eu,us)" in caught.value.message
            assert "n2" in caught.value.message
        assert three.services["n1"].runs == []

    simulate(scenario)


def test_tags_that_change_change_what_a_member_may_call() -> None:
    async def scenario(three: Three) -> None:
        await three.nodes[2].update_tags({"role": "admin"})
        await three.nodes[1].registry.wait_for(2, where="role=admin")
        assert await three.stub(2, 1).restricted(1) == "done"
        await three.nodes[2].update_tags({"role": "guest"})
        await three.nodes[1].registry.wait_for(1, where="role=guest")
        for opened in (three.stub(2, 1).restricted(1), enter(three.stub(2, 1).open_stream())):
            with pytest.raises(rpcnet.PermissionDenied):
                await opened

    simulate(scenario)


def test_a_server_without_a_cluster_knows_who_calls_and_that_nobody_has_tags() -> None:
    @rpcnet.service
    class Lone:
        @rpcnet.rpc
        async def look(self) -> list[str]:
            call = rpcnet.current_call()
            assert call.node is servers[0]
            assert not call.peer.is_member
            return [call.peer.name, call.peer.id, call.metadata.get("trace", ""), str(dict(call.peer.tags))]

        @rpcnet.rpc(allow="role=admin")
        async def restricted(self) -> None: ...

        @rpcnet.rpc
        async def wait_for_draining(self) -> str:
            await rpcnet.current_call().draining.wait()
            return "drained"

    servers: list[object] = []
    methods: list[str] = []

    async def note(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        methods.append(call.method)
        return await proceed()

    async def main(cluster: SimulatedCluster) -> None:
        security = cluster.security
        async with (
            rpcnet.Server([Lone()], security=security, middleware=[note]) as server,
            rpcnet.connect(server.address, name="ann", security=security, middleware=[note]) as connection,
        ):
            servers.append(server)
            stub = connection.stub(Lone, metadata={"trace": "abc"})
            assert await stub.look() == ["ann", "", "abc", "{}"]
            assert methods == ["Lone.look"] * 2
            with pytest.raises(rpcnet.PermissionDenied, match=r"'role=admin'.*ann"):
                await stub.restricted()
            answers: list[str] = []

            async def wait() -> None:
                answers.append(await stub.wait_for_draining())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(1)
                await server.drain()
            assert answers == ["drained"]

    run(main)


async def enter(stream: object) -> None:
    async with stream:  # type: ignore[attr-defined]
        pytest.fail("it was accepted")


def test_a_peer_that_is_no_member_has_no_tags() -> None:
    async def scenario(three: Three) -> None:
        async with open_raw_peer(three.cluster.security) as peer:
            connection = await peer.dial(three.nodes[1].address)
            await connection.greet()
            number = method_number(three.nodes[1], "restricted")
            error = await call(connection, encode_frame(FrameKind.CALL, 1, number, 0, cbor2.dumps([1])))
            assert isinstance(error, rpcnet.PermissionDenied)
            number = method_number(three.nodes[1], "look")
            found = await call(connection, encode_frame(FrameKind.CALL, 2, number, 0, b"\x80"))
            assert isinstance(found, dict)
            assert (found["peer"], found["tags"]) == ("raw", {})

    simulate(scenario)


def test_a_peer_that_says_to_be_a_member_of_another_name_has_no_tags() -> None:
    async def scenario(three: Three) -> None:
        async with open_raw_peer(three.cluster.security) as peer:
            connection = await peer.dial(three.nodes[1].address)
            connection.open(bytes([StreamKind.CONTROL]) + hello(node_id=three.nodes[0].id))
            await trio.sleep(0.1)
            number = method_number(three.nodes[1], "restricted")
            error = await call(connection, encode_frame(FrameKind.CALL, 1, number, 0, cbor2.dumps([1])))
            assert isinstance(error, rpcnet.PermissionDenied)

    simulate(scenario)
