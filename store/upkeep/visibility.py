"""Visibility: the rows and fields of a table that an identity sees, where its roles limit them.

    Rule {rows, hidden} ─ bind: once, when the role is defined ─▶ Binding: ids and numbers
    Visibility of each rule ─▶ Limits ─ see(row) ─▶ the row without hidden fields, or None: not visible

    condition := the field has one of the values, or compares with one in another way (conditions.py), in the
                 type of the field
    value     := a string; true or false; an integer; name or number of an enum; bytes in hexadecimal digits;
                 $who, the name of the identity

A row is visible if one rule shows it. The fields that are left out of it are those that all rules hide which
show it. A field that is not set has no value, so no condition holds for it.

Invariants
  (1) a rule is bound to tables by id and to fields by number, so a renamed field is the same field, and a new
      one of the same name is not;
  (2) a rule whose fields are gone gives nothing: it neither shows all rows nor all fields;
  (3) rows of another space than that of the binding, where a migration may have given numbers another
      meaning, are visible only if each field has both the number and the name that it had;
  (4) fields that the model of the row does not know are never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.store.errors import AccessError, RowError
from everlog.store.schema.descriptors import Path, descriptor_of, dotted, has, resolve, value_of
from everlog.store.schema.schema import IndexInfo, Schema, TableInfo
from everlog.store.upkeep.conditions import Condition, mismatch
from everlog.store.upkeep.roles import ALL, WHO, Binding, Role, Rule, Visibility, matches

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), 1 << 31),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), 1 << 63),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1 << 32),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1 << 64),
}
_BOOLEANS = {"true": True, "false": False}


class Shown(NamedTuple):
    """A rule of a role for one model: conditions, and hidden fields by name."""

    role: str
    conditions: tuple[Condition, ...]
    hidden: dict[str, Path]

    def shows(self, row: Message) -> bool:
        """Return whether all conditions hold for a row."""
        return all(one.holds(value_of(row, one.path)) for one in self.conditions)


class Limits:
    """The limits of one identity on one table: a row is visible if one of `visibilities` shows it."""

    def __init__(self, visibilities: Iterable[Visibility], who: str, table: str) -> None:
        self._visibilities = tuple(visibilities)
        self._who, self._table = who, table
        self._rules: dict[TableInfo, tuple[Shown, ...]] = {}

    def check(self, info: TableInfo, index: IndexInfo | None = None) -> None:
        """Raise AccessError if nothing of the table can be visible, or if the index would reveal hidden
        fields."""
        rules = self.rules(info)
        if not rules:
            raise self._error(
                f"the roles of {self._who} on {self._table} refer to tables or fields that are gone, so they"
                " allow nothing; define them again (everlog access show)"
            )
        hidden = [path for rule in rules for path in rule.hidden.values()]
        if index is not None and any(_overlap(path, one) for path in hidden for one in index.fields):
            raise self._error(
                f"the roles of {self._who} hide fields of {self._table} that the index {index.name} is"
                " ordered by; scan the table instead"
            )

    def see(self, info: TableInfo, raw: bytes) -> bytes | None:
        """Return a row as it is visible; None: it is not."""
        rules = self.rules(info)
        try:
            row = info.model.FromString(raw)
        except DecodeError:
            return None
        return self._seen(rules, row)

    def see_message(self, info: TableInfo, row: Message) -> bytes | None:
        """As `see`, of a row that was parsed, which may change."""
        return self._seen(self.rules(info), row)

    def _seen(self, rules: tuple[Shown, ...], row: Message) -> bytes | None:
        hidden = _hidden(rules, row)
        if hidden is None:
            return None
        for path in hidden.values():
            clear(row, path)
        row.DiscardUnknownFields()  # fields that were dropped
        return row.SerializePartialToString()

    def hidden(self, info: TableInfo, row: Message) -> dict[str, Path] | None:
        """Return the fields that are left out of a row, by name; None: the row is not visible."""
        return _hidden(self.rules(info), row)

    def hidden_by_any(self, info: TableInfo) -> dict[str, Path]:
        """Return the fields that are left out of some row, by name."""
        return {name: path for rule in self.rules(info) for name, path in rule.hidden.items()}

    def rules(self, info: TableInfo) -> tuple[Shown, ...]:
        """Return the rules that apply to a table in one schema. Without any, nothing is visible."""
        found = self._rules.get(info)
        if found is None:
            found = self._rules[info] = tuple(
                rule for visibility in self._visibilities if (rule := compiled(visibility, info)) is not None
            )
        return found

    def outside(self) -> AccessError:
        """Return the error for a write of a row that is not visible."""
        return self._error(
            f"the roles of {self._who} do not allow this row of {self._table}: as it is, or as it would be"
        )

    def sets(self, path: Path) -> AccessError:
        """Return the error for a write that sets a hidden field."""
        return self._error(
            f"the roles of {self._who} hide the field {dotted(path)} of {self._table}; leave it unset, and it"
            " keeps its value"
        )

    def _error(self, text: str) -> AccessError:
        return AccessError(text, actor=self._who, table=self._table)


def compiled(visibility: Visibility, info: TableInfo) -> Shown | None:
    """Return a rule for the rows of a table; None: it gives nothing there."""
    binding = visibility.binding
    if info.proto.id != binding.table:
        return None
    conditions = []
    for name, how, texts in visibility.rows:
        path = field_of(binding, name, info)
        kind = comparable(path[-1]) if path is not None else None
        if path is None or (kind is None and texts):
            return None
        values = (kind(text) for text in texts) if kind is not None else ()
        conditions.append(Condition(path, how, frozenset(value for value in values if value is not None)))
    hidden = {}
    for name in visibility.hidden:
        path = field_of(binding, name, info)
        if path is None or any(_overlap(path, key) for key in info.key_fields):
            return None
        hidden[dotted(path)] = path
    return Shown(visibility.role, tuple(conditions), hidden)


def field_of(binding: Binding, name: str, info: TableInfo) -> Path | None:
    """Return the field that a binding calls by a name, in one schema; None: it is gone."""
    numbers, descriptor = binding.fields.get(name, ()), descriptor_of(info.model)
    if not numbers or not has(descriptor, numbers):
        return None
    path = resolve(descriptor, numbers)
    if any(step.is_repeated for step in path[:-1]):
        return None
    return path if info.space == binding.space or dotted(path) == name else None


def comparable(field: FieldDescriptor) -> Callable[[str], Any] | None:
    """Return the function that reads a value of a field from text (None: it is no such value); or None for a
    field that conditions cannot compare."""
    kind = field.cpp_type
    if field.is_repeated:
        return None
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _hexadecimal if field.type == FieldDescriptor.TYPE_BYTES else str
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _BOOLEANS.get
    if field.enum_type is not None:
        names = {value.name: value.number for value in field.enum_type.values}
        return lambda text: names[text] if text in names else _integer(text, *_INTEGERS[_INT32])
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        return lambda text: _integer(text, low, high)
    return None


_INT32 = FieldDescriptor.CPPTYPE_INT32


def _integer(text: str, low: int, high: int) -> int | None:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        return None
    return int(text) if low <= int(text) < high else None


def _hexadecimal(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _hidden(rules: tuple[Shown, ...], row: Message) -> dict[str, Path] | None:
    shows = [rule.hidden for rule in rules if rule.shows(row)]
    if len(shows) < 2:
        return shows[0] if shows else None
    return {
        name: path
        for hidden in shows
        for name, path in hidden.items()
        if all(_covers(one, name) for one in shows)
    }


def _covers(hidden: dict[str, Path], name: str) -> bool:
    """Return whether hidden fields contain a field, or a message that it is in."""
    return any(name == one or name.startswith(f"{one}.") for one in hidden)


def _overlap(one: Path, other: Path) -> bool:
    """Return whether one of two fields is, or contains, the other."""
    return all(mine.number == theirs.number for mine, theirs in zip(one, other, strict=False))


def is_set(row: Any, path: Path) -> bool:
    """Return whether a row has a value of a field other than its default."""
    for step in path:
        if all(field.number != step.number for field, _ in row.ListFields()):
            return False
        row = getattr(row, step.name)
    return True


def clear(row: Any, path: Path) -> None:
    """Clear a field of a row."""
    for step in path[:-1]:
        if not row.HasField(step.name):
            return
        row = getattr(row, step.name)
    row.ClearField(path[-1].name)


def displaces(row: Any, path: Path) -> bool:
    """Return whether a row has another member of the oneof that a field is in."""
    for step in path[:-1]:
        row = getattr(row, step.name)
    oneof = path[-1].containing_oneof
    return oneof is not None and row.WhichOneof(oneof.name) not in {None, path[-1].name}


def keep(row: Any, before: Any, path: Path) -> None:
    """Give a field of a row the value that it has in another row of the same model."""
    clear(row, path)
    if not is_set(before, path):
        return
    for step in path[:-1]:
        row, before = getattr(row, step.name), getattr(before, step.name)
    only = type(before)()
    only.CopyFrom(before)
    for field, _ in only.ListFields():
        if field.number != path[-1].number:
            only.ClearField(field.name)
    row.MergeFrom(only)


# when a role is defined


def bind(role: Role, before: Role | None, schema: Schema) -> Role:
    """Return a role whose rules are bound to the tables and fields of a schema. Rules that `before` has keep
    their bindings. Raises RowError for a rule about tables, fields or values that do not exist."""
    known = {_written(rule): rule for rule in before.rules} if before is not None else {}
    rules = []
    for number, rule in enumerate(role.rules, 1):
        kept = known.get(_written(rule))
        if not rule.limited:
            rules.append(rule.unbound)
        elif kept is not None and rule.bindings == kept.bindings:
            rules.append(kept)
        else:
            rules.append(_bound(rule, schema, f"rule {number} of role {role.name}"))
    return msgspec.structs.replace(role, rules=tuple(rules))


def _written(rule: Rule) -> bytes:
    return msgspec.json.encode(rule.unbound)


def _bound(rule: Rule, schema: Schema, what: str) -> Rule:
    for one in rule.tables:
        if ALL not in one and one not in schema.tables:
            raise RowError(
                f"{what} limits rows or fields of table {one}, which does not exist; apply its migration"
                " first",
                table=one,
            )
    found, misses = [], []
    for name, info in schema.tables.items():
        if matches(rule.tables, name):
            missing = _missing(rule, info)
            if missing and name in rule.tables:
                raise RowError(f"{what}: {missing[0]}", table=name)
            misses += missing[:1]
            if not missing:
                descriptor = descriptor_of(info.model)
                fields = {
                    field: tuple(step.number for step in path)
                    for field in (*rule.rows, *rule.hidden, *(one.field for one in rule.comparisons))
                    if (path := _path(descriptor, field))
                }
                found.append(Binding(info.proto.id, name, info.space, fields))
    if not found:
        raise RowError(f"{what} gives nothing: {'; '.join(misses[:3]) or 'it matches no table'}")
    return msgspec.structs.replace(rule, bindings=tuple(found))


def _missing(rule: Rule, info: TableInfo) -> list[str]:
    """Return why a rule cannot be bound to a table."""
    found, descriptor = [], descriptor_of(info.model)
    for name, values in rule.rows.items():
        path = _path(descriptor, name)
        kind = comparable(path[-1]) if path is not None else None
        if path is None:
            found.append(f"table {info.name} has no field {name}")
        elif kind is None:
            found.append(
                f"the field {name} of table {info.name} has no values that can be compared with text"
            )
        else:
            wrong = [text for text in values if text != WHO and kind(text) is None]
            if WHO in values and path[-1].type != FieldDescriptor.TYPE_STRING:
                wrong.append(WHO)
            found += [f"{text!r} is no value of the field {name} of table {info.name}" for text in wrong]
    for one in rule.comparisons:
        path = _path(descriptor, one.field)
        if path is None:
            found.append(f"table {info.name} has no field {one.field}")
        elif wrong_how := mismatch(one, path, comparable(path[-1])):
            found.append(f"the field {one.field} of table {info.name} {wrong_how}")
    for name in rule.hidden:
        path = _path(descriptor, name)
        if path is None:
            found.append(f"table {info.name} has no field {name}, outside of repeated ones")
        elif any(_overlap(path, key) for key in info.key_fields):
            found.append(
                f"the field {name} is part of the primary key of table {info.name}: it cannot be hidden"
            )
    return found


def _path(descriptor: Descriptor, name: str) -> Path | None:
    """Return a field by its dotted name. Only the last step may be repeated."""
    found: list[FieldDescriptor] = []
    message: Descriptor | None = descriptor
    for part in name.split("."):
        field = message.fields_by_name.get(part) if message is not None else None
        if field is None or (found and found[-1].is_repeated):
            return None
        found.append(field)
        message = field.message_type
    return tuple(found)


# for operators


def problems(role: Role, schema: Schema) -> Iterator[str]:
    """Yield what the rules of a role refer to and the schema in force does not have."""
    ids = {info.proto.id: info for info in schema.tables.values()}
    for rule in role.rules:
        for binding in rule.bindings:
            info = ids.get(binding.table)
            if info is None:
                yield (
                    f"role {role.name} limits rows or fields of table {binding.name}, which was dropped;"
                    " define the role again"
                )
                continue
            gone = [name for name in binding.fields if field_of(binding, name, info) is None]
            for name in gone:
                yield (
                    f"role {role.name} refers to the field {name} of table {info.name}, which is gone: the"
                    " rule gives nothing there; define the role again"
                )
        if rule.limited:
            bound = {binding.table for binding in rule.bindings}
            for name, info in schema.tables.items():
                if info.proto.id not in bound and matches(rule.tables, name) and not _missing(rule, info):
                    yield (
                        f"role {role.name} gives nothing on table {name}, which is newer than the role;"
                        " define it again"
                    )
        for one in rule.tables if not rule.limited else ():
            if ALL not in one and one not in schema.tables:
                yield f"role {role.name} refers to table {one}, which does not exist"


def invisible(limits: Limits, info: TableInfo, row: Message | None, field: str) -> Iterator[str]:
    """Yield why a row, or a field of rows, is not visible, in terms of the rules; no value of the row. Raises
    AccessError if nothing of the table can be visible."""
    limits.check(info)
    rules = limits.rules(info)
    if row is not None and not any(rule.shows(row) for rule in rules):
        for rule in rules:
            conditions = {
                dotted(one.path): one.holds(value_of(row, one.path)) for one in rule.conditions[::-1]
            }
            failing = [name for name, holds in reversed(conditions.items()) if not holds]
            verb = "has another value" if len(failing) == 1 else "have other values"
            yield f"the row is not visible by role {rule.role}: its {' and '.join(failing)} {verb}"
        return
    if row is not None:
        yield "the row is visible"
    hidden = (limits.hidden_by_any(info) if row is None else _hidden(rules, row)) or {}
    if field:
        yield f"the field {field} is {'hidden' if _covers(hidden, field) else 'visible'}"
