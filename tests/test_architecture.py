"""The rules of the house, held by a walk over the syntax tree of every file.

* A floor imports only what lies below it, and rooms of the top floor do not know each other.
* The four tasks of a node never import each other: they talk over channels.
* ``_core`` has no clock, no randomness of its own, no socket and no log; one family of files knows the QUIC engine, and
  one file asyncio.
* Files and functions stay small enough to be read in one go.

The checker is itself tested below, by feeding it what it must refuse.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TREES = ("rpcnet", "tests", "examples", "benchmarks")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "rpcnet.events",
        "rpcnet.errors",
        "rpcnet.config",
        "rpcnet.service",
        "rpcnet.selectors",
        "rpcnet.quorum",
        "rpcnet._signals",
        "rpcnet._annotations",
        "rpcnet._context",
        "rpcnet._middleware",
        "rpcnet._definitions",
        "rpcnet._direct",
        "rpcnet._signatures",
        "rpcnet._builtin_contracts",
    ),
    ("rpcnet._core",),
    ("rpcnet._net",),
    ("rpcnet._tasks",),
    ("rpcnet._clients",),
    (
        *("rpcnet.node", "rpcnet.server", "rpcnet.connection", "rpcnet.cluster_connection"),
        *("rpcnet.call", "rpcnet.client", "rpcnet.views", "rpcnet.statistics"),
        *("rpcnet._assembly", "rpcnet._builtin"),
    ),
    ("rpcnet",),  # the facade: rpcnet/__init__.py
    ("rpcnet._simulator",),  # the machines without tasks and sockets, for the harness and the command line
    ("rpcnet.testing", "rpcnet.cli"),
    ("rpcnet.__main__",),
)
SEPARATE_ROOMS = frozenset({"rpcnet.testing", "rpcnet.cli"})
TASKS = frozenset(
    {
        "rpcnet._tasks.membership",
        "rpcnet._tasks.failure_detector",
        "rpcnet._tasks.registry",
        "rpcnet._tasks.rpc_server",
    }
)
QUIC_FILES = "rpcnet/_net/quic*.py"
ASYNCIO_FILE = "rpcnet/_tasks/asyncio_handlers.py"
FORBIDDEN_EVERYWHERE = frozenset({"asyncio", "trio_asyncio"})
FORBIDDEN_IN_CORE = frozenset(
    {
        *("trio", "time", "random", "socket", "os", "logging", "secrets"),
        *("asyncio", "select", "selectors", "signal", "ssl", "subprocess", "threading", "warnings"),
    }
)
FORBIDDEN_CALLS_IN_CORE = frozenset(
    {
        *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
        *("uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4"),
    }
)
FORBIDDEN_BUILTINS_IN_CORE = frozenset({"print", "open", "input"})


def module_of(path: str) -> str:
    """Return the dotted name of a file: ``rpcnet/_core/swim.py`` is ``rpcnet._core.swim``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> tuple[int, str] | None:
    """Return floor and room of a dotted name by its longest prefix in the plan; None for what has no place."""
    found: tuple[int, str] | None = None
    for level, rooms in enumerate(FLOORS):
        for room in rooms:
            if (module == room or module.startswith(room + ".")) and (found is None or len(room) > len(found[1])):
                found = (level, room)
    return found


