"""Arguments and results as bytes: one codec per method, compiled once.

The rules of this file:

* Arguments travel as one CBOR array in the order of the parameters, without names; a result travels as one CBOR item.
* Trailing parameters that the caller leaves out are not sent: the server's own defaults apply. So a parameter with a
  default may be added at the end, and old clients and new servers, and new clients that do not use it and old
  servers, go on talking.
* Limits come first: the length of the body before it is decoded, depth while it is decoded, and a declared length
  never takes memory that the body does not fill. No CBOR tag is accepted but those of integers beyond 64 bits, up to
  ``MAX_INTEGER_BYTES``. Bytes behind the item are not looked at: the frame around the body says where it ends.
* Map keys other than text and bytes are accepted only where an annotation asks for them, because hashes of numbers
  can be chosen to collide.
* Values of plain builtins cost one look at their type and the CBOR itself; everything else goes through
  ``conversion.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import cbor2
from cbor2 import dumps

from rpcnet._annotations import Form, describe, parts
from rpcnet.errors import Internal, InvalidArgument, ResourceExhausted, RpcNetError
from rpcnet.service import MethodDefinition, Requirement, ServiceDefinition

from .conversion import Conversions
from .scalars import Mismatch

__all__ = ["MAX_INTEGER_BYTES", "MethodCodec", "compile_method", "compile_service"]

MAX_INTEGER_BYTES = 1024
"""The largest integer, in bytes: 2,466 decimal digits, below the 4,300 that Python converts to text."""

_KNOWN_TAGS = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""The tags that cbor2 decodes by itself, apart from the two for integers."""

_ONE = b"\x81"
"""The header of an array of one element. In front of the element it is what dumps makes of a list, in half the time."""

_CBOR_ERRORS = (cbor2.CBORError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not used here")


def _positive(payload: object, _: bool) -> int:  # noqa: FBT001 - cbor2's signature
    if not isinstance(payload, bytes):
        raise TypeError("an integer must be bytes")
    if len(payload) > MAX_INTEGER_BYTES:
        raise ValueError(f"an integer of {len(payload)} bytes, at most {MAX_INTEGER_BYTES} are allowed")
    return int.from_bytes(payload)


def _negative(payload: object, immutable: bool) -> int:  # noqa: FBT001 - cbor2's signature
    return -1 - _positive(payload, immutable)


_DECODERS: Mapping[int, Any] = {**dict.fromkeys(_KNOWN_TAGS, _refuse_tag), 2: _positive, 3: _negative}


def _reader(definition: MethodDefinition, max_depth: int) -> Callable[[bytes], Any]:
    annotations = [parameter.annotation for parameter in definition.parameters] + [definition.result]
    return functools.partial(
        cbor2.loads,
        max_depth=max_depth,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=not any(_has_other_keys(annotation) for annotation in annotations),
        semantic_decoders=_DECODERS,
        tag_hook=_refuse_tag,
    )


def _has_other_keys(annotation: Any) -> bool:
    for part in parts(annotation):
        if part.form is Form.ANY or (part.form is Form.DICT and describe(part.arguments[0]).type not in (str, bytes)):
            return True
    return False


def _reason(error: BaseException) -> str:
    return f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)


class MethodCodec:
    """Turns the arguments and the result of one method into bytes and back.

    Args:
        definition: the method.
        conversions: where the conversions of the annotations come from.
        max_depth: how deep values may nest.
        max_bytes: the largest body.
    """

    __slots__ = (
        "_conversions",
        "_first",
        "_max_bytes",
        "_read",
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
        self._signature = [(parameter.name, parameter.default) for parameter in definition.parameters]
        self._required = sum(parameter.is_required for parameter in definition.parameters)
        # What a call with one argument may hold to need neither binding nor conversion.
        self._first = self._conversions[0].exact if self._conversions and self._required <= 1 else frozenset[type]()
        self._result = conversions.of(definition.result)
        self._result_exact = self._result.exact
        self._read = _reader(definition, max_depth)
        self._max_bytes = max_bytes

    def encode_arguments(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """Bind the arguments as Python would and return the body of the request.

        Raises:
            InvalidArgument: the arguments do not fit the parameters; the message names method and parameter.
            ResourceExhausted: the body is larger than ``max_bytes``.
        """
        if len(args) != 1 or kwargs or type(args[0]) not in self._first:
            args = self._pack(args, kwargs)
        try:
            body = _ONE + dumps(args[0]) if len(args) == 1 else dumps(args)
        except _CBOR_ERRORS as error:
            raise self._unwritable(args, error) from None
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
        except _CBOR_ERRORS as error:
            raise self._invalid(f"the arguments cannot be read: {_reason(error)}") from None
        if type(values) is list and len(values) == 1 and type(values[0]) in self._first:
            return values
        return self._unpack(values)

    def encode_result(self, value: object) -> bytes:
        """Return the body of the response.

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
        except _CBOR_ERRORS as error:
            raise TypeError(f"{self.definition.full_name}: returned what cannot be sent: {_reason(error)}") from None
        if len(body) > self._max_bytes:
            raise self._too_large("result", body)
        return body

    def decode_result(self, body: bytes) -> object:
        """Return the result in a response's body.

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
        except _CBOR_ERRORS as error:
            problem = f"the result cannot be read: {_reason(error)}"
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

    def _pack(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[object, ...]:
        bound = self._bind(args, kwargs) if kwargs or len(args) != len(self._signature) else args
        return tuple(
            [
                value if type(value) in conversion.exact else self._convert(index, conversion.pack, value)
                for index, (value, conversion) in enumerate(zip(bound, self._conversions, strict=False))
            ]
        )

    def _unpack(self, values: Any) -> list[object]:
        if type(values) is not list or not self._required <= len(values) <= len(self._conversions):
            raise self._wrong_count(values)
        return [
            value if type(value) in conversion.exact else self._convert(index, conversion.unpack, value, None)
            for index, (value, conversion) in enumerate(zip(values, self._conversions, strict=False))
        ]

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

    def _unwritable(self, args: tuple[object, ...], error: BaseException) -> InvalidArgument:
        """Find the argument that CBOR cannot hold: text with lone surrogates, a list that contains itself."""
        for value, parameter in zip(args, self.definition.parameters, strict=False):
            try:
                dumps(value)
            except _CBOR_ERRORS as own:
                return self._invalid(f"{parameter.name}: cannot be sent: {_reason(own)}")
        return self._invalid(f"the arguments cannot be sent: {_reason(error)}")

    def _too_large(self, what: str, body: bytes) -> RpcNetError:
        name = self.definition.full_name
        has = "arguments have" if what == "arguments" else "result has"
        message = f"{name}: the {has} {len(body)} bytes, at most {self._max_bytes} are allowed"
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
