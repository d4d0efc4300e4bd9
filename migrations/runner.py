"""Runner: apply the pending migrations, oldest first.

    lock ─▶ load all ─▶ pending, and their bootstrap rows ─▶ for each: online.run ─▶ one record, or several
                                                                                    if it has to build
Invariants
  (1) One record puts a migration into force, with its schema, its sources and its bootstrap rows.
  (2) All folders and all bootstrap rows are checked before the first migration is applied.
  (3) A rejected migration is never applied (`settled`).
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
from everlog.store.online.backfill import retry_while_full
from everlog.store.program_log import about, quiet
from everlog.store.progress import OnProgress, Progress
from everlog.store.tx.transaction import CommitResult, Metadata


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
    """Apply the pending migrations, up to and including version `to`, and return them.

    `actor` and `reason` go into the log. `check` is called with all pending migrations before the first is
    applied, and may raise. `applied` is called for each migration when it is in the log. With `hold`, the
    previous version stays served where rows were rewritten, until `complete`. `rate` limits building to that
    many rows a second. `out_of_order` allows migrations older than an applied one. Waits up to `wait_s`
    seconds while another thread migrates.

    Raises MigrationError, SchemaError or LoadError for a migration that cannot be applied; nothing of it and
    of later ones is applied. Writes one or several records for each migration.
    """
    done = []
    by = Metadata(actor, reason).check()
    check_target(to, rate)
    with lock(db.uuid, actor, wait_s=wait_s, progress=progress, reenter=True) as holder:
        known = load_for(db, source)
        begun = in_progress.attach(db, known)
        in_progress.check_undecided(begun)
        if begun is not None and begun.migration.back:  # its rollback was interrupted: it stays in force
            if progress is not None:
                progress(
                    Progress(f"{begun.migration.version}_{begun.migration.name}: give up its rollback", 0)
                )
            in_progress.give_up(db, by)
            begun = None
        found = pending(db, known, to, out_of_order=out_of_order)
        if begun is not None:
            found = _with_current(begun, found, known)
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
            result = run_one(db, migration, rows, by, hold=hold, rate=rate, progress=progress)
            digest = migration.folder.digest
            info = MigrationInfo(
                migration.version,
                migration.name,
                State.APPLIED,
                result.time_ns,
                result.seq,
                by.actor,
                digest,
                digest,
            )
            done.append(info)
            if applied is not None:
                applied(info)
    return done


def _with_current(begun: Recorded, found: list[Migration], known: Sequence[Migration]) -> list[Migration]:
    """Return the migrations to apply while one is in progress: it must end before any other starts."""
    first = found[0] if found else None
    if first is None or first.version != begun.migration.version:
        is_here = any(migration.version == begun.migration.version for migration in known)
        remedy = "finish it" if is_here else "restore its folder, which is missing,"
        raise MigrationError(
            f"migration {begun.migration.version}_{begun.migration.name} has been in progress since commit"
            f" {begun.seq}; before another is applied, {remedy} or give it up with `everlog rollback`",
            version=begun.migration.version,
        )
    if begun.migration.step != log_pb2.Migration.SWITCHED:
        return found
    if len(found) > 1:
        raise MigrationError(
            f"migration {first.title} has served two versions since commit {begun.seq}; run `everlog"
            f" complete` (or `everlog rollback`) before {found[1].title}",
            version=first.version,
        )
    return []


def run_one(
    db: Database,
    migration: Migration,
    rows: Bootstrap,
    by: Metadata,
    *,
    hold: bool,
    rate: float | None,
    progress: OnProgress | None,
    order: in_progress.Order | None = None,
) -> CommitResult:
    """Apply one migration as `online.run`, or prepare it for the decision of `order`. Return its commit.

    Waits while the disk is full, and writes to the program's log. Only with the lock. Raises MigrationError.
    """
    verb = "applied" if order is None else "prepared"

    def report(step: Progress) -> None:
        check_going(db.uuid)
        if progress is not None:
            progress(Progress(f"{migration.title}: {step.step}", step.done, step.total, step.unit))

    since, where = db.head, {"database": str(db.path), "identity": by.actor, "migration": migration.title}
    quiet.info("migration %s starts", migration.title, extra=about("migration.started", **where))
    try:
        report(Progress("apply", 0, len(rows)))
        result = retry_while_full(
            db.engine.refusal,
            lambda: online.run(db, migration, rows, by, hold=hold, rate=rate, progress=report, order=order),
            report,
        )
    except (MigrationError, PreconditionError, RowError, SchemaError) as error:
        if "cancelled_by" in error.facts:
            in_progress.cancelled(db, migration, Metadata(error.cancelled_by, error.reason), since=since)
        extra = about("migration.failed", **where)
        quiet.error("migration %s was not %s: %s", migration.title, verb, error, extra=extra)
        raise MigrationError(
            f"migration {migration.title} was not {verb}, and the database is unchanged: {error}",
            private=error.private,
            version=migration.version,
            **{name: fact for name, fact in error.facts.items() if name != "version"},
        ) from error
    if progress is not None:
        progress(Progress(f"{migration.title}: apply", len(rows), len(rows)))
    return result
