"""Reverse: roll back one finished migration, at once or, if it rewrote rows, with its `down`.

    STARTED back ─▶ BACKFILL … ─▶ ROLLED_BACK     rows go through `down`, beside the live tables
                           └────▶ FAILED back     the migration stays in force

If no row has to be rewritten, the reversal is one record, ROLLED_BACK, and needs no folder. Otherwise it
needs the code of the folder as it ran. An interrupted reversal resumes with the next `rollback`; `apply`
gives it up.

`restored` derives the schema to put in force from the schema before the migration and the database as it is:

    schema before ┐              current ids              ┐
                  ├─ matched by ─                         ├─▶ schema before, with continued numbers
    schema after  ┘  id          tables by name ─ now ────┘

A table that an earlier rollback created again now has another id than in the log, so it is found by the name
that it has in both `after` and `now`.

Invariants
  (1) No space, table id or index id is used twice: what is created again gets a new one.
  (2) A table in all three schemas keeps its id, its space and its rows, unless the migration rewrote them:
      then it gets a new space, which code of the folder fills.
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
    current_migration,
    give_up,
    given_up_if_refused,
    start_seq,
    transforms_of,
)
from everlog.migrations.loader import load
from everlog.migrations.lock import check_going
from everlog.migrations.migration import Migration, Remake, Transform
from everlog.migrations.online import remade_rows
from everlog.migrations.status import LoggedMigration, logged_migrations
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, quantity
from everlog.store.progress import OnProgress
from everlog.store.schema import evolve
from everlog.store.schema.codec import kind_of
from everlog.store.schema.evolve import is_rewritten
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import CommitResult, Metadata

_NARROWER = {("int64", "int32"), ("sint64", "sint32"), ("uint64", "uint32")}


class Reversal(msgspec.Struct, frozen=True):
    """The reversal of one migration: from the schema `now` to `after`."""

    logged: LoggedMigration
    now: log_pb2.Schema
    after: log_pb2.Schema
    ways: list[Transform[Any, Any]]
    remake: Remake | None
    migration: Migration | None

    @property
    def remade(self) -> Collection[str]:
        return self.remake.names if self.remake is not None else ()


class Folders:
    """The code of applied migrations, if it is available."""

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self._loaded: list[Migration] | None = None
        self._error: Error | None = None

    def code(self, logged: LoggedMigration) -> Migration | None:
        """Return the migration's code as it ran; None if it is not available."""
        if self._source is None:
            return None
        if self._loaded is None:
            try:
                self._loaded = load(self._source)
            except Error as error:  # reported only if the code is needed
                self._loaded, self._error = [], error
        found = (one for one in self._loaded if one.version == logged.version)
        return next((one for one in found if logged.matches(one.folder)), None)

    def missing(self, logged: LoggedMigration, table: str) -> MigrationError:
        """Return the error for code that is needed and not available."""
        why = f": {self._error}" if self._error is not None else " is missing or was edited since it ran"
        return MigrationError(
            f"migration {logged.title} rewrote the rows of table {table}, so rolling it back needs its"
            f" `down`, and its folder{why}",
            version=logged.version,
            table=table,
        )


def reversal_of(db: Database, logged: LoggedMigration, now: log_pb2.Schema, folders: Folders) -> Reversal:
    """Return the reversal of a finished migration. Read-only. Raises MigrationError if there is none."""
    if logged.back is not None:  # it has started
        now = db.schema_at(logged.back.seq - 1)
    before, made = db.schema_at(logged.began.seq - 1), db.schema_at(logged.last.seq)
    after, names = restored(before, made, now), rewritten(before, made)
    migration = folders.code(logged)
    remake = migration.down if migration is not None else None
    _refuse_open(db, logged, before, made, remake)
    ways = []
    for old, new in names.items():
        if remake is not None and old in remake.names:
            continue
        if migration is None:
            raise folders.missing(logged, new)
        way = migration.transforms.get(new)
        if way is None or way.down is None:
            where = migration.up.where if way is None and migration.up is not None else migration.where
            raise MigrationError(
                f"{way.where if way is not None else where}: migration {logged.title} changed the rows of"
                f" table {new} and has no `down` for them, so it cannot be rolled back; write a new"
                " migration that changes them",
                version=logged.version,
                table=new,
            )
        ways.append(way)
    return Reversal(logged, now, after, ways, remake, migration)


