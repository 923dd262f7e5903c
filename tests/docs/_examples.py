"""Examples out of a document, and the running of them.

The rules of this file, which is what an author of a document has to know:

* A section is what stands below a ``##`` heading; what stands above the first one is a section, too.
* The ``python`` blocks of a section are one program, in the order of the page. It runs inside Trio, on the
  simulated network and in virtual time, so a block may ``await`` at top level as in ``python -m trio``.
* A ``python`` block that calls ``trio.run`` is a whole program. It runs as a process of its own, on loopback.
* A ``python`` block that begins with ``# name.py`` is a file of that name.
* A ``sh`` block runs in a shell. One that begins with ``rpcnet run`` or ``rpcnet agent`` goes on running until the end
  of the section; it has said its first line before the next block runs.
* A ``text`` block right behind one of these is what it prints, all of it; ``...`` stands for anything within a line,
  and on a line of its own for any lines. Without such a block it prints nothing.
* Processes and shells run in a directory that the section has for itself, with a secret in ``RPCNET_SECRET``. The port
  7000 of loopback stands for one that is free.
* Other blocks are for reading only.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["Example", "Player", "Section", "read_sections", "tables_of"]

ROOT = Path(__file__).resolve().parent.parent.parent
_FENCE = re.compile(r"^```(\w*)$")
_CELL_END = re.compile(r"(?<!\\)\|")
_FILE = re.compile(r"# (\w+\.py)$")
_SERVING = ("rpcnet run", "rpcnet agent")
_PORT = "127.0.0.1:7000"
_PATIENCE = 60
"""Seconds after which a process has failed; nothing takes that long when things are well."""


@attrs.frozen
class Example:
    """One block that is run, and what it prints."""

    language: str
    text: str
    line: int
    """The line of the document on which it begins."""
    output: str


@attrs.frozen
class Section:
    """What stands below one heading of a document."""

    document: Path
    title: str
    examples: tuple[Example, ...]

    def __str__(self) -> str:
        """Return document and heading, as the name of a test."""
        return f"{self.document.name}: {self.title}"


def read_sections(document: Path) -> list[Section]:
    """Return the sections of a document that have something to run."""
    sections: dict[str, list[Example]] = {}
    title, language, start = "", None, 0
    block: list[str] = []
    last: int | None = None
    """The line behind the latest example, as long as its output may follow."""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if language is None and fence:
            language, start, block = fence[1], number + 1, []
        elif language is None:
            if line.startswith(("# ", "## ")):
                title = line.lstrip("# ")
            if line:
                last = None
        elif line == "```":
            found = sections.setdefault(title, [])
            if language in ("python", "sh"):
                found.append(Example(language, "\n".join(block) + "\n", start, ""))
                last = number
            elif language == "text" and last is not None:
                found[-1] = attrs.evolve(found[-1], output="\n".join(block))
                last = None
            language = None
        else:
            block.append(line)
    return [Section(document, title, tuple(found)) for title, found in sections.items() if found]


def tables_of(document: Path, heading: str) -> list[list[str]]:
    """Return the rows of all tables below a heading of any level, without their heads, as the texts of their cells."""
    rows: list[list[str]] = []
    is_inside = False
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            is_inside = line.lstrip("# ") == heading
        elif is_inside and line.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(line)[1:-1]]
            if set("".join(cells)) <= set("-: "):
                rows.pop()  # what stands above is the head
            else:
                rows.append(cells)
    return rows


class Player:
    """Runs the examples of one section.

    Args:
        section: the section.
        directory: where processes run; empty.
        names: what the first block knows already.
    """

    def __init__(self, section: Section, directory: Path, names: dict[str, object] | None = None) -> None:
        self._section = section
        self._directory = directory
        self._module = types.ModuleType("example_" + re.sub(r"\W+", "_", str(section)).lower())
        self._module.__dict__.update(names or {})
        self.secret = secrets.token_urlsafe(32)
        """What stands in ``RPCNET_SECRET``."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "RPCNET_SECRET": self.secret}
        self._port = f"127.0.0.1:{_free_port()}"
        self._serving: list[subprocess.Popen[str]] = []

    async def play(self) -> None:
        """Run all examples and compare what they print."""
        sys.modules[self._module.__name__] = self._module
        try:
            for example in self._section.examples:
                printed = await self._run(example)
                place = f"{self._section.document.name}, line {example.line}"
                assert _fits(example.output, printed), f"{place}: printed\n{printed}\ninstead of\n{example.output}"
        finally:
            del sys.modules[self._module.__name__]
            for process in self._serving:
                process.send_signal(signal.SIGTERM)
            for process in self._serving:
                self._finish(process)

    async def _run(self, example: Example) -> str:
        name = _FILE.match(example.text.partition("\n")[0])
        if name:
            (self._directory / name[1]).write_text(example.text, encoding="utf-8")
            return ""
        if example.language == "sh":
            return self._shell(example.text)
        if "trio.run(" in example.text:
            program = self._directory / f"line_{example.line}.py"
            program.write_text(example.text, encoding="utf-8")
            return self._finish(self._start(sys.executable, program.name))
        return await self._inside(example)

    async def _inside(self, example: Example) -> str:
        source = "\n" * (example.line - 1) + example.text  # so that tracebacks name the line of the document
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(self._section.document), "exec", flags=flags, dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = eval(code, self._module.__dict__)
            if inspect.iscoroutine(result):
                await result
        return printed.getvalue()

    def _shell(self, text: str) -> str:
        text = text.replace(_PORT, self._port)
        if not text.startswith(_SERVING):
            return self._finish(self._start("bash", "-e", "-o", "pipefail", "-c", text))
        process = self._start("bash", "-c", f"exec {text}")
        self._serving.append(process)
        assert process.stdout is not None
        return process.stdout.readline().replace(self._port, _PORT)

    def _start(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self._directory, env=self._environment, stdout=pipe, stderr=pipe, text=True
        )

    def _finish(self, process: subprocess.Popen[str]) -> str:
        try:
            said, complaint = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert not process.returncode, f"it ended with {process.returncode}: {said}{complaint}"
        return said.replace(self._port, _PORT)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _fits(expected: str, printed: str) -> bool:
    return re.fullmatch("\n".join(_patterns(expected.strip().splitlines())), printed.strip()) is not None


def _patterns(lines: list[str]) -> Iterator[str]:
    for line in lines:
        yield r"[\s\S]*" if line.strip() == "..." else ".*".join(map(re.escape, line.split("...")))
