"""Compatible: whether rows written with one model can be read and written with the next.

    fields by number:   kept, with the same type or a wider one of the same encoding
                        renamed, if the new model knows the old name: it reserves it or keeps it as the
                        JSON name. Two branches that take the same number do not.
                        added, with a number that was never used
                        removed, if its number is reserved from then on

    parts of tables     declared again, or named in `drop`

A change that follows these rules is instant for any number of rows, because no row is rewritten. A change
that breaks them would misread existing rows, so it is refused when migrations are loaded. Merging two
branches also breaks them, because each branch lacks the other's fields and indexes.

The rules are those of the wire format (protobuf.dev, "Updating A Message Type"), restricted to changes that
are safe for every value of a row. They apply to nested messages as well.

`reserved` and `allows_json` read what a descriptor does not say directly. The feature `json_format` is
inherited: message ─▶ enclosing message ─▶ file ─▶ edition. With ALLOW, protoc rejects two fields with the
same JSON name; with LEGACY_BEST_EFFORT it accepts them, and JSON has only one of the two. proto2 is best
effort; proto3 and the editions allow JSON unless a feature says otherwise (protobuf.dev, "Feature Settings
for Editions").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor

from everlog.migrations.build import RULES
from everlog.migrations.folder import Folder
from everlog.migrations.migration import Migration
from everlog.store.errors import SchemaError
from everlog.store.schema.codec import MESSAGE, described, kind_of
from everlog.store.schema.descriptors import has
from everlog.store.schema.table import Field, Index, Table

_ALLOW = descriptor_pb2.FeatureSet.ALLOW


_WIDER = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64),
    (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64),
}


def check_compatible(
    folder: Folder, old: Table[Any, Any], new: Table[Any, Any], *, rules: int = RULES
) -> None:
    """Raise SchemaError, with the line of the new model in `folder`, for a change that would misread rows of
    the old table, or their values in its key and indexes. Read-only.
    """
    change = _Change(folder, new.name, rules)
    change.messages(old.model.DESCRIPTOR, new.model.DESCRIPTOR)
    change.presence(old, new)


class _Change:
    """The change of one table's model. Descriptors are those of protobuf's runtime."""

    def __init__(self, folder: Folder, table: str, rules: int) -> None:
        self.folder = folder
        self.strict = rules >= RULES
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
                        f" contain; add `reserved {was.number};` so that the number is never reused",
                    )
                continue
            self._field(was, now)
            if self.strict:
                self._renamed(was, now)
                self._value(was, now)
            if was.message_type is not None:
                self.messages(was.message_type, now.message_type)
            elif was.enum_type is not None and self.strict:
                self._enum(was.enum_type, now.enum_type)

    def presence(self, old: Table[Any, Any], new: Table[Any, Any]) -> None:
        """Existing keys and index entries distinguish absent from empty as the old model did."""
        for name, fields in _kept(old, new):
            for field in fields:
                was, now = old.model.DESCRIPTOR, new.model.DESCRIPTOR
                for number in field.path:
                    was, now = was.fields_by_number[number], now.fields_by_number[number]
                    if was.has_presence != now.has_presence:
                        raise self._error(
                            now.name,
                            f"{now.full_name} {'becomes' if now.has_presence else 'is no longer'}"
                            f" `optional`, but {name} of {self.rows} was written for the old model; undo"
                            " this, or rename the index so that it is rebuilt",
                        )
                    was, now = was.message_type, now.message_type

    def _field(self, old: Any, new: Any) -> None:
        was, now = _type(old), _type(new)
        if was == now or ((old.type, new.type) in _WIDER and old.is_repeated == new.is_repeated):
            return
        raise self._error(
            new.name,
            f"{new.full_name} = {new.number} is {described(now)}, but {self.rows} hold {old.name} ="
            f" {old.number} as {described(was)}; give it a new number, and add `reserved {old.number};`",
        )

    def _renamed(self, old: Any, new: Any) -> None:
        if not is_taken(old, new):
            return
        raise self._error(
            new.name,
            f"{new.full_name} takes number {new.number}, under which {self.rows} hold {old.name}; take the"
            f" next free number, and keep {old.name} = {old.number}. If it was renamed, add `reserved"
            f' "{old.name}";`',
        )

    def _value(self, old: Any, new: Any) -> None:
        """Compare default values and membership in oneofs."""
        if (old.has_default_value or new.has_default_value) and old.default_value != new.default_value:
            raise self._error(
                new.name,
                f"{new.full_name} defaults to {new.default_value!r}, but {self.rows} were written with the"
                f" default {old.default_value!r}; keep the default, or give the table a Transform",
            )
        before, after = oneof_of(old), oneof_of(new)
        if before is not None and after is None:
            raise self._error(
                new.name,
                f"{new.full_name} is no longer in a oneof, but {old.name} of {self.rows} is in"
                f" {before.name}; leave it there, or give the table a Transform",
            )

    def _enum(self, old: Any, new: Any) -> None:
        pair = (old.full_name, new.full_name)
        if pair in self.seen or old.full_name == new.full_name:
            return
        self.seen.add(pair)
        numbers, _ = reserved(new)
        there = names_by_number(new)
        for number, was in names_by_number(old).items():
            now = there.get(number)
            if now is None and not any(number in one for one in numbers):
                raise self._error(
                    new.name,
                    f"{new.full_name} no longer has {was[0]} = {number}, which {self.rows} may hold; declare"
                    f" it, or add `reserved {number};` so that the number is never used again",
                )
            if now is not None and is_value_taken(was, now, new):
                raise self._error(
                    now[0],
                    f"{now[0]} of {new.full_name} takes number {number}, under which {self.rows} hold"
                    f" {was[0]}; take the next free number, and keep {was[0]} = {number}. If it was renamed,"
                    f' add `reserved "{was[0]}";`',
                )

    def _reserved(self, old: Any, new: Any) -> None:
        for numbers in _reserved(old):
            for again in (field for field in new.fields if field.number in numbers):
                raise self._error(
                    again.name,
                    f"{again.full_name} takes number {again.number}, which was reserved: {self.rows} may"
                    " hold another field with that number; take the next free number",
                )
            if not _covered(numbers, new):
                raise self._error(
                    new.name,
                    f"{new.full_name} no longer reserves {numbers.start}, under which {self.rows} may hold a"
                    " field; reserve it again",
                )

    def _error(self, near: str, text: str) -> SchemaError:
        return self.folder.error(text, self.folder.line_of_field(near))


def same_index(old: Index[Any], new: Index[Any]) -> bool:
    """Whether two indexes are the same, so that the index is not rebuilt."""
    return (
        old.unique == new.unique
        and old.hashed == new.hashed
        and [field.path for field in old.fields] == [field.path for field in new.fields]
    )


def undeclared(migration: Migration, before: Mapping[str, Table[Any, Any]]) -> Iterator[tuple[str, str]]:
    """Yield what a migration drops or changes without declaring it, each as a place (file:line) and a
    sentence.

    `before` are the tables that the migration keeps, by their names after it. Read-only. A folder copied
    before a colleague's migration was merged lacks what that migration added.
    """
    if migration.rules < RULES:
        return
    parts, declared = set(migration.dropped_parts), {table.name for table in migration.tables}
    left = {name: table for name, table in before.items() if name not in declared}
    for table in migration.tables:
        old = before.get(table.name)
        if old is None:
            yield from _orphan(left, table)
            continue
        since = Path(old.where.rpartition(":")[0]).parent.name
        for name, index in old.indexes.items():
            part, now = f"{table.name}.{name}", table.indexes.get(name)
            fields = ", ".join(field.dotted for field in index.fields)
            if now is not None and same_index(index, now):
                continue
            if now is None and not all(has(table.model.DESCRIPTOR, field.path) for field in index.fields):
                parts.discard(part)
                continue  # it is removed with its field, which the model declares
            if part not in parts:
                what = "is declared differently here" if now is not None else "is not declared here"
                text = f"index {name} of {table.name} over ({fields}) {what}, but {since} has it; declare it"
                yield (now or table).where, f'{text} unchanged, or add `drop=["{part}"]` to MIGRATION'
            parts.discard(part)
        part = f"{table.name}.ttl"
        if old.ttl is not None and old.ttl != table.ttl:
            if part not in parts:
                what = "changes here" if table.ttl is not None else "is not declared here"
                text = f"the ttl of {table.name} {what}, but {since} has it; declare it unchanged, or add"
                yield table.where, f'{text} `drop=["{part}"]` to MIGRATION'
            parts.discard(part)
    for part in sorted(parts):
        yield migration.where, f"`drop` names {part}, but the migration drops or changes no such part"


def _orphan(left: Mapping[str, Table[Any, Any]], new: Table[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield a new table with the model of a table that is `left` undeclared: it was probably renamed."""
    for name, old in left.items():
        was, now = old.model.DESCRIPTOR, new.model.DESCRIPTOR
        if was.name != now.name and _shape(was) != _shape(now):
            continue
        text = (
            f"table {new.name} is new and has the model of table {name}, which is not declared here and would"
            f' keep its rows; add `rename={{"{name}": "{new.name}"}}` or `drop=["{name}"]` to MIGRATION, or'
            f" declare {name} as well"
        )
        yield new.where, text
        return