def _refuse_open(
    db: Database, logged: LoggedMigration, before: log_pb2.Schema, made: log_pb2.Schema, remake: Remake | None
) -> None:
    """Raise MigrationError if the reversal would write sealed rows in clear."""
    for name, tables in people.opened(made, before, remake.names if remake is not None else ()):
        of = people.count(db.tables, {one.space for one in db.schema.proto.tables if one.HasField("person")})
        raise MigrationError(
            f"migration {logged.title} sealed the rows of table {tables[0].name}: rolling it back would"
            f" write them, those of {quantity(of, 'person', 'people')}, in clear to table {name}, and the"
            " log keeps that permanently. Write a new migration instead; removing `person` in it is an"
            " error of lint, which"
            " can be ignored with a reason",
            version=logged.version,
            table=name,
        )


def give_up_unresumable(db: Database, folders: Folders, by: Metadata) -> None:
    """Give up an interrupted reversal that cannot resume. Writes one record or none."""
    begun = current_migration(db)
    if begun is None or not begun.migration.back:
        return
    migration = folders.code(logged_migrations(db.migration_records())[begun.migration.version])
    if migration is not None and migration.down is not None:
        give_up(db, by, error=MigrationError("it was interrupted while it remade rows, and starts again"))


def run(
    db: Database,
    way: Reversal,
    by: Metadata,
    *,
    rate: float | None = None,
    progress: OnProgress | None = None,
) -> CommitResult:
    """Run the reversal, or resume it. Return the commit that ends it.

    Raises MigrationError, UniqueError or RowError; then the migration stays in force.
    """
    building = evolve.online(way.now, way.after, remade=way.remade)
    if not way.ways and not way.remade:
        return _append(db, way, ROLLED_BACK, way.after, by, progress)
    assert building is not None
    assert way.migration is not None
    begun = current_migration(db)
    with given_up_if_refused(db, by):
        db.core.code[way.migration.version] = transforms_of(way.migration)  # writes after STARTED need it
        since = start_seq(db, begun) if begun else _append(db, way, STARTED, building, by, progress).seq
        work = log_pb2.Migration(version=way.logged.version, name=way.logged.began.migration.name)
        db.backfill(work, since=since, rate=rate, progress=progress)
        was = db.schema.proto
        with remade_rows(db, way.remake, work, progress):
            result = _append(db, way, ROLLED_BACK, way.after, by, progress)
    db.core.code.pop(way.migration.version, None)
    db.reclaim(was)
    return result


def _append(  # noqa: PLR0917  all are named at each call
    db: Database,
    way: Reversal,
    step: log_pb2.Migration.Step.ValueType,
    schema: log_pb2.Schema,
    by: Metadata,
    progress: OnProgress | None,
) -> CommitResult:
    record = log_pb2.Migration(
        step=step,
        version=way.logged.version,
        name=way.logged.began.migration.name,
        digest=way.logged.digest,
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


def count_round_trip_changes(db: Database, way: Transform[Any, Any]) -> tuple[int, Counter[str]]:
    """Count the rows that `down` and then `up` would change, and the fields that would change.

    Read-only; runs the folder's code on every row. Raises what that raises.
    """
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


def rewritten(before: log_pb2.Schema, after: log_pb2.Schema) -> dict[str, str]:
    """Return the tables whose rows a migration rewrote: previous name -> new name."""
    now = {table.id: table for table in after.tables}
    return {
        table.name: now[table.id].name
        for table in before.tables
        if table.id in now and is_rewritten(table, now[table.id])
    }


def restored(before: log_pb2.Schema, after: log_pb2.Schema, now: log_pb2.Schema) -> log_pb2.Schema:
    """Return the schema to put in force, where `after` is what the migration made of `before`.

    Read-only. Raises MigrationError if existing rows would be misread.
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
                f"migration {version} made {table}.{field.name} an {types[0]}; restored to {types[1]},"
                " rows written since could be misread, so there is no instant rollback; write a new"
                " migration instead",
                version=version,
                table=table,
                field=field.name,
            )
        if field.message_type is not None and now.message_type is not None:
            _refuse_narrower(field.message_type, now.message_type, table, version, seen)
