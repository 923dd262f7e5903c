"""The key ring of a whole cluster: rotated under load, with nodes that lack it, with two operators, in any order."""

from __future__ import annotations

import base64
from contextlib import suppress
from random import Random

import attrs
import pytest
import trio
from _world import World, stub

import rpcnet
from rpcnet._core.key_desk import KeyDesk
from rpcnet._core.keyring import GossipKey
from rpcnet._net.sealing import Sealer
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


def secret(number: int) -> bytes:
    """Return the secret of a key; those of small numbers have ids of their own."""
    return Random(number).randbytes(32)


def id_of(number: int) -> int:
    return GossipKey.of(secret(number)).key_id


@attrs.define
class Traffic:
    """Calls and events that go on while something else happens."""

    world: World
    calls: int = 0
    problems: list[str] = attrs.field(factory=list)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for handle in self.world.handles:
                nursery.start_soon(self._call, handle)
                nursery.start_soon(self._publish, handle)

    async def _call(self, handle: SimulatedNode) -> None:
        while True:
            for other in self.world.handles:
                try:
                    with trio.fail_after(10):
                        assert await stub(handle, other).again("load", 0.01) == other.name
                except (rpcnet.RpcNetError, trio.TooSlowError) as error:
                    self.problems.append(f"{handle.name} to {other.name}: {error!r}")
                self.calls += 1
            await trio.sleep(0.3)

    async def _publish(self, handle: SimulatedNode) -> None:
        while True:
            await handle.node.publish("load", b"x" * 100)
            await trio.sleep(0.5)


def lose(cluster: SimulatedCluster, handles: list[SimulatedNode], probability: float) -> None:
    for one in handles:
        for other in handles:
            if one is not other:
                cluster.set_loss(one, other, probability)


def sealing(handle: SimulatedNode) -> dict[str, int]:
    return attrs.asdict(handle.node.statistics().sealing)


def rings(handles: list[SimulatedNode]) -> set[tuple[int, ...]]:
    """Return the different rings that nodes have, as ids."""
    desks = [handle.node._running.endpoint.keys.desk for handle in handles]
    return {(desk.ring.in_use.key_id, *sorted(key.key_id for key in desk.ring.keys[1:])) for desk in desks}


async def agreed(handles: list[SimulatedNode], *, within: float) -> None:
    """Wait until nodes have one ring."""
    with trio.fail_after(within):
        while len(rings(handles)) > 1:  # noqa: ASYNC110 - nothing says so
            await trio.sleep(0.1)


async def rotated(handle: SimulatedNode, number: int, *, pause: float = 0.0) -> rpcnet.KeyReport:
    """Change the key of the whole cluster in three steps."""
    (old,) = (key for key in (await handle.node.keys.list()).keys if key.use)
    assert (await handle.node.keys.install(secret(number))).is_complete
    await trio.sleep(pause)
    assert (await handle.node.keys.use(id_of(number))).is_complete
    await trio.sleep(pause)
    return await handle.node.keys.remove(old.key_id)


def quiet(cluster: SimulatedCluster, since: float = 0.0) -> bool:
    """Tell whether nobody was suspected."""
    worried = ("NodeSuspected", "NodeFailed", "NodeLeft")
    return not [entry for entry in cluster.trace if entry.at >= since and entry.what.startswith(worried)]


