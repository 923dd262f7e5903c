"""Hosts in network namespaces, on one bridge; what passes between them is ruled by ``iptables``.

The rules of this file:

* Nothing outside is touched: the bridge has a namespace of its own, so has every host, and a namespace takes all that
  is in it along when it goes. Names hold the id of this process; what a process that is gone left behind is removed.
* Rules drop what arrives, as a network does that loses it: the sender is not told.
* A host has one address, ``10.77.0.1`` and so on, and one port of rpcnet's, so that a member that is started again is
  found where it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

PORT = 7077
_PREFIX = "rpcnet-test"
_TIMEOUT = 30


class LabError(Exception):
    """This machine does not allow it; the text says why."""


def run(*command: str, text: str | None = None) -> str:
    """Run a command to its end and return what it said.

    Raises:
        LabError: it failed, or does not exist.
    """
    try:
        done = subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.CalledProcessError as error:
        raise LabError(f"`{' '.join(command)}`: {error.stderr.strip()}") from error
    except OSError as error:
        raise LabError(f"`{command[0]}`: {error.strerror}") from error
    return done.stdout


def why_not() -> str | None:
    """Return why there can be no hosts on this machine; None when there can."""
    if os.name != "posix" or not Path("/proc/self/ns/net").exists():
        return "needs network namespaces, which only Linux has"
    if os.geteuid():
        return "needs root"
    missing = [program for program in ("ip", "iptables", "iptables-restore") if shutil.which(program) is None]
    if missing:
        return f"needs {' and '.join(missing)}"
    try:
        with hosts(1) as (host,):
            host.rule(("-m", "statistic", "--mode", "random", "--probability", "0.5"))
    except LabError as error:
        return f"this machine does not allow it: {error}"
    return None


@attrs.frozen
class Host:
    """One host: a namespace with an address of its own."""

    name: str
    """Of the namespace."""
    ip: str

    @property
    def address(self) -> str:
        """Where its member listens."""
        return f"{self.ip}:{PORT}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("ip", "netns", "exec", self.name)

    def drop_from(self, others: Iterable[Host]) -> None:
        """Let nothing of these hosts arrive any more."""
        self.rule(*(("-s", other.ip) for other in others))

    def lose(self, share: float) -> None:
        """Let a share of what arrives be lost, at random."""
        self.rule(("-i", "eth0", "-m", "statistic", "--mode", "random", "--probability", str(share)))

    def rule(self, *matches: Sequence[str]) -> None:
        """Drop what arrives and matches one of these, all else passes; takes the place of what was ruled before."""
        lines = [f"-A INPUT {' '.join(match)} -j DROP" for match in matches]
        text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *lines, "COMMIT", ""])
        run(*self.prefix, "iptables-restore", "-w", text=text)

    def set_link(self, *, is_up: bool) -> None:
        """Plug the cable in, or pull it out."""
        run("ip", "-n", self.name, "link", "set", "eth0", "up" if is_up else "down")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts that reach each other; they are gone after the block, however it ends.

    Raises:
        LabError: this machine does not allow it.
    """
    _sweep()
    switch = f"{_PREFIX}-{os.getpid()}-switch"
    made = [Host(f"{_PREFIX}-{os.getpid()}-{number}", f"10.77.0.{number}") for number in range(1, count + 1)]
    try:
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for number, host in enumerate(made, 1):
            _connect(host, switch, f"port{number}")
        yield made
    finally:
        for name in (*(host.name for host in made), switch):
            _remove(name)


def _connect(host: Host, switch: str, port: str) -> None:
    run("ip", "netns", "add", host.name)
    run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
    run("ip", "-n", host.name, "address", "add", f"{host.ip}/24", "dev", "eth0")
    for link in ("lo", "eth0"):
        run("ip", "-n", host.name, "link", "set", link, "up")


def _remove(name: str) -> None:
    with contextlib.suppress(LabError, subprocess.TimeoutExpired):
        run("ip", "netns", "delete", name)


def _sweep() -> None:
    """Remove what processes left that are gone; those of this one are in use, or will be removed by it."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        prefix, _, rest = name.partition(f"{_PREFIX}-")
        process = rest.partition("-")[0]
        if not prefix and process.isdecimal() and not Path(f"/proc/{process}").exists():
            _remove(name)
