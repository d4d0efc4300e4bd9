"""Enums: what the numbers in enum columns are called, for `_everlog_enums`.

Columns hold numbers, because those are what the data is: a value that is renamed changes no row,
and one that the model does not know yet has no name at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import EnumDescriptorProto

from everlog.store.schema import Schema


def enum_values(schema: Schema) -> Iterator[tuple[str, int, str]]:
    """Full name, number and name of every value of every enum that the models have."""
    for file in schema.proto.models.file:
        package = f"{file.package}." if file.package else ""
        yield from _values(package, file.enum_type)
        scopes = [(package, message) for message in file.message_type]
        while scopes:
            outer, message = scopes.pop()
            inner = f"{outer}{message.name}."
            yield from _values(inner, message.enum_type)
            scopes += [(inner, nested) for nested in message.nested_type]


def _values(scope: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[tuple[str, int, str]]:
    for enum in enums:
        yield from ((scope + enum.name, value.number, value.name) for value in enum.value)
