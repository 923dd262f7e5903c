"""Joining: how a node finds a cluster through seeds.

The rules of this file:

* All seeds are asked at once; the first one that answers is enough. Each is asked again, with jittered pauses, until
  the time is up, unless it refused for good; the error says what each answered last.
* So are the sources of seeds. An address that a source names is asked from then on, until the source says something
  else. A source that hangs or fails keeps nobody waiting.
* A node whose seeds all name this node and nobody else is the first one, and has joined.
* A node first only listens. If the cluster knows a live node of its name elsewhere, that one is asked itself, and when
  it answers, nothing is joined and nobody was disturbed. Only then does the node show its own state.
* With the first answer it also takes the key ring of whoever answers, if that is newer than its own; so it hears what
  the cluster says from the moment on when it is known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import Random

import attrs
import trio

from rpcnet._core.antientropy import BucketHashes
from rpcnet._core.exchanges import AskerExchange, Hearsay
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import MessageError
from rpcnet._core.metadata import Body
from rpcnet._net.endpoint import Endpoint, Pause
from rpcnet._net.membership_port import ReceivedRecords
from rpcnet._net.seeds import Finding, SeedBook
from rpcnet.config import NodeConfig
from rpcnet.errors import JoinError, NameConflict, RpcNetError, Unauthenticated, VersionMismatch

from .bus import Bus
from .snapshots import MembershipSnapshot

__all__ = ["Joiner"]

log = logging.getLogger("rpcnet.membership")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_NO_ANSWER = "no answer"
_IS_SELF = "is this node itself"
_NAMESAKE_TIMEOUT = 1.0
"""Seconds that a node of the same name has to show that it lives; most often it is this node's own last start."""


class Joiner:
    """Joins a node to the cluster behind seeds.

    Args:
        bus: where membership posts what it knows.
        endpoint: the node's port.
        local: the node's record at the start.
        config: how long to try.
        rng: for the pauses.
    """

    def __init__(self, bus: Bus, endpoint: Endpoint, local: MemberRecord, config: NodeConfig, rng: Random) -> None:
        self._bus = bus
        self._endpoint = endpoint
        self._local = local
        self._config = config
        self._rng = rng

    async def join(self, seeds: SeedBook) -> None:
        """Join through the first seed that answers. A checkpoint; cancelling gives up.

        Raises:
            JoinError: none answered within ``join_timeout``; the message names each with what it answered.
            NameConflict: another live node has this node's name.
        """
        attempt = _Attempt(seeds)
        with trio.move_on_after(self._config.join_timeout):
            async with trio.open_nursery() as attempt.nursery:
                for label in seeds.labels:
                    attempt.nursery.start_soon(self._ask_source, label, attempt, name=f"rpcnet seeds of {label}")
        if attempt.conflict is not None:
            raise attempt.conflict
        if attempt.is_joined:
            return
        answers = attempt.answers()
        if not answers:
            raise JoinError("there are no seeds to join through")
        listed = "; ".join(f"{seed}: {answer}" for seed, answer in answers.items())
        raise JoinError(f"no seed could be joined within {self._config.join_timeout} s: {listed}", answers)

    async def keep_joining(self, seeds: SeedBook) -> None:
        """Join through the seeds, trying until it works."""
        while True:
            try:
                await self.join(seeds)
            except (JoinError, NameConflict) as error:
                log.warning("%s cannot join yet: %s", self._local.name, error)
                await trio.sleep(_LONGEST_PAUSE)
            else:
                return

    async def _ask_source(self, label: str, attempt: _Attempt) -> None:
        """Ask a source, and ask whom it names, until cancelled; once, if it says the same for ever."""
        pauses = self._pauses()
        while True:
            finding = await attempt.seeds.ask(label)
            for address in attempt.take(label, finding):
                attempt.nursery.start_soon(self._ask_seed, address, attempt, name=f"rpcnet join through {address}")
            if attempt.is_first_node():
                attempt.joined("this node is the first one")
            if attempt.seeds.says_the_same_for_ever(label):
                return
            await trio.sleep(next(pauses))

    async def _ask_seed(self, seed: str, attempt: _Attempt) -> None:
        try:
            if await self._ask_until_it_answers(seed, attempt):
                attempt.joined("a seed has answered")
        except NameConflict as conflict:
            attempt.conflict = conflict
            attempt.nursery.cancel_scope.cancel(reason="the name is taken")

    async def _ask_until_it_answers(self, seed: str, attempt: _Attempt) -> bool:
        """Ask a seed until it has answered and return True, or until that is no use any more and return False."""
        pauses = self._pauses()
        while attempt.is_wanted(seed):
            try:
                await self._ask(seed)
            except NameConflict:
                raise
            except _IsSelf:
                attempt.found_self(seed)
                return False
            except (Unauthenticated, VersionMismatch) as error:
                attempt.asked[seed] = str(error)
                return False
            except (RpcNetError, OSError) as error:
                attempt.asked[seed] = str(error)
            else:
                return True
            await trio.sleep(next(pauses))
        del attempt.asked[seed]
        return False

    def _pauses(self) -> Iterator[float]:
        pause = _FIRST_PAUSE
        while True:
            yield pause * (0.5 + self._rng.random() / 2)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _ask(self, seed: str) -> None:
        port = self._endpoint.membership
        last = self._bus.latest(MembershipSnapshot)
        local = self._local if last is None else last.local
        hello = (await self._endpoint.connect(seed, pause=Pause.IGNORE)).peer_hello
        is_alike = hello is not None and (hello.node_id, hello.boot_id) == (local.id, local.boot_id)
        if is_alike and self._endpoint.has_accepted(local.name):
            raise _IsSelf
        listing = AskerExchange.listen(_Newcomer(), max_records=self._config.gossip.max_members)
        heard = await self._run(listing, seed)
        await self._check_name([item.record for item in heard])
        answer = ReceivedRecords(tuple(heard), seed, trio.Event())
        if port.deliver(answer):
            await answer.taken.wait()
        last = self._bus.latest(MembershipSnapshot)
        local = self._local if last is None else last.local
        await self._run(AskerExchange.show(_Newcomer(), [local]), seed)

    async def _run(self, exchange: AskerExchange, seed: str) -> list[Hearsay]:
        """Run an exchange to its end and return what it taught."""
        heard: list[Hearsay] = []
        request: bytes | None = exchange.start(trio.current_time())
        while request is not None:
            reply = await self._endpoint.membership.exchange(seed, request)
            try:
                request = exchange.handle(reply, trio.current_time())
            except MessageError as error:
                raise JoinError(f"answered with what cannot be read: {error}") from error
            heard += exchange.records
        return heard

    async def _check_name(self, records: list[MemberRecord]) -> None:
        for record in records:
            is_elsewhere = record.id == self._local.id and record.address != self._local.address
            if is_elsewhere and record.is_present and await self._answers(record):
                raise NameConflict(
                    f"the name {record.name!r} belongs to a live node at {record.address}; "
                    f"this one, at {self._local.address}, did not join"
                )

    async def _answers(self, record: MemberRecord) -> bool:
        with trio.move_on_after(_NAMESAKE_TIMEOUT):
            try:
                session = await self._endpoint.connect(record.address, record.name, pause=Pause.IGNORE)
            except RpcNetError:
                return False
            hello = session.peer_hello
            return hello is not None and hello.boot_id == record.boot_id
        return False


