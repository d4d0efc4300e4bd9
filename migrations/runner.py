"""Runner: applies what is pending, oldest first, each migration as one record of the log.

    lock ─▶ load all ─▶ pending, and their rows ─▶ for each: online.run ─▶ one record, or several
                                                                           where it has to build
Invariants
  (1) one record puts a migration into force, with its schema, its sources and its bootstrap rows;
  (2) all folders, and all bootstrap rows, were found right before the first is applied;
  (3) a rejected migration is never applied (`settled`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everlog.migrations import in_progress, online
from everlog.migrations.bootstrap import Bootstrap, bootstrap, loaded
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.loader import after
from everlog.migrations.lock import WAIT_S, check_going, lock
from everlog.migrations.migration import Migration
from everlog.migrations.plan import check_target, load_for, pending
from everlog.migrations.proposal import settled
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, PreconditionError, RowError, SchemaError
from everlog.store.online.apply import Recorded
from everlog.store.online.backfill import patiently
from everlog.store.progress import OnProgress, Progress
from everlog.store.tx.transaction import Metadata


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
    check: Callable[[Sequence[Migration]], None] | None = None,
    hold: bool = False,
    rate: float | None = None,
    out_of_order: bool = False,
) -> list[MigrationInfo]:
    """Applies the pending migrations, up to version `to` and with it, and returns them.

    `applied` is told of each as soon as it is in the log; `check` sees all of them before the first,
    and may raise. `hold`: serves the version before as well where rows were rewritten, until
    `complete`. `rate`: builds at most so many rows a second. Waits up to `wait_s` seconds while
    somebody else migrates. Raises MigrationError, SchemaError or LoadError for one that cannot be
    applied: of that one and those behind it nothing was done.
    """
    done = []
    by = Metadata(actor, reason).check()
    check_target(to, rate)
    with lock(db.uuid, actor, wait_s=wait_s, progress=progress, reenter=True) as holder:
        known = load_for(db, source)
        begun = in_progress.attach(db, known)
        if begun is not None and begun.migration.back:  # what was half rolled back is in force
            if progress is not None:
                progress(
                    Progress(f"{begun.migration.version}_{begun.migration.name}: give up its way back", 0)
                )
            in_progress.give_up(db, by)
            begun = None
        found = pending(db, known, to, out_of_order=out_of_order)
        if begun is not None:
            found = _after(begun, found, known)
        if (rejected := settled(db, found, rejected_only=True)) is not None:
            raise MigrationError(rejected.says, version=rejected.migration.version)
        if check is not None:
            check(found)
        todo = [(migration, bootstrap(migration)) for migration in found]
        schema = in_progress.base(db)
        for migration, rows in todo:
            loaded(migration, rows, schema)
            schema = after(schema, migration)
        for migration, rows in todo:
            holder.at = migration.version, migration.name
            info = _apply(db, migration, rows, by, hold=hold, rate=rate, progress=progress)
            done.append(info)
            if applied is not None:
                applied(info)
    return done


def _after(begun: Recorded, found: list[Migration], known: Sequence[Migration]) -> list[Migration]:
    """What is to be done while a migration is under way: it goes on, and before it has ended nothing else."""
    first = found[0] if found else None
    if first is None or first.version != begun.migration.version:
        is_here = any(migration.version == begun.migration.version for migration in known)
        remedy = "go on with it" if is_here else "its folder is not here: restore it"
        raise MigrationError(
            f"migration {begun.migration.version}_{begun.migration.name} is under way since commit"
            f" {begun.seq}; before another is applied, {remedy}, or give it up with `everlog rollback`",
            version=begun.migration.version,
        )
    if begun.migration.step != log_pb2.Migration.SWITCHED:
        return found
    if len(found) > 1:
        raise MigrationError(
            f"migration {first.title} serves two versions since commit {begun.seq}: end that with"
            f" `everlog complete` (or `everlog rollback`) before {found[1].title}",
            version=first.version,
        )
    return []


def _apply(
    db: Database,
    migration: Migration,
    rows: Bootstrap,
    by: Metadata,
    *,
    hold: bool,
    rate: float | None,
    progress: OnProgress | None,
) -> MigrationInfo:
    def tell(step: Progress) -> None:
        check_going(db.uuid)
        if progress is not None:
            progress(Progress(f"{migration.title}: {step.step}", step.done, step.total, step.unit))

    since = db.head
    try:
        tell(Progress("apply", 0, len(rows)))
        result = patiently(
            db.engine.refusal,
            lambda: online.run(db, migration, rows, by, hold=hold, rate=rate, progress=tell),
            tell,
        )
    except (MigrationError, PreconditionError, RowError, SchemaError) as error:
        if "cancelled_by" in error.facts:
            in_progress.cancelled(db, migration, Metadata(error.cancelled_by, error.reason), since=since)
        raise MigrationError(
            f"migration {migration.title} was not applied, and nothing of it is in the database: {error}",
            private=error.private,
            version=migration.version,
            **{name: fact for name, fact in error.facts.items() if name != "version"},
        ) from error
    if progress is not None:
        progress(Progress(f"{migration.title}: apply", len(rows), len(rows)))
    return MigrationInfo(
        migration.version,
        migration.name,
        State.APPLIED,
        result.time_ns,
        result.seq,
        by.actor,
        migration.folder.digest,
        migration.folder.digest,
    )
