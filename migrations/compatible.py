"""Compatible: whether rows written in one model can be read and written in the next.

    fields by number:   kept, with the same type, or a wider one of the same encoding
                        renamed freely (a name is not in the rows)
                        added, with a number that was never used
                        removed, if its number is reserved

Whatever keeps to this is instant, however many rows there are: none is rewritten. What breaks it
would misread rows that are there, so it is refused when migrations are loaded.

The rules are those of the wire format (protobuf.dev, "Updating A Message Type"), narrowed to
those that no row, of whatever value, can break. Nested messages are held to them as well.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from everlog.migrations.folder import Folder
from everlog.store.errors import SchemaError
from everlog.store.kinds import kind_of
from everlog.store.table import Table

_WIDER = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64),
    (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64),
}


def check_compatible(folder: Folder, old: Table[Any, Any], new: Table[Any, Any]) -> None:
    """Read-only. Raises SchemaError, with the line of the new model, for a change that would
    misread rows of the old one."""
    _check_message(folder, new.name, old.model.DESCRIPTOR, new.model.DESCRIPTOR, set())


def _check_message(
    folder: Folder, table: str, old: Descriptor, new: Descriptor, seen: set[tuple[str, str]]
) -> None:
    if (old.full_name, new.full_name) in seen or old.full_name == new.full_name:
        return
    seen.add((old.full_name, new.full_name))
    reserved = _reserved(new)
    for field in old.fields:
        now = new.fields_by_number.get(field.number)
        if now is None:
            if not any(field.number in numbers for numbers in reserved):
                raise _error(
                    folder,
                    new.name,
                    f"{new.full_name} no longer has {field.name} = {field.number}, which rows of table {table}"
                    f" may hold; say `reserved {field.number};` so that the number is never used again",
                    table,
                )
            continue
        _check_field(folder, table, field, now)
        if field.message_type is not None and now.message_type is not None:
            _check_message(folder, table, field.message_type, now.message_type, seen)
    # A number that was reserved stays so.
    for numbers in _reserved(old):
        for again in (item for item in new.fields if item.number in numbers):
            raise _error(
                folder,
                again.name,
                f"{new.full_name} uses number {again.number} for {again.name}, but it was reserved: rows of"
                f" table {table} may hold another field under it; take the next free number",
                table,
            )


def _check_field(folder: Folder, table: str, old: FieldDescriptor, new: FieldDescriptor) -> None:
    was, now = _words(old), _words(new)
    same = was == now or (
        (old.type, new.type) in _WIDER and old.is_repeated == new.is_repeated
    )
    if not same:
        raise _error(
            folder,
            new.name,
            f"{new.containing_type.full_name} has {new.name} = {new.number} as {now}, but rows of table {table}"
            f" hold {old.name} = {old.number} as {was}; take a new number for it, and reserve {old.number}",
            table,
        )


def _words(field: FieldDescriptor) -> str:
    """A field's type, without the package that changes with each version."""
    words = kind_of(field).name
    if field.message_type is not None:
        words = _local(field.message_type.full_name, field.message_type.file.package)
    elif field.enum_type is not None:
        words = f"enum {_local(field.enum_type.full_name, field.enum_type.file.package)}"
    return f"repeated {words}" if field.is_repeated else words


def _local(full_name: str, package: str) -> str:
    return full_name if package == "google.protobuf" else full_name.removeprefix(f"{package}.")


def _reserved(model: Descriptor) -> list[range]:
    proto = descriptor_pb2.DescriptorProto()
    model.CopyToProto(proto)
    return [range(item.start, item.end) for item in proto.reserved_range]


def _error(folder: Folder, near: str, text: str, table: str) -> SchemaError:
    error = folder.error(text, folder.line_of_field(near))
    error.facts["table"] = table
    return error
