"""Strategies: which side of a cluster that has fallen apart may go on.

The rules of this file:

* A strategy is a value. Every node of a cluster must have the same one; what it means is decided in one place, from
  what that node sees.
* What counts are the members of the last stable point. Who joined since then has no vote, on any side, until the
  cluster is whole again.
* A node that starts on a side that may not go on may not either, until it meets a side that may; ``StaticQuorum``
  counts it instead. Once all older nodes of that side are gone, only stopping all of its nodes together ends that.
* No strategy ends a process. It decides ``writable``; what follows from that is the application's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from .errors import ConfigError
from .selectors import Selector

__all__ = ["KeepMajority", "KeepOldest", "LeaseQuorum", "QuorumStrategy", "StaticQuorum"]


@attrs.frozen
class QuorumStrategy:
    """The root of the four strategies."""


@attrs.frozen
class KeepMajority(QuorumStrategy):
    """The side with more than half of the members may go on; of two halves the one with the lowest node id.

    Needs no numbers, so it suits a cluster whose size changes. When a cluster falls into three parts, perhaps none of
    them may go on.
    """


@attrs.frozen
class StaticQuorum(QuorumStrategy):
    """A side with at least ``n`` of the nodes that match may go on; a cluster that has not so many yet may not either.

    It remembers nothing, so no order of failures, restarts and joins can make two sides writable as long as there are
    never ``2 * n`` matching nodes.
    """

    n: int = attrs.field()
    """How many; more than half of the matching nodes that will ever run at the same time."""
    where: str = ""
    """Which nodes count, as a selector over their tags, such as ``role=core``; all by default."""

    @n.validator
    def _is_count(self, attribute: attrs.Attribute[int], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"StaticQuorum.n = {value!r}: must be a whole number from 1")

    def __attrs_post_init__(self) -> None:
        """Check the selector."""
        Selector.parse(self.where)


@attrs.frozen
class KeepOldest(QuorumStrategy):
    """The side with the oldest member, by boot id, may go on: good where the oldest member has a special role.

    An oldest member that has lost all of at least two others gives way if ``down_if_alone``: the others may go on if
    they lost nobody but it.
    """

    down_if_alone: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
    """Whether the oldest member must not hold out alone against all others."""


@attrs.frozen
class LeaseQuorum(QuorumStrategy):
    """The side that holds a lease in a third place may go on: a row in a database, an object in a cloud's store.

    As soon as one member has failed, every node asks for the lease by itself, and again every ``renew_interval`` until
    the cluster is whole. A node is writable when it has the lease and nothing has changed for ``stable_after``. So
    every crash stops the writing for some seconds, and no two sides write that the lease does not allow.

    All nodes of one side should get the same answer. Let ``acquire`` write the lowest id of
    ``node.membership.partition.reachable`` as the owner, and return whether that is the owner now.
    """

    acquire: Callable[[], Awaitable[bool]] = attrs.field()
    """Takes or prolongs the lease and returns whether this side has it. What it raises is logged and means no."""
    renew_interval: float = attrs.field(default=10.0)
    """Seconds from one attempt to the next; the lease must last longer than this and ``timeout`` together."""
    timeout: float = attrs.field(default=5.0)
    """Seconds after which an attempt is cancelled and means no."""

    @acquire.validator
    def _is_callable(self, attribute: attrs.Attribute[object], value: object) -> None:
        if not callable(value):
            raise ConfigError(f"LeaseQuorum.acquire = {value!r}: must be an async function")

    @renew_interval.validator
    @timeout.validator
    def _is_duration(self, attribute: attrs.Attribute[float], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.01 <= value <= 3600:
            raise ConfigError(f"LeaseQuorum.{attribute.name} = {value!r}: must be a number from 0.01 to 3600")
