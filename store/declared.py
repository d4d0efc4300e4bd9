"""Declared: the constants of a table made from the schema in force, for who has no generated code.

    TableInfo ─▶ Table over the model that the log carries

A server, the console and an import work on tables that they only know by name.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.store.kinds import kind_of
from everlog.store.schema import TableInfo
from everlog.store.table import Field, Index, Table


def table_of(info: TableInfo) -> Table[Message, Any]:
    """The table as its migration declared it, with the log's own model."""
    return Table(
        info.name,
        info.model,
        key=tuple(_field(path) for path in info.key_fields),
        indexes=tuple(
            Index(index.name, *(_field(path) for path in index.fields), unique=index.unique)
            for index in info.indexes.values()
        ),
    )


def _field(path: tuple[FieldDescriptor, ...]) -> Field[Any]:
    steps = [
        Field(
            message_factory.GetMessageClass(step.containing_type),
            step.name,
            step.number,
            kind_of(step),
        )
        for step in path
    ]
    field = steps[0]
    for step in steps[1:]:
        field = field.then(step)
    return field
