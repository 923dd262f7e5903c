"""Declared errors as bytes: the name of the class, and one CBOR map of its fields.

The rules of this file:

* An error is sent as the class that the method declares, or as the nearest declared class that it derives from, as an
  ``except`` clause would take it.
* A reader that does not declare the name, or for which the fields do not fit, gets nothing from here: the status and
  the message, which travel beside it, stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cbor2 import dumps

from rpcnet.errors import ApplicationError
from rpcnet.service import MethodDefinition

from .cbor import CBOR_ERRORS, reason
from .conversion import Conversions
from .scalars import Mismatch

__all__ = ["ErrorCodec"]


class ErrorCodec:
    """Turns the declared errors of one method into bytes and back.

    Args:
        definition: the method.
        conversions: where the conversions of the fields come from.
        read: reads one CBOR item.
        max_bytes: the largest body.
    """

    __slots__ = ("_classes", "_conversions", "_max_bytes", "_name", "_read")

    def __init__(
        self, definition: MethodDefinition, conversions: Conversions, read: Callable[[bytes], Any], max_bytes: int
    ) -> None:
        self._name = definition.full_name
        self._classes = {error.__name__: error for error in definition.raises}
        self._conversions = {error: conversions.of(error) for error in definition.raises}
        self._read = read
        self._max_bytes = max_bytes

    def encode(self, error: ApplicationError) -> tuple[str, bytes] | None:
        """Return name and fields of an error; None if it is not declared.

        Raises:
            TypeError: a field is not of the annotated type, cannot be sent, or is too large.
        """
        declared = next((base for base in type(error).__mro__ if base in self._conversions), None)
        if declared is None:
            return None
        name = declared.__name__
        try:
            fields = dumps(self._conversions[declared].pack(error))
        except Mismatch as mismatch:
            problem = f"{name}{mismatch.path}: {mismatch.problem}"
        except CBOR_ERRORS as cause:
            problem = f"{name}: cannot be sent: {reason(cause)}"
        else:
            if len(fields) <= self._max_bytes:
                return name, fields
            problem = f"{name} has {len(fields)} bytes, at most {self._max_bytes} are allowed"
        raise TypeError(f"{self._name}: raised what cannot be sent: {problem}")

    def decode(self, name: str, fields: bytes) -> ApplicationError | None:
        """Return the error that a name and its fields stand for; None if that is not what the method declares."""
        declared = self._classes.get(name)
        if declared is None or len(fields) > self._max_bytes:
            return None
        try:
            error = self._conversions[declared].unpack(self._read(fields), None)
        except (Mismatch, *CBOR_ERRORS):
            return None
        return error if isinstance(error, ApplicationError) else None
