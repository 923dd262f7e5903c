"""What the simulations of user events and queries share."""

from __future__ import annotations

import attrs
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode


@attrs.define(eq=False)
class Listener:
    """Remembers what a node's application heard, and answers questions."""

    node: rpcnet.Node
    answers: bool = True
    events: list[rpcnet.UserEvent] = attrs.field(factory=list)
    questions: list[rpcnet.QueryReceived] = attrs.field(factory=list)
    dropped: int = 0

    @property
    def heard(self) -> list[tuple[str, bytes]]:
        """Name and payload of each event."""
        return [(event.name, event.payload) for event in self.events]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until the node ends."""
        async with self.node.events(rpcnet.UserEvent, rpcnet.QueryReceived) as events:
            task_status.started()
            async for event in events:
                match event:
                    case rpcnet.UserEvent():
                        self.events.append(event)
                    case rpcnet.QueryReceived():
                        self.questions.append(event)
                        if self.answers:
                            await self.node.respond(event, self.node.name.encode() + b":" + event.payload)
                    case rpcnet.EventsDropped():
                        self.dropped += event.count


async def listeners(
    cluster: SimulatedCluster, nursery: trio.Nursery, n: int, config: rpcnet.NodeConfig | None = None
) -> tuple[list[SimulatedNode], list[Listener]]:
    """Start nodes that listen, and wait until they know each other."""
    nodes = list(await cluster.start(n, config=config))
    await cluster.converged()
    found = [Listener(handle.node) for handle in nodes]
    for listener in found:
        await nursery.start(listener.run)
    return nodes, found
