"""Protojson: one field of a message as ProtoJSON text that parses back to exactly that field.

    field of a row ─▶ message of its own ─▶ ProtoJSON text
                                          └▶ serialised bytes, where ProtoJSON would change it

Sinks use it for fields without a column type: nested messages, repeated fields and maps. Names are those of
the model, enums are numbers, object keys are sorted, and nothing is indented, so equal values are equal
texts. An empty field is `[]` or `{}`, and None for a message that is not set.

Invariants
  (1) merge(text(m)) gives a field that serialises as that of m did, unknown fields left out;
  (2) a value that ProtoJSON cannot represent (a NaN with a payload, a timestamp in the year 12000, an Any of
      an unknown type) is stored as its message's bytes instead: exact, if unreadable.

The format: protobuf.dev/programming-guides/json.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.store.schema.admission import DEPTH_MAX
from everlog.store.schema.descriptors import is_map

_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
_WELL_KNOWN = "google.protobuf."
_FAITHFUL = {_WELL_KNOWN + name for name in ("Timestamp", "Duration")}
_WIDENED = (
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64),
)
_REFUSALS = (json_format.Error, DecodeError, ValueError, TypeError, RecursionError)


class JsonField:
    """Reads and writes one field of a model: `text` from a row, `merge` into a row."""

    def __init__(self, model: type[Message], field: FieldDescriptor) -> None:
        self.name = field.name
        self._model = model
        self._pool: Any = model.DESCRIPTOR.file.pool
        self._repeated = field.is_repeated
        self._is_map = is_map(field)
        self._checked = not _faithful(field, set())
        self.empty: str | None = ("{}" if self._is_map else "[]") if self._repeated else None

    def text(self, row: Message) -> str | bytes | None:
        """Return the field of this row as text, or as bytes if ProtoJSON would change it. Read-only."""
        if not (getattr(row, self.name) if self._repeated else row.HasField(self.name)):
            return self.empty
        alone: Message = self._model()
        if self._repeated:
            getattr(alone, self.name).MergeFrom(getattr(row, self.name))
        else:
            getattr(alone, self.name).CopyFrom(getattr(row, self.name))
        try:
            text = self._print(alone)
            if not self._checked or self._same(alone, text):
                return text
        except _REFUSALS:
            pass
        return self._bytes(alone)

    def merge(self, row: Message, value: object) -> None:
        """Set the field of `row`. Raises ValueError for a value that `text` never returns."""
        if value is None:
            return
        try:
            if isinstance(value, bytes):
                row.MergeFromString(value)
            elif isinstance(value, str):
                self._parse(value, row)
            else:
                raise TypeError(f"expected text or bytes, found {type(value).__name__}")
        except _REFUSALS as error:
            raise ValueError(f"{self.name} is not ProtoJSON of its type: {error}") from None

    def _print(self, alone: Message) -> str:
        printed = json_format.MessageToDict(
            alone,
            preserving_proto_field_name=True,
            use_integers_for_enums=True,
            descriptor_pool=self._pool,
        )
        return json.dumps(printed[self.name], ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    def _parse(self, text: str, row: Message) -> None:
        named = {self.name: json.loads(text)}
        levels = DEPTH_MAX + 1  # json_format counts the row as a level
        json_format.ParseDict(named, row, descriptor_pool=self._pool, max_recursion_depth=levels)

    def _same(self, alone: Message, text: str) -> bool:
        again = self._model()
        self._parse(text, again)
        return again.SerializePartialToString(deterministic=True) == self._bytes(alone)

    @staticmethod
    def _bytes(alone: Message) -> bytes:
        alone.DiscardUnknownFields()
        return alone.SerializePartialToString(deterministic=True)


def means_the_same(old: FieldDescriptor, new: FieldDescriptor) -> bool:
    """Return whether every text, and every plain value, of the old field is the same value of the new one.
    Fields added to nested messages change nothing; a nested field renamed or dropped does."""
    return _means_the_same(old, new, set())


def _means_the_same(old: FieldDescriptor, new: FieldDescriptor, seen: set[str]) -> bool:
    if (old.type, new.type) not in _WIDENED and old.type != new.type:
        return False
    if (old.is_repeated, old.has_presence) != (new.is_repeated, new.has_presence):
        return False
    if _rivals(old) != _rivals(new):
        return False
    if old.message_type is None or new.message_type is None or old.message_type.full_name in seen:
        return True
    if old.message_type.full_name.startswith(_WELL_KNOWN):
        return bool(old.message_type.full_name == new.message_type.full_name)
    seen.add(old.message_type.full_name)
    others = new.message_type.fields_by_number
    return all(
        one.number in others
        and one.name == others[one.number].name
        and _means_the_same(one, others[one.number], seen)
        for one in old.message_type.fields
    )


def _rivals(field: FieldDescriptor) -> set[int]:
    """Return the numbers of the fields of which at most one is set, this one included."""
    return {one.number for one in field.containing_oneof.fields} if field.containing_oneof else {field.number}


def _faithful(field: FieldDescriptor, seen: set[str]) -> bool:
    """Return whether ProtoJSON represents exactly every value of the field that it accepts."""
    message: Descriptor | None = field.message_type
    if message is None:
        return field.type not in _FLOATS
    if message.full_name in seen or message.full_name in _FAITHFUL:
        return True
    seen.add(message.full_name)
    if message.full_name.startswith(_WELL_KNOWN):
        return False
    ambiguous = {one.json_name for one in message.fields if one.json_name != one.name} & set(
        message.fields_by_name
    )
    return not ambiguous and all(_faithful(one, seen) for one in message.fields)
