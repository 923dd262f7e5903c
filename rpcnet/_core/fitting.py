"""Whether a client and a server that hold different versions of a contract can talk.

The rules of this file:

* Two descriptions fit when whatever the one side may write is what the other side reads, by the rules of ``values.py``
  and ``conversion.py``: arguments and request items from the client to the server, results, items and errors back.
* Arguments have positions, not names, on the wire. A parameter may have another name on the other side, but two that
  both sides name must not have changed places.
* A parameter that only one side knows must be optional there, and a caller that uses it is refused by a server that
  does not know it. A field that only the reader knows must be optional; one that only the writer knows is ignored.
* The reader may take more than the writer gives. What a type takes is what its bytes allow: text is read as ``str``
  whether it was a date or an enum, an int is good for a float. A union whose members travel with names is something
  else than one member alone.
* An error that one side does not declare is no difference: its status arrives. An error that both declare must be
  readable.
* A description may come from a stranger: the work grows with its length, and no more than ``MAX_PROBLEMS`` are told.
* Left to the calls themselves: ints beyond what a float can hold, and dicts with keys other than text in an ``Any``
  that the reader ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schema import FieldDescription, NamedDescription, TypeDescription, read_description
from .wire_forms import KINDS, Side, alternatives, mask_of, show, tag_of

__all__ = ["MAX_PROBLEMS", "differences"]

MAX_PROBLEMS = 20
"""Differences of one direction that are told; a contract that differs so much is another one."""

_MAX_SHOWN = 200
"""Characters of a type in a sentence."""

_SCALARS_READ = {
    "str": ("str", "datetime", "date", "decimal"),
    "bytes": ("bytes", "uuid"),
    "datetime": ("datetime", "date"),
    "date": ("date",),
    "decimal": ("decimal",),
    "uuid": ("uuid",),
    "int": ("int",),
    "float": ("float", "int"),
}
"""For each type that is read, the types whose bytes it takes; flags are ints."""


def differences(client: Mapping[str, Any], server: Mapping[str, Any]) -> list[str]:
    """Return what keeps a client with one description of a method from calling a server with another.

    Args:
        client: what ``describe_method`` says where the call is made.
        server: what it says where the call is run.

    Returns:
        One sentence for each difference, with the method, the place and both sides; empty if the two fit.

    Raises:
        ValueError: one of the two is no description of a method.
    """
    one, other = Side("client", read_description(client)), Side("server", read_description(server))
    if one.method.shape != other.method.shape:
        name, shape = one.method.full_name, one.method.shape
        return [f"{name}: the client calls it as {shape}, the server serves it as {other.method.shape}"]
    try:
        return _compare(one, other)
    except RecursionError:
        raise ValueError("not the descriptions of methods: they nest too deep") from None


def _compare(client: Side, server: Side) -> list[str]:
    towards = _Comparison(client, server, client.method.full_name)
    towards.parameters()
    sent, taken = client.method.requests, server.method.requests
    if sent is not None and taken is not None:
        towards.compare(f"the items of {client.method.requests_name!r}", sent, taken)
    back = _Comparison(server, client, client.method.full_name)
    back.compare("the result", server.method.result, client.method.result)
    for name, error in client.method.errors.items():
        if name in server.method.errors:
            back.fields(f"error {name}", name, server.method.errors[name].fields, error.fields)
    return towards.problems + back.problems


def _is_single(found: TypeDescription) -> bool:
    return found.type == "tuple" and len(found.items) <= 1


class _Comparison:
    """Compares what one side writes with what the other reads, and collects what does not fit."""

    def __init__(self, writer: Side, reader: Side, name: str) -> None:
        self.problems: list[str] = []
        self._writer = writer
        self._reader = reader
        self._name = name
        self._reads_keys = reader.reads_other_keys()
        self._classes_with_keys = writer.classes_with_other_keys()
        self._seen: dict[tuple[str, str], None] = {}

    def parameters(self) -> None:
        """Compare the arguments that a client sends with those that a server takes."""
        sent, taken = self._writer.method.parameters, self._reader.method.parameters
        positions = {parameter.name: index for index, parameter in enumerate(taken)}
        for index, parameter in enumerate(sent):
            place = f"parameter {parameter.name!r}"
            if positions.get(parameter.name, index) != index:
                there = positions[parameter.name] + 1
                self._say(f"{place} is number {index + 1} at the client and number {there} at the server")
            elif index >= len(taken):
                if parameter.required:
                    self._say(f"{place} is sent by the client, the server does not know it")
            else:
                if taken[index].required and not parameter.required:
                    self._say(f"{place} may be left out by the client, the server requires it")
                self.compare(place, parameter.type, taken[index].type)
        for parameter in taken[len(sent) :]:
            if parameter.required:
                self._say(f"parameter {parameter.name!r} is required by the server, the client does not know it")

    def compare(self, place: str, written: TypeDescription, read: TypeDescription) -> None:
        """Compare two types."""
        if read.type == "any" or len(self.problems) >= MAX_PROBLEMS:
            return
        for one in alternatives(written):
            self._alternative(place, one, read)

    def _alternative(self, place: str, written: TypeDescription, read: TypeDescription) -> None:
        values = self._writer.finite(written)
        if values is not None:
            fits = all(self._reader.takes(read, value) for value in values)
        else:
            (kind,) = self._writer.kinds(written)
            readers = self._reader.readers(read, kind)
            if read.tags and kind == "list":
                readers = [one for one in readers if tag_of(one) == tag_of(written)]
            if readers and self._one(place, written, readers[0]):
                return
            fits = False
        if not fits:
            self._say(f"{place}: {self._sides(written, read)}")

    def _one(self, place: str, written: TypeDescription, read: TypeDescription) -> bool:
        """Compare two types of the same kind, neither a union; return False if the types as such do not fit."""
        kind = KINDS.get(read.type)
        if kind == "list":
            return self._lists(place, written, read)
        if kind == "map":
            return self._maps(place, written, read)
        if self._reader.is_flag(read):
            flag = self._reader.named(read)
            if not self._writer.is_flag(written):
                return flag.open
            return flag.open or self._flag_fits(self._writer.named(written), flag)
        written_type = "int" if self._writer.is_flag(written) else written.type
        return written_type in _SCALARS_READ.get(read.type, ())

    def _flag_fits(self, written: NamedDescription, read: NamedDescription) -> bool:
        return not written.open and not mask_of(written) & ~mask_of(read)

    def _lists(self, place: str, written: TypeDescription, read: TypeDescription) -> bool:
        if written.type == "tuple" and read.type == "tuple":
            if len(written.items) != len(read.items):
                return False
            tag = tag_of(read)
            for number, (one, other) in enumerate(zip(written.items, read.items, strict=True), 1):
                step = f"as {tag}" if tag is not None and number == 2 else f"element {number}"
                self.compare(f"{place}, {step}", one, other)
            return True
        if read.type == "tuple" or (read.type == "set" and written.type != "set" and not _is_single(written)):
            return False
        for number, one in enumerate(written.items, 1):
            step = f"element {number}" if written.type == "tuple" else "each element"
            self.compare(f"{place}, {step}", one, read.items[0])
        return True

    def _maps(self, place: str, written: TypeDescription, read: TypeDescription) -> bool:
        if written.type == "class" and read.type == "class":
            pair = written.name, read.name
            if pair not in self._seen:
                self._seen[pair] = None
                own = self._reader.named(read).fields
                self.fields(place, read.name, self._writer.named(written).fields, own)
            return True
        if read.type == "dict":
            names, values = read.items
            if written.type == "dict":
                self.compare(f"{place}, each key", written.items[0], names)
                self.compare(f"{place}, each value", written.items[1], values)
                return True
            fields = self._writer.named(written).fields
            for field in fields:
                self.compare(f"{place}, field {written.name}.{field.name}", field.type, values)
            return all(self._reader.takes(names, field.name) for field in fields)
        return self._dict_as_class(place, written, read)

    def _dict_as_class(self, place: str, written: TypeDescription, read: TypeDescription) -> bool:
        """Compare a dict with a class: any field may be missing, and any may be there that can be a key."""
        fields = self._reader.named(read).fields
        if any(field.required for field in fields) or (
            not self._reads_keys and self._writer.has_other_keys(written, self._classes_with_keys)
        ):
            return False
        for field in fields:
            if self._writer.takes(written.items[0], field.name):
                self.compare(f"{place}, field {read.name}.{field.name}", written.items[1], field.type)
        return True

    def fields(
        self,
        place: str,
        name: str,
        written: tuple[FieldDescription, ...],
        read: tuple[FieldDescription, ...],
    ) -> None:
        """Compare the fields of two classes, or of two errors."""
        sent = {field.name: field.type for field in written}
        for field in read:
            step = f"{place}, field {name}.{field.name}"
            if field.name in sent:
                self.compare(step, sent.pop(field.name), field.type)
            elif field.required:
                self._say(f"{step} is required by the {self._reader.who}, the {self._writer.who} does not know it")
        for left, kind in sent.items():
            if not self._reads_keys and self._writer.has_other_keys(kind, self._classes_with_keys):
                step = f"{place}, field {name}.{left}"
                self._say(f"{step} is not known to the {self._reader.who}, which reads no dict with such keys")

    def _sides(self, written: TypeDescription, read: TypeDescription) -> str:
        sent, taken = show(written)[:_MAX_SHOWN], show(read)[:_MAX_SHOWN]
        return f"the {self._writer.who} sends {sent}, the {self._reader.who} reads {taken}"

    def _say(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{self._name}: {problem}")