def imports(path: str, tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each imported dotted name, absolute, those inside functions and type-checking blocks included."""
    package = module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            prefix = ".".join(filter(None, (base, node.module)))
            yield from ((node, f"{prefix}.{alias.name}") for alias in node.names)


def typing_only(tree: ast.AST) -> set[ast.AST]:
    """Return every node under ``if TYPE_CHECKING:``."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def floor_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield what imports upwards, across tasks or between rooms of the top floor."""
    module = module_of(path)
    here = room_of(module)
    if here is None or (here[1] == "rpcnet" and module != "rpcnet"):
        yield f"{path}: has no place in the plan of floors"
        return
    for node, target in imports(path, tree):
        there = room_of(target) if target.partition(".")[0] == "rpcnet" else None
        if there is None:
            continue
        if there[0] > here[0]:
            yield f"{path}:{node.lineno}: {here[1]} imports {target}, which lies above it"
        if here[1] != there[1] and {here[1], there[1]} <= SEPARATE_ROOMS:
            yield f"{path}:{node.lineno}: {here[1]} imports {target}, its neighbour"
        if module in TASKS:
            peer = next((task for task in TASKS - {module} if f"{target}.".startswith(f"{task}.")), None)
            if peer is not None:
                yield f"{path}:{node.lineno}: the task {module} imports the task {peer}"


def engine_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield imports of aioquic and of asyncio outside their one home, and uses of the global random generator."""
    for node, target in imports(path, tree):
        root = target.partition(".")[0]
        if root == "aioquic" and not fnmatch.fnmatch(path, QUIC_FILES):
            yield f"{path}:{node.lineno}: only {QUIC_FILES} may import aioquic"
        if root in FORBIDDEN_EVERYWHERE and path != ASYNCIO_FILE:
            yield f"{path}:{node.lineno}: imports {root}; rpcnet runs on Trio alone"
        if root == "random" and isinstance(node, ast.ImportFrom) and target != "random.Random":
            yield f"{path}:{node.lineno}: imports {target}; randomness comes from an injected random.Random"
    for found in ast.walk(tree):
        if (
            isinstance(found, ast.Attribute)
            and isinstance(found.value, ast.Name)
            and found.value.id == "random"
            and found.attr not in ("Random", "SystemRandom")
        ):
            yield f"{path}:{found.lineno}: uses random.{found.attr}; randomness comes from an injected random.Random"


def purity_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield what makes a machine of ``_core`` depend on anything but its arguments."""
    allowed = typing_only(tree)
    for node, target in imports(path, tree):
        root = target.partition(".")[0]
        if root in FORBIDDEN_IN_CORE and not (root == "random" and node in allowed):
            yield f"{path}:{node.lineno}: _core imports {root}"
    for found in ast.walk(tree):
        if isinstance(found, ast.Call):
            name = ast.unparse(found.func)
            if name in FORBIDDEN_BUILTINS_IN_CORE or any(
                name == banned or name.endswith(f".{banned}") for banned in FORBIDDEN_CALLS_IN_CORE
            ):
                yield f"{path}:{found.lineno}: _core calls {name}"
        iterated = found.iter if isinstance(found, (ast.For, ast.comprehension)) else None
        is_set = isinstance(iterated, (ast.Set, ast.SetComp)) or (
            isinstance(iterated, ast.Call) and ast.unparse(iterated.func) in ("set", "frozenset")
        )
        if iterated is not None and is_set:
            yield f"{path}:{iterated.lineno}: _core iterates over a set, whose order differs between processes"


def size_violations(path: str, source: str, tree: ast.AST) -> Iterator[str]:
    """Yield files and functions that outgrew their budget."""
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{path}: {lines} lines, more than {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, more than {MAX_FUNCTION_LINES}"


def violations(path: str, source: str) -> list[str]:
    """Return every broken rule of one file, given its path from the root and its text."""
    tree = ast.parse(source)
    found = list(size_violations(path, source, tree))
    if path.startswith("rpcnet/"):
        found += floor_violations(path, tree)
        found += engine_violations(path, tree)
    if path.startswith("rpcnet/_core/"):
        found += purity_violations(path, tree)
    return found


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for tree in TREES
    for path in (ROOT / tree).rglob("*.py")
    if "__pycache__" not in path.parts
)


@pytest.mark.parametrize("path", FILES)
def test_a_file_keeps_the_rules_of_the_house(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_the_walk_sees_the_whole_package() -> None:
    assert {"rpcnet/__init__.py", "rpcnet/events.py", "rpcnet/_core/__init__.py"} <= set(FILES)


REFUSED = {
    "a machine that imports a port": ("rpcnet/_core/swim.py", "from .._net import udp"),
    "a machine that imports the facade": ("rpcnet/_core/swim.py", "from rpcnet import Node"),
    "vocabulary that imports a machine": ("rpcnet/events.py", "from ._core.members import Member"),
    "vocabulary that imports it in a function": ("rpcnet/config.py", "def f():\n    import rpcnet._core.swim"),
    "a port that imports a task": ("rpcnet/_net/udp.py", "import rpcnet._tasks.bus"),
    "a task that imports the node": ("rpcnet/_tasks/bus.py", "from ..node import Node"),
    "a node that imports the test harness": ("rpcnet/node.py", "from .testing import SimulatedCluster"),
    "a facade that imports the command line": ("rpcnet/__init__.py", "from . import cli"),
    "a harness that imports the command line": ("rpcnet/testing/harness.py", "from ..cli.app import app"),
    "a command that imports the harness": ("rpcnet/cli/app.py", "import rpcnet.testing"),
    "a file nobody planned": ("rpcnet/utils.py", ""),
    "a task that imports another": ("rpcnet/_tasks/registry.py", "from .membership import MembershipTask"),
    "a task that imports another by name": ("rpcnet/_tasks/registry.py", "from . import rpc_server"),
    "a task that imports another for its types": (
        "rpcnet/_tasks/membership.py",
        "if TYPE_CHECKING:\n    from rpcnet._tasks.failure_detector import FailureDetectorTask",
    ),
    "the engine outside its home": ("rpcnet/_net/udp.py", "from aioquic.quic.connection import QuicConnection"),
    "the engine in a machine": ("rpcnet/_core/framing.py", "import aioquic.buffer"),
    "asyncio": ("rpcnet/_tasks/bus.py", "import asyncio"),
    "trio-asyncio": ("rpcnet/node.py", "from trio_asyncio import open_loop"),
    "the global generator": ("rpcnet/_net/udp.py", "import random\nx = random.random()"),
    "a function of the global generator": ("rpcnet/_tasks/bus.py", "from random import choice"),
    "trio in a machine": ("rpcnet/_core/swim.py", "import trio"),
    "a clock in a machine": ("rpcnet/_core/swim.py", "from time import monotonic"),
    "a wall clock in a machine": ("rpcnet/_core/swim.py", "import datetime\ndatetime.datetime.now()"),
    "randomness in a machine": ("rpcnet/_core/swim.py", "import random"),
    "a socket in a machine": ("rpcnet/_core/swim.py", "def f():\n    import socket"),
    "the system in a machine": ("rpcnet/_core/swim.py", "import os.path"),
    "a log in a machine": ("rpcnet/_core/swim.py", "import logging"),
    "secrets in a machine": ("rpcnet/_core/swim.py", "import secrets"),
    "a random id in a machine": ("rpcnet/_core/calls.py", "import uuid\nuuid.uuid4()"),
    "a file in a machine": ("rpcnet/_core/values.py", "open('x')"),
    "the order of a set in a machine": ("rpcnet/_core/gossip.py", "for x in set(names):\n    send(x)"),
    "the order of a set in a comprehension": ("rpcnet/_core/gossip.py", "y = [x for x in {a, b}]"),
    "a long function": ("tests/test_x.py", "def f():\n" + "    x = 1\n" * 60),
    "a long file": ("examples/x.py", "x = 1\n" * 601),
}


@pytest.mark.parametrize(("path", "source"), REFUSED.values(), ids=REFUSED.keys())
def test_the_checker_refuses(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


ACCEPTED = {
    "a machine on vocabulary": ("rpcnet/_core/swim.py", "from ..events import NodeInfo\nfrom .gossip import Queue"),
    "the type of a generator": ("rpcnet/_core/swim.py", "if TYPE_CHECKING:\n    from random import Random"),
    "the moment as an argument": ("rpcnet/_core/swim.py", "def f(self, now):\n    self.now(now)"),
    "a method that opens": ("rpcnet/_core/swim.py", "self.relays.open(now)"),
    "a set in order": ("rpcnet/_core/swim.py", "for x in sorted(set(names)):\n    send(x)"),
    "asyncio at home": ("rpcnet/_tasks/asyncio_handlers.py", "import trio_asyncio"),
    "the engine at home": ("rpcnet/_net/quic_engine.py", "import aioquic"),
    "a generator of one's own": ("rpcnet/node.py", "import random\nrng = random.Random(7)"),
    "tasks on their bus": ("rpcnet/_tasks/registry.py", "from .bus import Bus\nfrom .._core import registry"),
    "a facade over the node": ("rpcnet/__init__.py", "from .node import Node as Node\nfrom .errors import JoinError"),
    "a command on the facade": ("rpcnet/cli/app.py", "import rpcnet\nfrom rpcnet import Node\nfrom .demo import run"),
    "the entry on the command line": ("rpcnet/__main__.py", "from .cli.app import app"),
    "a function of sixty lines": ("tests/test_x.py", "def f():\n" + "    x = 1\n" * 59),
    "examples on anything": ("examples/x.py", "import asyncio, random, time"),
}


@pytest.mark.parametrize(("path", "source"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_the_checker_accepts(path: str, source: str) -> None:
    assert violations(path, source) == []
