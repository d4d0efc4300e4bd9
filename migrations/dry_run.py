"""Dry run: try the `up` of every pending migration on the real rows, without changing anything.

    row ─▶ up of the first migration that rewrites its table ─▶ up of the next … ─▶ fits, or why not

It reports every error that would stop a migration: the first failing row of each table, and how many rows
fail. Rows are converted and judged by the same code of the store that will rewrite them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from everlog.migrations.in_progress import base
from everlog.migrations.loader import after
from everlog.migrations.migration import Migration, Remake, Transform
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError
from everlog.store.online import rewrite
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import evolve
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tx.dual_write import DualWrite
from everlog.store.tx.write import Write

EVERY = 4096

Make: TypeAlias = Callable[[bytes, bytes], Write]  # (key, old row) -> write of the new row


class Trial(msgspec.Struct, frozen=True):
    """The result of a migration's `up` on one table. `problem`: why the first of the `failed` rows failed.
    `private`: that row, which is not stored anywhere.
    """

    version: int
    table: str
    rows: int
    failed: int
    problem: str = ""
    private: str = ""


class _Step(NamedTuple):
    """A migration that rewrites the rows of a table; `table` is the table's name at that point."""

    version: int
    table: str
    make: Make


class RemakeTrial(NamedTuple):
    """The result of trying a Remake on the current database. `problem`: why it fails. `private`: the part
    of the error that is not stored anywhere.
    """

    rows: int
    seconds: float
    problem: str = ""
    private: str = ""


def try_remake(db: Database, migration: Migration, up: Remake) -> RemakeTrial:
    """Try the `up` of a migration that remakes tables and is the next to apply. Read-only; runs its code."""
    before = base(db)
    return try_remake_between(db, before, after(before, migration), up)


def try_remake_between(
    db: Database, before: log_pb2.Schema, following: log_pb2.Schema, how: Remake
) -> RemakeTrial:
    """Try a Remake from the schema in force to another. Read-only; runs its code."""
    building = evolve.online(before, following, remade=how.names)
    assert building is not None
    began, rows, problem, private = time.perf_counter(), 0, "", ""
    with db.snapshot() as now:
        try:
            rows = rewrite.check_computed(now, Schema(building), how.rows)
        except MigrationError as error:
            problem, private = str(error), error.private
    return RemakeTrial(rows, time.perf_counter() - began, problem, private)


def maker(old: TableInfo, new: TableInfo, transform: Transform[Any, Any]) -> Make:
    """Return the function that converts an old row; it raises Error for a row that does not fit."""
    return DualWrite(new.schema, {new.proto.since: {new.name: transform.directions()}}).maker(old, new)


def trials(db: Database, migrations: Sequence[Migration], progress: OnProgress | None = None) -> list[Trial]:
    """Try the transforms of consecutive migrations on every row of the tables that they rewrite.

    Read-only; runs the folders' code. Raises what reading raises. Calls `progress` every `EVERY` rows.
    """
    found: list[Trial] = []
    for name, chain in _chains(Schema(base(db)), migrations).items():
        if chain:
            found += _table(db, name, chain, progress)
    return sorted(found, key=lambda one: (one.version, one.table))


def _chains(schema: Schema, migrations: Sequence[Migration]) -> Mapping[str, list[_Step]]:
    """Return the transforms of each table in order, by the table's current name."""
    chains: dict[str, list[_Step]] = {name: [] for name in schema.tables}
    names = {name: name for name in schema.tables}  # name at this step -> current name
    before = schema.proto
    for migration in migrations:
        following = after(before, migration)
        there = [table.name for table in before.tables]
        was = {migration.rename.get(name, name): name for name in there if name not in migration.drop}
        remade = migration.up.names if migration.up is not None else ()  # their new rows are not known yet
        names = {name: names[old] for name, old in was.items() if old in names and name not in remade}
        if names.keys() & migration.transforms.keys():
            old, new = Schema(before), Schema(following)
            for name, transform in migration.transforms.items():
                if name in names:
                    make = maker(old.tables[was[name]], new.tables[name], transform)
                    chains[names[name]].append(_Step(migration.version, name, make))
        before = following
    return chains


def _table(db: Database, name: str, chain: list[_Step], progress: OnProgress | None) -> Iterator[Trial]:
    info = db.schema.table(name)
    total = db.tables.counts.get(info.space, 0)
    rows = [0] * len(chain)
    failed, problems, private = [0] * len(chain), [""] * len(chain), [""] * len(chain)
    for done, message in enumerate(db.scan(table_of(info)), 1):
        key, row = info.own.key_of(message), message.SerializePartialToString()
        for at, step in enumerate(chain):
            rows[at] += 1
            try:
                row = step.make(key, row).row
            except Error as error:
                failed[at] += 1
                _, _, which = str(error).partition(" fails for row ")  # the caller's sentence says the rest
                if not problems[at]:
                    problems[at], private[at] = " ".join((which or str(error)).split()), error.private
                break
        if progress is not None and not done % EVERY:
            progress(Progress(f"try {name}", done, total))
    for at, step in enumerate(chain):
        yield Trial(step.version, step.table, rows[at], failed[at], problems[at], private[at])