def test_keys_are_rotated_under_load_and_loss_and_nobody_notices() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        handles = await world.start(6)
        lose(cluster, handles, 0.1)
        traffic = Traffic(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(traffic.run)
            await trio.sleep(1)
            before = {handle.name: sealing(handle)["unknown_key"] for handle in handles}
            report = await rotated(handles[2], 1, pause=0.5)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert report.is_complete
        assert list(report.nodes) == ["n2", "n0", "n1", "n3", "n4", "n5"]
        assert [(key.key_id, key.have, key.use) for key in report.keys] == [(id_of(1), 6, 6)]
        assert rings(handles) == {(id_of(1),)}
        assert traffic.calls > 200
        assert traffic.problems == []
        assert quiet(cluster)
        after = {handle.name: sealing(handle)["unknown_key"] for handle in handles}
        assert all(after[name] - before[name] <= 2 for name in after)  # what was on its way

    run(scenario)


def test_a_removed_key_opens_nothing_any_more() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(3)
        await cluster.converged()
        captured = Sealer("simulation", cluster.security.gossip_keys, b"a salt..").seal(b"an old datagram")
        sealers = [handle.node._running.endpoint._sealer for handle in handles]
        await handles[0].node.keys.install(secret(1))
        await handles[0].node.keys.use(id_of(1))
        assert sealers[0].open(captured) == b"an old datagram"
        await handles[0].node.keys.remove(cluster.security.gossip_keys[0].key_id)
        assert [sealer.open(captured) for sealer in sealers] == [None, None, None]

    run(scenario)


def test_a_node_that_was_cut_off_during_a_rotation_finds_back() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(5)
        await cluster.converged()
        *present, absent = handles
        keys = present[0].node.keys
        cluster.partition([absent], present)
        report = await keys.install(secret(1), timeout=1.0)
        assert not report.is_complete
        assert list(report.errors) == [absent.name]
        assert [(key.have, key.use) for key in report.keys] == [(4, 4), (4, 0)]
        with pytest.raises(rpcnet.FailedPrecondition, match="n4 did not say to have it"):
            await keys.use(id_of(1), timeout=1.0)
        async with present[0].node.events(rpcnet.NodeFailed) as failures:
            await anext(failures)
        assert (await keys.use(id_of(1))).is_complete
        assert (await keys.remove(cluster.security.gossip_keys[0].key_id)).is_complete
        assert rings(present) != rings([absent])
        cluster.repair()
        await cluster.converged(within=60)
        healed = trio.current_time()
        assert rings(handles) == {(id_of(1),)}
        await trio.sleep(20)
        assert quiet(cluster, healed)
        assert (await absent.node.keys.list()).is_complete

    run(scenario)


def test_a_node_that_starts_with_the_first_key_has_the_ring_before_it_is_known() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(4)
        await cluster.converged()
        await rotated(handles[0], 1)
        await rotated(handles[1], 2)
        await cluster.bounce(handles[3])
        assert rings(handles) == {(id_of(2),)}
        (late,) = await cluster.start()
        assert rings([late]) == {(id_of(2),)}
        await cluster.converged()
        started = trio.current_time()
        await trio.sleep(20)
        assert quiet(cluster, started)
        assert {sealing(handle)["unknown_key"] for handle in handles[:3]} == {0}
        assert (await late.node.keys.list()).is_complete

    run(scenario)


def test_nodes_may_join_while_keys_are_rotated() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first, *_) = await cluster.start(3)
        await cluster.converged()

        async def start_more() -> None:
            for _ in range(4):
                await cluster.start()
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_more)
            for number in (1, 2, 3):
                await rotated(first, number)
        await cluster.converged()
        assert rings(list(cluster.running)) == {(id_of(3),)}
        await trio.sleep(10)
        assert quiet(cluster)

    run(scenario)


def test_a_node_that_is_made_deaf_by_force_hears_again_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(4)
        await cluster.converged()
        *present, absent = handles
        keys = present[0].node.keys
        cluster.partition([absent], present)
        await keys.install(secret(1))
        await keys.use(id_of(1), force=True)
        await keys.remove(cluster.security.gossip_keys[0].key_id, force=True)
        cluster.repair()
        await agreed(handles, within=10)
        assert rings(handles) == {(id_of(1),)}
        await cluster.converged()
        assert (await keys.list()).is_complete

    run(scenario)


