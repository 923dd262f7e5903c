"""Host names are looked up beside: datagrams never wait for a resolver."""

from __future__ import annotations

from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rpcnet._net.host_names import HostNames
from rpcnet._net.memory import MemoryNetwork, SimulatedEnvironment

NAMES = {"both.example": ["fd00::1", "10.0.0.1"], "old.example": ["10.0.0.2"], "six.example": ["fd00::2"]}


class Resolver(SimulatedEnvironment):
    """The names above; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(MemoryNetwork(Random(1)), seed=1, names=NAMES)
        self.asked: list[str] = []
        self.open = trio.Event()
        self.open.set()

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        await self.open.wait()
        return await super().resolve(host)


async def test_an_ip_address_is_found_at_once_and_nobody_is_asked() -> None:
    resolver = Resolver()
    assert HostNames(resolver, is_ipv6=False).find(("10.1.2.3", 5)) == ("10.1.2.3", 5)
    assert resolver.asked == []


async def test_a_name_is_found_once_it_has_been_looked_up(nursery: trio.Nursery) -> None:
    names = HostNames(Resolver(), is_ipv6=False)
    nursery.start_soon(names.run)
    assert names.find(("both.example", 5)) is None
    await wait_all_tasks_blocked()
    assert names.find(("both.example", 5)) == ("10.0.0.1", 5)


async def test_a_name_that_a_connection_has_looked_up_is_found_at_once() -> None:
    names = HostNames(Resolver(), is_ipv6=False)
    assert await names.resolve("old.example") == "10.0.0.2"
    assert names.find(("old.example", 5)) == ("10.0.0.2", 5)


@pytest.mark.parametrize(("is_ipv6", "ip"), [(False, "10.0.0.1"), (True, "fd00::1")])
async def test_of_several_addresses_that_of_the_ports_own_family_is_taken(is_ipv6: bool, ip: str) -> None:
    assert await HostNames(Resolver(), is_ipv6=is_ipv6).resolve("both.example") == ip


async def test_where_there_is_none_of_the_family_the_first_is_taken_so_that_errors_name_it() -> None:
    assert await HostNames(Resolver(), is_ipv6=False).resolve("six.example") == "fd00::2"


async def test_a_name_is_asked_for_once_until_it_is_stale_and_used_meanwhile(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    resolver = Resolver()
    names = HostNames(resolver, is_ipv6=False)
    nursery.start_soon(names.run)
    names.find(("old.example", 5))
    await trio.sleep(1)
    for _ in range(10):
        assert names.find(("old.example", 5)) == ("10.0.0.2", 5)
    await trio.sleep(1)
    assert resolver.asked == ["old.example"]
    await trio.sleep(30)
    resolver.open = trio.Event()  # the resolver does not answer
    assert names.find(("old.example", 5)) == ("10.0.0.2", 5)
    await trio.sleep(1)
    assert resolver.asked == ["old.example"] * 2
    assert names.find(("old.example", 5)) == ("10.0.0.2", 5)


async def test_a_lookup_that_fails_is_tried_again_later_and_disturbs_no_other(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    resolver = Resolver()
    names = HostNames(resolver, is_ipv6=False)
    nursery.start_soon(names.run)
    for _ in range(2):
        assert names.find(("nowhere.example", 5)) is None
        names.find(("old.example", 5))
        await trio.sleep(31)
    assert resolver.asked.count("nowhere.example") == 2
    assert names.find(("old.example", 5)) == ("10.0.0.2", 5)


async def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpcnet._net.host_names._MAX_NAMES", 1)
    names = HostNames(Resolver(), is_ipv6=False)
    for host in ("old.example", "both.example"):
        await names.resolve(host)
    assert names.find(("old.example", 5)) is None
    assert names.find(("both.example", 5)) == ("10.0.0.1", 5)
