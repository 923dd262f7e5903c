"""What is measured, and with whom: the peers, and the rows of the table, as data."""

from __future__ import annotations

import attrs

__all__ = ["PARTS", "PEERS", "WORKLOADS", "Program", "Workload"]

MOST_IN_FLIGHT = 10_000
IDLE_CONNECTIONS = 1_000
SOAK_CALLS = 1_000_000


@attrs.frozen
class Program:
    """How one peer is called."""

    file: str
    """The program in this directory."""
    variant: str = ""
    """The way through it."""
    packages: tuple[str, ...] = ()
    """What its figures depend on."""


_RPCNET = ("rpcnet", "trio", "aioquic", "attrs", "cattrs", "cbor2", "cryptography")
PEERS = {
    "rpcnet": Program("rpcnet_peer.py", "client", _RPCNET),
    "rpcnet pinned": Program("rpcnet_peer.py", "pinned", _RPCNET),
    "rpcnet node": Program("cluster_peer.py", packages=_RPCNET),
    "grpc.aio": Program("grpc_peer.py", packages=("grpcio",)),
    "grpclib": Program("grpclib_peer.py", packages=("grpclib", "h2")),
    "RPyC": Program("rpyc_peer.py", packages=("rpyc",)),
    "asyncio TLS": Program("tls_peer.py"),
}
"""In the order of the table; the first is what the others are compared with."""


@attrs.frozen(kw_only=True)
class Workload:
    """One block of the table."""

    part: str
    """What ``--only`` selects it by."""
    name: str
    """What the table and the budgets call it."""
    load: str
    """The function of ``loads.py``."""
    peers: tuple[str, ...]
    """Who takes part."""
    unit: str = "calls"
    """What is counted."""
    in_flight: int = 1
    """Calls at a time, or connections."""
    size: int = 64
    """Bytes of a payload or message."""
    count: int = 0
    """Messages of a stream, or calls."""
    rounds: int | None = None
    """How many, where one run says it all; otherwise as ``--rounds`` says."""
    least_seconds: float = 0.0
    """How long it is measured at least, whatever ``--seconds`` says."""
    is_memory: bool = False
    """Whether what each costs in memory is what matters."""
    is_traced: bool = False
    """Whether tracemalloc counts; it makes everything slow, so rates mean nothing then."""


_ALL = ("rpcnet", "grpc.aio", "grpclib", "asyncio TLS")
_FAST = ("rpcnet", "grpc.aio", "asyncio TLS")


def _unary(in_flight: int) -> Workload:
    peers = ("rpcnet", "rpcnet pinned", "grpc.aio", "grpclib", "RPyC", "asyncio TLS")
    return Workload(
        part="unary", name=f"unary 64 B, {in_flight} in flight", load="unary", peers=peers, in_flight=in_flight
    )


def _payload(name: str, in_flight: int, size: int) -> Workload:
    name = f"unary {name}, {in_flight} in flight"
    return Workload(part="payload", name=name, load="unary", peers=_ALL, in_flight=in_flight, size=size)


def _stream(load: str, name: str) -> tuple[Workload, Workload]:
    small = Workload(
        part="stream", name=f"{name} of 64 B", load=load, peers=_ALL, unit="messages", count=10_000, size=64
    )
    return small, attrs.evolve(small, name=f"{name} of 64 KiB", count=200, size=1 << 16)


def _memory(name: str, peers: tuple[str, ...], *, is_traced: bool = False) -> Workload:
    return Workload(
        part="memory",
        name=name,
        load="idle",
        peers=peers,
        unit="connections",
        in_flight=IDLE_CONNECTIONS,
        rounds=1,
        is_memory=True,
        is_traced=is_traced,
    )


WORKLOADS = (
    _unary(1),
    _unary(64),
    _unary(512),
    _payload("4 KiB", 64, 4 << 10),
    _payload("1 MiB", 4, 1 << 20),
    *_stream("server_stream", "server streaming"),
    *_stream("client_stream", "client streaming"),
    *_stream("echo_stream", "bidirectional echo"),
    Workload(part="connect", name="connection, full", load="connections", peers=_FAST, unit="connections"),
    Workload(
        part="connect", name="connection, resumed", load="resumed", peers=("rpcnet", "asyncio TLS"), unit="connections"
    ),
    _memory("idle connections", _FAST),
    _memory("idle connections, traced", ("rpcnet",), is_traced=True),
    Workload(part="flood", name="unary 64 B, 10000 in flight", load="unary", peers=_FAST, in_flight=MOST_IN_FLIGHT),
    Workload(part="flood", name="10000 calls held", load="held", peers=_FAST, in_flight=MOST_IN_FLIGHT, is_memory=True),
    Workload(
        part="cluster",
        name="one idle node of 50",
        load="quiet",
        peers=("rpcnet node",),
        unit="seconds",
        rounds=1,
        least_seconds=10.0,
    ),
    Workload(part="cluster", name="choice among 1000 workers", load="choose", peers=("rpcnet node",), unit="choices"),
    Workload(
        part="soak",
        name="soak",
        load="soak",
        peers=("rpcnet",),
        in_flight=64,
        count=SOAK_CALLS,
        rounds=1,
        is_memory=True,
    ),
)
PARTS = tuple(dict.fromkeys(workload.part for workload in WORKLOADS))
