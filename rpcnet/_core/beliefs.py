"""What the failure detector believes, for others to read.

It is no copy: an answer would have to copy what is believed of everybody. It is read where it is kept, in the thread of
the event loop, and so is always as of now.
"""

from __future__ import annotations

import math

from .evidence import Evidence
from .peers import Peers
from .prober import Prober
from .suspicion import Docket

__all__ = ["DetectorSnapshot"]


class DetectorSnapshot:
    """How the other nodes stand.

    Args:
        local_id: this node's id.
        peers: the members.
        docket: the suspicions.
        evidence: this node's own probes.
        prober: what round trips it has measured.
    """

    def __init__(self, local_id: str, peers: Peers, docket: Docket, evidence: Evidence, prober: Prober) -> None:
        self._local_id = local_id
        self._peers = peers
        self._docket = docket
        self._evidence = evidence
        self._prober = prober

    def phi(self, node_id: str, now: float) -> float:
        """Return how improbable the node's silence is if it is alive, as -log10 of the probability.

        Up to 3 from this node's own latest probe while nobody suspects it, the joint evidence while somebody does,
        infinite for a node that failed, left or is unknown.
        """
        case = self._docket.get(node_id)
        if case is not None:
            return case.phi(now)
        is_known = node_id in self._peers or node_id == self._local_id
        return self._evidence.latest(node_id) if is_known else math.inf

    def rtt(self, node_id: str) -> float | None:
        """Return the round trip to a member in seconds: measured lately, or foretold from coordinates; else None."""
        return self._prober.rtt(node_id)
