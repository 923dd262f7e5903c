"""Whether a node goes by its own count of the voters, or waits for others who remember more of the cluster.

The rules of this file:

* A member that may not go on tells so: it is *halted*, by its own count of its voters or because it follows others.
* A node is *sure* from a stable point at which it was in company, had a quorum and followed nobody. It goes by its own
  count, whatever others say, so that nobody who comes back halted stops a cluster that may go on.
* It is not sure any more once it loses its quorum or is cut off: the others may have given it up since. A node that
  has never been sure is *new*: it has seen nothing of the cluster but what is there now.
* Who is not sure follows from the moment in which it knows of a present member that is halted by its own count; a new
  one also follows those that follow, so that the memory of a side outlives a restart of its members one by one.
* A new node goes on at a stable point at which more others may go on than are halted by their own count. Another one
  goes on when nobody is halted by its own count any more: at once if it has lost nobody, else at a stable point.

Why that ends. Whether a node is halted by its own count depends on its voters alone, never on what others say, so it
ends when they are back, have left, or are forgotten while others may go on. Those that were sure once wait only for
such nodes, never for each other, and go on when the last of them does. Then there is somebody who may go on, which is
all that new nodes wait for. Only where nobody is left but new nodes does nobody end it: the memory of what is lost is
gone, and so they wait until they meet a node that may go on, or until all of them are stopped and started again.
"""

from __future__ import annotations

import attrs

__all__ = ["Company", "Deference"]


@attrs.frozen
class Company:
    """What the others that are neither failed nor lost say of themselves."""

    n_halted: int
    """How many are halted by their own count."""
    n_following: int
    """How many are halted because others are."""


@attrs.frozen
class Deference:
    """Whether this node has to follow others, and why."""

    is_new: bool = True
    """Whether it has never been sure."""
    is_sure: bool = False
    """Whether it goes by its own count."""
    follows: bool = False
    """Whether it may not go on because others may not."""

    def doubting(self) -> Deference:
        """Return it for a node that has lost its quorum or was cut off."""
        return attrs.evolve(self, is_sure=False)

    def hearing(self, company: Company, *, has_lost: bool) -> Deference:
        """Return it after a change; ``has_lost`` is whether voters are lost."""
        if self.is_sure:
            return self
        if company.n_halted or (self.is_new and company.n_following):
            return attrs.evolve(self, follows=True)
        return attrs.evolve(self, follows=self.follows and (self.is_new or has_lost))

    def settled(self, company: Company, n_free: int) -> Deference:
        """Return it at a stable point at which ``n_free`` others are not halted."""
        may_go_on = n_free > company.n_halted if self.is_new else not company.n_halted
        return attrs.evolve(self, follows=self.follows and not may_go_on)

    def trusting(self) -> Deference:
        """Return it for a node that was in company with a quorum at a stable point, and follows nobody."""
        return Deference(is_new=False, is_sure=True)
