"""Fields: the way from a model to one of its fields, and values given by hand for them.

    numbers (1, 3) ─▶ resolve ─▶ (FieldDescriptor, FieldDescriptor)      a Path
    "JFK", ("US", 3) ─▶ encode_values ─▶ bytes in the order of the values

Fields are found by number, so that a field that was renamed is the same field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from everlog.store.errors import RowError
from everlog.store.schema.codec import Kind, kind_of

Path = tuple[FieldDescriptor, ...]


def descriptor_of(model: type[Message]) -> Descriptor:
    """The model's descriptor, under the one of its two typed names that all of everlog uses."""
    return cast(Descriptor, model.DESCRIPTOR)


def resolve(descriptor: Descriptor, numbers: Iterable[int]) -> Path:
    """The fields on the way from a model to a nested field, by number."""
    fields: list[FieldDescriptor] = []
    message: Descriptor | None = descriptor
    for number in numbers:
        assert message is not None
        field = message.fields_by_number[number]
        fields.append(field)
        message = field.message_type
    return tuple(fields)


def encode_values(
    value: Any,
    fields: tuple[Path, ...],
    role: str,
    *,
    partial: bool = False,
    optional: bool = False,
) -> bytes:
    """Values given by hand as a key (or, `partial`, as the first of its fields). Raises RowError."""
    values = value if isinstance(value, tuple) else (value,)
    if len(values) > len(fields) or (len(values) < len(fields) and not partial):
        raise RowError(
            f"{role} has {len(fields)} field(s), {', '.join(dotted(path) for path in fields)};"
            f" found {len(values)} value(s)",
            private=repr(values),
        )
    parts = []
    for one, path in zip(values, fields, strict=False):
        kind = kind_of(path[-1])
        if one is None and optional:
            parts.append(b"\x00")
            continue
        if not isinstance(one, kind.types) or (isinstance(one, bool) and bool not in kind.types):
            raise RowError(
                f"expected `{kind.types[0].__name__}` for {dotted(path)} in {role},"
                f" found `{type(one).__name__}`",
                private=repr(one),
            )
        parts.append(b"\x01" + _encode(kind, one, path, role) if optional else _encode(kind, one, path, role))
    return b"".join(parts)


def _encode(kind: Kind[Any], value: Any, path: Path, role: str) -> bytes:
    assert kind.encode is not None
    try:
        return kind.encode(value)
    except (struct.error, UnicodeEncodeError, OverflowError) as error:
        raise RowError(
            f"a value does not fit {dotted(path)} in {role}, {kind.described}", private=f"{value!r}: {error}"
        ) from None


def present(row: Any, path: Path) -> Iterable[bool]:
    for step in path:
        yield not step.has_presence or row.HasField(step.name)
        if step.message_type is not None:
            row = getattr(row, step.name)


def has(descriptor: Descriptor | None, numbers: Iterable[int]) -> bool:
    for number in numbers:
        if descriptor is None or number not in descriptor.fields_by_number:
            return False
        descriptor = descriptor.fields_by_number[number].message_type
    return True


def dotted(path: Path) -> str:
    return ".".join(step.name for step in path)
