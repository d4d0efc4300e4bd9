"""Returning: the way back of one finished migration, at once or, where it rewrote rows, by `down`.

    STARTED back ─▶ BACKFILL … ─▶ ROLLED_BACK     rows go through `down`, beside the live tables
                           └────▶ FAILED back     in force as before

What needs no row rewritten is one record, ROLLED_BACK, and needs no folder. The rest needs the code of
the folder as it was when it ran. Killed on the way it goes on when it is rolled back again; `apply`
gives the way back up.

Restored: the schema before a migration, put in force again, in the database as it is now.

    schema before ┐              ids that live now        ┐
                  ├─ matched by ─                         ├─▶ schema before, its numbers going on
    schema after  ┘  id          tables by name ─ now ────┘

A table that an earlier return has made anew has another id now than the log says it had; so it
is found by the name that it has in both `after` and `now`.

Invariants
  (1) no space, table id or index id is used twice: what was gone comes back under a new one;
  (2) a table that is in all three keeps its id, its space and its rows, unless the migration rewrote
      them: then it gets a new space, to be filled by code of the folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import msgspec

from everlog.migrations import people
from everlog.migrations.folder import Source
from everlog.migrations.in_progress import (
    ROLLED_BACK,
    STARTED,
    first,
    give_up,
    given_up_if_refused,
    transforms,
    under_way,
)
from everlog.migrations.loader import load
from everlog.migrations.lock import check_going
from everlog.migrations.migration import Migration, Remake, Transform
from everlog.migrations.online import made_anew
from everlog.migrations.status import Life, lives
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError
from everlog.store.progress import OnProgress
from everlog.store.schema import evolve
from everlog.store.schema.codec import kind_of
from everlog.store.schema.evolve import is_rewritten
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import CommitResult, Metadata

_NARROWER = {("int64", "int32"), ("sint64", "sint32"), ("uint64", "uint32")}


def rewritten(before: log_pb2.Schema, after: log_pb2.Schema) -> dict[str, str]:
    """The tables whose rows a migration rewrote: their names after it, by those before it."""
    now = {table.id: table for table in after.tables}
    return {
        table.name: now[table.id].name
        for table in before.tables
        if table.id in now and is_rewritten(table, now[table.id])
    }


def restored(before: log_pb2.Schema, after: log_pb2.Schema, now: log_pb2.Schema) -> log_pb2.Schema:
    """The schema to put in force, where `after` is what the migration made of `before`.

    Read-only. Raises MigrationError where rows that are there would be misread.
    """
    _refuse(before, after)
    schema = log_pb2.Schema()
    schema.CopyFrom(before)
    schema.next_space = max(now.next_space, before.next_space)
    schema.next_table = max(now.next_table, before.next_table)
    left = {table.id: table for table in after.tables}
    live = {table.name: table for table in now.tables}
    for table in schema.tables:
        was = left.get(table.id)
        mine = live.get(was.name) if was is not None else None
        if was is None or mine is None:
            table.id, table.space = schema.next_table, schema.next_space
            schema.next_table += 1
            schema.next_space += 1
            continue
        table.id = mine.id
        if is_rewritten(table, was):
            table.space, table.generation = schema.next_space, mine.generation + 1
            schema.next_space += 1
            continue
        table.space, table.generation = mine.space, mine.generation
        _indexes(table, was, mine)
    return schema


def _indexes(table: log_pb2.TableSchema, was: log_pb2.TableSchema, mine: log_pb2.TableSchema) -> None:
    table.next_index = max(table.next_index, mine.next_index)
    kept = {index.id: index.name for index in was.indexes}
    live = {index.name: index.id for index in mine.indexes}
    for index in table.indexes:
        id = live.get(kept.get(index.id, ""))
        if id is None:
            id = table.next_index
            table.next_index += 1
        index.id = id


def _refuse(before: log_pb2.Schema, after: log_pb2.Schema) -> None:
    old, new = Schema(before), Schema(after)
    by_id = {info.proto.id: info for info in new.tables.values()}
    for name, info in old.tables.items():
        now = by_id.get(info.proto.id)
        if now is not None and not is_rewritten(info.proto, now.proto):
            _refuse_narrower(info.model.DESCRIPTOR, now.model.DESCRIPTOR, name, after.version, set())


def _refuse_narrower(old: Any, new: Any, table: str, version: int, seen: set[str]) -> None:
    if old.full_name in seen:
        return
    seen.add(old.full_name)
    for field in old.fields:
        now = new.fields_by_number.get(field.number)
        if now is None:
            continue
        types = (kind_of(now).name, kind_of(field).name)
        if types in _NARROWER:
            raise MigrationError(
                f"migration {version} made {table}.{field.name} an {types[0]}; as an {types[1]}, as it was"
                " before, rows written since could be misread: there is no instant return from it; write a"
                " new migration instead",
                version=version,
                table=table,
                field=field.name,
            )
        if field.message_type is not None and now.message_type is not None:
            _refuse_narrower(field.message_type, now.message_type, table, version, seen)


class Return(msgspec.Struct, frozen=True):
    """The way back of one migration: from the schema `now` to `after`."""

    life: Life
    now: log_pb2.Schema
    after: log_pb2.Schema
    ways: list[Transform[Any, Any]]
    remake: Remake | None
    migration: Migration | None

    @property
    def remade(self) -> Collection[str]:
        return self.remake.names if self.remake is not None else ()


class Folders:
    """The code of migrations that are in the database, where it is at hand."""

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self._loaded: list[Migration] | None = None
        self._error: Error | None = None

    def code(self, life: Life) -> Migration | None:
        """The migration's code as it was when it ran; None if it is not here."""
        if self._source is None:
            return None
        if self._loaded is None:
            try:
                self._loaded = load(self._source)
            except Error as error:  # said where it is needed
                self._loaded, self._error = [], error
        found = (one for one in self._loaded if one.version == life.version)
        return next((one for one in found if life.fits(one.folder)), None)

    def missing(self, life: Life, table: str) -> MigrationError:
        """What is said where the code is needed, and not here."""
        why = f": {self._error}" if self._error is not None else ", as it was when it ran, is not here"
        return MigrationError(
            f"migration {life.title} rewrote the rows of table {table}, so the way back leads through its"
            f" `down`, and its folder{why}",
            version=life.version,
            table=table,
        )


