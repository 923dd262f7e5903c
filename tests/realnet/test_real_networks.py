"""Hosts that fail as hosts do: one process per network namespace, cut off, lossy, stopped, killed. ``make test-net``.

Everything here is real: processes, sockets, the kernel's bridge and filter. So nothing is asserted of how long anything
takes but that it comes to pass within a bound, which is generous; what a promise of the protocol says of time is shown
by ``benchmarks/idle_cluster.py`` and in virtual time. Where a scenario would have to wait for long, its members have
the profile ``local``: pauses of 2 s instead of 5, and a probe every half second instead of one per second.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from _crowd import Crowd, Member, Process, crowd, start_process
from _lab import Host, hosts, why_not
from _member import Start

PATIENCE = 90.0
"""Seconds after which a wait is given up."""
if (reason := why_not()) is not None:
    pytest.skip(f"no hosts in network namespaces: {reason}", allow_module_level=True)


@attrs.define(eq=False)
class Network:
    """Hosts, with a member on each."""

    hosts: list[Host]
    crowd: Crowd
    processes: list[Process] = attrs.field(factory=list)

    @property
    def members(self) -> list[Member]:
        return [self.crowd.members[f"h{number}"] for number in range(1, len(self.hosts) + 1)]

    async def start(self, index: int) -> Member:
        """Start a member on a host; it joins through any of the first three."""
        process = start_process(*self.hosts[index].prefix)
        self.processes.append(process)
        start = Start(
            name=f"h{index + 1}",
            bind=self.hosts[index].address,
            seeds=tuple(host.address for host in self.hosts[:3]),
            joins_in_background=True,
        )
        return await self.crowd.start(process, start)

    async def until(self, condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
        await self.crowd.until(condition, within, what)

    async def whole(self) -> None:
        await self.until(self.crowd.all_alive(), "everybody to be alive for everybody")

    async def all_told(self, members: Sequence[Member], kind: str, what: str) -> None:
        await self.until(lambda: all(member.told(kind) for member in members), what)

    def clear(self) -> None:
        for host in self.hosts:
            host.rule()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPCNET_SECRET", secrets.token_urlsafe(32))


@asynccontextmanager
async def network(count: int, profile: str) -> AsyncIterator[Network]:
    """Open a network whose members all know each other."""
    processes: list[Process] = []
    with hosts(count) as made:
        try:
            async with crowd(profile) as found:
                opened = Network(made, found, processes)
                for index in range(count):
                    await opened.start(index)
                await opened.whole()
                yield opened
        finally:
            for process in processes:
                process.end()


def names(members: Sequence[Member]) -> list[str]:
    return sorted(member.name for member in members)


async def test_two_sides_of_a_partition_know_which_they_are_and_come_together_again_by_themselves(secret: None) -> None:
    async with network(8, "lan") as net:
        await trio.sleep(12.0)  # until the view has been stable for long enough to be what a partition is measured by
        most, few = net.members[:5], net.members[5:]
        for host in net.hosts[:5]:
            host.drop_from(net.hosts[5:])
        for host in net.hosts[5:]:
            host.drop_from(net.hosts[:5])
        mended_at = time.monotonic() + 40.0
        await net.until(net.crowd.all_believe(most, few, "failed"), "the most to give up the few")
        await net.until(net.crowd.all_believe(few, most, "failed"), "the few to give up the most")
        await net.all_told(net.members, "PartitionDetected", "everybody to say that the cluster has fallen apart")
        assert {member.told("PartitionDetected")[-1]["status"] for member in most} == {"majority"}
        assert {member.told("PartitionDetected")[-1]["status"] for member in few} == {"minority"}
        for side, others in ((most, few), (few, most)):
            view = await net.crowd.ask(side[0], "partition")
            assert (view["reachable"], view["unreachable"]) == (names(side), names(others))
            assert view["writable"] is (side is most)
        assert net.crowd.all_alive(most)()
        assert net.crowd.all_alive(few)()
        await trio.sleep(max(0.0, mended_at - time.monotonic()))
        net.clear()
        await net.whole()
        await net.all_told(net.members, "PartitionHealed", "everybody to say that it is whole again")
        for member in (most[0], few[0]):
            view = await net.crowd.ask(member, "partition")
            assert (view["status"], view["writable"], view["unreachable"]) == ("whole", True, [])


async def test_a_link_that_works_one_way_only_fails_nobody_and_is_named(secret: None) -> None:
    async with network(6, "lan") as net:
        deaf, unheard = net.members[1], net.members[4]
        net.hosts[1].drop_from([net.hosts[4]])
        mended_at = time.monotonic() + 60.0
        await net.until(
            lambda: bool(deaf.told("LinkDegraded", node=unheard.name) or unheard.told("LinkDegraded", node=deaf.name)),
            "an end of the link to say so",
        )
        await trio.sleep(max(0.0, mended_at - time.monotonic()))
        net.clear()
        await net.whole()
        assert net.crowd.failed() == set()
        said = {(member.name, event["node"]) for member in net.members for event in member.told("LinkDegraded")}
        assert said <= {(deaf.name, unheard.name), (unheard.name, deaf.name)}


async def test_a_network_that_loses_every_third_datagram_fails_nobody_and_carries_calls(secret: None) -> None:
    async with network(6, "lan") as net:
        for host in net.hosts:
            host.lose(0.3)
        mended_at = time.monotonic() + 60.0
        answered = 0
        while time.monotonic() < mended_at:
            caller = net.members[answered % 6]
            called = net.members[(answered + 1 + answered // 6 % 5) % 6]
            assert await net.crowd.ask(caller, "call", PATIENCE, node=called.name) == called.name
            answered += 1
            await trio.sleep(0.5)
        net.clear()
        await net.whole()
        assert net.crowd.failed() == set()
        assert answered >= 6


async def test_a_process_that_stops_for_five_seconds_is_not_declared_failed(secret: None) -> None:
    async with network(6, "lan") as net:
        stopped = net.members[3]
        stopped.signal(signal.SIGSTOP)
        await trio.sleep(5.0)
        stopped.signal(signal.SIGCONT)
        assert await net.crowd.ask(net.members[0], "call", PATIENCE, node=stopped.name) == stopped.name
        await trio.sleep(10.0)  # a verdict that was on its way would have come
        await net.whole()
        assert net.crowd.failed() == set()


async def test_a_process_that_stops_for_twenty_seconds_is_declared_failed_and_comes_back(secret: None) -> None:
    async with network(6, "lan") as net:
        stopped = net.members[3]
        others = [member for member in net.members if member is not stopped]
        boots = {member.name: member.boots[stopped.name] for member in others}
        stopped.signal(signal.SIGSTOP)
        goes_on_at = time.monotonic() + 20.0
        await net.until(net.crowd.all_believe(others, [stopped], "failed"), "the others to give it up")
        await trio.sleep(max(0.0, goes_on_at - time.monotonic()))
        stopped.signal(signal.SIGCONT)
        await net.whole()
        assert {name for name, _ in net.crowd.failed()} == {stopped.name}
        assert all(member.told("NodeRecovered", node=stopped.name) for member in others)
        assert {member.name: member.boots[stopped.name] for member in others} == boots
        assert await net.crowd.ask(net.members[0], "call", PATIENCE, node=stopped.name) == stopped.name


async def test_a_process_killed_on_a_host_that_lives_is_missed_by_all_and_its_host_says_so(secret: None) -> None:
    async with network(8, "lan") as net:
        killed, others = net.members[5], net.members[:5] + net.members[6:]
        killed.signal(signal.SIGKILL)
        await net.until(net.crowd.all_believe(others, [killed], "failed"), "the others to miss it")
        assert {name for name, _ in net.crowd.failed()} == {killed.name}
        counters = [await net.crowd.ask(member, "statistics") for member in others]
        assert sum(each["port"]["refusals"] for each in counters) >= 2


async def test_a_host_that_is_unplugged_is_missed_by_all_and_comes_back(secret: None) -> None:
    async with network(6, "local") as net:
        gone, others = net.members[2], net.members[:2] + net.members[3:]
        net.hosts[2].set_link(is_up=False)
        await net.until(net.crowd.all_believe(others, [gone], "failed"), "the others to miss it")
        assert {(name, by) for name, by in net.crowd.failed() if by != gone.name} == {
            (gone.name, other.name) for other in others
        }
        assert net.crowd.all_alive(others)()
        net.hosts[2].set_link(is_up=True)
        await net.whole()


async def test_members_that_are_all_restarted_one_after_the_other_know_each_other_s_new_starts(secret: None) -> None:
    async with network(8, "local") as net:
        before = {member.name: member.boots[member.name] for member in net.members}
        for index, member in enumerate(net.members):
            member.signal(signal.SIGKILL)
            await net.start(index)
            await trio.sleep(1.0)
        await net.whole()

        def all_new() -> bool:
            return all(member.boots.get(name, 0) > boot for member in net.members for name, boot in before.items())

        await net.until(all_new, "everybody to know of every new start")
        boots = {member.name: member.boots[member.name] for member in net.members}
        assert all(member.boots == boots for member in net.members)