def test_two_operators_at_once_both_get_what_they_want() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(5)
        await cluster.converged()
        reports = []

        async def install(handle: SimulatedNode, number: int) -> None:
            reports.append(await handle.node.keys.install(secret(number)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(install, handles[1], 1)
            nursery.start_soon(install, handles[3], 2)
        first = cluster.security.gossip_keys[0].key_id
        report = await handles[0].node.keys.list()
        assert report.is_complete
        assert {(key.key_id, key.have) for key in report.keys} == {(first, 5), (id_of(1), 5), (id_of(2), 5)}
        assert len(reports) == 2

    run(scenario)


def test_orders_of_one_operator_wait_for_each_other_and_each_has_its_time() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        *present, absent = await cluster.start(4)
        await cluster.converged()
        cluster.partition([absent], present)
        reports: dict[int, rpcnet.KeyReport] = {}

        async def install(number: int) -> None:
            reports[number] = await present[0].node.keys.install(secret(number), timeout=1.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(install, 1)
            nursery.start_soon(install, 2)
        assert len(rings(present)) == 1
        assert [list(report.errors) for report in reports.values()] == [["n3"], ["n3"]]
        assert sorted(len(report.nodes["n1"].keys) for report in reports.values()) == [2, 3]

    run(scenario)


def test_of_two_operators_who_use_different_keys_at_once_one_has_the_last_word() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(4)
        await cluster.converged()
        for number in (1, 2):
            await handles[0].node.keys.install(secret(number))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handles[1].node.keys.use, id_of(1))
            nursery.start_soon(handles[2].node.keys.use, id_of(2))
        report = await handles[3].node.keys.list()
        assert report.is_complete
        assert report.keys[0].key_id in (id_of(1), id_of(2))
        await trio.sleep(15)
        assert quiet(cluster)

    run(scenario)


def test_what_would_make_nodes_deaf_is_refused() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        first = cluster.security.gossip_keys[0].key_id
        handles = await cluster.start(2)
        await cluster.converged()
        keys = handles[0].node.keys
        with pytest.raises(rpcnet.SecurityError, match=f"the key with the id {first} is in use"):
            await keys.remove(first)
        with pytest.raises(rpcnet.SecurityError, match=f"no key has the id {id_of(1)}"):
            await keys.use(id_of(1))
        await keys.install(secret(1))
        report = await handles[1].node.keys.install(base64.b64encode(secret(2)).decode())
        assert [key.have for key in report.keys] == [2, 2, 2]
        with pytest.raises(rpcnet.SecurityError, match="at most 3 keys, not 4"):
            await keys.install(secret(3))
        for wrong in (b"short", "no base64!", bytes(32)):
            with pytest.raises(rpcnet.SecurityError, match="must be 32 random bytes"):
                await keys.install(wrong)
        assert await keys.remove(99) == report.__class__(nodes=(await keys.list()).nodes)

    run(scenario)


def test_secrets_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(3)
        await cluster.converged()
        keys = handles[0].node.keys
        shown = [repr(await keys.install(secret(1))), repr(await keys.use(id_of(1)))]
        for wrong in (secret(1)[:-1], secret(1).hex(), base64.b64encode(secret(1)[1:]).decode()):
            with pytest.raises(rpcnet.SecurityError) as caught:
                await keys.install(wrong)
            shown.append(repr(caught.value))
        shown += [repr(await keys.list()), repr(keys), repr(handles[0].node._running.endpoint.keys.desk.ring)]
        text = "\n".join((*shown, caplog.text))
        assert "took over the key ring of n0" in caplog.text
        for hidden in (secret(1).hex(), repr(secret(1))[2:12], base64.b64encode(secret(1)).decode()[:16]):
            assert hidden not in text

    with caplog.at_level("DEBUG"):
        run(scenario)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "long", True])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (handle,) = await cluster.start()
        for order in (handle.node.keys.list(timeout=timeout), handle.node.keys.install(secret(1), timeout=timeout)):
            with pytest.raises(rpcnet.ConfigError, match=r"timeout = .*: must be a number above 0"):
                await order

    run(scenario)


