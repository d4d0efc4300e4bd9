"""Models: the tables of the store's tests, without generated code.

AIRPORTS  one text key, an index, an index on a nested field, a unique one that may be absent
SEATS     a key of three fields, a composite index
ITEMS     a number as key, nothing else
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.schema.codec import (
    BOOL,
    BYTES,
    DOUBLE,
    ENUM,
    FIXED32,
    FIXED64,
    FLOAT,
    INT32,
    INT64,
    MESSAGE,
    SFIXED32,
    SFIXED64,
    SINT32,
    SINT64,
    STRING,
    TIMESTAMP,
    UINT32,
    UINT64,
    Kind,
)
from everlog.store.schema.evolve import evolve
from everlog.store.schema.table import Field, Index, Table
from everlog.store.tx.transaction import CommitResult

KINDS: tuple[Kind[Any], ...] = (
    BOOL, INT32, INT64, UINT32, UINT64, SINT32, SINT64, FIXED32, FIXED64, SFIXED32, SFIXED64,
    FLOAT, DOUBLE, STRING, BYTES, ENUM, TIMESTAMP,
)  # fmt: skip
_TYPES = {str(kind).lower(): kind.number for kind in KINDS}
OPTIONAL = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def models(package: str, **messages: str) -> dict[str, Any]:
    """Return model classes by name: `models("a", Row="id 1 uint64, name 2 string?, at 3 .Position")`.

    `?` makes a field optional, `*` repeated; `.Name` is another message of the package.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for one in fields.split(","):
            _add_field(file, message, *one.split())
    pool = descriptor_pool.DescriptorPool()
    for known in file.dependency:
        proto = descriptor_pb2.FileDescriptorProto()
        timestamp_pb2.DESCRIPTOR.CopyToProto(proto)
        assert proto.name == known
        pool.Add(proto)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _add_field(
    file: descriptor_pb2.FileDescriptorProto,
    message: descriptor_pb2.DescriptorProto,
    name: str,
    number: str,
    word: str,
) -> None:
    field = message.field.add(name=name, number=int(number), label=REPEATED if "*" in word else OPTIONAL)
    if word.endswith("?"):
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
    word = word.rstrip("?*")
    if word.startswith("."):
        field.type_name = f".{file.package}{word}"
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    elif word == "timestamp":
        field.type_name = f".{TIMESTAMP.name}"
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        if not file.dependency:
            file.dependency.append("google/protobuf/timestamp.proto")
    elif word == "enum":
        if not file.enum_type:
            color = file.enum_type.add(name="Color")
            for at, what in enumerate(("RED", "GREEN", "BLUE")):
                color.value.add(name=what, number=at)
            color.value.add(name="BELOW", number=-1)
        field.type_name = f".{file.package}.Color"
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
    else:
        field.type = _TYPES[word]  # type: ignore[assignment]


FLIGHTS = models(
    "flights",
    Position="lat 1 double, lon 2 double",
    Airport="faa 1 string, name 2 string, icao 3 string?, city 4 string, position 5 .Position",
    Seat="flight 1 int32, row 2 sint64, letter 3 bytes, cabin 4 enum, price 5 double, taken 6 bool",
    Item="id 1 uint64, text 2 string, n 3 int64",
)
Airport, Position, Seat, Item = (FLIGHTS[name] for name in ("Airport", "Position", "Seat", "Item"))

FAA = Field(Airport, "faa", 1, STRING)
NAME = Field(Airport, "name", 2, STRING)
ICAO = Field(Airport, "icao", 3, STRING)
CITY = Field(Airport, "city", 4, STRING)
LAT = Field(Airport, "position", 5, MESSAGE).then(Field(Position, "lat", 1, DOUBLE))

FLIGHT = Field(Seat, "flight", 1, INT32)
ROW = Field(Seat, "row", 2, SINT64)
LETTER = Field(Seat, "letter", 3, BYTES)
CABIN = Field(Seat, "cabin", 4, ENUM)
PRICE = Field(Seat, "price", 5, DOUBLE)

ITEM_ID = Field(Item, "id", 1, UINT64)
TEXT = Field(Item, "text", 2, STRING)
N = Field(Item, "n", 3, INT64)

AIRPORTS: Table[Any, str] = Table(
    "airports",
    Airport,
    key=FAA,
    indexes=(Index("by_city", CITY), Index("by_lat", LAT), Index("by_icao", ICAO, unique=True)),
)
SEATS: Table[Any, tuple[int, int, bytes]] = Table(
    "seats", Seat, key=(FLIGHT, ROW, LETTER), indexes=(Index("by_cabin_and_price", CABIN, PRICE),)
)
ITEMS: Table[Any, int] = Table("items", Item, key=ITEM_ID)
TABLES: tuple[Table[Any, Any], ...] = (AIRPORTS, SEATS, ITEMS)


def migration(schema: log_pb2.Schema, name: str = "tables") -> log_pb2.Migration:
    return log_pb2.Migration(
        step=log_pb2.Migration.FINISHED, version=schema.version, name=name, schema=schema
    )


def declare(
    db: Database,
    *tables: Table[Any, Any],
    rows: Iterable[tuple[Table[Any, Any], Any]] = (),
    drop: Iterable[str] = (),
) -> CommitResult:
    """Apply the next migration: these tables, and rows in them."""
    schema = evolve(db.schema.proto, db.schema.version + 1, tables, drop=drop)
    return db.apply_migration(migration(schema), rows)


def open_flights(path: Path, *tables: Table[Any, Any], **options: Any) -> Database:
    """Open a database with tables (all, unless some are named), which is created if it is missing."""
    db = Database(path, **options)
    if not db.schema.version:
        declare(db, *(tables or TABLES))
    return db


def airport(faa: str, city: str = "", **fields: Any) -> Any:
    return Airport(faa=faa, city=city, **fields)


def items(first: int, last: int, text: str = "text") -> list[Any]:
    """Return the items `first` to `last`, both included."""
    return [Item(id=number, text=f"{text} {number}", n=-number) for number in range(first, last + 1)]
