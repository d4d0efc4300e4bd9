"""Messages: an example of every message of the contract, in which each field is set.

    python -m tests.proto.messages >> tests/proto/messages.hex      adds what has no golden bytes yet

messages.hex has one line `everlog.v1.Name: hex` for each example; a message with a oneof has one for each of
its members. A line is never changed. A message that gets a field gets another line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from everlog.proto import fields_pb2
from everlog.rpc.server.server import DESCRIPTORS

FILE, ENUMS = (Path(__file__).parent / name for name in ("messages.hex", "enums.txt"))
_TEXT = {FieldDescriptor.CPPTYPE_STRING}
_REAL = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def files() -> list[FileDescriptor]:
    """Return the files of the contract."""
    found = {one.file.name: one.file for one in DESCRIPTORS} | {"fields": fields_pb2.DESCRIPTOR}
    todo = list(found.values())
    while todo:
        for one in todo.pop().dependencies:
            if one.name not in found and one.package.startswith("everlog."):
                found[one.name] = one
                todo.append(one)
    return list({one.name: one for one in found.values()}.values())


def messages() -> dict[str, Descriptor]:
    """Return every message of the contract by its full name, also those within others."""
    found: dict[str, Descriptor] = {}
    todo = [message for file in files() for message in file.message_types_by_name.values()]
    while todo:
        one = todo.pop()
        if one.GetOptions().map_entry:
            continue
        found[one.full_name] = one
        todo.extend(one.nested_types)
    return dict(sorted(found.items()))


def enums() -> dict[str, EnumDescriptor]:
    found = {one.full_name: one for file in files() for one in file.enum_types_by_name.values()}
    found |= {one.full_name: one for message in messages().values() for one in message.enum_types}
    return dict(sorted(found.items()))


def value_of(field: FieldDescriptor) -> Any:
    """Return the value that a field has in the examples, one element if it is repeated."""
    if field.message_type is not None:
        inner = GetMessageClass(field.message_type)()
        for one in field.message_type.fields:
            if one.message_type is None and not one.is_repeated and not _oneof(one):
                setattr(inner, one.name, value_of(one))
                break
        return inner
    if field.enum_type is not None:
        return field.enum_type.values[1].number  # the first is the default
    if field.cpp_type in _REAL:
        return field.number + 0.5
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    if field.cpp_type in _TEXT:
        return field.name.encode() if field.type == FieldDescriptor.TYPE_BYTES else field.name
    return 1000 + field.number


def examples(descriptor: Descriptor) -> Iterator[Message]:
    """Yield messages in which each field is set in one at least."""
    plain = [field for field in descriptor.fields if not _oneof(field)]
    choices = [one.fields for one in descriptor.oneofs if _oneof(one.fields[0])]
    for number in range(max(map(len, choices), default=1)):
        made = GetMessageClass(descriptor)()
        for field in plain if not number else ():
            put(made, field)
        for fields in choices:
            if number < len(fields):
                put(made, fields[number])
        yield made


def put(message: Message, field: FieldDescriptor) -> None:
    value = value_of(field)
    if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, item = field.message_type.fields
        getattr(message, field.name)[value_of(key)] = value_of(item)
    elif field.is_repeated:
        getattr(message, field.name).extend([value, value])
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


def golden() -> Iterator[tuple[str, bytes]]:
    """Yield the name of a message, and golden bytes of one."""
    for line in FILE.read_text(encoding="ascii").splitlines():
        name, _, text = line.partition(": ")
        yield name, bytes.fromhex(text)


def _oneof(field: FieldDescriptor) -> bool:
    """Whether a field is one of several of which only one is set."""
    one = field.containing_oneof
    return one is not None and len(one.fields) > 1


if __name__ == "__main__":
    known = set(golden()) if FILE.exists() else set()
    for full_name, message_type in messages().items():
        for example in examples(message_type):
            raw = example.SerializeToString(deterministic=True)
            if (full_name, raw) not in known:
                print(f"{full_name}: {raw.hex()}")  # noqa: T201  the line to add
