"""Fields: resolve field numbers to descriptors, and encode values given by a caller.

    numbers (1, 3) ─▶ resolve ─▶ (FieldDescriptor, FieldDescriptor)      a Path
    "JFK", ("US", 3) ─▶ encode_values ─▶ bytes in the order of the values

Fields are looked up by number, so a renamed field is the same field.
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
    """Return the model's descriptor, under the one of its two types that all of everlog uses."""
    return cast(Descriptor, model.DESCRIPTOR)


def resolve(descriptor: Descriptor, numbers: Iterable[int]) -> Path:
    """Return the fields from a model to a nested field, by number."""
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
    """Encode a caller's values as a key (or, with `partial`, as its first fields). Raises RowError.

    `optional`: each value is preceded by a presence byte, as in an index; None encodes an absent field.
    """
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
    """Yield for each step of the path whether the row has it."""
    for step in path:
        yield not step.has_presence or row.HasField(step.name)
        if step.message_type is not None:
            row = getattr(row, step.name)


def has(descriptor: Descriptor | None, numbers: Iterable[int]) -> bool:
    """Return whether the model has a field with this path of numbers."""
    for number in numbers:
        if descriptor is None or number not in descriptor.fields_by_number:
            return False
        descriptor = descriptor.fields_by_number[number].message_type
    return True


def dotted(path: Path) -> str:
    """Return the field names of a path, joined by dots."""
    return ".".join(step.name for step in path)
