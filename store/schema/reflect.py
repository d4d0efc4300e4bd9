"""Reflect: build a table's constants from the log, for code that knows the table only by name.

    db.schema.table("airports") ─▶ Table("airports", <the log's own model>, key=…, indexes=…)

For programs without migrations: a command line, a viewer. Rows have the model that the log carries, so they
have no unknown fields.
"""

from __future__ import annotations

from datetime import timedelta
from functools import reduce
from typing import Any, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from everlog.store.schema.codec import kind_of
from everlog.store.schema.descriptors import descriptor_of, resolve
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Field, Index, Table


def table_of(info: TableInfo) -> Table[Message, Any]:
    """Return the constant of a table in a schema, for `get`, `scan` and `put`. Read-only."""
    keys = tuple(_field(path) for path in info.key_fields)
    indexes = tuple(
        Index[Message](
            index.name, *(_field(path) for path in index.fields), unique=index.unique, hashed=index.hashed
        )
        for index in info.indexes.values()
        if not index.building
    )
    ttl = timedelta(microseconds=max(1, info.ttl_ns // 1000)) if info.ttl_ns else None
    person = None
    if info.sealed:
        person = _field(resolve(descriptor_of(info.model), info.proto.person.numbers))
    return Table(info.name, info.model, key=keys, indexes=indexes, ttl=ttl, person=person)


def _field(path: tuple[FieldDescriptor, ...]) -> Field[Any]:
    steps = [
        Field(
            message_factory.GetMessageClass(cast(Descriptor, step.containing_type)),
            step.name,
            step.number,
            kind_of(step),
        )
        for step in path
    ]
    return reduce(Field.then, steps)
