"""Trial: every `up` of what is pending, on the real rows, changing nothing.

    row ─▶ up of the first migration that rewrites its table ─▶ up of the next … ─▶ fits, or why not

What a migration would stop at, it says before: not only the first row, but the first of each table,
and how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from google.protobuf.message import Message

from everlog.migrations.migration import Migration, Transform
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.progress import OnProgress, Progress
from everlog.store.reflect import table_of

EVERY = 4096


class Trial(msgspec.Struct, frozen=True):
    """How the rows of one table took a migration's `up`. `problem`: why the first of `failed` failed."""

    version: int
    table: str
    rows: int
    failed: int
    problem: str = ""


def trials(db: Database, migrations: Sequence[Migration], progress: OnProgress | None = None) -> list[Trial]:
    """Tries the transforms of migrations that follow each other. Read-only; runs their code, and
    reads every row of the tables that they rewrite. Raises what reading raises."""
    found: list[Trial] = []
    for name in db.schema.tables:
        chain = list(_chain(name, migrations))
        if chain:
            found += _table(db, name, chain, progress)
    return sorted(found, key=lambda one: (one.version, one.table))


def _chain(name: str, migrations: Sequence[Migration]) -> Iterator[tuple[int, Transform[Any, Any]]]:
    """What rewrites the rows of a table, one after the other, under whatever name it has by then."""
    for migration in migrations:
        if name in migration.drop:
            return
        name = migration.rename.get(name, name)
        if name in migration.transforms:
            yield migration.version, migration.transforms[name]


def _table(
    db: Database, name: str, chain: list[tuple[int, Transform[Any, Any]]], progress: OnProgress | None
) -> Iterator[Trial]:
    info = db.schema.table(name)
    total = db.tables.counts.get(info.space, 0)
    rows = [0] * len(chain)
    failed, problems = [0] * len(chain), [""] * len(chain)
    for done, row in enumerate(db.scan(table_of(info)), 1):
        made: Message = chain[0][1].old.FromString(row.SerializeToString())
        for at, (_, transform) in enumerate(chain):
            rows[at] += 1
            try:
                made = _up(transform, made)
            except Exception as error:  # noqa: BLE001  whatever the user's code raises is the finding
                failed[at] += 1
                key = info.show_key(info.own.key_of(row))
                problems[at] = problems[at] or f"{key}: {type(error).__name__}: {error}"
                break
        if progress is not None and not done % EVERY:
            progress(Progress(f"try {name}", done, total))
    for at, (version, transform) in enumerate(chain):
        yield Trial(version, transform.table.name, rows[at], failed[at], problems[at])


def _up(transform: Transform[Any, Any], row: Message) -> Message:
    made: Any = transform.up(row)
    model = transform.table.model
    if not isinstance(made, model):
        raise TypeError(f"expected a {model.DESCRIPTOR.full_name}, found {made!r:.80}")
    for field in transform.table.key:
        before, after = row, made
        for number in field.path:
            before, after = (_part(message, number) for message in (before, after))
        if before != after:
            raise Error(f"it changes the primary key: {field.dotted} was {before!r}, and becomes {after!r}")
    fits: Message = made
    return fits


def _part(message: Any, number: int) -> Any:
    return getattr(message, message.DESCRIPTOR.fields_by_number[number].name)
