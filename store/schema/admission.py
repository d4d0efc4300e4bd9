"""Admission: decide which rows may be written, and salvage stored rows that cannot be parsed.

    row ─▶ bytes ─▶ parsed again, as every reader will parse it ─▶ text is UTF-8 ─▶ may be written
    stored bytes that no reader can parse ─▶ salvage ─▶ the fields that can be read

protobuf serializes messages that it refuses to parse: nested deeper than 100 levels, or with text that
is not UTF-8. The descriptors of a model tell whether it can hold such a message, so this is decided once
per model. A flat proto3 model cannot, and its rows are not parsed again.

Invariants
  (1) the model of the writer and the model of the log both parse every row that is admitted;
  (2) `salvage` is a function of the bytes and the model alone, so each replay makes the same index entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.store.errors import CorruptionError
from everlog.store.record import read_varint

DEPTH_MAX = 100  # levels of nested messages that protobuf parses
DEEP_BYTES_MIN = 2 * DEPTH_MAX  # each level takes a tag and a length, so no shorter row is nested too deep
_SALVAGE_DEPTH = 8
_TEXT = FieldDescriptor.TYPE_STRING
_ENDS_GROUP, _LENGTH_DELIMITED = 4, 2


class Doubt(NamedTuple):
    """A model whose parser may refuse a serialized row, or return text that is not UTF-8."""

    parse: Callable[[bytes], Message]
    name: str
    has_loose_text: bool
    bytes_min: int  # shorter rows always parse

    def why_not(self, raw: bytes) -> str:
        """Return why a reader with this model cannot parse `raw`; empty if it can."""
        try:
            row = self.parse(raw)
        except DecodeError as error:
            return f"{why(error)}, so no reader could parse it as a {self.name}"
        if self.has_loose_text and (place := _loose_text(row)):
            return f"{place} is not UTF-8; use a field of type `bytes`"
        return ""


def doubts(model: type[Message], own: type[Message]) -> list[Doubt]:
    """Return the models that must parse a row of `model` before it is written into a table whose model in the
    log is `own`; empty if every row of `model` can be parsed."""
    descriptor, logged = _descriptor(model), _descriptor(own)
    found = []
    if not _is_plain(descriptor):
        found.append(_doubt(model, descriptor, DEEP_BYTES_MIN))
    if descriptor is not logged and not _same_shape(descriptor, logged, set()):
        found.append(_doubt(own, logged, 0))
    return found


def why(error: Exception) -> str:
    """Return protobuf's reason for not parsing a row, as a clause for a message."""
    text = str(error)
    if "MaxDepth" in text:
        return f"it is nested deeper than {DEPTH_MAX} levels"
    return f"protobuf reports: {text}"


def is_whole(raw: bytes) -> bool:
    """Whether `raw` is a sequence of whole protobuf fields, of any model."""
    return sum(end - start for _, _, _, end, start in _wire(raw)) == len(raw)


def read(model: type[Message], raw: bytes) -> Message:
    """Return a stored row as a `model`; if it does not parse, with the fields that do (`salvage`)."""
    try:
        return model.FromString(raw)
    except DecodeError:
        return salvage(model, raw)


def salvage(model: type[Message], raw: bytes, depth: int = _SALVAGE_DEPTH) -> Message:
    """Return the fields of a row that parse by themselves, down to `depth` levels of messages.

    The result can be serialized and parsed again: a part that would nest it too deep is left out.
    """
    message, fields = model(), _descriptor(model).fields_by_number
    for number, wire_type, body, end, start in _wire(raw):
        piece = raw[start:end]
        if not _parses(model, piece):
            field = fields.get(number)
            if field is None or field.message_type is None or wire_type != _LENGTH_DELIMITED or not depth:
                continue
            if field.message_type.GetOptions().map_entry:
                continue
            inner = message_factory.GetMessageClass(field.message_type)
            part = model()
            into: Any = getattr(part, field.name)
            if field.is_repeated:
                into = into.add()
            else:
                into.SetInParent()
            into.CopyFrom(salvage(inner, raw[body:end], depth - 1))  # unlike MergeFrom, not through bytes
            piece = part.SerializePartialToString()
            if not _parses(model, piece):
                continue
        message.MergeFromString(piece)
    return message


def _parses(model: type[Message], raw: bytes) -> bool:
    try:
        model.FromString(raw)
    except DecodeError:
        return False
    return True


def _doubt(model: type[Message], descriptor: Descriptor, bytes_min: int) -> Doubt:
    loose = _extends(descriptor) or any(_is_loose(field) for field in _fields(descriptor))
    return Doubt(model.FromString, descriptor.full_name, loose, 0 if loose else bytes_min)


