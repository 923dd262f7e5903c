"""Contracts made from what a server tells of a method: they are its own, and safe whatever it tells."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

import rpcnet
from rpcnet._core.contracts import Contract, contract_of
from rpcnet._core.described import described_service
from rpcnet.service import MethodDefinition, Shape, definition_of


@attrs.frozen
class Job:
    id: int


class OutOfPaper(rpcnet.ApplicationError):
    tray: int
    status = rpcnet.Status.UNAVAILABLE


@rpcnet.service
class Printing:
    @rpcnet.rpc(idempotent=True, raises=[OutOfPaper])
    async def submit(self, job: Job, copies: int = 1) -> Job:
        raise NotImplementedError

    @rpcnet.rpc
    async def upload(self, title: str, pages: AsyncIterator[bytes]) -> AsyncIterator[Job]:
        raise NotImplementedError


OWN = contract_of(definition_of(Printing))


def told(method: str, **changed: Any) -> dict[str, Any]:
    """Return the description of a method as it arrives."""
    description = json.loads(json.dumps(OWN.descriptions[method]))
    assert isinstance(description, dict)
    return {**description, **changed}


def contract(description: dict[str, Any]) -> Contract:
    return contract_of(definition_of(described_service(description)))


def method_of(description: dict[str, Any]) -> MethodDefinition:
    [method] = contract(description).definition.methods.values()
    return method


def codec_of(description: dict[str, Any]) -> Any:
    return contract(description).codecs(64, 1 << 20)[description["name"]]


@pytest.mark.parametrize("method", ["submit", "upload"])
def test_it_is_the_contract_of_the_server_by_its_hash(method: str) -> None:
    assert contract(told(method)).hashes[method] == OWN.hashes[method]
    assert contract(told(method)).descriptions[method] == OWN.descriptions[method]


def test_it_says_what_the_contract_says_of_names_shapes_and_repeating() -> None:
    submit, upload = method_of(told("submit")), method_of(told("upload"))
    assert (submit.full_name, submit.shape, submit.idempotent) == ("Printing.submit", Shape.UNARY, True)
    assert (upload.shape, upload.requests_name, upload.requests_index) == (Shape.BIDIRECTIONAL, "pages", 1)


def test_values_stay_as_they_travel_and_what_is_left_out_is_not_sent() -> None:
    ours, codec = OWN.codecs(64, 1 << 20)["submit"], codec_of(told("submit"))
    assert codec.encode_arguments(({"id": 7},), {}) == ours.encode_arguments((Job(7),), {})
    assert codec.decode_result(ours.encode_result(Job(7))) == {"id": 7}
    with pytest.raises(rpcnet.InvalidArgument, match="parameter 'job' is missing"):
        codec.encode_arguments((), {})


def test_a_built_in_service_has_its_name_of_two_parts() -> None:
    health = contract_of(definition_of(rpcnet.Health)).descriptions["check"]
    assert method_of(dict(health)).full_name == "rpcnet.Health.check"


def test_a_declared_error_arrives_as_a_class_of_its_name() -> None:
    ours, codec = OWN.codecs(64, 1 << 20)["submit"], codec_of(told("submit"))
    name, fields = ours.encode_error(OutOfPaper(3)) or ("", b"")
    error = codec.decode_application_error(name, fields)
    assert isinstance(error, rpcnet.ApplicationError)
    assert (type(error).__name__, error.status, vars(error)["tray"]) == ("OutOfPaper", rpcnet.Status.UNAVAILABLE, 3)


@pytest.mark.parametrize(
    ("name", "status", "field"),
    [
        ("OutOfPaper", "UNAVAILABLE", "x=print('run')"),
        ("OutOfPaper", "UNAVAILABLE", "x)\nimport os\ndef f(y"),
        ("OutOfPaper", "UNAVAILABLE", "class"),
        ("OutOfPaper", "UNAVAILABLE", "self"),
        ("OutOfPaper", "UNAVAILABLE", "_setattr"),
        ("OutOfPaper", "UNAVAILABLE", "__class__"),
        ("OutOfPaper", "UNAVAILABLE", "status"),
        ("OutOfPaper", "UNAVAILABLE", "args"),
        ("OutOfPaper", "UNAVAILABLE", "\u00e4"),
        ("OutOfPaper", "OK", "tray"),
        ("OutOfPaper", "BROKEN", "tray"),
        ("Out of paper", "UNAVAILABLE", "tray"),
        ("", "UNAVAILABLE", "tray"),
    ],
)
def test_an_error_that_no_class_should_be_made_of_arrives_as_its_status(name: str, status: str, field: str) -> None:
    fields = [{"name": field, "type": {"type": "int"}, "required": True}]
    assert method_of(told("submit", errors={name: {"status": status, "fields": fields}})).raises == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": "round"},
        {"shape": "unary"},
        {"requests": None},
        {"requests_index": None},
        {"requests_index": -1},
        {"requests_index": 2},
        {"result": {"type": "class", "name": "Nobody"}},
        {"parameters": 7},
    ],
)
def test_what_is_no_description_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not the description of a method|is not a valid Shape"):
        described_service(told("upload", **changed))


def test_requests_where_the_shape_has_none_are_refused() -> None:
    with pytest.raises(ValueError, match="not the description of a method: unary, with requests"):
        described_service(told("submit", requests={"type": "int"}, requests_index=0))