def test_a_key_is_not_removed_while_nobody_knows_whether_a_live_node_still_uses_it() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        first = cluster.security.gossip_keys[0].key_id
        *present, absent = await cluster.start(3)
        await cluster.converged()
        keys = present[0].node.keys
        await keys.install(secret(1))
        await keys.use(id_of(1))
        cluster.partition([absent], present)
        with pytest.raises(rpcnet.FailedPrecondition, match="is not removed: n2 did not say to use another one"):
            await keys.remove(first, timeout=0.5)
        assert len((await keys.list(timeout=0.5)).keys) == 2
        report = await keys.remove(first, force=True, timeout=0.5)
        assert [(key.key_id, key.have) for key in report.keys] == [(id_of(1), 2)]

    run(scenario)


def test_a_node_that_does_not_run_has_no_keys() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        node = rpcnet.Node("idle", security=cluster.security)
        with pytest.raises(RuntimeError, match="not running"):
            await node.keys.list()

    run(scenario)


def test_whoever_does_not_answer_costs_bounded_time() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(5)
        await cluster.converged()
        cluster.partition(handles[:1], handles[1:])
        started = trio.current_time()
        report = await handles[0].node.keys.install(secret(1), timeout=2.0)
        assert trio.current_time() - started < 3
        assert list(report.errors) == ["n1", "n2", "n3", "n4"]
        assert {type(error) for error in report.errors.values()} <= {rpcnet.DeadlineExceeded, rpcnet.Unavailable}
        assert report.nodes["n0"].has(report.nodes["n0"].keys[1])
        assert not report.nodes["n1"].has(report.nodes["n0"].keys[1])
        assert report.nodes["n1"].in_use is None

    run(scenario)


def test_a_mere_client_may_list_the_keys_and_neither_gets_nor_changes_them() -> None:
    """This one even knows the key; it is refused because it is no node."""

    async def scenario(cluster: SimulatedCluster) -> None:
        (handle,) = await cluster.start()
        first = cluster.security.gossip_keys[0]
        async with rpcnet.connect(handle.address, security=cluster.security) as client:
            listing = await client.stub(rpcnet.Keys).list()
            endpoint = client._parts.endpoint
            session = await endpoint.connect(handle.address)
            desk = KeyDesk(Sealer("simulation", [first], b"a salt.."), "simulation", client.name)
            assert await session.exchange_state(desk.ask()) == b""
            desk.change(desk.ring.install(GossipKey.of(secret(1))))
            assert await session.exchange_state(desk._note(has_keys=True)) == b""
            with pytest.raises(RuntimeError, match="is no node"):
                _ = endpoint.keys
        assert listing == rpcnet.KeyListing(0, [rpcnet.KeyInfo(first.key_id, first.fingerprint, is_in_use=True)])
        assert rings([handle]) == {(first.key_id,)}

    run(scenario)


STEPS = ("install", "use", "remove")


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_steps_on_parts_of_a_cluster_makes_nodes_deaf_for_ever(seed: int) -> None:
    """Each node makes steps of its own, by force and behind the others' backs, while the network falls apart."""
    rng = Random(seed)

    async def scenario(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(4)
        await cluster.converged()
        for _ in range(10):
            if rng.random() < 0.3:
                some = rng.sample(handles, 2)
                cluster.partition(some, [handle for handle in handles if handle not in some])
            handle, number = rng.choice(handles), rng.randrange(4)
            desk = handle.node._running.endpoint.keys.desk
            with suppress(rpcnet.RpcNetError):
                match rng.choice(STEPS):
                    case "install":
                        desk.change(desk.ring.install(GossipKey.of(secret(number))))
                    case "use":
                        await handle.node.keys.use(id_of(number), force=True, timeout=1.0)
                    case "remove":
                        desk.change(desk.ring.remove(rng.choice(desk.ring.keys).key_id))
            await trio.sleep(rng.random() * 3)
            if rng.random() < 0.3:
                cluster.repair()
        cluster.repair()
        await cluster.converged(within=120)
        await agreed(handles, within=120)
        opened = [sealing(handle)["opened"] for handle in handles]
        unknown = [sealing(handle)["unknown_key"] for handle in handles]
        await trio.sleep(10)
        assert all(sealing(handle)["opened"] > count for handle, count in zip(handles, opened, strict=True))
        assert [sealing(handle)["unknown_key"] for handle in handles] == unknown

    run(scenario, seed=seed)
