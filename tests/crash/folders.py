"""Folders: the migrations of the campaign, and the form of a row of its model in each version.

    one     items: id, text, n; an index by n                  two     one more field and index
    three   every row rewritten: text is split in two          four    rebuilt: the key becomes a text

In every version, a row has the same meaning: a number, a text of two words, and n. An earlier folder has the
tables of people.py and limits.py, which these do not change.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from everlog import migrations
from everlog.audit.archived import attach
from everlog.migrations import Migration
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.clock import Clock
from everlog.store.schema.table import Table

HEADER = "from everlog.migrations import *\nfrom .model_pb2 import *\n\nfield = Fields(Item)\n"
ID, TEXT, N = (
    'ID = field("id", 1, UINT64)\n',
    'TEXT = field("text", 2, STRING)\n',
    'N = field("n", 3, INT64)\n',
)
BY_N = 'Index("by_n", N)'
SPLIT = """\
from ..{before}.model_pb2 import Item as Old

HEAD = field("head", 5, STRING)


def up(old: Old) -> Item:
    head, _, tail = old.text.partition(" ")
    return Item(id=old.id, head=head, tail=tail, n=old.n)


def down(new: Item) -> Old:
    return Old(id=new.id, text=f"{{new.head}} {{new.tail}}", n=new.n)


"""
ANEW = """\
from collections.abc import Iterator

from ..{before} import ITEMS as OLD
from ..{before}.model_pb2 import Item as OldItem

CODE = field("code", 7, STRING)


def up(db: Reader) -> Iterator[Row]:
    for old in db.scan(OLD):
        yield ITEMS, Item(code=f"{{old.id:020}}", text=f"{{old.head}} {{old.tail}}", n=old.n)


def down(db: Reader) -> Iterator[Row]:
    for new in db.scan(ITEMS):
        head, _, tail = new.text.partition(" ")
        yield OLD, OldItem(id=int(new.code), head=head, tail=tail, n=new.n)


"""
FOLDERS = (
    ("one", "uint64 id = 1; string text = 2; int64 n = 3;", ID + N, f"key=ID, indexes=({BY_N},)", ""),
    (
        "two",
        "uint64 id = 1; string text = 2; int64 n = 3; string tag = 4;",
        ID + TEXT + N,
        f'key=ID, indexes=({BY_N}, Index("by_text", TEXT))',
        "",
    ),
    (
        "three",
        "uint64 id = 1; int64 n = 3; string head = 5; string tail = 6; reserved 2, 4;",
        ID + N + SPLIT,
        f'key=ID, indexes=({BY_N}, Index("by_head", HEAD))',
        ", transforms=[Transform(ITEMS, Old, up, down)]",
    ),
    (
        "four",
        "string text = 2; int64 n = 3; string code = 7; reserved 1, 4, 5, 6;",
        N + ANEW,
        f"key=CODE, indexes=({BY_N},)",
        ", up=Remake([ITEMS], up), down=Remake([OLD], down)",
    ),
)
PEOPLE = ("people", "visits", "codes")
LIFE_S = 2
PEOPLE_PROTO = """\
message Person { uint64 id = 1; string subject = 2; string text = 3; }
message Visit { uint64 id = 1; string subject = 2; string text = 3; }
message Code { uint64 id = 1; string text = 3; }
message Limit { bytes id = 1; string text = 2; int64 n = 3; Limit inner = 4; }
"""
PEOPLE_CODE = f"""\
from datetime import timedelta

from everlog.migrations import *
from .model_pb2 import *

