"""Lint descriptor: what a message or an enum says of itself that its descriptor does not tell at once.

    reserved      numbers and names
    allows_json   feature json_format:  its own ─▶ of the message around it ─▶ of the file ─▶ of the edition
                  ALLOW                 protoc refuses two fields of one JSON name
                  LEGACY_BEST_EFFORT    it lets them pass, and JSON has one of them

proto2 is best effort, proto3 and the editions allow JSON unless something says otherwise
(protobuf.dev, "Feature Settings for Editions").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2

_ALLOW = descriptor_pb2.FeatureSet.ALLOW


def reserved(model: Any) -> tuple[list[range], set[str]]:
    """Numbers and names that a message or an enum reserves."""
    if hasattr(model, "values_by_number"):
        enum = descriptor_pb2.EnumDescriptorProto()
        model.CopyToProto(enum)
        ranges = [range(item.start, item.end + 1) for item in enum.reserved_range]  # an enum's end is in it
        return ranges, set(enum.reserved_name)
    message = descriptor_pb2.DescriptorProto()
    model.CopyToProto(message)
    return [range(item.start, item.end) for item in message.reserved_range], set(message.reserved_name)


def is_taken(old: Any, new: Any) -> bool:
    """Whether a field has the number of another one. A field that was renamed is no other: the new model
    reserves the old name, or keeps it in JSON. Two branches that take one number do not know of it."""
    if new.name == old.name or new.json_name in {old.name, old.json_name}:
        return False
    return old.name not in reserved(new.containing_type)[1]


def is_value_taken(old: Iterable[str], new: Iterable[str], enum: Any) -> bool:
    """The same for a number of an enum, with its names."""
    return not {*old} & ({*new} | reserved(enum)[1])


def oneof_of(field: Any) -> Any:
    """The oneof that a field is in; None for one that protobuf made for an `optional` field."""
    oneof = field.containing_oneof
    if oneof is None or (len(oneof.fields) == 1 and oneof.name == f"_{field.name}"):
        return None
    return oneof


def names_by_number(enum: Any) -> dict[int, list[str]]:
    """The names of each number of an enum: more than one where it allows aliases."""
    names: dict[int, list[str]] = {}
    for value in enum.values:
        names.setdefault(value.number, []).append(value.name)
    return names


def is_map(field: Any) -> bool:
    """Whether a field is a map, which on the wire is a repeated message."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


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
