"""The services that every node has: health and reflection; and contracts that are compared before a call."""

from __future__ import annotations

import pytest
import trio

import rpcnet
from rpcnet._net.client_session import ClientSession
from rpcnet.testing import SimulatedCluster, run


@rpcnet.service(name="shop")
class Shop:
    @rpcnet.rpc(idempotent=True)
    async def price(self, item: str, discount: float = 0.0) -> float:
        """Return a price."""
        return len(item) * (1 - discount)

    @rpcnet.rpc
    async def slow(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "done"


async def two(cluster: SimulatedCluster) -> tuple[rpcnet.Node, rpcnet.Node]:
    [server] = await cluster.start(1, services=lambda _: [Shop()])
    [caller] = await cluster.start(1)
    await cluster.converged()
    return server.node, caller.node


def test_a_node_says_that_it_lives_and_is_ready() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        health = caller.stub(rpcnet.Health, node=server.name)
        assert await health.check() == rpcnet.HealthStatus(live=True, ready=True, draining=False)
        assert await health.check("shop") == rpcnet.HealthStatus(live=True, ready=True, draining=False)
        with pytest.raises(rpcnet.NotFound, match="'shoes'"):
            await health.check("shoes")

    run(scenario, limit=300)


def test_an_application_says_that_a_service_is_not_ready() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        health = caller.stub(rpcnet.Health, node=server.name)
        server.health.set_ready(False, "shop")
        assert not (await health.check("shop")).ready
        assert (await health.check()).ready
        server.health.set_ready(True, "shop")
        server.health.set_ready(False)
        assert not (await health.check("shop")).ready
        server.health.set_live(False)
        assert not (await health.check()).live
        with pytest.raises(rpcnet.ConfigError, match="shoes"):
            server.health.set_ready(True, "shoes")

    run(scenario, limit=300)


def test_a_watcher_hears_every_change_and_the_drain_which_it_does_not_hold_up() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        seen: list[tuple[bool, bool]] = []
        async with caller.stub(rpcnet.Health, node=server.name).watch("shop") as changes:
            async for status in changes:
                seen.append((status.ready, status.draining))
                if len(seen) == 1:
                    server.health.set_ready(False)
                elif len(seen) == 2:
                    server.health.set_ready(True)
                elif len(seen) == 3:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(server.drain)
        assert seen == [(True, False), (False, False), (True, False), (False, True)]

    run(scenario, limit=300)


def test_a_draining_node_answers_for_its_health_and_refuses_the_rest() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        assert await caller.stub(Shop).price("abc") == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.stub(Shop).slow, 20.0)
            await trio.sleep(1)
            nursery.start_soon(server.drain)
            await trio.sleep(1)
            status = await caller.stub(rpcnet.Health, node=server.name).check()
            assert status == rpcnet.HealthStatus(live=True, ready=False, draining=True)
            with pytest.raises((rpcnet.Unavailable, rpcnet.NoWorkers)):
                await caller.stub(Shop, node=server.name).price("abc")

    run(scenario, limit=300)


def test_a_node_tells_what_it_serves() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        reflection = caller.stub(rpcnet.Reflection, node=server.name)
        names = {each.name: each.methods for each in await reflection.services()}
        assert names["shop"] == ["price", "slow"]
        assert {"rpcnet.Health", "rpcnet.Reflection"} <= set(names)
        told = await reflection.describe("shop")
        assert sorted(told["methods"]) == ["price", "slow"]
        assert await reflection.describe("shop.price")
        with pytest.raises(rpcnet.NotFound, match=r"shop\.prize"):
            await reflection.describe("shop.prize")

    run(scenario, limit=300)


def test_built_in_services_are_not_advertised() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        assert [info.services for info in caller.registry.nodes()] == [("shop",), ()]
        assert [info.name for info in caller.workers.workers()] == [server.name]

    run(scenario, limit=300)


def test_a_service_of_a_user_has_no_dot_in_its_name() -> None:
    with pytest.raises(rpcnet.ConfigError, match="letters, digits"):

        @rpcnet.service(name="rpcnet.Mine")
        class Mine:
            @rpcnet.rpc
            async def work(self) -> None: ...


# --- contracts


@rpcnet.service(name="shop")
class OlderShop:
    @rpcnet.rpc(idempotent=True)
    async def price(self, item: str) -> float:
        raise NotImplementedError


@rpcnet.service(name="shop")
class NewerShop:
    @rpcnet.rpc(idempotent=True)
    async def price(self, item: str, discount: float = 0.0, currency: str = "EUR") -> float:
        raise NotImplementedError

    @rpcnet.rpc
    async def stock(self, item: str) -> int:
        raise NotImplementedError


@rpcnet.service(name="shop")
class WrongShop:
    @rpcnet.rpc(idempotent=True)
    async def price(self, item: int) -> float:
        raise NotImplementedError


def test_an_older_and_a_newer_contract_that_fit_go_on_working() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        _, caller = await two(cluster)
        assert await caller.stub(OlderShop).price("abcd") == 4
        assert await caller.stub(NewerShop).price("abcd", 0.5) == 2
        with pytest.raises(rpcnet.Unimplemented, match=r"shop\.stock"):
            await caller.stub(NewerShop).stock("abcd")

    run(scenario, limit=300)


def test_a_contract_that_does_not_fit_is_refused_with_method_and_difference_before_anything_is_sent() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        _, caller = await two(cluster)
        for _ in range(2):  # asked for, and remembered
            with pytest.raises(rpcnet.Unimplemented, match=r"shop\.price.*item.*int.*str") as caught:
                await caller.stub(WrongShop).price(3)
            assert caught.value.never_ran

    run(scenario, limit=300)


def test_a_contract_is_compared_once_per_connection() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        server, caller = await two(cluster)
        stub = caller.stub(OlderShop)
        await stub.price("a")
        before = server.statistics().quic.datagrams
        for _ in range(3):
            await stub.price("a")
        assert server.statistics().quic.datagrams - before <= 8

    run(scenario, limit=300)


def test_equal_contracts_are_not_compared() -> None:
    @rpcnet.service(name="shop")
    class SameShop:
        @rpcnet.rpc(idempotent=True)
        async def price(self, item: str, discount: float = 0.0) -> float:
            raise NotImplementedError

    async def scenario(cluster: SimulatedCluster) -> None:
        _, caller = await two(cluster)
        assert await caller.stub(SameShop).price("abc") == 3
        sessions = list(caller._running.endpoint.sessions())
        assert not any(session.verdicts for session in sessions if isinstance(session, ClientSession))

    run(scenario, limit=300)
