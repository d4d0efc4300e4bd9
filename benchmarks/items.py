"""The subject `everlog`: its table, and a database that has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.rows import Row, row
from everlog.store.schema.codec import DOUBLE, INT64, STRING, UINT64
from everlog.store.schema.table import Field, Index, Table

if TYPE_CHECKING:
    from everlog.store.database import Database

_TYPES = descriptor_pb2.FieldDescriptorProto
_FIELDS = {
    "id": _TYPES.TYPE_UINT64,
    "name": _TYPES.TYPE_STRING,
    "kind": _TYPES.TYPE_STRING,
    "price": _TYPES.TYPE_DOUBLE,
    "amount": _TYPES.TYPE_INT64,
    "payload": _TYPES.TYPE_STRING,
}


def _model() -> type[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="benchmarks/item.proto", package="benchmarks")
    file.syntax = "proto3"
    fields = file.message_type.add(name="Item").field
    for number, (name, kind) in enumerate(_FIELDS.items(), start=1):
        fields.add(name=name, number=number, type=kind, label=_TYPES.LABEL_OPTIONAL)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("benchmarks.Item"))


Item = _model()
ID = Field(Item, "id", 1, UINT64)
NAME = Field(Item, "name", 2, STRING)
KIND = Field(Item, "kind", 3, STRING)
PRICE = Field(Item, "price", 4, DOUBLE)
AMOUNT = Field(Item, "amount", 5, INT64)
PAYLOAD = Field(Item, "payload", 6, STRING)
ITEMS: Table[Any, int] = Table("items", Item, key=ID, indexes=(Index("by_name", NAME),))


def message(item: Row) -> Any:
    id_, name, kind, price, amount, payload = item
    return Item(id=id_, name=name, kind=kind, price=price, amount=amount, payload=payload)


def messages(n: int, first: int = 1) -> list[Any]:
    return [message(row(number)) for number in range(first, first + n)]


def open_items(folder: Path, *, durability: str = "os") -> Database:
    """Open the database in a folder; create it with its table if it does not exist."""
    from everlog.proto import log_pb2
    from everlog.store.database import Database
    from everlog.store.schema.evolve import evolve

    db = Database(folder, durability=durability)
    if not db.schema.version:
        schema = evolve(log_pb2.Schema(), version=1, tables=[ITEMS])
        step = log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=1, name="items", schema=schema)
        db.apply_migration(step)
    return db
