"""``rpcnet call`` and ``rpcnet schema`` against a node in a process of its own.

Most commands run in the process of the tests, on its own descriptors; those that are interrupted have one of their own.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from _peer import PATIENCE
from typer.testing import CliRunner

from _pki import GOSSIP_KEY, Authority, Files, root
from rpcnet.cli.app import app

APPLICATIONS = Path(__file__).parent.parent / "cli"
SECRET = secrets.token_urlsafe(32)
ENVIRONMENT = {**os.environ, "RPCNET_SECRET": SECRET}
JOB = 'job={"id": 7}'


@attrs.frozen
class Server:
    """A process that serves."""

    popen: subprocess.Popen[str]
    address: str


@attrs.frozen
class Outcome:
    """How a command ended."""

    code: int
    said: str
    complained: str

    @property
    def values(self) -> list[Any]:
        assert self.code == 0, self.complained
        return [json.loads(line) for line in self.said.splitlines()]

    @property
    def value(self) -> Any:
        [value] = self.values
        return value


Run = Callable[..., Outcome]


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "rpcnet", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=APPLICATIONS,
        env=ENVIRONMENT,
        text=True,
    ) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def line_of(stream: Any) -> str:
    line = stream.readline()
    assert isinstance(line, str)
    assert line.endswith("\n"), "it has ended"
    return line.rstrip()


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    with process("run", "_called:services", "--profile", "local", "--json", *arguments) as popen:
        yield Server(popen, json.loads(line_of(popen.stdout))["address"])


@pytest.fixture(scope="module")
def printer() -> Iterator[Server]:
    with serving("--name", "printer") as server:
        yield server


@contextmanager
def standard_input(descriptor: int) -> Iterator[None]:
    own = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        yield
    finally:
        os.dup2(own, 0)
        os.close(own)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command, with what stands on its standard input, or with its descriptor."""
    monkeypatch.setenv("RPCNET_SECRET", SECRET)

    def run(*arguments: str, stdin: bytes | int = b"") -> Outcome:
        with tempfile.TemporaryFile() as file:
            if isinstance(stdin, bytes):
                file.write(stdin)
                file.seek(0)
                stdin = file.fileno()
            with standard_input(stdin):
                result = CliRunner().invoke(app, [*arguments, "--timeout", str(PATIENCE)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.stdout == ""  # results are written past Python's own streams
        return Outcome(result.exit_code, capfd.readouterr().out, result.stderr)

    return run


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (["submit", JOB], {"id": 7, "words": ["1 in RED"], "due": None}),
        (["submit", JOB, "copies=2", "colour=BLUE"], {"id": 7, "words": ["2 in BLUE"], "due": None}),
        (["submit", JOB, "colour=2"], {"id": 7, "words": ["1 in BLUE"], "due": None}),
        (["submit", 'job={"id": 7, "due": "2026-03-01"}'], {"id": 7, "words": ["1 in RED"], "due": "2026-03-01"}),
        (["submit", "--data", '{"job": {"id": 8}, "copies": 3}'], {"id": 8, "words": ["3 in RED"], "due": None}),
        (["submit", JOB, "--metadata", "by=Ada"], {"id": 7, "words": ["1 in RED", "Ada"], "due": None}),
        (["values", "rights=READ|WRITE", 'shape={"side": 1}'], [3, ["Square", {"side": 1.0}], "AP8=", "Infinity"]),
        (["values", "rights=1"], [1, None, "AP8=", "Infinity"]),
        (["text", "codes=[252, 155, 34]"], '\xfc\x9b"'),
    ],
)
def test_a_method_is_called_with_values_as_its_node_describes_them(
    printer: Server, run: Run, arguments: Sequence[str], result: object
) -> None:
    name, *rest = arguments
    assert run("call", printer.address, f"Printing.{name}", *rest).value == result


def test_no_control_character_reaches_the_terminal(printer: Server, run: Run) -> None:
    assert run("call", printer.address, "Printing.text", "codes=[155, 27, 228]").said == '"\\u009b\\u001bä"\n'
    refused = run("call", printer.address, "Printing.submit", JOB, "copies=0")
    assert refused.complained == "NOT_FOUND: no \\x1b[31mcopies\n"


def test_a_stream_of_results_is_a_line_each(printer: Server, run: Run) -> None:
    assert run("call", printer.address, "Printing.count", "upto=1000").values == list(range(1000))


def test_results_that_came_before_an_error_are_printed(printer: Server, run: Run) -> None:
    failed = run("call", printer.address, "Printing.count", "upto=3", "fail=true")
    assert (failed.code, failed.said, failed.complained) == (75, "0\n1\n2\n", "OUT_OF_RANGE: no more numbers\n")


