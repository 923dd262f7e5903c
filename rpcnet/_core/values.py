"""Arguments, results and the items of streams as bytes: one codec per method, compiled once.

The rules of this file:

* Arguments travel as one CBOR array in the order of the parameters, without names; a result, and each item of a stream,
  travels as one CBOR item. A parameter that is a stream is not among the arguments.
* Trailing parameters that the caller leaves out are not sent: the server's own defaults apply. So a parameter with a
  default may be added at the end, and old clients and new servers, and new clients that do not use it and old
  servers, go on talking.
* Limits come first: the length of the body before it is decoded, then those of ``cbor.py`` while it is decoded.
* A declared error travels as its name and one CBOR map of its fields.
* Values of plain builtins cost one look at their type and the CBOR itself; everything else goes through
  ``conversion.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from cbor2 import dumps

from rpcnet._annotations import Form, describe, parts
from rpcnet.errors import ApplicationError, Internal, InvalidArgument, ResourceExhausted, RpcNetError
from rpcnet.service import MethodDefinition, Requirement, ServiceDefinition

from .cbor import CBOR_ERRORS, MAX_INTEGER_BYTES, reader, reason
from .conversion import Conversions
from .declared import ErrorCodec
from .scalars import Conversion, Mismatch

__all__ = ["MAX_INTEGER_BYTES", "MethodCodec", "compile_method", "compile_service"]

_ONE = b"\x81"
"""The header of an array of one element. In front of the element it is what dumps makes of a list, in half the time."""


def _refuse(*_: object) -> NoReturn:
    raise Mismatch("the method takes no stream")


_NO_STREAM = Conversion(frozenset(), _refuse, _refuse)


def _has_other_keys(annotations: Iterable[Any]) -> bool:
    """Return whether values of these annotations have map keys other than text and bytes."""
    for annotation in annotations:
        for part in parts(annotation):
            if part.form is Form.ANY:
                return True
            if part.form is Form.DICT and describe(part.arguments[0]).type not in (str, bytes):
                return True
    return False


class MethodCodec:
    """Turns the arguments, the items, the results and the errors of one method into bytes and back.

    Args:
        definition: the method.
        conversions: where the conversions of the annotations come from.
        max_depth: how deep values may nest.
        max_bytes: the largest body.
    """

    __slots__ = (
        "_conversions",
        "_errors",
        "_exact",
        "_first",
        "_is_plain",
        "_max_bytes",
        "_read",
        "_request",
        "_request_exact",
        "_required",
        "_result",
        "_result_exact",
        "_signature",
        "definition",
    )

    def __init__(
        self, definition: MethodDefinition, conversions: Conversions, *, max_depth: int, max_bytes: int
    ) -> None:
        self.definition = definition
        self._conversions = [conversions.of(parameter.annotation) for parameter in definition.parameters]
        self._exact = [conversion.exact for conversion in self._conversions]
        self._is_plain = all(self._exact)
        self._signature = [(parameter.name, parameter.default) for parameter in definition.parameters]
        self._required = sum(parameter.is_required for parameter in definition.parameters)
        # What a call with one argument may hold to need neither binding nor conversion.
        self._first = self._conversions[0].exact if self._conversions and self._required <= 1 else frozenset[type]()
        self._result = conversions.of(definition.result)
        self._result_exact = self._result.exact
        self._request = _NO_STREAM if definition.requests is None else conversions.of(definition.requests)
        self._request_exact = self._request.exact
        annotations = [parameter.annotation for parameter in definition.parameters]
        annotations += [definition.result, definition.requests, *definition.raises]
        self._read = reader(max_depth=max_depth, other_keys=_has_other_keys(annotations))
        self._errors = ErrorCodec(definition, conversions, self._read, max_bytes)
        self._max_bytes = max_bytes

    def encode_arguments(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """Bind the arguments as Python would and return the body of the request.

        Raises:
            InvalidArgument: the arguments do not fit the parameters; the message names method and parameter.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        packed: Sequence[object] = args
        if len(args) != 1 or kwargs or type(args[0]) not in self._first:
            packed = self._pack(args, kwargs)
        try:
            body = _ONE + dumps(packed[0]) if len(packed) == 1 else dumps(packed)
        except CBOR_ERRORS as error:
            raise self._unwritable(packed, error) from None
        if len(body) > self._max_bytes:
            raise self._too_large("arguments", body)
        return body

    def decode_arguments(self, body: bytes) -> list[object]:
        """Return the arguments in a request's body, in order; trailing ones that were left out are not in the list.

        Raises:
            InvalidArgument: the body does not hold what the method takes; the message names the parameter and says
                what arrived.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        if len(body) > self._max_bytes:
            raise self._too_large("arguments", body)
        try:
            values = self._read(body)
        except CBOR_ERRORS as error:
            raise self._invalid(f"the arguments cannot be read: {reason(error)}") from None
        if type(values) is list and len(values) == 1 and type(values[0]) in self._first:
            return values
        return self._unpack(values)

    def split_requests(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], Mapping[str, object], AsyncIterable[object] | None]:
        """Take the stream of request items out of a caller's arguments; None where the method takes none.

        Raises:
            InvalidArgument: there is no stream, or what stands in its place is none.
        """
        index, name = self.definition.requests_index, self.definition.requests_name
        if index is None:
            return args, kwargs, None
        if len(args) > index:
            if name in kwargs:
                raise self._invalid(f"got parameter {name!r} twice")
            requests = args[index]
            args = args[:index] + args[index + 1 :]
        elif name in kwargs:
            requests = kwargs[name]
            kwargs = {key: value for key, value in kwargs.items() if key != name}
        else:
            raise self._invalid(f"parameter {name!r} is missing")
        if not isinstance(requests, AsyncIterable):
            raise self._invalid(f"{name}: {Mismatch.of('an async iterable', requests).problem}")
        return args, kwargs, requests

    def encode_request(self, item: object) -> bytes:
        """Return the body of one item of the request stream.

        Raises:
            InvalidArgument: the item is not of the annotated type, or cannot be sent; the message names method and
                parameter.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        try:
            body = dumps(item if type(item) in self._request_exact else self._request.pack(item))
        except Mismatch as mismatch:
            raise self._bad_item(f"{mismatch.path}: {mismatch.problem}") from None
        except CBOR_ERRORS as error:
            raise self._bad_item(f": cannot be sent: {reason(error)}") from None
        if len(body) > self._max_bytes:
            raise self._too_large("item", body)
        return body

    def decode_request(self, body: bytes) -> object:
        """Return the item of the request stream that a body holds.

        Raises:
            InvalidArgument: the body does not hold what the stream is made of; the message names the parameter.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        if len(body) > self._max_bytes:
            raise self._too_large("item", body)
        try:
            value = self._read(body)
            return value if type(value) in self._request_exact else self._request.unpack(value, None)
        except Mismatch as mismatch:
            problem = f"{mismatch.path}: {mismatch.problem}"
        except CBOR_ERRORS as error:
            problem = f": cannot be read: {reason(error)}"
        raise self._bad_item(problem)

    def encode_error(self, error: ApplicationError) -> tuple[str, bytes] | None:
        """Return name and fields of an error as the method declares it; None if it does not.

        Raises:
            TypeError: a field is not of the annotated type, cannot be sent, or is too large.
        """
        return self._errors.encode(error)

    def decode_application_error(self, name: str, fields: bytes) -> ApplicationError | None:
        """Return the declared error of a name; None if there is none, or its fields do not fit."""
        return self._errors.decode(name, fields)

    def encode_result(self, value: object) -> bytes:
        """Return the body of the response, or of one item of it.

        Raises:
            TypeError: the value is not of the annotated type, or cannot be sent; the message names the method.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        try:
            body = dumps(value if type(value) in self._result_exact else self._result.pack(value))
        except Mismatch as mismatch:
            raise TypeError(
                f"{self.definition.full_name}: returned the wrong type: result{mismatch.path}: {mismatch.problem}"
            ) from None
        except CBOR_ERRORS as error:
            raise TypeError(f"{self.definition.full_name}: returned what cannot be sent: {reason(error)}") from None
        if len(body) > self._max_bytes:
            raise self._too_large("result", body)
        return body

    def decode_result(self, body: bytes) -> object:
        """Return the result, or one item of it, in a response's body.

        Raises:
            Internal: the body does not hold what the method returns: the server has another idea of the contract.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        if len(body) > self._max_bytes:
            raise self._too_large("result", body)
        try:
            value = self._read(body)
            return value if type(value) in self._result_exact else self._result.unpack(value, None)
        except Mismatch as mismatch:
            problem = f"result{mismatch.path}: {mismatch.problem}"
        except CBOR_ERRORS as error:
            problem = f"the result cannot be read: {reason(error)}"
        raise Internal(f"{self.definition.full_name}: {problem}")

    def _bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[object]:
        bound = list(args)
        end, named = len(args), 0
        for name, default in self._signature[len(args) :]:
            if name in kwargs:
                bound.append(kwargs[name])
                end, named = len(bound), named + 1
            elif default is Requirement.REQUIRED:
                raise self._unbound(args, kwargs, f"parameter {name!r} is missing")
            else:
                bound.append(default)
        if named != len(kwargs) or len(args) > len(self._signature):
            raise self._unbound(args, kwargs, f"takes {len(self._signature)} arguments, got {len(args)}")
        del bound[end:]
        return bound

    def _unbound(self, args: tuple[object, ...], kwargs: Mapping[str, object], otherwise: str) -> InvalidArgument:
        names = [name for name, _ in self._signature]
        for name in kwargs:
            if name not in names:
                return self._invalid(f"has no parameter {name!r}")
            if name in names[: len(args)]:
                return self._invalid(f"got parameter {name!r} twice")
        return self._invalid(otherwise)

    def _pack(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Sequence[object]:
        bound = self._bind(args, kwargs) if kwargs or len(args) != len(self._signature) else args
        if self._is_plain and self._are_exact(bound):
            return bound
        return [
            value if type(value) in conversion.exact else self._convert(index, conversion.pack, value)
            for index, (value, conversion) in enumerate(zip(bound, self._conversions, strict=False))
        ]

    def _unpack(self, values: Any) -> list[object]:
        if type(values) is not list or not self._required <= len(values) <= len(self._conversions):
            raise self._wrong_count(values)
        if self._is_plain and self._are_exact(values):
            return values
        return [
            value if type(value) in conversion.exact else self._convert(index, conversion.unpack, value, None)
            for index, (value, conversion) in enumerate(zip(values, self._conversions, strict=False))
        ]

    def _are_exact(self, values: Sequence[object]) -> bool:
        """Return whether values travel as they are, all of them; there are no more of them than parameters."""
        for value, exact in zip(values, self._exact, strict=False):  # noqa: SIM110 - a generator costs twice as much
            if type(value) not in exact:
                return False
        return True

    def _convert(self, index: int, function: Callable[..., Any], *arguments: Any) -> Any:
        name = self.definition.parameters[index].name
        try:
            return function(*arguments)
        except Mismatch as mismatch:
            raise self._invalid(f"{name}{mismatch.path}: {mismatch.problem}") from None
        except RecursionError:
            raise self._invalid(f"{name}: nests too deep") from None

    def _wrong_count(self, values: object) -> InvalidArgument:
        if not isinstance(values, list):
            return self._invalid(f"the arguments cannot be read: expected a list, got {type(values).__name__}")
        if len(values) > len(self._conversions):
            return self._invalid(f"takes {len(self._conversions)} arguments, got {len(values)}")
        return self._invalid(f"parameter {self.definition.parameters[len(values)].name!r} is missing")

    def _unwritable(self, args: Sequence[object], error: BaseException) -> InvalidArgument:
        """Find the argument that CBOR cannot hold: text with lone surrogates, a list that contains itself."""
        for value, parameter in zip(args, self.definition.parameters, strict=False):
            try:
                dumps(value)
            except CBOR_ERRORS as own:
                return self._invalid(f"{parameter.name}: cannot be sent: {reason(own)}")
        return self._invalid(f"the arguments cannot be sent: {reason(error)}")

    def _bad_item(self, problem: str) -> InvalidArgument:
        return InvalidArgument(f"{self.definition.full_name}: {self.definition.requests_name or 'items'}{problem}")

    def _too_large(self, what: str, body: bytes) -> RpcNetError:
        name = self.definition.full_name
        if what == "item":
            what = f"item of {self.definition.requests_name!r}"
        has = "have" if what == "arguments" else "has"
        message = f"{name}: the {what} {has} {len(body)} bytes, at most {self._max_bytes} are allowed"
        return ResourceExhausted(message, never_ran=what == "arguments")

    def _invalid(self, problem: str) -> InvalidArgument:
        return InvalidArgument(f"{self.definition.full_name}: {problem}", never_ran=True)


def compile_method(definition: MethodDefinition, *, max_depth: int, max_bytes: int) -> MethodCodec:
    """Compile the codec of one method.

    Args:
        definition: the method, whose annotations the service decorator has checked.
        max_depth: how deep values may nest.
        max_bytes: the largest body of a request or a response.
    """
    return MethodCodec(definition, Conversions(max_depth), max_depth=max_depth, max_bytes=max_bytes)


def compile_service(definition: ServiceDefinition, *, max_depth: int, max_bytes: int) -> Mapping[str, MethodCodec]:
    """Compile the codecs of all methods of a service, by method name."""
    conversions = Conversions(max_depth)
    codecs = {
        name: MethodCodec(method, conversions, max_depth=max_depth, max_bytes=max_bytes)
        for name, method in definition.methods.items()
    }
    return MappingProxyType(codecs)