def _shape(model: Any) -> list[tuple[int, str, str]]:
    return [(field.number, field.name, _type(field)) for field in model.fields]


def _kept(old: Table[Any, Any], new: Table[Any, Any]) -> Iterator[tuple[str, tuple[Field[Any], ...]]]:
    """Yield the key, and the indexes that are not rebuilt."""
    yield "the key", new.key
    for name, index in new.indexes.items():
        was = old.indexes.get(name)
        if was is None or was.unique != index.unique:
            continue
        if [field.path for field in was.fields] == [field.path for field in index.fields]:
            yield f"index {name}", index.fields


def _type(field: Any) -> str:
    """Return a field's type as the wire knows it; messages are compared by their fields."""
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


def reserved(model: Any) -> tuple[list[range], set[str]]:
    """Return the numbers and names that a message or an enum reserves."""
    if hasattr(model, "values_by_number"):
        enum = descriptor_pb2.EnumDescriptorProto()
        model.CopyToProto(enum)
        ranges = [range(item.start, item.end + 1) for item in enum.reserved_range]  # inclusive
        return ranges, set(enum.reserved_name)
    message = descriptor_pb2.DescriptorProto()
    model.CopyToProto(message)
    return [range(item.start, item.end) for item in message.reserved_range], set(message.reserved_name)


