"""The dialling side of a connection that begins before the handshake is complete (RFC 8446, 2.3).

The rules of this file:

* With a ticket of an earlier connection comes what its server said in HELLO. Calls may go out on the strength of that
  in the very first packets; only what may run twice is called so, because what is sent early can be played back.
* The server's new HELLO must say the same. It does, because a server that was restarted takes none of the old tickets.
* What was sent early and is lost was not looked at: its callers are told so, and call again as usual.
"""

from __future__ import annotations

from collections.abc import Callable

from rpcnet._core.bodies import Hello
from rpcnet.config import RpcConfig
from rpcnet.errors import ProtocolError, Unavailable

from .client_session import ClientSession
from .pump import PortPump
from .quic import QuicLink

__all__ = ["EarlyClientSession", "EarlyDataLost"]


class EarlyDataLost(Unavailable):
    """What was sent before the handshake was not looked at. Nothing ran; call again on the same connection."""


class EarlyClientSession(ClientSession):
    """The dialling side of one connection, which may begin early."""

    def __init__(self, pump: PortPump, config: RpcConfig, hello: Hello, *, on_end: Callable[[], object]) -> None:
        super().__init__(pump, config, hello, on_end=on_end)
        self._assumed: Hello | None = None

    @property
    def is_early(self) -> bool:
        """Whether calls that may run twice can be sent although the server has not answered yet."""
        return self._assumed is not None and not self.is_open and not self.is_closed

    def link_early(self, link: QuicLink) -> None:
        """Begin with what the last connection was told."""
        self._link = link
        if isinstance(link.remembered, Hello):
            super().on_ready()
            self.learn(link.remembered)
            self._assumed = link.remembered

    def link_early_lost(self, link: QuicLink) -> None:
        """Forget all that was said, and tell who waits."""
        if self._assumed is None:
            return
        self._assumed = None
        self._streams.clear()
        self._output.clear()
        for waiter in self._calls.end_all():
            waiter.fail(EarlyDataLost("what was sent before the handshake was not looked at", never_ran=True))

    def on_ready(self) -> None:
        """Say HELLO, if that was not done before."""
        if self._assumed is None:
            super().on_ready()

    def on_hello(self, hello: Hello) -> None:
        """Let all callers go; remember what the server says for the next connection."""
        self.link.remember(hello)
        if self._assumed is None:
            super().on_hello(hello)
        elif _promises(hello) == _promises(self._assumed):
            self.let_go()
        else:
            raise ProtocolError("HELLO frame: it says something else than on the connection that was resumed")


def _promises(hello: Hello) -> tuple[object, ...]:
    return (
        hello.boot_id,
        hello.services,
        hello.max_calls,
        hello.max_message_bytes,
        hello.max_request_bytes,
        hello.stream_window_bytes,
    )
