"""Runner: applies what is pending, oldest first, each migration as one record of the log.

    lock ─▶ load all ─▶ pending, and their rows ─▶ for each: db.apply_migration ─▶ one record,
                                                                                   or nothing

Invariants
  (1) a migration is in the log with its schema, its sources and its bootstrap rows, or not at all;
  (2) all folders, and all bootstrap rows, were found right before the first is applied.
"""

from __future__ import annotations

from collections.abc import Callable

from everlog.migrations.bootstrap import bootstrap
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.loader import after, load
from everlog.migrations.lock import WAIT_S, lock
from everlog.migrations.migration import Migration, Row
from everlog.migrations.plan import pending
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, PreconditionError, RowError, SchemaError
from everlog.store.progress import OnProgress, Progress
from everlog.store.transaction import Metadata


def apply(
    db: Database,
    source: Source = SOURCE,
    *,
    to: int | None = None,
    actor: str = "",
    reason: str = "",
    wait_s: float = WAIT_S,
    progress: OnProgress | None = None,
    applied: Callable[[MigrationInfo], None] | None = None,
) -> list[MigrationInfo]:
    """Applies the pending migrations, up to version `to` and with it, and returns them.

    `applied` is told of each as soon as it is in the log. Waits up to `wait_s` seconds while
    somebody else migrates. Raises MigrationError, SchemaError or LoadError for one that cannot be
    applied: of that one and those behind it nothing was done.
    """
    done = []
    with lock(db.uuid, actor, wait_s=wait_s, progress=progress):
        todo = [(migration, bootstrap(migration)) for migration in pending(db, load(source), to)]
        for migration, rows in todo:
            info = _apply(db, migration, rows, Metadata(actor, reason), progress)
            done.append(info)
            if applied is not None:
                applied(info)
    return done


def _apply(
    db: Database, migration: Migration, rows: list[Row], by: Metadata, progress: OnProgress | None
) -> MigrationInfo:
    def tell(step: Progress) -> None:
        if progress is not None:
            progress(Progress(f"{migration.title}: {step.step}", step.done, step.total, step.unit))

    folder, before = migration.folder, db.schema
    tell(Progress("apply", 0, len(rows)))
    record = log_pb2.Migration(
        step=log_pb2.Migration.FINISHED,
        version=migration.version,
        name=migration.name,
        digest=folder.digest,
        schema=after(before.proto, migration),
        sources=folder.sources,
    )
    try:
        result = db.apply_migration(
            record, rows, actor=by.actor, reason=by.reason, expect_schema=before.version, progress=tell
        )
    except (PreconditionError, RowError, SchemaError) as error:
        raise MigrationError(
            f"migration {migration.title} was not applied, and nothing of it is in the database: {error}",
            version=migration.version,
            **{name: fact for name, fact in error.facts.items() if name != "version"},
        ) from error
    tell(Progress("apply", len(rows), len(rows)))
    return MigrationInfo(
        migration.version,
        migration.name,
        State.APPLIED,
        result.time_ns,
        result.seq,
        by.actor,
        folder.digest,
        folder.digest,
    )