def way_back(db: Database, life: Life, now: log_pb2.Schema, folders: Folders) -> Return:
    """The way back of a finished migration. Read-only. Raises MigrationError if there is none."""
    if life.back is not None:  # it has begun
        now = db.schema_at(life.back.seq - 1)
    before, made = db.schema_at(life.began.seq - 1), db.schema_at(life.last.seq)
    after, names = restored(before, made, now), rewritten(before, made)
    migration = folders.code(life)
    remake = migration.down if migration is not None else None
    _refuse_open(db, life, before, made, remake)
    ways = []
    for old, new in names.items():
        if remake is not None and old in remake.names:
            continue
        if migration is None:
            raise folders.missing(life, new)
        way = migration.transforms.get(new)
        if way is None or way.down is None:
            where = migration.up.where if way is None and migration.up is not None else migration.where
            raise MigrationError(
                f"{way.where if way is not None else where}: migration {life.title} made the rows of table"
                f" {new} others, and has no `down` for them: there is no way back; write a new migration"
                " that changes them",
                version=life.version,
                table=new,
            )
        ways.append(way)
    return Return(life, now, after, ways, remake, migration)


def _refuse_open(
    db: Database, life: Life, before: log_pb2.Schema, made: log_pb2.Schema, remake: Remake | None
) -> None:
    """Raises MigrationError where the way back would write sealed rows in clear."""
    for name, tables in people.opened(made, before, remake.names if remake is not None else ()):
        of = people.count(db.tables, {one.space for one in db.schema.proto.tables if one.HasField("person")})
        raise MigrationError(
            f"migration {life.title} sealed the rows of table {tables[0].name}: to roll it back would"
            f" write them in clear to table {name}, those of {of:,}"
            " people, and the log keeps that for ever. Write a"
            " new migration instead; one that takes `person` away is an error of lint, which can be ignored"
            " with a reason",
            version=life.version,
            table=name,
        )


def begin_anew(db: Database, folders: Folders, by: Metadata) -> None:
    """Gives up a way back that was stopped where it cannot go on. Writes if there is one."""
    begun = under_way(db)
    if begun is None or not begun.migration.back:
        return
    migration = folders.code(lives(db.migration_records())[begun.migration.version])
    if migration is not None and migration.down is not None:
        give_up(db, by, error=MigrationError("it was stopped while it made rows anew, and begins again"))


def run(
    db: Database, way: Return, by: Metadata, *, rate: float | None = None, progress: OnProgress | None = None
) -> CommitResult:
    """Goes it, from where it is. Raises MigrationError, UniqueError or RowError: then the migration
    is in force as before."""
    building = evolve.online(way.now, way.after, remade=way.remade)
    if not way.ways and not way.remade:
        return _append(db, way, ROLLED_BACK, way.after, by, progress)
    assert building is not None
    assert way.migration is not None
    begun = under_way(db)
    with given_up_if_refused(db, by):
        # First: from STARTED on every write needs them.
        db.core.transforms = transforms(way.migration, back=True)
        since = first(db, begun) if begun else _append(db, way, STARTED, building, by, progress).seq
        work = log_pb2.Migration(version=way.life.version, name=way.life.began.migration.name)
        db.backfill(work, since=since, rate=rate, progress=progress)
        was = db.schema.proto
        with made_anew(db, way.remake, work, progress):
            result = _append(db, way, ROLLED_BACK, way.after, by, progress)
    db.core.transforms = {}
    db.reclaim(was)
    return result


def _append(  # noqa: PLR0917  each is said at each call
    db: Database,
    way: Return,
    step: log_pb2.Migration.Step.ValueType,
    schema: log_pb2.Schema,
    by: Metadata,
    progress: OnProgress | None,
) -> CommitResult:
    record = log_pb2.Migration(
        step=step,
        version=way.life.version,
        name=way.life.began.migration.name,
        digest=way.life.digest,
        schema=schema,
        back=step == STARTED,
    )
    version = db.schema.version
    return db.apply_migration(
        record,
        actor=by.actor,
        reason=by.reason,
        expect_schema=version,
        expect=lambda: check_going(db.uuid),
        progress=progress,
    )


def changed_by_return(db: Database, way: Transform[Any, Any]) -> tuple[int, Counter[str]]:
    """How many rows would not come back as they are by `down` and then `up`, and by which fields.
    Read-only; runs the folder's code on every row. Raises what that raises."""
    rows, fields = 0, Counter[str]()
    for row in db.scan(way.table):
        assert way.down is not None
        again = way.up(way.down(row))
        if again != row:
            rows += 1
            fields.update(
                field.name
                for field in row.DESCRIPTOR.fields
                if getattr(row, field.name) != getattr(again, field.name)
            )
    return rows, fields