def test_a_stream_of_requests_comes_from_standard_input(printer: Server, run: Run) -> None:
    total = ("call", printer.address, "Printing.total", "start=5")
    assert run(*total, stdin=b"1\n2\n\n 3").value == 11
    assert run(*total, "times=2", stdin=b"1\n2").value == 11
    assert run(*total).value == 5
    assert run(*total, stdin="\n".join(map(str, range(5_000))).encode()).value == 5 + sum(range(5_000))


def test_a_node_may_answer_before_the_requests_have_ended(printer: Server, run: Run) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"1\n-1\n")
        assert run("call", printer.address, "Printing.total", "start=0", stdin=reader).value == -1
    finally:
        os.close(writer)
        os.close(reader)


def test_each_result_comes_when_it_is_ready_and_a_signal_ends_the_wait_for_more(printer: Server) -> None:
    with process("call", printer.address, "Printing.upper") as call:
        assert call.stdin is not None
        for word in ("a", "\u00fc"):
            call.stdin.write(f'"{word}"\n')
            call.stdin.flush()
            assert line_of(call.stdout) == f'"{word.upper()}"'
        call.terminate()
        assert call.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        (b"1\n\nx\n", "Printing.total: line 3 of standard input: no JSON: "),
        (b'1\n"2"\n', 'Printing.total: line 2 of standard input: expected int, got "2"'),
        (b"\xff\n", "Printing.total: line 1 of standard input: no UTF-8"),
    ],
)
def test_a_request_that_does_not_fit_ends_the_call_with_its_line(
    printer: Server, run: Run, stdin: bytes, problem: str
) -> None:
    failed = run("call", printer.address, "Printing.total", "start=0", stdin=stdin)
    assert (failed.code, failed.said) == (2, "")
    assert failed.complained.startswith(f"rpcnet: {problem}")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("Printing.submit job={}", 2, "rpcnet: Printing.submit: job: Job needs the field 'id': int"),
        ("Printing.submit", 2, "rpcnet: Printing.submit: job: is missing: Job"),
        ("Printing.total start=1 numbers=[]", 2, "Printing.total: numbers: is a stream: it comes from standard input"),
        ("Printing", 2, "rpcnet: Printing is a service; its methods are: count, submit, text, total, upper, "),
        ("Printing.fly", 76, "UNIMPLEMENTED: Printing has no method 'fly'; it has: count, submit, text, "),
        ("Print.submit", 76, "UNIMPLEMENTED: nothing called 'Print.submit' is served here; there is: Printing, "),
        ("rpcnet.Health.check service=Print", 69, "NOT_FOUND: there is no service 'Print' here"),
        ("Printing.wait --metadata x", 2, "rpcnet: --metadata 'x': write KEY=VALUE"),
        ("Printing.wait --ca x", 2, "rpcnet: --ca, --cert and --key belong together"),
    ],
)
def test_what_goes_wrong_is_a_code_and_a_line(printer: Server, run: Run, arguments: str, code: int, words: str) -> None:
    failed = run("call", printer.address, *arguments.split())
    assert (failed.code, failed.said) == (code, "")
    assert words in failed.complained
    assert failed.complained.count("\n") == 1


@pytest.mark.parametrize("timeout", ["0", "-1", "nan"])
def test_a_timeout_must_be_one(run: Run, timeout: str) -> None:
    result = CliRunner().invoke(app, ["call", "127.0.0.1:1", "Printing.wait", "--timeout", timeout])
    assert (result.exit_code, result.stderr) == (2, f"rpcnet: --timeout {timeout}: must be above 0\n")


def test_a_declared_error_is_told_with_its_fields(printer: Server, run: Run) -> None:
    submit = ("call", printer.address, "Printing.submit", JOB)
    failed = run(*submit, "copies=100")
    printer_id = "00000000-0000-0000-0000-000000000007"
    assert (failed.code, failed.complained) == (
        73,
        f'FAILED_PRECONDITION: OutOfPaper(tray=3, printer="{printer_id}")\n',
    )
    told = json.loads(run(*submit, "copies=100", "--json").complained)
    assert (told["error"], told["fields"]) == ("OutOfPaper", {"tray": 3, "printer": printer_id})
    assert run(*submit, "copies=101").complained == "UNAVAILABLE: page 101\n"


def test_an_error_as_json_has_the_call_id_and_the_way_it_came(printer: Server, run: Run) -> None:
    failed = run("call", printer.address, "Printing.submit", JOB, "copies=13", "--json")
    told = json.loads(failed.complained)
    call_id = told["call_id"]
    assert call_id
    assert (failed.code, told["status"], told["code"]) == (77, "INTERNAL", 13)
    assert told["hops"] == [{"node": "printer", "method": "Printing.submit", "call_id": call_id}]


def test_the_built_in_services_are_called_as_any_other(printer: Server, run: Run) -> None:
    status = {"live": True, "ready": True, "draining": False}
    assert run("call", printer.address, "rpcnet.Health.check").value == status
    services = run("call", printer.address, "rpcnet.Reflection.services").value
    assert "Printing" in [each["name"] for each in services]