def is_taken(old: Any, new: Any) -> bool:
    """Whether `new` uses the number of a different field, `old`.

    A renamed field is not different: the new model reserves the old name, or keeps it as the JSON name. Two
    branches that take the same number do neither.
    """
    if new.name == old.name or new.json_name in {old.name, old.json_name}:
        return False
    return old.name not in reserved(new.containing_type)[1]


def is_value_taken(old: Iterable[str], new: Iterable[str], enum: Any) -> bool:
    """The same for one number of an enum, with its old and new names."""
    return not {*old} & ({*new} | reserved(enum)[1])


def oneof_of(field: Any) -> Any:
    """Return the oneof of a field; None for the one that protobuf generates for an `optional` field."""
    oneof = field.containing_oneof
    if oneof is None or (len(oneof.fields) == 1 and oneof.name == f"_{field.name}"):
        return None
    return oneof


def names_by_number(enum: Any) -> dict[int, list[str]]:
    """Return the names of each number of an enum; there are several where it allows aliases."""
    names: dict[int, list[str]] = {}
    for value in enum.values:
        names.setdefault(value.number, []).append(value.name)
    return names


def allows_json(descriptor: Any) -> bool:
    """Whether a message or an enum has the feature `json_format = ALLOW`. Read-only."""
    at = descriptor
    while at is not None:
        is_enum = hasattr(at, "values_by_number")
        own = descriptor_pb2.EnumDescriptorProto() if is_enum else descriptor_pb2.DescriptorProto()
        at.CopyToProto(own)
        if own.options.features.HasField("json_format"):
            return bool(own.options.features.json_format == _ALLOW)
        at = at.containing_type
    file = descriptor_pb2.FileDescriptorProto()
    descriptor.file.CopyToProto(file)
    if file.options.features.HasField("json_format"):
        return bool(file.options.features.json_format == _ALLOW)
    return file.syntax not in {"", "proto2"}
