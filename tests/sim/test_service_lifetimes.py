"""Service objects that are async context managers live as long as their node serves."""

from __future__ import annotations

import logging
from typing import Self

import pytest
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, run


@rpcnet.service
class Shop:
    """A service that opens a nursery of its own, and writes down what happens to it."""

    def __init__(self, name: str, log: list[str], *, fails: str = "", slow: float = 0.0) -> None:
        self.name, self.log, self.fails, self.slow = name, log, fails, slow
        self.task: trio.lowlevel.Task | None = None
        self.ticks = 0

    async def __aenter__(self) -> Self:
        self.task = trio.lowlevel.current_task()
        self.log.append(f"open {self.name}")
        await trio.sleep(self.slow)
        if self.fails == "entering":
            raise ValueError("the door is stuck")
        self.manager = trio.open_nursery()
        self.nursery = await self.manager.__aenter__()
        self.nursery.start_soon(self.tick)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert trio.lowlevel.current_task() is self.task
        try:
            self.nursery.cancel_scope.cancel()
            await self.manager.__aexit__(*error)  # type: ignore[arg-type]
            await trio.sleep(self.slow)
            self.log.append(f"closed {self.name}")
        finally:
            self.log.append(f"left {self.name}")
        if self.fails == "leaving":
            raise ValueError("the key broke")

    async def tick(self) -> None:
        while True:
            await trio.sleep(1.0)
            self.ticks += 1
            if self.fails == "inside":
                raise KeyError("fire")

    @rpcnet.rpc
    async def buy(self, seconds: float) -> int:
        try:
            await trio.sleep(seconds)
            return self.ticks
        finally:
            self.log.append("bought")


@rpcnet.service
class Plain:
    @rpcnet.rpc
    async def hello(self) -> str:
        return "hello"


@rpcnet.service(name="second")
class Second(Shop):
    pass


def node(cluster: SimulatedCluster, *services: object, drain_timeout: float = 10.0) -> rpcnet.Node:
    config = rpcnet.NodeConfig(drain_timeout=drain_timeout)
    return rpcnet.Node("shop", services=services, security=cluster.security, config=config)


def test_services_are_entered_before_the_node_serves_and_left_in_reverse_after_the_last_call() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        async with node(cluster, Shop("first", log), Plain(), Second("second", log, slow=3.0)) as shop:
            assert log == ["open first", "open second"]
            assert trio.current_time() == 3
            async with rpcnet.Node("buyer", seeds=[shop.address], security=cluster.security) as buyer:
                assert await buyer.stub(Shop).buy(2.5) == 5
                assert await buyer.stub(Plain).hello() == "hello"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shop.stub(Shop).buy, 4.0)
                await trio.sleep(1)
                log.append("end")
        assert log == [
            *("open first", "open second", "bought", "end", "bought"),
            *("closed second", "left second", "closed first", "left first"),
        ]

    run(scenario)


def test_a_call_that_outlasts_the_drain_is_cancelled_before_its_service_is_left() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        async with trio.open_nursery() as nursery, node(cluster, Shop("shop", log), drain_timeout=2.0) as shop:

            async def buy() -> None:
                with pytest.raises(rpcnet.StatusError):
                    await shop.stub(Shop).buy(1000)

            nursery.start_soon(buy)
            await trio.sleep(1)
        assert log == ["open shop", "bought", "closed shop", "left shop"]

    run(scenario)


def test_what_a_service_raises_when_it_is_entered_comes_out_bare_and_the_others_are_left() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        first, second = Shop("first", log), Second("second", log, fails="entering")
        with pytest.raises(ValueError, match="the door is stuck"):
            async with node(cluster, first, second):
                pytest.fail("the node has started")
        assert log == ["open first", "open second", "left first"]
        assert trio.current_time() == 0

    run(scenario)


def test_an_error_of_entering_is_not_hidden_by_a_service_that_cannot_be_left() -> None:
    @rpcnet.service
    class Heavy(Plain):
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            await trio.sleep_forever()

    async def scenario(cluster: SimulatedCluster) -> None:
        with pytest.raises(ValueError, match="the door is stuck"):
            async with node(cluster, Heavy(), Shop("shop", [], fails="entering"), drain_timeout=3.0):
                pytest.fail("the node has started")
        assert trio.current_time() == 3

    run(scenario)


def test_a_crash_inside_a_service_ends_the_node() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        with pytest.raises(rpcnet.NodeCrashed) as caught:
            async with node(cluster, Shop("first", log), Second("second", log, fails="inside")):
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, KeyError)
        assert log == ["open first", "open second", "left second", "left first"]

    run(scenario)


def test_an_error_while_a_service_is_left_is_a_crash_of_the_node_and_the_others_are_left() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        with pytest.raises(rpcnet.NodeCrashed) as caught:
            async with node(cluster, Shop("first", log), Second("second", log, fails="leaving")):
                log.append("body")
        assert isinstance(caught.value.__cause__, ValueError)
        assert log == ["open first", "open second", "body", "closed second", "left second", "left first"]

    run(scenario)


def test_a_service_has_bounded_time_to_be_left(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        hanging = Shop("shop", log)
        async with node(cluster, hanging, drain_timeout=3.0):
            begun = trio.current_time()
            hanging.slow = 1000.0
        assert begun + 3 <= trio.current_time() <= begun + 6
        assert log == ["open shop", "left shop"]
        assert "not left within 3.0 s" in caplog.text

    with caplog.at_level(logging.WARNING, "rpcnet.node"):
        run(scenario)


def test_a_node_that_is_given_up_while_it_enters_its_services_leaves_those_it_has_entered() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        with trio.move_on_after(5) as scope:
            async with node(cluster, Shop("first", log), Second("second", log, slow=60.0)):
                pytest.fail("the node has started")
        assert scope.cancelled_caught
        assert trio.current_time() == 5
        assert log == ["open first", "open second", "closed first", "left first"]

    run(scenario)


def test_services_of_a_node_that_is_killed_are_not_waited_for() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        log: list[str] = []
        (handle,) = await cluster.start(1, services=lambda name: [Shop(name, log)])
        await trio.sleep(10)
        await cluster.crash(handle)
        assert trio.current_time() == 10
        assert log == ["open n0", "left n0"]

    run(scenario)
