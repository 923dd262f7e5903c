"""Cluster events for people, a line each, and for programs, a JSON object each.

The rules of this file:

* A line begins with the event's class and the node's name, so that it can be searched for either.
* An object has every field of the event under its own name. Instead of Trio's time, which means nothing outside of the
  process, it has ``time``, in UTC.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from typing import Any

import attrs

from rpcnet import ClusterEvent, EventsDropped, NodeEvent, NodeFailed, NodeInfo, NodeSuspected, NodeUpdated

__all__ = ["as_data", "as_line"]


def as_line(event: ClusterEvent) -> str:
    """Return one line that tells an event to a person."""
    kind = type(event).__name__
    match event:
        case NodeFailed(node=node):
            return f"{kind} {node.name}: {event.reason}"
        case NodeSuspected(node=node):
            return f"{kind} {node.name}: phi {event.phi:.1f}, missed by {len(event.accusers)}"
        case NodeUpdated(node=node):
            return f"{kind} {node.name}: {_difference(event.previous, node)}"
        case NodeEvent(node=node):
            return f"{kind} {node.name} at {node.address}"
        case EventsDropped():
            return f"{kind} {event.count}"
        case _:
            return kind


def _difference(old: NodeInfo, new: NodeInfo) -> str:
    changed: list[tuple[str, object, object]] = [
        ("address", old.address, new.address),
        ("services", list(old.services), list(new.services)),
    ]
    changed += [(f"tag {key}", old.tags.get(key), new.tags.get(key)) for key in sorted({*old.tags, *new.tags})]
    return ", ".join(f"{what} {was!r} -> {now!r}" for what, was, now in changed if was != now) or "nothing to see"


def as_data(event: ClusterEvent, *, age: float, now: dt.datetime) -> dict[str, Any]:
    """Return an event as JSON can hold it.

    Args:
        event: the event.
        age: seconds since it happened.
        now: the time of day.
    """
    fields = attrs.asdict(event, value_serializer=lambda _, __, value: _plain(value))
    del fields["at"], fields["cause"]
    time = (now - dt.timedelta(seconds=age)).isoformat(timespec="milliseconds")
    return {"event": type(event).__name__, "time": time, **fields}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value
