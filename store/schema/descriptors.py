"""Descriptors: the fields of a model by number, values of a caller as bytes, and the descriptor files in a
schema, by which anyone can read its rows.

    numbers (1, 3) ─▶ resolve ─▶ (FieldDescriptor, FieldDescriptor)      a Path
    "JFK", ("US", 3) ─▶ encode_values ─▶ bytes in the order of the values
    models of the tables ─▶ their files, and the files these import ─▶ Schema.models

Fields are looked up by number, so a renamed field is the same field. A model's version is in its package:
`<app>.v<YYYYMMDDHHMMSS>`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any, cast

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store.errors import RowError
from everlog.store.schema.codec import Kind, kind_of

Path = tuple[FieldDescriptor, ...]

_VERSION = re.compile(r"(?:^|\.)v(\d{14})\.")


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
        if isinstance(one, Message) and not isinstance(one, kind.types):
            one = _as_own(one, kind)  # noqa: PLW2901
        if not isinstance(one, kind.types) or (isinstance(one, bool) and bool not in kind.types):
            raise RowError(
                f"expected `{kind.types[0].__name__}` for {dotted(path)} in {role},"
                f" found `{type(one).__name__}`",
                private=repr(one),
            )
        parts.append(b"\x01" + _encode(kind, one, path, role) if optional else _encode(kind, one, path, role))
    return b"".join(parts)


def _as_own(value: Message, kind: Kind[Any]) -> Any:
    """Return a message as one of the kind's own class, if it has the same type: the models of a log have
    classes of their own also for `google.protobuf.Timestamp`."""
    for own in kind.types:
        if issubclass(own, Message) and own.DESCRIPTOR.full_name == value.DESCRIPTOR.full_name:
            return own.FromString(value.SerializeToString())
    return value


def _encode(kind: Kind[Any], value: Any, path: Path, role: str) -> bytes:
    assert kind.encode is not None
    try:
        return kind.encode(value)
    except (struct.error, UnicodeEncodeError, OverflowError) as error:
        raise RowError(
            f"a value does not fit {dotted(path)} in {role}, {kind.described}", private=f"{value!r}: {error}"
        ) from None


def is_map(field: Any) -> bool:
    """Return whether a field is a map, which is a repeated message on the wire."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def value_of(row: Any, path: Path) -> Any:
    """Return the value of a field of a row; None: it is not set."""
    for step in path:
        if step.has_presence and not row.HasField(step.name):
            return None
        row = getattr(row, step.name)
    return row


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


def version_of(model: type[Message]) -> int:
    """Return the version in a model's package, `<app>.v<YYYYMMDDHHMMSS>`; 0 if there is none."""
    found = _VERSION.search(descriptor_of(model).full_name)
    return int(found[1]) if found else 0


def dependencies_first(files: Iterable[Any]) -> Iterable[Any]:
    """Yield the files, each after the files it imports."""
    by_name = {file.name: file for file in files}
    done: set[str] = set()

    def visit(name: str) -> Iterable[Any]:
        if name in done or name not in by_name:
            return
        done.add(name)
        for dependency in by_name[name].dependency:
            yield from visit(dependency)
        yield by_name[name]

    for name in by_name:
        yield from visit(name)


def add_models(schema: log_pb2.Schema, other: log_pb2.Schema) -> None:
    """Add the files of `other` that `schema` lacks."""
    names = {file.name for file in schema.models.file}
    schema.models.file.extend(file for file in other.models.file if file.name not in names)


def collect_models(schema: log_pb2.Schema, models: dict[str, Descriptor]) -> None:
    """Keep the files of all tables' models and everything they import; drop the others."""
    files = {file.name: file for file in schema.models.file}
    for file in {descriptor.file.name: descriptor.file for descriptor in models.values()}.values():
        _add_file(files, file)
    owners = {
        f"{file.package}.{message}" if file.package else message: file.name
        for file in files.values()
        for message in _message_names(file)
    }
    needed: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def need(name: str) -> None:
        if name not in needed:
            for dependency in files[name].dependency:
                need(dependency)
            needed[name] = files[name]

    for table in (*schema.tables, *schema.building, *schema.retiring):
        need(owners[table.model])
    kept = list(needed.values())
    del schema.models.file[:]
    schema.models.file.extend(kept)


def _message_names(file: descriptor_pb2.FileDescriptorProto) -> Iterable[str]:
    pending = [(message.name, message) for message in file.message_type]
    while pending:
        name, message = pending.pop()
        yield name
        pending += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]


def _add_file(files: dict[str, descriptor_pb2.FileDescriptorProto], file: FileDescriptor) -> None:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    files[file.name] = proto
    for dependency in file.dependencies:
        _add_file(files, dependency)


def named(model: type[Message], name: str) -> Path | None:
    """Return the path to a field by its dotted name, such as `owner.id`; None if the model has none, or if a
    step is repeated."""
    found: list[FieldDescriptor] = []
    message: Descriptor | None = descriptor_of(model)
    for part in name.split("."):
        field = message.fields_by_name.get(part) if message is not None else None
        if field is None or field.is_repeated:
            return None
        found.append(field)
        message = field.message_type
    return tuple(found)
