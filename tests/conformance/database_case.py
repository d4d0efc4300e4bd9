"""Database case: models, tables, and an open database of each kind, for one suite over all.

memory   embedded, in a temporary directory
file     embedded, in a directory
remote   a server in this process, over a directory, and a client of it
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as FieldProto

import everlog
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.schema.codec import INT64, STRING, UINT32
from everlog.store.schema.evolve import evolve
from everlog.store.schema.table import Fields, Index, Table

KINDS = ("memory", "file", "remote")
VERSION = 20260105093000


def _models(version: int, messages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return model classes, each field numbered from 1 in the given order."""
    package = f"case.v{version}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}/model.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            added = message.field.add(name=field, number=number, label=FieldProto.LABEL_OPTIONAL)
            if isinstance(kind, str):
                added.type, added.type_name = FieldProto.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


_TEXT, _INT, _UINT = FieldProto.TYPE_STRING, FieldProto.TYPE_INT64, FieldProto.TYPE_UINT32

_made = _models(
    VERSION,
    {
        "Place": {"country": _TEXT, "height": _INT},
        "Airport": {"faa": _TEXT, "name": _TEXT, "city": _TEXT, "place": "Place"},
        "Flight": {"carrier": _TEXT, "number": _UINT, "origin": _TEXT, "delay": _INT},
    },
)
Place, Airport, Flight = _made["Place"], _made["Airport"], _made["Flight"]

_place, _airport, _flight = Fields[str](Place), Fields[str](Airport), Fields[str](Flight)
FAA = _airport("faa", 1, STRING)
NAME = _airport("name", 2, STRING)
CITY = _airport("city", 3, STRING)
COUNTRY = _airport("place", 4, everlog.store.schema.codec.MESSAGE).then(_place("country", 1, STRING))
CARRIER = _flight("carrier", 1, STRING)
NUMBER = _flight("number", 2, UINT32)
DELAY = _flight("delay", 4, INT64)

AIRPORTS: Table[Any, str] = Table(
    "airports",
    Airport,
    key=FAA,
    indexes=(Index("by_city", CITY), Index("by_name", NAME, unique=True), Index("by_country", COUNTRY, CITY)),
)
FLIGHTS: Table[Any, tuple[str, int]] = Table(
    "flights", Flight, key=(CARRIER, NUMBER), indexes=(Index("by_delay", DELAY),)
)


class Case(NamedTuple):
    """The database under test, and the embedded database behind it, which may be that of a server."""

    kind: str
    db: EmbeddedDatabase | RemoteDatabase
    embedded: EmbeddedDatabase
    server: Server | None = None

    def reader(self) -> EmbeddedDatabase | RemoteDatabase:
        """Open the same database for reading. The caller closes it."""
        if self.server is not None:
            return RemoteDatabase(self.server.url("case"), read_only=True)
        return EmbeddedDatabase(self.embedded.path, read_only=True)


def migrate(db: EmbeddedDatabase, version: int, *tables: Table[Any, Any]) -> int:
    """Put the tables into force; return the seq of the record."""
    migration = log_pb2.Migration(
        step=log_pb2.Migration.FINISHED,
        version=version,
        name="case",
        schema=evolve(db.schema.proto, version, tables),
    )
    return db.apply_migration(migration).seq


@contextmanager
def open_case(
    kind: str, directory: Path, *more: Table[Any, Any], master_key: bytes | None = None
) -> Iterator[Case]:
    """Yield a database with the tables of this case and `more`, without rows. At the end it is checked."""
    where = "memory:" if kind == "memory" else f"file:{directory / 'case'}"
    embedded = everlog.open(where, master_key=master_key)
    assert isinstance(embedded, EmbeddedDatabase)
    with embedded:
        migrate(embedded, VERSION, AIRPORTS, FLIGHTS, *more)
        if kind == "remote":
            with Server({"case": embedded}) as server, RemoteDatabase(server.url("case")) as remote:
                yield Case(kind, remote, embedded, server)
        else:
            yield Case(kind, embedded, embedded)
        assert list(embedded.admin.check()) == []


def airport(faa: str, city: str = "New York", name: str = "", country: str = "US") -> Any:
    return Airport(faa=faa, name=name or f"{faa} airport", city=city, place=Place(country=country))


def flight(number: int, carrier: str = "UA", delay: int = 0) -> Any:
    return Flight(carrier=carrier, number=number, origin="JFK", delay=delay)
