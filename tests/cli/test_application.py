"""From ``module:app`` to what a node serves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import rpcnet
from rpcnet.cli._application import ApplicationFailure, ApplicationMistake, import_application, make_application

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("_served", None)


async def served(attribute: str) -> list[str]:
    """Return the classes of what is served under a name."""
    found = await make_application(f"_served:{attribute}", import_application(f"_served:{attribute}"))
    assert isinstance(found, list)
    return [type(service).__name__ for service in found]


@pytest.mark.parametrize(
    ("attribute", "classes"),
    [
        ("door", ["Door"]),
        ("Door", ["Door"]),
        ("Holder.door", ["Door"]),
        ("several", ["Door", "Greeter"]),
        ("make", ["Door", "Greeter"]),
        ("make_slowly", ["Greeter"]),
    ],
)
async def test_an_application_is_a_service_in_any_form(attribute: str, classes: list[str]) -> None:
    assert await served(attribute) == classes


async def test_an_application_is_a_node_that_was_not_entered() -> None:
    found = import_application("_served:node")
    assert isinstance(found, rpcnet.Node)
    assert await make_application("_served:node", found) is found


async def test_a_function_may_return_a_node() -> None:
    found = rpcnet.Node("made")
    assert await make_application("m:make", lambda: found) is found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("_served", ["'_served'", "module:attribute"]),
        ("_served:", ["module:attribute"]),
        (":door", ["module:attribute"]),
        ("_served:door()", ["module:attribute"]),
        ("./_served.py:door", ["module:attribute"]),
        ("_served:gate", ["_served has no attribute 'gate'"]),
        ("_served:Holder.gate", ["_served.Holder has no attribute 'gate'"]),
        ("_missing:door", ["no module '_missing'", str(HERE)]),
        ("_served.inner:door", ["no module '_served.inner'"]),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_ends(spec: str, words: list[str]) -> None:
    with pytest.raises(ApplicationMistake) as caught:
        import_application(spec)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("Greeter", ["_served:Greeter: the class Greeter requires greeting"]),
        ("Contract", ["the class Contract is only a contract"]),
        ("Plain", ["_served:Plain: is the class Plain", "service object"]),
        ("empty", ["_served:empty: is empty"]),
        ("mixed", ["_served:mixed[1]: is of type int"]),
        ("make_a_function", ["_served:make_a_function(): is of type function"]),
        ("make_with", ["the function requires number, other:"]),
        ("TEXT", ["_served:TEXT: is of type str"]),
    ],
)
async def test_what_cannot_be_served_is_named_with_the_rule(attribute: str, words: list[str]) -> None:
    with pytest.raises(ApplicationMistake) as caught:
        await served(attribute)
    assert all(word in str(caught.value) for word in words), str(caught.value)


async def test_a_function_that_fails_shows_its_own_traceback_only() -> None:
    with pytest.raises(ApplicationFailure) as caught:
        await served("fail")
    lines = str(caught.value).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{HERE / "_served.py"}"')
    assert lines[-1] == "LookupError: no services today"


@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f():\n    raise OSError('broken')\nf()\n", "OSError: broken"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
    ],
)
def test_a_module_that_cannot_be_imported_shows_its_own_traceback_only(
    source: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ApplicationFailure) as caught:
        import_application("_broken:app")
    text = str(caught.value)
    assert text.splitlines()[-1] == last
    assert str(tmp_path / "_broken.py") in text
    assert "importlib" not in text
    assert "_application.py" not in text


async def test_ctrl_c_in_code_of_the_user_ends_the_process() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await make_application("m:interrupt", interrupt)


async def test_an_async_function_can_be_cancelled() -> None:
    with trio.move_on_after(0) as scope:
        await make_application("m:sleep_forever", trio.sleep_forever)
    assert scope.cancelled_caught
