"""Lint wire: the effect of a change of a model on existing rows, and on readers of JSON.

    old model, new model ─▶ pairs of messages, fields and enum values by number ─▶ findings

The rules are those of buf's categories WIRE and WIRE_JSON (https://buf.build/docs/breaking/rules/), stricter
where a table is stricter than the wire: a type may only become a wider one (`everlog.migrations.compatible`).
A field that moves alone into a new oneof is accepted, as protobuf.dev ("Updating A Message Type") says that
it is safe.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from everlog.migrations.build import RULES, rules
from everlog.migrations.compatible import (
    allows_json,
    is_taken,
    is_value_taken,
    names_by_number,
    oneof_of,
    reserved,
)
from everlog.migrations.folder import Folder
from everlog.migrations.lint.rules import Findings
from everlog.migrations.lint.source import ProtoText, full_name
from everlog.store.schema.codec import ENUM, MESSAGE, described, kind_of
from everlog.store.schema.descriptors import is_map

_WIDER = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64),
    (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64),
}


class Models:
    """Compares two models of one table. Descriptors are those of protobuf's runtime.

    `reported`: fields whose presence has a finding already.
    """

    def __init__(
        self, folder: Folder, text: ProtoText, table: str, reported: Container[str], found: Findings
    ) -> None:
        self._file = folder.model
        self._text = text
        self._rows = f"rows of table {table}"
        self._reported = reported
        self._found = found
        self._seen: set[tuple[str, str]] = set()
        self._strict = rules(folder) >= RULES

    def compare(self, old: Any, new: Any) -> None:
        """Compare two messages, with their nested messages and enums."""
        pair = (old.full_name, new.full_name)
        if pair in self._seen or old.full_name == new.full_name:
            return
        self._seen.add(pair)
        self._json(old, new)
        self._reserved(old, new, new.fields, "field")
        for was in old.fields:
            now = new.fields_by_number.get(was.number)
            if now is None:
                self._removed(was, new)
            else:
                self._field(was, now)
        for now in new.fields:
            if now.is_required and now.number not in old.fields_by_number:
                text = f"{now.full_name} is new and required: {self._rows} lack it and would be refused"
                self._add("wire/field-required", now, text)

    def _removed(self, was: Any, new: Any) -> None:
        ranges, names = reserved(new)
        again = new.fields_by_name.get(was.name)
        moved = f"; {again.name} = {again.number} is a different field, empty in them" if again else ""
        if not any(was.number in numbers for numbers in ranges):
            text = f"{new.full_name} no longer has {was.name} = {was.number}, which {self._rows} may contain"
            self._add("wire/field-removed", new, text + moved, f"add `reserved {was.number};`")
            return
        self._add(
            "loss/field-removed",
            new,
            f"{new.full_name} no longer has {was.name} = {was.number}: its values in {self._rows} can no"
            f" longer be read{moved}",
        )
        if was.name not in names and again is None:
            self._add(
                "json/name-not-reserved",
                new,
                f"{was.name} of {new.full_name} was removed, and its name is free: older JSON would be"
                " read into the next field of that name",
                f'add `reserved "{was.name}";`',
            )

    def _field(self, was: Any, now: Any) -> None:
        old, new = _type(was), _type(now)
        held = f"but {self._rows} hold {was.name} = {was.number} as"
        if was.is_repeated != now.is_repeated:
            text = f"{now.full_name} = {now.number} is {_count(now)}, {held} {_count(was)}"
            self._add("wire/field-cardinality", now, text)
        elif old != new and (was.type, now.type) not in _WIDER:
            self._add(
                "wire/field-type",
                now,
                f"{now.full_name} = {now.number} is {described(new)}, {held} {described(old)}",
            )
        else:
            self._same_type(was, now, old, new)
        if was.is_required != now.is_required:
            text = f"{now.full_name} {'becomes' if now.is_required else 'is no longer'} required"
            self._add("wire/field-required", now, f"{text}: readers of the other model refuse such rows")
        if was.has_default_value or now.has_default_value:
            before, after = was.default_value, now.default_value
            if before != after:
                text = f"{now.full_name} is {after!r} where it is absent, {held} {before!r}"
                self._add("wire/field-default", now, text)
        self._oneof(was, now)

    def _same_type(self, was: Any, now: Any, old: str, new: str) -> None:
        if old != new:
            self._add(
                "json/field-type",
                now,
                f"{now.full_name} changes from {described(old)} to {described(new)}: JSON has 64-bit"
                " numbers as text",
            )
        if self._strict and is_taken(was, now):
            text = f"{now.full_name} takes number {now.number}, under which {self._rows} hold {was.name}"
            fix = f'take the next free number; if it was renamed, add `reserved "{was.name}";`'
            self._add("wire/number-taken", now, text, fix)
        elif was.json_name != now.json_name or was.name != now.name:
            self._add(
                "json/field-name",
                now,
                f"{now.full_name} = {now.number} was named {was.name}: older JSON has {was.json_name!r} or"
                f" {was.name!r}, newer JSON has {now.json_name!r} or {now.name!r}",
                "" if was.json_name != now.json_name else "ignore this with a reason",
            )
        if was.has_presence != now.has_presence and oneof_of(was) is None is oneof_of(now):
            self._presence(was, now)
        if was.message_type is not None and is_map(was) != is_map(now):
            text = f"{now.full_name} = {now.number} {'becomes' if is_map(now) else 'is no longer'} a map"
            self._add("json/field-type", now, f"{text}: JSON has a map as an object, and others as an array")
        if was.message_type is not None:
            self.compare(was.message_type, now.message_type)
        if was.enum_type is not None:
            self._enum(was.enum_type, now.enum_type)

    def _presence(self, was: Any, now: Any) -> None:
        """Report a field that distinguishes, or no longer distinguishes, rows that have it unset from rows
        with the default."""
        if now.full_name in self._reported:
            return
        default = _default(now)
        if now.has_presence:
            becomes = "becomes `optional`" if oneof_of(now) is None else "moves into a oneof"
            text = f"{becomes}: {self._rows} in which it is {default} have it unset from now on"
        else:
            text = (
                f"is no longer `optional`: {self._rows} that have it unset are read as {default}, like those"
                f" that were written with {default}, and `HasField` can no longer distinguish them"
            )
        self._add("wire/field-presence", now, f"{now.full_name} = {now.number} {text}")

    def _oneof(self, was: Any, now: Any) -> None:
        before, after = oneof_of(was), oneof_of(now)
        if (before and before.name) == (after and after.name):
            return
        old = was.containing_type
        if before is None:
            assert after is not None
            others = [f for f in after.fields if f.number != now.number and f.number in old.fields_by_number]
            if not others:  # alone, into a new one
                if not was.has_presence and _type(was) == _type(now):
                    self._presence(was, now)
                return
            text = f"moves into oneof {after.name}: a row that also has {others[0].name} loses one of the two"
        elif after is None:
            text = f"moves out of oneof {before.name}: old clients would drop values that new ones write"
        elif {field.number for field in before.fields} <= {field.number for field in after.fields}:
            return  # the oneof was renamed
        else:
            text = f"moves from oneof {before.name} to {after.name}"
        self._add("wire/field-oneof", now, f"{now.full_name} {text}")

    def _enum(self, old: Any, new: Any) -> None:
        pair = (old.full_name, new.full_name)
        if pair in self._seen or old.full_name == new.full_name:
            return
        self._seen.add(pair)
        if old.is_closed != new.is_closed:
            kind = "closed" if new.is_closed else "open"
            text = f"{new.full_name} becomes {kind}: readers differ in how they treat unknown numbers"
            self._add("wire/enum-closed", new, text)
        self._json(old, new)
        self._reserved(old, new, new.values, "value")
        ranges, reserved_names = reserved(new)
        for number, was in names_by_number(old).items():
            now = names_by_number(new).get(number)
            names = ", ".join(was)
            if now is None and not any(number in numbers for numbers in ranges):
                text = f"{new.full_name} no longer has {names} = {number}, which {self._rows} may contain"
                self._add("wire/enum-value-removed", new, text, f"add `reserved {number};`")
            elif now is None and not set(was) <= reserved_names | {*new.values_by_name}:
                text = (
                    f"{names} of {new.full_name} was removed, and its name is free: older JSON may contain it"
                )
                fix = " ".join(f'"{name}",' for name in was).rstrip(",")
                self._add("json/name-not-reserved", new, text, f"add `reserved {fix};`")
            elif now is not None and not set(was) <= set(now):
                value = new.values_by_number[number]
                if self._strict and is_value_taken(was, now, new):
                    text = (
                        f"{new.full_name}.{value.name} takes number {number}, under which {self._rows} hold"
                        f" {names}"
                    )
                    fix = f'take the next free number; if it was renamed, add `reserved "{was[0]}";`'
                    self._add("wire/number-taken", value, text, fix)
                    continue
                text = f"{new.full_name}.{value.name} = {number} was named {names}: older JSON has that name"
                self._add("json/enum-value-name", value, text)

    def _json(self, old: Any, new: Any) -> None:
        if allows_json(old) and not allows_json(new):
            text = f"{new.full_name} becomes best-effort JSON: two fields may have the same JSON name"
            self._add("json/format", new, text)

    def _reserved(self, old: Any, new: Any, members: Iterable[Any], what: str) -> None:
        """Check that reserved numbers and names stay reserved and unused."""
        was, was_names = reserved(old)
        now, now_names = reserved(new)
        used = {member.number: member for member in members}
        used_names = {member.name: member for member in members}
        for numbers in was:
            for number, again in used.items():
                if number in numbers:
                    text = f"{full_name(again)} takes number {number}, which was reserved: {self._rows} may"
                    self._add("wire/number-reused", again, f"{text} hold another {what} under it")
            if not _covered(numbers, [*now, *(range(n, n + 1) for n in used)]):
                shown = f"{numbers.start} to {numbers.stop - 1}" if len(numbers) > 1 else f"{numbers.start}"
                text = (
                    f"{new.full_name} no longer reserves {shown}, under which {self._rows} may contain a"
                    f" {what}"
                )
                self._add("wire/reserved-removed", new, text, f"add `reserved {shown};`")
        for name in sorted(was_names - now_names):
            near = used_names.get(name, new)
            text = f"{new.full_name} no longer reserves the name {name!r}, which older JSON may contain"
            self._add("json/reserved-removed", near, text, f'add `reserved "{name}";`')

    def _add(self, id: str, near: Any, text: str, fix: str = "") -> None:
        self._found.add(id, f"{self._file}:{self._text.line_of(near)}", text, fix)


def _covered(numbers: range, ranges: Iterable[range]) -> bool:
    at = numbers.start
    for held in sorted(ranges, key=lambda one: one.start):
        if at in held:
            at = held.stop
    return at >= numbers.stop


def _default(field: Any) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[field.default_value].name)
    return str(field.default_value).lower() if field.type == field.TYPE_BOOL else repr(field.default_value)


def _count(field: Any) -> str:
    return "repeated" if field.is_repeated else "single"


def _type(field: Any) -> str:
    """Return a field's type as the wire knows it; messages and enums are compared by their content."""
    kind = kind_of(field)
    if kind is MESSAGE and field.message_type.file.package == "google.protobuf":
        return str(field.message_type.full_name)
    return kind.name if kind not in {MESSAGE, ENUM} else {MESSAGE: "message", ENUM: "enum"}[kind]
