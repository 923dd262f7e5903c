"""RPyC over TLS: unary calls only. It blocks, so calls in flight are a window of asynchronous results.

Both sides send without Nagle's delay: with it, many calls in flight stall for 40 ms at a time.
"""

from __future__ import annotations

import functools
import socket
import time
from typing import Any

import rpyc
from certificates import tls_context
from loads import WARM_UP_SECONDS
from measure import Load, Meter, Usage, usage
from peering import Settings, message
from program import announce, arguments, report
from rpyc.utils.server import ThreadedServer


class Echo(rpyc.Service):  # type: ignore[misc] # rpyc has no types
    """Gives back what it gets."""

    def exposed_echo(self, data: bytes) -> bytes:
        """Return ``data``."""
        return data

    def exposed_usage(self) -> bytes:
        """Return what this process has used so far."""
        return usage().pack()


def serve(settings: Settings) -> None:
    """Serve until killed."""
    context = tls_context(settings.directory, "server")

    def authenticate(sock: socket.socket) -> tuple[socket.socket, None]:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(sock, server_side=True), None

    server = ThreadedServer(Echo, hostname="127.0.0.1", port=0, authenticator=authenticate)
    announce(f"127.0.0.1:{server.port}")
    server.start()


class Window:
    """Keeps calls in flight: each answer is followed by another call."""

    def __init__(self, connection: Any, settings: Settings) -> None:
        self._connection = connection
        self._size = settings.size
        self._echo = rpyc.async_(connection.root.echo)
        self._open = 0
        self._is_over = False
        self.meter = Meter()

    def run(self, in_flight: int, seconds: float) -> Load:
        """Measure after a warm-up."""
        for number in range(in_flight):
            self._call(message(number, self._size - 8), 1)
        self._serve_for(WARM_UP_SECONDS)
        self.meter.start(self._usage())
        self._serve_for(seconds)
        self.meter.stop()
        measured = self.meter.load(self._usage())
        self._is_over = True
        while self._open:
            self._connection.serve(1)
        return measured

    def _usage(self) -> Usage:
        return Usage.unpack(self._connection.root.usage())

    def _serve_for(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self._connection.serve(0.1)

    def _call(self, filler: bytes, count: int) -> None:
        data = count.to_bytes(8, "big") + filler
        self._open += 1
        began = time.perf_counter()
        self._echo(data).add_callback(functools.partial(self._answered, began, data, filler, count))

    def _answered(self, began: float, data: bytes, filler: bytes, count: int, result: Any) -> None:
        self._open -= 1
        if result.value != data:
            raise AssertionError("the answer is not what was sent")
        self.meter.durations.append(time.perf_counter() - began)
        if not self._is_over:
            self._call(filler, count + 1)


def load(settings: Settings) -> Load:
    """Keep ``in_flight`` calls in flight on one connection."""
    host, _, port = settings.address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wrapped = tls_context(settings.directory, "client").wrap_socket(sock, server_hostname=host)
    connection = rpyc.connect_stream(rpyc.SocketStream(wrapped))
    try:
        return Window(connection, settings).run(settings.in_flight, settings.seconds)
    finally:
        connection.close()


def main() -> None:
    """Serve or load, as the arguments say."""
    role, settings = arguments(__doc__)
    if role == "serve":
        serve(settings)
    else:
        report(load(settings))


if __name__ == "__main__":
    main()
