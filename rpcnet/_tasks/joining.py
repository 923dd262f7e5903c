"""Joining: how a node finds a cluster through seeds.

The rules of this file:

* All seeds are asked at once; the first one that answers is enough. Each is asked again, with jittered pauses, until
  the time is up, unless it refused for good; the error says what each answered last.
* A node first only listens. If the cluster knows a live node of its name elsewhere, that one is asked itself, and when
  it answers, nothing is joined and nobody was disturbed. Only then does the node show its own state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random

import trio

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import MessageError, decode_state, encode_state
from rpcnet._net.endpoint import Endpoint, Pause
from rpcnet._net.membership_port import ReceivedState
from rpcnet.config import NodeConfig
from rpcnet.errors import JoinError, NameConflict, RpcNetError, Unauthenticated, VersionMismatch

from .bus import Bus
from .snapshots import MembershipSnapshot

__all__ = ["Joiner"]

log = logging.getLogger("rpcnet.membership")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
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

    async def join(self, seeds: Sequence[str]) -> None:
        """Join through the first seed that answers. A checkpoint; cancelling gives up.

        Raises:
            JoinError: none answered within ``join_timeout``; the message names each with what it answered.
            NameConflict: another live node has this node's name.
        """
        answers = dict.fromkeys(seeds, "no answer")
        conflicts: list[NameConflict] = []
        joined = False
        with trio.move_on_after(self._config.join_timeout):
            async with trio.open_nursery() as nursery:

                async def ask(seed: str) -> None:
                    nonlocal joined
                    try:
                        if not await self._ask_until_it_answers(seed, answers):
                            return
                        joined = True
                    except NameConflict as conflict:
                        conflicts.append(conflict)
                    nursery.cancel_scope.cancel(reason="a seed has answered")

                for seed in answers:
                    nursery.start_soon(ask, seed, name=f"rpcnet join through {seed}")
        if conflicts:
            raise conflicts[0]
        if not joined:
            listed = "; ".join(f"{seed}: {answer}" for seed, answer in answers.items())
            raise JoinError(f"no seed could be joined within {self._config.join_timeout} s: {listed}", answers)

    async def keep_joining(self, seeds: Sequence[str]) -> None:
        """Join through the seeds, trying until it works."""
        while True:
            try:
                await self.join(seeds)
            except (JoinError, NameConflict) as error:
                log.warning("%s cannot join yet: %s", self._local.name, error)
                await trio.sleep(_LONGEST_PAUSE)
            else:
                return

    async def _ask_until_it_answers(self, seed: str, answers: dict[str, str]) -> bool:
        """Ask a seed until it has answered and return True, or until it has refused for good and return False."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._ask(seed)
            except NameConflict:
                raise
            except (Unauthenticated, VersionMismatch) as error:
                answers[seed] = str(error)
                return False
            except (RpcNetError, OSError) as error:
                answers[seed] = str(error)
            else:
                return True
            await trio.sleep(pause * (0.5 + self._rng.random() / 2))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _ask(self, seed: str) -> None:
        port = self._endpoint.membership
        heard = await port.exchange_state(seed, encode_state(()))
        await self._check_name(heard)
        last = self._bus.latest(MembershipSnapshot)
        records = (self._local,) if last is None else last.records
        answer = ReceivedState(await port.exchange_state(seed, encode_state(records)), trio.Event())
        if port.deliver(answer):
            await answer.taken.wait()

    async def _check_name(self, heard: bytes) -> None:
        try:
            records = decode_state(heard)
        except MessageError as error:
            raise JoinError(f"answered with a state that cannot be read: {error}") from error
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
