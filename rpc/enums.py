"""Enums: a request says nothing that this server has no word for.

    request ─▶ its fields that are enums, and those of the messages in it ─▶ known, or RowError

Protobuf hands on numbers that an enum does not have. What is written to the log is there for ever, so
they are refused where requests come in, for all services at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from everlog.store.errors import RowError


class _Fields(NamedTuple):
    """The fields of a message that can have an enum in them."""

    enums: list[tuple[FieldDescriptor, bool, frozenset[int]]]  # repeated?, the numbers that it has
    messages: list[tuple[FieldDescriptor, bool]]


_known: dict[str, _Fields] = {}


def check(message: Message) -> None:
    """Raises RowError if an enum in the message has a number that is none of its own. Read-only."""
    descriptor: Any = message.DESCRIPTOR
    fields = _fields(descriptor)
    for field, repeated, numbers in fields.enums:
        value: Any = getattr(message, field.name)
        for number in value if repeated else (value,):
            if number not in numbers:
                raise _unknown(field, number)
    for field, repeated in fields.messages:
        if repeated:
            for inner in getattr(message, field.name):
                check(inner)
        elif message.HasField(field.name):
            check(getattr(message, field.name))


def _fields(descriptor: Descriptor) -> _Fields:
    found = _known.get(descriptor.full_name)
    if found is None:
        enums, messages = [], []
        for field in descriptor.fields:
            if field.enum_type is not None:
                enums.append((field, field.is_repeated, frozenset(field.enum_type.values_by_number)))
            elif field.message_type is not None and _has_enums(field.message_type, set()):
                messages.append((field, field.is_repeated))
        found = _known[descriptor.full_name] = _Fields(enums, messages)
    return found


def _has_enums(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(
        field.enum_type is not None
        or (field.message_type is not None and _has_enums(field.message_type, seen))
        for field in descriptor.fields
    )


def _unknown(field: Any, number: int) -> RowError:
    values = field.enum_type.values
    known = ", ".join(f"{value.name} ({value.number})" for value in values)
    where = f"{field.containing_type.name}.{field.name}"
    return RowError(
        f"expected {where} to be one of {known}, found {number}; who calls is newer than this server,"
        " or wrong",
        field=where,
        found=number,
    )