def _descriptor(model: type[Message]) -> Any:
    return model.DESCRIPTOR


def _is_plain(descriptor: Descriptor) -> bool:
    """Whether every serialized row of this model can be parsed: no nested messages, and all text is
    checked."""
    return not descriptor.is_extendable and not any(
        field.message_type is not None or _is_loose(field) for field in descriptor.fields
    )


def _fields(descriptor: Descriptor) -> Iterator[FieldDescriptor]:
    """Yield all fields of a model and of its messages, each once."""
    seen, waiting = {descriptor.full_name}, [descriptor]
    while waiting:
        for field in waiting.pop().fields:
            yield field
            inner = field.message_type
            if inner is not None and inner.full_name not in seen:
                seen.add(inner.full_name)
                waiting.append(inner)


def _extends(descriptor: Descriptor) -> bool:
    return descriptor.is_extendable or any(
        field.message_type is not None and field.message_type.is_extendable for field in _fields(descriptor)
    )


def _is_loose(field: FieldDescriptor) -> bool:
    """Whether a text field accepts bytes that are not UTF-8, like those of proto2."""
    if field.type != _TEXT:
        return False
    owner: Any = field.containing_type
    tag = field.number << 3 | _LENGTH_DELIMITED
    prefix = bytearray()
    while tag >= 0x80:
        prefix.append(tag & 0x7F | 0x80)
        tag >>= 7
    prefix.append(tag)
    try:
        message_factory.GetMessageClass(owner).FromString(bytes(prefix) + b"\x01\xff")
    except DecodeError:
        return False
    return True


def _same_shape(one: Descriptor, other: Descriptor, seen: set[tuple[str, str]]) -> bool:
    """Whether two models parse the same bytes to the same fields."""
    if (one.full_name, other.full_name) in seen:
        return True
    seen.add((one.full_name, other.full_name))
    mine, theirs = one.fields_by_number, other.fields_by_number
    if mine.keys() != theirs.keys() or one.is_extendable or other.is_extendable:
        return False
    for number, field in mine.items():
        its = theirs[number]
        if (field.type, field.is_repeated) != (its.type, its.is_repeated):
            return False
        if _is_loose(field) != _is_loose(its):
            return False
        inner, theirs_inner = field.message_type, its.message_type
        if inner is not None and theirs_inner is not None and not _same_shape(inner, theirs_inner, seen):
            return False
    return True


def _loose_text(message: Message) -> str:
    """Return the path of the first text that is not UTF-8; empty if there is none."""
    for field, value in message.ListFields():
        entry = field.message_type
        is_map = entry is not None and entry.GetOptions().map_entry
        try:
            values = (
                list(value.items()) if is_map else enumerate(value) if field.is_repeated else [(None, value)]
            )
        except UnicodeDecodeError:  # a key of the map
            return field.name
        for at, one in values:
            place = f"{field.name}[{at}]" if field.is_repeated and not is_map else field.name
            if isinstance(one, Message):
                if inner := _loose_text(one):
                    return f"{place}.{inner}"
            elif isinstance(one, bytes) and _text_of(field, is_map=is_map):
                return place
    return ""


def _text_of(field: FieldDescriptor, *, is_map: bool) -> bool:
    of = field.message_type.fields_by_number[2] if is_map and field.message_type is not None else field
    return bool(of.type == _TEXT)


def _wire(raw: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (number, wire type, start and end of the value, start of the tag) of each field, as far as the
    bytes are valid."""
    at = 0
    try:
        while at < len(raw):
            start = at
            tag, at = read_varint(raw, at)
            number, wire_type, body = tag >> 3, tag & 7, at
            if wire_type == _LENGTH_DELIMITED:
                size, body = read_varint(raw, at)
                at = body + size
            else:
                at = _skipped(raw, at, wire_type)
            if at > len(raw) or not number:
                return
            yield number, wire_type, body, at, start
    except (CorruptionError, IndexError, ValueError):
        return


def _skipped(raw: bytes, at: int, wire_type: int) -> int:
    """Return where a value that is not length-delimited ends. Groups are skipped without recursion."""
    open_groups = 0
    while True:
        match wire_type:
            case 0:
                at = read_varint(raw, at)[1]
            case 1:
                at += 8
            case 2:
                size, at = read_varint(raw, at)
                at += size
            case 3:
                open_groups += 1
            case 4:
                open_groups -= 1
            case 5:
                at += 4
            case _:
                raise ValueError("invalid wire type")
        if open_groups <= 0:
            return at
        tag, at = read_varint(raw, at)
        wire_type = tag & 7