person, visit, code, limit = Fields(Person), Fields(Visit), Fields(Code), Fields(Limit)
ID, SUBJECT, TEXT = person("id", 1, UINT64), person("subject", 2, STRING), person("text", 3, STRING)
BY_TEXT = Index("by_text", TEXT, hashed=True)
BY_LIMITS = Index("by_text", limit("text", 2, STRING)), Index("by_n", limit("n", 3, INT64))
LIFE = timedelta(seconds={LIFE_S})
MIGRATION = Migration(
    tables=[
        Table("people", Person, key=ID, person=SUBJECT, indexes=(BY_TEXT,)),
        Table("visits", Visit, key=visit("id", 1, UINT64), person=visit("subject", 2, STRING), ttl=LIFE),
        Table("codes", Code, key=code("id", 1, UINT64), ttl=LIFE),
        Table("limits", Limit, key=limit("id", 1, BYTES), indexes=BY_LIMITS),
    ]
)
"""
VERSION_OF_PEOPLE = 20251231000000
MASTER = bytes(range(32))
REMEMBERED_S = 2.0  # how long a commit may be sent again; until then its record is not archived
FIRST = 20260101000000
NEWEST = FIRST + len(FOLDERS) - 1


class Value(NamedTuple):
    """The meaning of a row in every version."""

    text: str
    n: int


class Way(NamedTuple):
    """Reads and writes the rows of one version."""

    version: int
    table: Table[Any, Any]

    def key(self, number: int) -> Any:
        return f"{number:020}" if self.version == NEWEST else number

    def row(self, number: int, value: Value) -> Any:
        model = self.table.model
        if self.version == NEWEST:
            return model(code=self.key(number), text=value.text, n=value.n)
        if self.version == NEWEST - 1:
            head, _, tail = value.text.partition(" ")
            return model(id=number, head=head, tail=tail, n=value.n)
        return model(id=number, text=value.text, n=value.n)

    def read(self, row: Any) -> tuple[int, Value]:
        if self.version == NEWEST:
            return int(row.code), Value(row.text, row.n)
        if self.version == NEWEST - 1:
            return row.id, Value(f"{row.head} {row.tail}", row.n)
        return row.id, Value(row.text, row.n)


class Folders:
    """Return the folders in a package below `path`, which are written if they are missing."""

    def __init__(self, path: Path) -> None:
        # Named after the directory: a process cannot import a module of the same name from another place.
        self.app = re.sub(r"\W", "_", f"app_{path.name}")
        self.path = path / self.app / "migrations"
        if not self.path.exists():
            self._write()
        self.loaded: list[Migration] = migrations.load(self.path)
        self.ways = {one.version: Way(one.version, one.tables[0]) for one in self.loaded[1:]}
        first = {one.name: one for one in self.loaded[0].tables}
        self.people = {name: first[name] for name in PEOPLE}
        self.limits = first["limits"]

    def _write(self) -> None:
        self.path.mkdir(parents=True)
        for package in (self.path, self.path.parent):
            (package / "__init__.py").touch()
        self._add(VERSION_OF_PEOPLE, "people", PEOPLE_PROTO, PEOPLE_CODE)
        before = ""
        for version, (name, fields, code, table, more) in enumerate(FOLDERS, FIRST):
            text = f'{HEADER}{code.format(before=before)}ITEMS = Table("items", Item, {table})\n'
            text += f"MIGRATION = Migration(tables=[ITEMS]{more})\n"
            before = self._add(version, name, f"message Item {{ {fields} }}\n", text)
        migrations.build(self.path)

    def _add(self, version: int, name: str, messages: str, code: str) -> str:
        folder = self.path / f"v{version}_{name}"
        folder.mkdir()
        proto = f'syntax = "proto3";\n\npackage {self.app}.v{version};\n\n{messages}'
        (folder / "model.proto").write_text(proto, encoding="utf-8")
        (folder / "__init__.py").write_text(code, encoding="utf-8")
        return folder.name


def opened(path: Path, *, read_only: bool = False, clock: Clock | None = None) -> EmbeddedDatabase:
    """Open the database of the campaign, with its keys and its archive."""
    db = EmbeddedDatabase(
        path, read_only=read_only, master_key=MASTER, idempotency_s=REMEMBERED_S, clock=clock
    )
    attach(db)
    return db
