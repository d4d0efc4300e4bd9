"""Declaration: whether the constants of a table are what its model says they are.

A mistake is found when the constant is made, before anything runs, and names its file and line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from everlog.store.errors import SchemaError
from everlog.store.kinds import MESSAGE, TIMESTAMP, kind_of

if TYPE_CHECKING:
    from everlog.store.table import Field, Table


def check_keyable(table: Table[Any, Any], field: Field[Any], role: str, where: str) -> None:
    if field.steps[0].model is not table.model:
        raise SchemaError(
            f"{where}: {role} of table {table.name} names {field.model.__name__}.{field.dotted},"
            f" expected a field of {table.model.__name__}",
            where=where,
        )
    field.check()
    if field.kind.encode is None:
        raise SchemaError(
            f"{where}: {role} of table {table.name} names {field.dotted}, {field.kind.described};"
            " a message has no order: name one of its fields with .then(…)",
            where=where,
        )


def check_person(table: Table[Any, Any]) -> None:
    """Whether what a table says of sealing can be done."""
    if table.person is not None:
        check_keyable(table, table.person, "the person", table.where)
    keys = {field.path for field in table.key}
    for index in table.indexes.values():
        if index.hashed and table.person is None:
            raise SchemaError(
                f"{index.where}: index {index.name} is hashed, but table {table.name} names no person, so its"
                " rows are open; leave out hashed=True",
                where=index.where,
            )
        sealed = [field.dotted for field in index.fields if field.path not in keys]
        if table.person is not None and sealed and not index.hashed:
            raise SchemaError(
                f"{index.where}: index {index.name} of table {table.name} would show what is sealed:"
                f" {', '.join(sealed)}, in its order; declare it with hashed=True, which finds what is equal"
                " and knows no order, or leave it out",
                where=index.where,
            )


def check_field(field: Field[Any], where: str) -> None:
    model = field.model.DESCRIPTOR
    found: FieldDescriptor | None = model.fields_by_name.get(field.name)
    label = f"{where}: field {field.name!r} of {model.full_name} ({model.file.name})"
    if found is None:
        raise SchemaError(
            f"{label} is declared here, but the model has: {', '.join(f.name for f in model.fields)}",
            where=where,
        )
    if found.number != field.number:
        raise SchemaError(
            f"{label} is declared with number {field.number}, but the model gives it {found.number}",
            where=where,
        )
    if found.is_repeated:
        raise SchemaError(f"{label} is repeated; only a single value can be a field of a table", where=where)
    kind = kind_of(found)
    if kind is not field.kind and not (kind is TIMESTAMP and field.kind is MESSAGE):
        raise SchemaError(
            f"{label} is declared as {field.kind.name}, but the model says {kind.name}", where=where
        )