def test_a_node_is_found_by_its_name_through_another_one(printer: Server, run: Run) -> None:
    with serving("--name", "other", "--seed", printer.address) as other:
        through = ("--seed", other.address)
        for name in ("other", "printer"):
            assert run("call", name, "rpcnet.Health.check", *through).value["live"]
        unknown = run("call", "third", "rpcnet.Health.check", *through)
    complaint = "rpcnet: no node is called 'third'; there is: other, printer\n"
    assert (unknown.code, unknown.complained) == (1, complaint)


def test_a_name_alone_leads_nowhere(run: Run) -> None:
    failed = run("schema", "printer")
    assert (failed.code, failed.complained) == (
        2,
        "rpcnet: NODE 'printer': write HOST:PORT, or say --seed for the name of a node\n",
    )


def test_time_that_runs_out_is_deadline_exceeded(printer: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = CliRunner().invoke(app, ["call", address, "Printing.wait", "--timeout", "0.1", "--json"])
        told = json.loads(result.stderr)
        assert (result.exit_code, told["status"]) == (68, "DEADLINE_EXCEEDED")
        assert told["message"] == f"{address} has not answered within 0.1 s"


def test_who_has_another_secret_is_not_let_in(printer: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPCNET_SECRET", secrets.token_urlsafe(32))
    failed = run("schema", printer.address, "--json")
    assert (failed.code, json.loads(failed.complained)["status"]) == (80, "UNAUTHENTICATED")


def test_ctrl_c_cancels_the_call_at_the_node_too(printer: Server) -> None:
    with process("call", printer.address, "Printing.wait") as call:
        assert line_of(call.stdout) == '"waiting"'
        call.send_signal(signal.SIGINT)
        assert call.wait() == 130
        assert call.stderr is not None
        assert call.stderr.read() == ""
    while line_of(printer.popen.stderr) != "cancelled":  # after what other calls have left in the log
        pass


def test_a_command_that_nobody_reads_any_more_ends(printer: Server) -> None:
    with process("call", printer.address, "Printing.count", "upto=1000000000") as call:
        assert call.stdout is not None
        assert line_of(call.stdout) == "0"
        call.stdout.close()
        assert call.wait() == 128 + signal.SIGPIPE
        assert call.stderr is not None
        assert call.stderr.read() == ""


def test_a_schema_is_shown_as_python_would_say_it(printer: Server, run: Run) -> None:
    shown = run("schema", printer.address).said
    assert shown.startswith("service Printing, version 2\n  count(upto: int, fail: bool = false) -> stream of int\n")
    assert "  total(start: int, numbers: stream of int, times: int = 1) -> int\n" in shown
    assert "\n\nerror Jammed, UNAVAILABLE\n  message: str\n" in shown
    assert "rpcnet." not in shown


def test_one_method_is_shown_with_what_it_uses(printer: Server, run: Run) -> None:
    shown = run("schema", printer.address, "Printing.values").said
    head, method, *_ = shown.splitlines()
    assert head == "service Printing, version 2"
    assert method.endswith(" -> tuple[Rights, Circle | Square | None, bytes, float]")
    assert ("flag Rights" in shown, "class Job" in shown) == (True, False)


def test_a_schema_is_data_and_cddl_too(printer: Server, run: Run) -> None:
    told = run("schema", printer.address, "--json").value
    assert (told["name"], told["version"]) == ("Printing", 2)
    assert run("schema", printer.address, "Printing.text", "--json").value == told["methods"]["text"]
    whole = run("schema", printer.address, "Printing", "--cddl").said
    assert whole.startswith("; service Printing, version 2\n")
    assert "Printing.submit.error.OutOfPaper = {" in whole
    part = run("schema", printer.address, "Printing.text", "--cddl").said
    assert ("Printing.text.arguments" in part, "Printing.submit" in part) == (True, False)
    both = run("schema", printer.address, "--cddl", "--json")
    assert (both.code, json.loads(both.complained)["message"]) == (2, "--cddl, --json: name one of the two")


def files_of(authority: Authority, folder: Path, name: str, keys: str | None = None) -> tuple[str, ...]:
    files = Files(folder / name).write(ca=authority.pem, leaf=authority.leaf(name), keys=keys)
    more = () if keys is None else ("--gossip-keys", str(files.gossip))
    return ("--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key), *more)


def test_certificates_of_an_authority_do_instead_of_a_secret(run: Run, tmp_path: Path) -> None:
    authority = root()
    with serving(*files_of(authority, tmp_path, "printer", GOSSIP_KEY)) as server:
        call = ("call", server.address, "rpcnet.Health.check")
        assert run(*call, *files_of(authority, tmp_path, "admin")).value["live"]
        assert run(*call, *files_of(root(), tmp_path, "stranger")).code == 80
        assert run("call", "printer", call[2], "--seed", server.address, *files_of(authority, tmp_path, "chief")).value
