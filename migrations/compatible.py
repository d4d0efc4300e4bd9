"""Compatible: whether rows written in one model can be read and written in the next.

    fields by number:   kept, with the same type, or a wider one of the same encoding
                        renamed freely (a name is not in the rows)
                        added, with a number that was never used
                        removed, if its number is reserved from then on

Whatever keeps to this is instant, however many rows there are: none is rewritten. What breaks it
would misread rows that are there, so it is refused when migrations are loaded.

The rules are those of the wire format (protobuf.dev, "Updating A Message Type"), narrowed to
those that no row, of whatever value, can break. Nested messages are held to them as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor

from everlog.migrations.folder import Folder
from everlog.store.errors import SchemaError
from everlog.store.kinds import MESSAGE, kind_of
from everlog.store.table import Field, Table

_WIDER = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64),
    (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64),
}


def check_compatible(folder: Folder, old: Table[Any, Any], new: Table[Any, Any]) -> None:
    """Read-only. Raises SchemaError, with the line of the new model in `folder`, for a change
    that would misread rows of the old table, or what its key and indexes hold of them."""
    change = _Change(folder, new.name)
    change.messages(old.model.DESCRIPTOR, new.model.DESCRIPTOR)
    change.presence(old, new)


class _Change:
    """What happens to the model of one table. Descriptors are those of protobuf's runtime."""

    def __init__(self, folder: Folder, table: str) -> None:
        self.folder = folder
        self.rows = f"rows of table {table}"
        self.seen: set[tuple[str, str]] = set()

    def messages(self, old: Any, new: Any) -> None:
        pair = (old.full_name, new.full_name)
        if pair in self.seen or old.full_name == new.full_name:
            return
        self.seen.add(pair)
        self._reserved(old, new)
        for was in old.fields:
            now = new.fields_by_number.get(was.number)
            if now is None:
                if not _covered(range(was.number, was.number + 1), new):
                    raise self._error(
                        new.name,
                        f"{new.full_name} no longer has {was.name} = {was.number}, which {self.rows} may"
                        f" hold; say `reserved {was.number};` so that the number is never used again",
                    )
                continue
            self._field(was, now)
            if was.message_type is not None:
                self.messages(was.message_type, now.message_type)

    def presence(self, old: Table[Any, Any], new: Table[Any, Any]) -> None:
        """Keys and index entries that are there tell absent from empty as the old model did."""
        for name, fields in _kept(old, new):
            for field in fields:
                was, now = old.model.DESCRIPTOR, new.model.DESCRIPTOR
                for number in field.path:
                    was, now = was.fields_by_number[number], now.fields_by_number[number]
                    if was.has_presence != now.has_presence:
                        raise self._error(
                            now.name,
                            f"{now.full_name} {'becomes' if now.has_presence else 'is no longer'} `optional`,"
                            f" but {name} of {self.rows} holds it as it was; leave it, or give the index"
                            " another name, so that it is built anew",
                        )
                    was, now = was.message_type, now.message_type

    def _field(self, old: Any, new: Any) -> None:
        was, now = _type(old), _type(new)
        if was == now or ((old.type, new.type) in _WIDER and old.is_repeated == new.is_repeated):
            return
        raise self._error(
            new.name,
            f"{new.full_name} = {new.number} is a {now}, but {self.rows} hold {old.name} = {old.number} as"
            f" a {was}; take a new number for it, and say `reserved {old.number};`",
        )

    def _reserved(self, old: Any, new: Any) -> None:
        for numbers in _reserved(old):
            for again in (field for field in new.fields if field.number in numbers):
                raise self._error(
                    again.name,
                    f"{again.full_name} takes number {again.number}, which was reserved: {self.rows} may"
                    " hold another field under it; take the next free number",
                )
            if not _covered(numbers, new):
                raise self._error(
                    new.name,
                    f"{new.full_name} no longer reserves {numbers.start}, under which {self.rows} may hold a"
                    " field; reserve it again",
                )

    def _error(self, near: str, text: str) -> SchemaError:
        return self.folder.error(text, self.folder.line_of_field(near))


def _kept(old: Table[Any, Any], new: Table[Any, Any]) -> Iterator[tuple[str, tuple[Field[Any], ...]]]:
    """The key, and the indexes that are not built anew."""
    yield "the key", new.key
    for name, index in new.indexes.items():
        was = old.indexes.get(name)
        if was is None or was.unique != index.unique:
            continue
        if [field.path for field in was.fields] == [field.path for field in index.fields]:
            yield f"index {name}", index.fields


def _type(field: Any) -> str:
    """A field's type, as far as the wire knows it: messages are compared by their fields."""
    kind = kind_of(field)
    name = kind.name
    if kind is MESSAGE and field.message_type.file.package == "google.protobuf":
        name = field.message_type.full_name
    return f"repeated {name}" if field.is_repeated else name


def _reserved(model: Any) -> list[range]:
    proto = descriptor_pb2.DescriptorProto()
    model.CopyToProto(proto)
    return sorted((range(item.start, item.end) for item in proto.reserved_range), key=lambda one: one.start)


def _covered(numbers: range, model: Any) -> bool:
    at = numbers.start
    for held in _reserved(model):
        if at in held:
            at = held.stop
    return at >= numbers.stop
