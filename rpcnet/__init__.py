"""rpcnet: distributed programs built the way Trio programs are.

A node is a block. Inside it the process is a member of a cluster; a class is a service; calling a method of its stub
calls a worker, somewhere:

    import trio
    import rpcnet

    @rpcnet.service
    class Greeter:
        @rpcnet.rpc
        async def hello(self, name: str) -> str:
            return f"Hello, {name}!"

    async def main() -> None:
        async with rpcnet.Node("a", services=[Greeter()]) as a:
            async with rpcnet.Node("b", seeds=[a.address]) as b:
                print(await b.stub(Greeter).hello("world"))

    trio.run(main)

Nodes find each other by gossip, tell slow from dead, and speak encrypted RPC over QUIC on one UDP port each. Deadlines
are Trio's (``with trio.fail_after(0.5): ...``) and travel; cancelling a caller cancels the handler; whatever ends a
call is one :class:`StatusError`. What the cluster does is heard with ``async with node.events() as events``.
"""

from ._assembly.asking import QueryAnswers
from ._assembly.keys import ClusterKeys, KeyReport, KeyUse, NodeKeys
from ._builtin_contracts import Health, HealthStatus, KeyInfo, KeyListing, Keys, Reflection, ServiceSummary
from ._clients.middleware import ClientCall
from ._context import detached
from ._core.accrual import PhiAccrualDetector
from ._core.balancing import LeastConnections, LoadBalancingStrategy, Random, RoundRobin, WorkerView
from ._core.resilience import RetryPolicy
from ._middleware import Call, Middleware, Proceed
from ._net.identity import Security
from ._net.seed_sources import SeedSource
from .call import Peer, ServerCall, current_call
from .client import ClusterClient
from .cluster_connection import connect_cluster
from .config import DetectorConfig, GossipConfig, NodeConfig, PartitionConfig, RpcConfig, SupervisionConfig
from .connection import Connection, connect
from .errors import (
    Aborted,
    AlreadyExists,
    ApplicationError,
    CallCancelled,
    ConfigError,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Hop,
    Internal,
    InvalidArgument,
    JoinError,
    NameConflict,
    NodeCrashed,
    NotFound,
    NoWorkers,
    OutOfRange,
    PermissionDenied,
    ProtocolError,
    ResourceExhausted,
    RpcNetError,
    SecurityError,
    Status,
    StatusError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
    VersionMismatch,
)
from .events import (
    ClusterEvent,
    EventsDropped,
    LinkDegraded,
    LocalDegraded,
    NameConflictDetected,
    NodeEvent,
    NodeFailed,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeRecovered,
    NodeReplaced,
    NodeState,
    NodeSuspected,
    NodeUpdated,
    PartitionDetected,
    PartitionHealed,
    PartitionStatus,
    PartitionSuspected,
    QueryReceived,
    SelfIsolated,
    UserEvent,
)
from .node import Node
from .quorum import KeepMajority, KeepOldest, LeaseQuorum, QuorumStrategy, StaticQuorum
from .server import Server
from .service import rpc, service
from .views import ClusterHealth, ClusterMembership, NodeRegistry, PartitionView, WorkerRegistry

__all__ = [
    "Aborted",
    "AlreadyExists",
    "ApplicationError",
    "Call",
    "CallCancelled",
    "ClientCall",
    "ClusterClient",
    "ClusterEvent",
    "ClusterHealth",
    "ClusterKeys",
    "ClusterMembership",
    "ConfigError",
    "Connection",
    "DataLoss",
    "DeadlineExceeded",
    "DetectorConfig",
    "EventsDropped",
    "FailedPrecondition",
    "GossipConfig",
    "Health",
    "HealthStatus",
    "Hop",
    "Internal",
    "InvalidArgument",
    "JoinError",
    "KeepMajority",
    "KeepOldest",
    "KeyInfo",
    "KeyListing",
    "KeyReport",
    "KeyUse",
    "Keys",
    "LeaseQuorum",
    "LeastConnections",
    "LinkDegraded",
    "LoadBalancingStrategy",
    "LocalDegraded",
    "Middleware",
    "NameConflict",
    "NameConflictDetected",
    "NoWorkers",
    "Node",
    "NodeConfig",
    "NodeCrashed",
    "NodeEvent",
    "NodeFailed",
    "NodeInfo",
    "NodeJoined",
    "NodeKeys",
    "NodeLeft",
    "NodeReaped",
    "NodeRecovered",
    "NodeRegistry",
    "NodeReplaced",
    "NodeState",
    "NodeSuspected",
    "NodeUpdated",
    "NotFound",
    "OutOfRange",
    "PartitionConfig",
    "PartitionDetected",
    "PartitionHealed",
    "PartitionStatus",
    "PartitionSuspected",
    "PartitionView",
    "Peer",
    "PermissionDenied",
    "PhiAccrualDetector",
    "Proceed",
    "ProtocolError",
    "QueryAnswers",
    "QueryReceived",
    "QuorumStrategy",
    "Random",
    "Reflection",
    "ResourceExhausted",
    "RetryPolicy",
    "RoundRobin",
    "RpcConfig",
    "RpcNetError",
    "Security",
    "SecurityError",
    "SeedSource",
    "SelfIsolated",
    "Server",
    "ServerCall",
    "ServiceSummary",
    "StaticQuorum",
    "Status",
    "StatusError",
    "SupervisionConfig",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "UserEvent",
    "VersionMismatch",
    "WorkerRegistry",
    "WorkerView",
    "connect",
    "connect_cluster",
    "current_call",
    "detached",
    "rpc",
    "service",
]

for _name in __all__:
    globals()[_name].__module__ = "rpcnet"  # tracebacks and reprs name the public path
del _name
