"""What a handler sees of the call that it serves: ``rpcnet.current_call()``.

The rules of this file:

* Nothing is made for a handler that does not ask.
* Who calls is what the connection has verified. Tags are those of the member with that name; who is no member has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import attrs
import trio

from ._context import call_maker, served_call
from ._core.bodies import decode_metadata
from ._middleware import Call
from ._net.server_session import IncomingCall
from ._tasks.handlers import Handler
from .config import RpcConfig
from .events import NodeInfo

if TYPE_CHECKING:
    from .node import Node

__all__ = ["CallHost", "Peer", "ServerCall", "current_call"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@attrs.frozen
class Peer:
    """Who makes a call."""

    name: str
    """The name that its certificate proves."""
    id: str
    """The id of the member of the cluster that it is; empty if it is none."""
    tags: Mapping[str, str] = attrs.field(hash=False)
    """The tags of that member, as this node knows them; empty if it is none."""

    @property
    def is_member(self) -> bool:
        """Whether it is a member of the cluster, as far as this node knows."""
        return bool(self.id)


class ServerCall(Call):
    """The call that a handler serves: see :func:`current_call`. Middleware of servers is given the same object."""

    def __init__(self, host: CallHost, incoming: IncomingCall, handler: Handler) -> None:
        self._host = host
        self._incoming = incoming
        self._handler = handler
        encoded = incoming.metadata
        self._metadata = (
            MappingProxyType(decode_metadata(encoded, host.config.max_metadata_bytes)) if encoded else _NOTHING
        )

    @property
    def method(self) -> str:
        """What is called, ``"service.method"``."""
        return self._handler.definition.full_name

    @property
    def arguments(self) -> Mapping[str, object]:
        """The arguments by name, without those that the caller left out and without a stream.

        They are read from the request anew each time, so changing them changes nothing for the handler.
        """
        values = self._handler.codec.decode_arguments(self._incoming.body)
        names = [parameter.name for parameter in self._handler.definition.parameters]
        return dict(zip(names, values, strict=False))

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text by name that the caller sent along; cannot be changed."""
        return self._metadata

    @property
    def deadline(self) -> float:
        """When the caller gives up, in Trio time; infinity if it does not."""
        return self._incoming.deadline

    @property
    def peer(self) -> Peer:
        """Who calls."""
        name = self._incoming.session.peer_name or ""
        member = self._host.member_of(self._incoming)
        return Peer(name, "", _NOTHING) if member is None else Peer(name, member.id, member.tags)

    @property
    def node(self) -> Node:
        """The node that serves the call, for calls of the handler's own; where a ``Server`` serves it, that server."""
        return cast("Node", self._host.server)

    @property
    def draining(self) -> trio.Event:
        """Set when the node begins to drain: it takes no new calls, and waits a while for this one."""
        return self._host.draining()


@attrs.frozen(eq=False)
class CallHost:
    """Who serves calls: the room behind :class:`ServerCall`."""

    server: object
    """The node or the server."""
    find: Callable[[str], NodeInfo | None]
    """Looks a member of the cluster up by its id."""
    draining: Callable[[], trio.Event]
    """Returns the event that is set when draining begins."""
    config: RpcConfig
    """Limits."""

    def call_of(self, call: IncomingCall, handler: Handler) -> ServerCall:
        """Return what a handler and middleware see of a call.

        Raises:
            InvalidArgument: its metadata is malformed.
            ResourceExhausted: its metadata is too large.
        """
        return ServerCall(self, call, handler)

    def tags_of(self, call: IncomingCall) -> Mapping[str, str]:
        """Return the tags of the verified peer; none if it is no member of the cluster."""
        member = self.member_of(call)
        return _NOTHING if member is None else member.tags

    def member_of(self, call: IncomingCall) -> NodeInfo | None:
        """Return the member that a call comes from; None if its verified name is not that of the member it says."""
        hello = call.session.peer_hello
        member = self.find(hello.node_id) if hello is not None and hello.node_id else None
        return member if member is not None and member.is_usable and member.name == call.session.peer_name else None


def current_call() -> ServerCall:
    """Return the call that the current handler serves: who calls, with what metadata, until when.

    It works in the handler, in tasks that the handler has started, and in its worker thread if it is a plain ``def``.

    Raises:
        RuntimeError: no call is being served here, because this is no handler, or is inside :func:`detached`.
    """
    call, make = served_call.get(), call_maker.get()
    if call is None or make is None:
        raise RuntimeError("no call is being served here: current_call() is for handlers, and not inside detached()")
    return cast("ServerCall", make(call))
