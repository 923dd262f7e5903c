"""The names of what is measured in a run, and the statistics that are taken of it.

The measures, by name; each gives samples, which are pooled over all runs before a statistic is taken:

===================== =================================================================================================
``all_know``          per host gone, process killed and goodbye: seconds until the last live node lists it so, for good
``known``             the same, one sample per live node
``false_deaths``      per run: how many times a node was declared failed that was not
``failed_leavers``    per run: how many nodes that said goodbye somebody listed as failed
``suspicions``        per run: suspicions, however many nodes heard of one, per node and minute
``datagrams``         per run: datagrams sent per node and second
``bytes``             per run: bytes sent per node and second, all headers, streams and handshakes included
``stream_bytes``      per run: those of them that went over streams
``spread``            per change of tags and live node: seconds until the node lists the change
``separate``          per partition: seconds until every node lists all nodes of the other sides as failed
``minority``          per partition: seconds until each node not in the largest side says that it is not
``healed``            per partition: seconds from its end until every live node lists every other one as alive
``complete``          per restart of all, and for nodes that start joining: seconds from the last start until every
                      node lists every other one as alive, with its new boot id
``link_degraded``     per one-way block: 1 when a node said that this link is degraded, 0 when not
``degraded``          per busy loop: 1 when the node said that it is degraded, 0 when not
===================== =================================================================================================

What never happened within the run counts as infinite. The statistics are ``p50``, ``p95``, ``p99``, ``p9999``,
``mean``, ``max``, ``min`` and ``sum``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

__all__ = ["MEASURES", "STATISTICS", "is_figure", "statistic"]

MEASURES = (
    *("all_know", "known", "false_deaths", "failed_leavers", "suspicions", "datagrams", "bytes", "stream_bytes"),
    *("spread", "separate", "minority", "healed", "complete", "link_degraded", "degraded"),
)


def _quantile(q: float) -> Callable[[Sequence[float]], float]:
    """Return the function for a quantile, by nearest rank."""

    def at(samples: Sequence[float]) -> float:
        return sorted(samples)[max(0, math.ceil(q * len(samples)) - 1)]

    return at


STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "p50": _quantile(0.5),
    "p95": _quantile(0.95),
    "p99": _quantile(0.99),
    "p9999": _quantile(0.9999),
    "mean": lambda samples: math.fsum(samples) / len(samples),
    "max": max,
    "min": min,
    "sum": math.fsum,
}


def statistic(name: str, samples: Mapping[str, Sequence[float]]) -> float:
    """Return a statistic by a name like ``"all_know.p95"``; not a number when there is no sample."""
    measured, _, kind = name.partition(".")
    found = samples.get(measured, ())
    return STATISTICS[kind](found) if found else math.nan


def is_figure(name: str) -> bool:
    """Tell whether there is such a statistic of such a measure."""
    measured, _, kind = name.partition(".")
    return measured in MEASURES and kind in STATISTICS