class _Newcomer:
    """What an exchange sees of a node that shows nothing but what it is asked to."""

    hashes = BucketHashes()

    def records(self) -> tuple[MemberRecord, ...]:
        return ()

    def heard_age(self, node_id: str, now: float) -> float:
        return 0.0

    def body(self, digest: bytes) -> Body | None:
        return None


class _IsSelf(Exception):
    """Who answers at that address is this node."""


@attrs.define(eq=False)
class _Attempt:
    """What has come of one attempt to join so far."""

    seeds: SeedBook
    nursery: trio.Nursery = attrs.field(init=False)
    found: dict[str, Finding] = attrs.field(factory=dict)
    """What each source said last, by label."""
    asked: dict[str, str] = attrs.field(factory=dict)
    """What each address answered last."""
    conflict: NameConflict | None = None
    is_joined: bool = False

    def joined(self, why: str) -> None:
        """End the attempt; it was a success."""
        self.is_joined = True
        self.nursery.cancel_scope.cancel(reason=why)

    def take(self, label: str, finding: Finding) -> list[str]:
        """Take in what a source says and return the addresses that nobody asks yet."""
        self.found[label] = finding
        new = [address for address in finding.addresses if address not in self.asked]
        self.asked.update((address, _IS_SELF if self.seeds.is_own(address) else _NO_ANSWER) for address in new)
        return [address for address in new if not self.seeds.is_own(address)]

    def is_wanted(self, address: str) -> bool:
        """Say whether any source still names an address."""
        return any(address in finding.addresses for finding in self.found.values())

    def found_self(self, address: str) -> None:
        """Take in that this node itself answers at an address."""
        self.seeds.note_own(address)
        self.asked[address] = _IS_SELF
        if self.is_first_node():
            self.joined("this node is the first one")

    def is_first_node(self) -> bool:
        """Say whether every source has named this node, and none has named any other."""
        findings = [self.found.get(label, Finding()) for label in self.seeds.labels]
        named = [address for finding in findings for address in finding.addresses]
        all_named = bool(findings) and all(finding.is_answer and finding.addresses for finding in findings)
        return all_named and all(self.seeds.is_own(address) for address in named)

    def answers(self) -> dict[str, str]:
        """Return what each source said, followed by what each address answered that it named."""
        answers: dict[str, str] = {}
        for label in self.seeds.labels:
            finding = self.found.get(label, Finding())
            answers[label] = finding.answer
            answers |= {address: self.asked.get(address, _NO_ANSWER) for address in finding.addresses}
        return answers
