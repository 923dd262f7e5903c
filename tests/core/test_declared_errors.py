"""Declared errors are attrs classes that cross the wire as themselves."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
from typing import Any, ClassVar

import attrs
import cbor2
import pytest
from _contracts import LIMIT, Page

from rpcnet._core.values import MethodCodec, compile_method
from rpcnet.errors import (
    ApplicationError,
    ConfigError,
    FailedPrecondition,
    Hop,
    InvalidArgument,
    NotFound,
    Status,
    StatusError,
    Unknown,
    error_for_status,
)
from rpcnet.service import definition_of, rpc, service


class OutOfPaper(ApplicationError):
    status: ClassVar[Status] = Status.RESOURCE_EXHAUSTED
    tray: int
    since: dt.date | None = None
    pages: list[Page] = attrs.field(factory=list)


class OutOfColour(OutOfPaper):
    colour: str = "red"


class Jammed(ApplicationError):
    message: str
    status = Status.UNAVAILABLE


class Strict(ApplicationError):
    tray: int = attrs.field(validator=attrs.validators.gt(0))


class WithOwnText(ApplicationError):
    tray: int

    def __str__(self) -> str:
        return f"tray {self.tray} is empty"


@service
class Printing:
    @rpc(raises=[OutOfPaper, Jammed, Strict])
    async def submit(self, job: int) -> None: ...


CODEC = compile_method(definition_of(Printing).methods["submit"], max_depth=64, max_bytes=LIMIT)


def test_an_error_is_made_raised_and_shown_as_a_value() -> None:
    error = OutOfPaper(3, pages=[Page(1)])
    assert (error.tray, error.since, error.pages) == (3, None, [Page(1)])
    assert (
        repr(error) == str(error) == error.message == "OutOfPaper(tray=3, since=None, pages=[Page(number=1, words=[])])"
    )
    assert error.args == (error.message,)
    with pytest.raises(StatusError, match=r"^OutOfPaper\(tray=3, "):
        raise error
    match error:
        case OutOfPaper(tray=3):
            pass
        case _:
            pytest.fail("the pattern does not match")


def test_errors_are_equal_by_class_and_fields_and_can_be_keys() -> None:
    one, same, other = OutOfPaper(3), OutOfPaper(tray=3), OutOfPaper(4)
    same.call_id, same.hops = "17", (Hop("a", "b.c"),)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != OutOfColour(3)
    assert len({one, same, other, OutOfPaper(3, pages=[Page(1)])}) == 3


def test_what_is_known_of_the_call_is_added_to_an_error_that_checks_its_fields() -> None:
    error = Strict(1)
    error.call_id = "17"
    assert str(error) == "Strict(tray=1) [call 17]"
    with pytest.raises(ValueError, match="'tray' must be > 0"):
        error.tray = 0
    with pytest.raises(ValueError, match="'tray' must be > 0"):
        Strict(0)


def test_a_wrong_construction_names_the_class() -> None:
    with pytest.raises(TypeError, match=r"^OutOfPaper\.?.*\(\) missing 1 required positional argument: 'tray'$"):
        OutOfPaper()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="ApplicationError is a base class: declare a subclass"):
        ApplicationError()


def test_a_field_called_message_is_the_message() -> None:
    error = Jammed("in tray 3")
    assert (str(error), error.message, error.args) == ("in tray 3", "in tray 3", ("in tray 3",))
    assert repr(error) == "Jammed(message='in tray 3')"
    assert str(WithOwnText(3)) == "tray 3 is empty"


@pytest.mark.parametrize("error", [OutOfPaper(3, pages=[Page(1)]), OutOfPaper(tray=3), Jammed("x"), OutOfColour(1)])
def test_copies_and_pickles_are_equal_and_keep_what_was_added(error: ApplicationError) -> None:
    error.call_id = "17"
    error.hops = (Hop("a", "b.c", "17"),)
    error.never_ran = True
    for made in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(made) is type(error)
        assert made == error
        assert (made.call_id, made.hops, made.never_ran) == ("17", error.hops, True)
        assert (str(made), made.args) == (str(error), error.args)


def test_a_field_that_would_hide_what_every_error_has_is_refused() -> None:
    for name in ("call_id", "never_ran", "hops", "remote_traceback", "args", "wire_fields"):
        with pytest.raises(ConfigError, match=rf"^Bad.{name}: every error has an attribute of this name$"):
            type("Bad", (ApplicationError,), {"__annotations__": {name: int}})
    for status in (Status.OK, 5):
        with pytest.raises(ConfigError, match=r"^Bad.status = .*: must be a Status other than OK$"):
            type("Bad", (ApplicationError,), {"status": status})


# --- on the wire


def arrived(error: ApplicationError, codec: MethodCodec = CODEC) -> ApplicationError | None:
    encoded = codec.encode_error(error)
    assert encoded is not None
    return codec.decode_application_error(*encoded)


def test_a_declared_error_arrives_as_itself() -> None:
    for error in (OutOfPaper(3, dt.date(2024, 5, 1), [Page(1, ["a"])]), Jammed("x"), Strict(1)):
        assert arrived(error) == error
    assert CODEC.encode_error(OutOfPaper(3)) == (
        "OutOfPaper",
        cbor2.dumps({"tray": 3, "since": None, "pages": []}),
    )


def test_an_error_arrives_as_the_nearest_class_that_is_declared() -> None:
    assert arrived(OutOfColour(3, colour="blue")) == OutOfPaper(3)
    assert CODEC.encode_error(WithOwnText(1)) is None


def test_what_is_not_declared_or_does_not_fit_gives_nothing() -> None:
    assert CODEC.decode_application_error("WithOwnText", b"\xa0") is None
    for fields in (b"", b"\xa0", b"\xff", b"\x01", cbor2.dumps({"tray": "3"}), cbor2.dumps({"tray": 3, "pages": [1]})):
        assert CODEC.decode_application_error("OutOfPaper", fields) is None
    assert CODEC.decode_application_error("Strict", cbor2.dumps({"tray": 0})) is None
    assert CODEC.decode_application_error("Jammed", cbor2.dumps({"message": "x" * LIMIT})) is None
    assert CODEC.decode_application_error("Jammed", cbor2.dumps({"message": "x", "new": 1})) == Jammed("x")


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OutOfPaper("3"), "OutOfPaper.tray: expected int, got str"),  # type: ignore[arg-type]
        (OutOfPaper(3, pages=[Page(1, [2])]), "OutOfPaper.pages[0].words[0]: expected str, got int"),  # type: ignore[list-item]
        (Jammed("\ud800"), "Jammed: cannot be sent: 'utf-8' codec can't encode"),
        (Jammed("x" * LIMIT), f"Jammed has {LIMIT + 14} bytes, at most {LIMIT} are allowed"),
    ],
)
def test_an_error_that_cannot_travel_names_the_field(error: ApplicationError, problem: str) -> None:
    with pytest.raises(TypeError) as caught:
        CODEC.encode_error(error)
    assert str(caught.value).startswith(f"Printing.submit: raised what cannot be sent: {problem}")


# --- where an error came from


def test_the_chain_is_shown_when_there_is_more_than_one_hop() -> None:
    hops = (Hop("edge", "printing.submit"), Hop("store", "store.get", "17"))
    assert str(NotFound("no such job")) == "no such job"
    assert str(NotFound("no such job", hops=hops[:1])) == "no such job"
    assert str(NotFound("no such job", call_id="17", hops=hops)) == (
        "no such job [call 17] (through edge: printing.submit, store: store.get)"
    )
    error = OutOfPaper(3)
    error.hops = hops
    assert str(error).endswith("(through edge: printing.submit, store: store.get)")


@pytest.mark.parametrize(
    ("status", "kind"), [(5, NotFound), (9, FailedPrecondition), (3, InvalidArgument), (99, Unknown)]
)
def test_an_error_is_built_from_all_that_travels(status: int, kind: type[StatusError]) -> None:
    hops = (Hop("a", "b.c"),)
    built: dict[str, Any] = {"call_id": "17", "never_ran": True, "hops": hops, "remote_traceback": "Traceback"}
    error = error_for_status(status, "lost", **built)
    assert type(error) is kind
    assert {name: getattr(error, name) for name in built} == built
    assert error.message == ("lost" if status < 17 else "status 99: lost")
    plain = error_for_status(status, "lost")
    assert (plain.call_id, plain.never_ran, plain.hops, plain.remote_traceback) == (None, False, (), None)
