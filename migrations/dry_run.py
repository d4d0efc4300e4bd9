"""Trial: every `up` of what is pending, on the real rows, changing nothing.

    row ─▶ up of the first migration that rewrites its table ─▶ up of the next … ─▶ fits, or why not

What a migration would stop at, it says before: not only the first row, but the first of each table,
and how many there are. What a row becomes, and what is wrong with that, the store's own code says,
which will rewrite the rows.
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
from everlog.store.tx.dual_write import Twins
from everlog.store.tx.write import Write

EVERY = 4096

Make: TypeAlias = Callable[[bytes, bytes], Write]  # of the key and the row before


class Trial(msgspec.Struct, frozen=True):
    """How the rows of one table took a migration's `up`. `problem`: why the first of `failed` failed;
    `private`: that row, which is kept nowhere."""

    version: int
    table: str
    rows: int
    failed: int
    problem: str = ""
    private: str = ""


class _Step(NamedTuple):
    """One migration that rewrites the rows of a table, which has this name by then."""

    version: int
    table: str
    make: Make


class Remaking(NamedTuple):
    """How a migration's `up` makes rows of the database as it is. `problem`: why it fails; `private`: what of
    it is kept nowhere."""

    rows: int
    seconds: float
    problem: str = ""
    private: str = ""


def remaking(db: Database, migration: Migration, up: Remake) -> Remaking:
    """Runs what makes rows anew, of a migration that is the next. Read-only; runs its code."""
    before = base(db)
    return remaking_between(db, before, after(before, migration), up)


def remaking_between(
    db: Database, before: log_pb2.Schema, following: log_pb2.Schema, how: Remake
) -> Remaking:
    """Runs what makes rows anew, from the schema in force to another. Read-only; runs its code."""
    building = evolve.online(before, following, remade=how.names)
    assert building is not None
    began, rows, problem, private = time.perf_counter(), 0, "", ""
    with db.snapshot() as now:
        try:
            rows = rewrite.check_made(now, Schema(building), how.rows)
        except MigrationError as error:
            problem, private = str(error), error.private
    return Remaking(rows, time.perf_counter() - began, problem, private)


def maker(old: TableInfo, new: TableInfo, transform: Transform[Any, Any]) -> Make:
    """What makes the new row of an old one; it raises Error for a row that does not fit."""
    return Twins(new.schema, {new.name: transform.directions()}).maker(old, new)


def trials(db: Database, migrations: Sequence[Migration], progress: OnProgress | None = None) -> list[Trial]:
    """Tries the transforms of migrations that follow each other. Read-only; runs their code, and
    reads every row of the tables that they rewrite. Raises what reading raises."""
    found: list[Trial] = []
    for name, chain in _chains(Schema(base(db)), migrations).items():
        if chain:
            found += _table(db, name, chain, progress)
    return sorted(found, key=lambda one: (one.version, one.table))


def _chains(schema: Schema, migrations: Sequence[Migration]) -> Mapping[str, list[_Step]]:
    """What rewrites the rows of each table, one after the other, by the name that it has now."""
    chains: dict[str, list[_Step]] = {name: [] for name in schema.tables}
    names = {name: name for name in schema.tables}  # by then ─▶ now
    before = schema.proto
    for migration in migrations:
        following = after(before, migration)
        there = [table.name for table in before.tables]
        was = {migration.rename.get(name, name): name for name in there if name not in migration.drop}
        anew = migration.up.names if migration.up is not None else ()  # what comes of them cannot be told
        names = {name: names[old] for name, old in was.items() if old in names and name not in anew}
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
        key, row = info.own.key_of(message), message.SerializeToString()
        for at, step in enumerate(chain):
            rows[at] += 1
            try:
                row = step.make(key, row).row
            except Error as error:
                failed[at] += 1
                _, _, which = str(error).partition(" fails for row ")  # the sentence it gets into says that
                if not problems[at]:
                    problems[at], private[at] = " ".join((which or str(error)).split()), error.private
                break
        if progress is not None and not done % EVERY:
            progress(Progress(f"try {name}", done, total))
    for at, step in enumerate(chain):
        yield Trial(step.version, step.table, rows[at], failed[at], problems[at], private[at])
