"""The public names: exactly these, documented, and known by their public path.

``PRESENT`` is what rpcnet exports. ``LATER`` is what its documentation promises and this version does not have yet; a
name that is built moves from the one table to the other in the same change.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

import rpcnet

PRESENT: frozenset[str] = frozenset(
    {
        # the node and its settings
        *("Node", "NodeConfig", "GossipConfig", "DetectorConfig", "RpcConfig", "SupervisionConfig", "Security"),
        *("PartitionConfig", "QuorumStrategy", "KeepMajority", "StaticQuorum", "KeepOldest", "LeaseQuorum"),
        # without a cluster
        *("Server", "connect", "Connection", "connect_cluster"),
        # services
        *("service", "rpc"),
        # inside a handler, and around calls
        *("current_call", "detached", "Call", "ServerCall", "ClientCall", "Peer", "Middleware", "Proceed"),
        # what every node serves
        *("Health", "HealthStatus", "Reflection", "ServiceSummary"),
        # the keys of membership datagrams
        *("ClusterKeys", "KeyReport", "NodeKeys", "KeyUse", "KeyInfo", "Keys", "KeyListing"),
        # clients and load balancing
        *("ClusterClient", "RetryPolicy", "LoadBalancingStrategy", "WorkerView"),
        *("RoundRobin", "Random", "LeastConnections"),
        # what a node knows
        *("ClusterMembership", "NodeRegistry", "WorkerRegistry", "NodeInfo", "NodeState"),
        *("PartitionView", "ClusterHealth"),
        # for streams that are no members
        *("PhiAccrualDetector",),
        # events
        *("ClusterEvent", "NodeEvent", "EventsDropped"),
        *("NodeJoined", "NodeUpdated", "NodeSuspected", "NodeRecovered", "NodeFailed", "NodeLeft"),
        *("NodeReplaced", "NodeReaped"),
        *("UserEvent", "QueryReceived", "QueryAnswers"),
        *("PartitionSuspected", "PartitionDetected", "PartitionHealed", "PartitionStatus"),
        # errors
        *("RpcNetError", "Status", "StatusError", "ApplicationError", "Hop"),
        *("CallCancelled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
        *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
        *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
        # where nodes are found, and what they find out about themselves
        *("SeedSource", "SelfIsolated", "LinkDegraded", "LocalDegraded", "NameConflictDetected"),
        *("ConfigError", "SecurityError", "JoinError", "NameConflict", "NodeCrashed", "NoWorkers"),
        *("VersionMismatch", "ProtocolError"),
    }
)

LATER: frozenset[str] = frozenset(
    {
        # policies and strategies
        *("HedgePolicy", "CircuitBreaker"),
        *("PowerOfTwoChoices", "Weighted", "LatencyAware", "ConsistentHash", "PreferZone"),
    }
)

OBJECTS = sorted(PRESENT)


def problems(exported: set[str], present: frozenset[str], later: frozenset[str]) -> list[str]:
    """Return what is wrong with a set of exported names, a sentence each."""
    return [
        *(f"{name} is documented and not exported" for name in sorted(present - exported)),
        *(f"{name} exists now: move it from LATER to PRESENT" for name in sorted(exported & later)),
        *(f"{name} is exported and nobody planned it" for name in sorted(exported - present - later)),
    ]


def members(kind: type) -> Iterator[tuple[str, object]]:
    """Yield the public functions and properties that a class defines itself, private bases included."""
    for owner in kind.__mro__:
        if owner.__module__.partition(".")[0] != "rpcnet":
            continue
        for name, value in vars(owner).items():
            function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if not name.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                yield f"{owner.__name__}.{name}", function


def undocumented(name: str, value: object) -> list[str]:
    """Return the names of an object and its public members that have no docstring of their own."""
    parts = [(name, value), *(members(value) if isinstance(value, type) else ())]
    return [part for part, thing in parts if not (thing.__doc__ or "").strip()]


def test_the_public_names_are_the_documented_ones() -> None:
    assert problems(set(rpcnet.__all__), PRESENT, LATER) == []


def test_what_is_promised_for_later_is_not_half_there() -> None:
    assert [name for name in sorted(LATER) if hasattr(rpcnet, name)] == []


def test_no_name_stands_in_both_tables() -> None:
    assert frozenset() == PRESENT & LATER


def test_the_list_of_names_has_no_repetition() -> None:
    assert len(rpcnet.__all__) == len(set(rpcnet.__all__))


def test_the_module_explains_itself() -> None:
    assert (rpcnet.__doc__ or "").strip()


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_and_its_methods_are_documented(name: str) -> None:
    assert undocumented(name, getattr(rpcnet, name)) == []


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_is_known_by_its_public_path(name: str) -> None:
    value = getattr(rpcnet, name)
    assert value.__module__ == "rpcnet"


def test_the_check_of_names_finds_what_is_missing_early_or_unplanned() -> None:
    found = problems({"Node", "connect", "helper"}, frozenset({"Node", "rpc"}), frozenset({"connect"}))
    assert [line.split()[0] for line in found] == ["rpc", "connect", "helper"]


def test_the_check_of_docstrings_finds_a_silent_class_and_a_silent_method() -> None:
    class Silent:
        def spoken(self) -> None:
            """Say something."""

        def unspoken(self) -> None: ...

        @property
        def shy(self) -> int:
            return 1

        @classmethod
        def mute(cls) -> None: ...

    Silent.__module__ = "rpcnet"
    assert undocumented("Silent", Silent) == ["Silent", "Silent.unspoken", "Silent.shy", "Silent.mute"]
