"""Conversion of values: from what an annotation says to what CBOR has, and back.

The rules of this file:

* Packed data is None, bool, int, float, str, bytes, list and dict only: no CBOR tags, so a reader needs no decoder for
  any. Classes are maps by field name, sets are lists; single values are in ``scalars.py``.
* Fields that a class does not know are ignored and fields with defaults may be missing, so that a class can grow while
  old and new nodes talk to each other.
* Members of a union travel bare where CBOR's types tell them apart, otherwise as ``[name, value]``.
* cattrs generates the code for classes and asks here for the conversions of their fields, whatever their types derive
  from: an IntEnum is an enum, not an int.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cattrs
from cattrs.errors import AttributeValidationNote, ClassValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from rpcnet._annotations import (
    Description,
    Form,
    class_fields,
    describe,
    runtime_types,
    show,
    union_tags,
    wire_types,
)

from .scalars import (
    LEAVES,
    NONE,
    PLAIN,
    Conversion,
    Mismatch,
    Pack,
    Unpack,
    any_conversion,
    enum_conversion,
    literal_conversion,
)

__all__ = ["Conversions"]


class _Converter(cattrs.Converter):
    """What cattrs asks for the conversions of fields."""

    def __init__(self, of: Callable[[Any], Conversion]) -> None:
        super().__init__(detailed_validation=True)
        self._of = of

    def get_structure_hook(self, type: Any, cache_result: bool = True) -> Unpack:  # noqa: A002, FBT001, FBT002 - cattrs' signature
        return self._of(type).unpack

    def get_unstructure_hook(self, type: Any, cache_result: bool = True) -> Pack:  # noqa: A002, FBT001, FBT002 - cattrs' signature
        return self._of(type).pack


class Conversions:
    """Builds conversions, each once per annotation.

    Args:
        max_depth: how deep the values of an ``Any`` may nest.
    """

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._made: dict[Any, Conversion] = {}
        self._converter = _Converter(self.of)

    def of(self, annotation: Any) -> Conversion:
        """Return the conversion of an annotation that :func:`check_annotation` has accepted."""
        described = describe(annotation)
        key = (described.form, described.type, described.arguments)
        if key not in self._made:
            if described.form is Form.CLASS:
                self._made[key] = self._forward(key)  # what a class that contains itself finds
            self._made[key] = self._make(described)
        return self._made[key]

    def _forward(self, key: Any) -> Conversion:
        def pack(value: Any) -> Any:
            return self._made[key].pack(value)

        def unpack(value: Any, kind: Any) -> Any:
            return self._made[key].unpack(value, kind)

        return Conversion(frozenset(), pack, unpack)

    def _make(self, described: Description) -> Conversion:
        match described.form:
            case Form.ANY:
                return any_conversion(self._max_depth)
            case Form.PLAIN:
                return PLAIN[described.type]
            case Form.LEAF:
                return LEAVES[described.type]
            case Form.ENUM:
                return enum_conversion(described.type)
            case Form.LITERAL:
                return literal_conversion(described)
            case Form.CLASS:
                return self._class(described.type)
            case Form.LIST:
                accepted = list if described.type is list else (list, tuple)
                return _list(described.type.__name__, accepted, self.of(described.arguments[0]))
            case Form.SET:
                return _set(described.type, self.of(described.arguments[0]))
            case Form.RUN:
                return _run(self.of(described.arguments[0]))
            case Form.TUPLE:
                return _tuple([self.of(argument) for argument in described.arguments])
            case Form.DICT:
                return _dict(described.type, *map(self.of, described.arguments))
            case Form.UNION:
                return _union(described, {member: self.of(member) for member in described.arguments})

    def _class(self, cls: type) -> Conversion:
        fields = {name: self.of(annotation) for name, annotation in class_fields(cls).items()}
        write: Pack = make_dict_unstructure_fn(cls, self._converter)
        read: Unpack = make_dict_structure_fn(cls, self._converter)

        def pack(value: Any) -> Any:
            if not isinstance(value, cls):
                raise Mismatch.of(cls.__name__, value)
            try:
                return write(value)
            except Mismatch as mismatch:
                raise _in_field(mismatch, value, fields) from None

        def unpack(value: Any, _: Any) -> Any:
            if type(value) is not dict:
                raise Mismatch.of(cls.__name__, value)
            try:
                return read(value, cls)
            except ClassValidationError as group:
                raise _explain(cls, group) from None

        return Conversion(frozenset(), pack, unpack)


def _in_field(mismatch: Mismatch, value: object, fields: Mapping[str, Conversion]) -> Mismatch:
    """Find the field in which packing failed, because generated code does not say."""
    for name, conversion in fields.items():
        try:
            conversion.pack(getattr(value, name))
        except Mismatch as inner:
            return inner.inside(f".{name}")
    return mismatch


def _explain(cls: type, group: ClassValidationError) -> Mismatch:
    """Turn the first thing that cattrs found wrong with a class into one line."""
    first = group.exceptions[0]
    notes = [note for note in getattr(first, "__notes__", ()) if isinstance(note, AttributeValidationNote)]
    step = f".{notes[0].name}" if notes else ""
    if isinstance(first, Mismatch):
        return first.inside(step)
    if notes and isinstance(first, KeyError):
        return Mismatch("missing", step)
    return Mismatch(f"{cls.__name__} refuses it: {first}", step)


# --- containers


def _pack_each(values: Iterable[Any], element: Conversion) -> list[Any]:
    packed: list[Any] = []
    pack = element.pack
    try:
        for value in values:
            packed.append(pack(value))  # noqa: PERF401 - the length says where it failed
    except Mismatch as mismatch:
        raise mismatch.inside(f"[{len(packed)}]") from None
    return packed


def _unpack_each(values: list[Any], element: Conversion) -> list[Any]:
    if element.exact.issuperset(map(type, values)):
        return values
    unpacked: list[Any] = []
    unpack = element.unpack
    try:
        for value in values:
            unpacked.append(unpack(value, None))  # noqa: PERF401 - the length says where it failed
    except Mismatch as mismatch:
        raise mismatch.inside(f"[{len(unpacked)}]") from None
    return unpacked


def _list(name: str, accepted: Any, element: Conversion) -> Conversion:
    def pack(value: Any) -> Any:
        if not isinstance(value, accepted):
            raise Mismatch.of(name, value)
        if element.exact.issuperset(map(type, value)):
            return value
        return _pack_each(value, element)

    def unpack(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise Mismatch.of(name, value)
        return _unpack_each(value, element)

    return Conversion(frozenset(), pack, unpack)


def _set(kind: Any, element: Conversion) -> Conversion:
    def pack(value: Any) -> Any:
        if not isinstance(value, kind):
            raise Mismatch.of(kind.__name__, value)
        packed = _pack_each(value, element)
        try:
            packed.sort()  # where there is an order, the same set gives the same bytes in every process
        except TypeError:
            return packed
        return packed

    def unpack(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise Mismatch.of(kind.__name__, value)
        try:
            found = kind(_unpack_each(value, element))
        except TypeError:
            raise Mismatch(f"expected {kind.__name__}, got an element that is not hashable") from None
        if len(found) != len(value):
            raise Mismatch(f"expected {kind.__name__}, got an element twice")
        return found

    return Conversion(frozenset(), pack, unpack)


def _run(element: Conversion) -> Conversion:
    def pack(value: Any) -> Any:
        if not isinstance(value, tuple):
            raise Mismatch.of("tuple", value)
        return _pack_each(value, element)

    def unpack(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise Mismatch.of("tuple", value)
        return tuple(_unpack_each(value, element))

    return Conversion(frozenset(), pack, unpack)


def _tuple(elements: list[Conversion]) -> Conversion:
    def check(value: Any, kind: Any) -> None:
        if not isinstance(value, kind):
            raise Mismatch.of("tuple", value)
        if len(value) != len(elements):
            raise Mismatch(f"expected {len(elements)} elements, got {len(value)}")

    def pack(value: Any) -> Any:
        check(value, tuple)
        return [_at(index, elements[index].pack, inner) for index, inner in enumerate(value)]

    def unpack(value: Any, _: Any) -> Any:
        check(value, list)
        return tuple([_at(index, elements[index].unpack, inner, None) for index, inner in enumerate(value)])

    return Conversion(frozenset(), pack, unpack)


def _at(step: object, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Mismatch as mismatch:
        raise mismatch.inside(f"[{step!r:.40}]") from None


def _dict(kind: Any, key: Conversion, value: Conversion) -> Conversion:
    def untouched(mapping: Mapping[Any, Any]) -> bool:
        return key.exact.issuperset(map(type, mapping)) and value.exact.issuperset(map(type, mapping.values()))

    def pack(mapping: Any) -> Any:
        if not isinstance(mapping, kind):
            raise Mismatch.of(kind.__name__, mapping)
        if untouched(mapping):
            return dict(mapping)
        return {_key(key.pack, name): _at(name, value.pack, inner) for name, inner in mapping.items()}

    def unpack(mapping: Any, _: Any) -> Any:
        if type(mapping) is not dict:
            raise Mismatch.of(kind.__name__, mapping)
        if untouched(mapping):
            return mapping
        found = {_key(key.unpack, name, None): _at(name, value.unpack, inner, None) for name, inner in mapping.items()}
        if len(found) != len(mapping):
            raise Mismatch(f"expected {kind.__name__}, got a key twice")
        return found

    return Conversion(frozenset(), pack, unpack)


def _key(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Mismatch as mismatch:
        raise Mismatch(f"a key: {mismatch.problem}") from None


# --- unions


def _union(described: Description, members: Mapping[Any, Conversion]) -> Conversion:
    tags = union_tags(described.arguments)
    name = show(described.type)
    exact = frozenset[type]() if tags else frozenset(kind for member in members.values() for kind in member.exact)
    if tags:
        return Conversion(exact, _tagged_pack(name, members, tags), _tagged_unpack(name, members, tags))

    by_wire = {kind: member for annotation, member in members.items() for kind in wire_types(annotation)}
    if float in members and int not in by_wire:
        by_wire[int] = members[float]

    def unpack(value: Any, _: Any) -> Any:
        member = by_wire.get(type(value))
        if member is None:
            raise Mismatch.of(name, value)
        return member.unpack(value, None)

    choose = _chooser(name, members)
    return Conversion(exact, lambda value: members[choose(value)].pack(value), unpack)


def _chooser(name: str, members: Mapping[Any, Conversion]) -> Callable[[Any], Any]:
    """Return a function that finds the member of a union to which a value belongs."""
    exactly = {kind: annotation for annotation in members for kind in runtime_types(annotation)}
    if float in members and int not in exactly:
        exactly[int] = float

    def choose(value: Any) -> Any:
        annotation = exactly.get(type(value))
        if annotation is not None:
            return annotation
        for kind, candidate in exactly.items():
            if isinstance(value, kind) and type(value) is not bool:
                return candidate
        raise Mismatch.of(name, value)

    return choose


def _tagged_pack(name: str, members: Mapping[Any, Conversion], tags: Mapping[Any, str]) -> Pack:
    choose = _chooser(name, members)

    def pack(value: Any) -> Any:
        annotation = choose(value)
        if annotation is NONE:
            return None
        return [tags[annotation], members[annotation].pack(value)]

    return pack


def _tagged_unpack(name: str, members: Mapping[Any, Conversion], tags: Mapping[Any, str]) -> Unpack:
    by_tag = {tags[annotation]: member for annotation, member in members.items() if annotation in tags}

    def unpack(value: Any, _: Any) -> Any:
        if value is None and NONE in members:
            return None
        if type(value) is not list or len(value) != 2 or type(value[0]) is not str:
            raise Mismatch.of(f"{name} as a pair of name and value", value)
        member = by_tag.get(value[0])
        if member is None:
            raise Mismatch(f"expected {name}, got {value[0]!r:.60}")
        return member.unpack(value[1], None)

    return unpack
