"""Under way: the migration that was begun and has not ended, as the log tells it.

    STARTED ─▶ … ─▶ FINISHED                     `online`, or `complete` here
               └──▶ FAILED, ROLLED_BACK          `give_up`, `cancel`: as it was before

    STARTED back ─▶ … ─▶ ROLLED_BACK             `returning`
                    └──▶ FAILED back             `give_up`: in force as before

Invariants
  (1) one migration is under way at most, and it ends, or is given up, before the next begins;
  (2) until then it can be given up: what it built goes, and nothing else has changed;
  (3) a record that ends it is appended only if it is still under way at that moment (`still`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from everlog.migrations import withheld
from everlog.migrations.lock import WAIT_S, ask_to_end, lock
from everlog.migrations.migration import Migration
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, PreconditionError, RowError, SchemaError
from everlog.store.online.apply import Recorded
from everlog.store.schema import evolve
from everlog.store.tx.dual_write import Transform, Transforms
from everlog.store.tx.transaction import CommitResult, Metadata

STARTED, SWITCHED = log_pb2.Migration.STARTED, log_pb2.Migration.SWITCHED
FINISHED, FAILED = log_pb2.Migration.FINISHED, log_pb2.Migration.FAILED
ROLLED_BACK, BACKFILL = log_pb2.Migration.ROLLED_BACK, log_pb2.Migration.BACKFILL

# What says that a migration does not fit the rows; after anything else it can go on.
REFUSALS = (MigrationError, PreconditionError, RowError, SchemaError)


def under_way(db: Database) -> Recorded | None:
    """The newest record of the migration that was begun and has not ended. Read-only."""
    for record in db.newest_migration_records():
        if record.migration.step in (STARTED, SWITCHED):
            return record
        if record.migration.step in (FINISHED, FAILED, ROLLED_BACK):
            break
    return None


def attach(db: Database, migrations: Iterable[Migration]) -> Recorded | None:
    """Gives the database the code of the migration that is under way, which its writes need, and
    returns where it is. Raises MigrationError if its folder was edited since it began."""
    begun = under_way(db)
    if begun is None:
        db.core.transforms = {}
        return None
    for migration in migrations:
        if migration.version == begun.migration.version:
            same = partial(withheld.same, vault=db.tables.vault)
            if not migration.folder.is_as(begun.migration.digest, begun.migration.sources, same):
                raise MigrationError(
                    f"migration {migration.title} was edited after commit {begun.seq} began with it; restore"
                    " it and go on, or give it up with `everlog rollback`",
                    version=migration.version,
                )
            db.core.transforms = transforms(migration, back=begun.migration.back)
    return begun


def transforms(migration: Migration, *, back: bool = False) -> Transforms:
    """The code of a migration's transforms, as the store applies it; `back`: of the way back."""
    ways = {name: one.directions() for name, one in migration.transforms.items()}
    if back:
        return {name: Transform(way.down, way.up) for name, way in ways.items() if way.down is not None}
    return ways


def base(db: Database) -> log_pb2.Schema:
    """The schema in force, but for what is under way. Read-only."""
    begun = under_way(db)
    return db.schema.proto if begun is None else db.schema_at(first(db, begun) - 1)


def first(db: Database, begun: Recorded) -> int:
    """Seq of the record with which a migration that is under way began."""
    version = begun.migration.version
    return max(
        r.seq
        for r in db.migration_records()
        if r.migration.version == version and r.migration.step == STARTED
    )


def still(db: Database, begun: Recorded | None) -> Callable[[], None]:
    """Return a precondition (`expect`) for a record: the migration that `begun` started still runs."""

    def expect() -> None:
        now = under_way(db)
        if (now.seq if now else 0) != (begun.seq if begun else 0):
            one = (begun or now or last(db)).migration
            raise MigrationError(
                f"migration {one.version}_{one.name} was begun, finished, rolled back or given up by somebody"
                f" else in this moment: commit {last(db).seq}; look at `everlog status` and try again",
                version=one.version,
            )

    return expect


def last(db: Database) -> Recorded:
    """The newest record of a migration. Read-only."""
    return next(db.newest_migration_records())


NOT_HELD = "no migration is held, so there is only one version"


def complete(db: Database, *, actor: str = "", reason: str = "") -> MigrationInfo:
    """Ends the time of two versions: that of before is served no longer, and the disk of its rows
    is freed. Raises MigrationError if there are no two.
    """
    Metadata(actor, reason).check()
    with lock(db.uuid, actor, reenter=True):
        begun = under_way(db)
        if begun is None or begun.migration.step != SWITCHED:
            raise MigrationError(NOT_HELD)
        record = log_pb2.Migration()
        record.CopyFrom(begun.migration)
        record.step = FINISHED
        record.schema.CopyFrom(evolve.alone(db.schema.proto))
        was = db.schema.proto
        result = db.apply_migration(record, actor=actor, reason=reason, expect=still(db, begun))
        db.core.transforms = {}
        db.reclaim(was)
    done = begun.migration
    return MigrationInfo(
        done.version, done.name, State.APPLIED, result.time_ns, result.seq, actor, done.digest, done.digest
    )


def give_up(db: Database, by: Metadata, *, error: Error | None = None) -> CommitResult:
    """Ends the migration that is under way as if it had never begun: what was written through the
    version before it stays, as does what was written through the new one, in the old shape.

    `error` is why it failed. Raises MigrationError if none is under way.
    """
    begun = under_way(db)
    if begun is None:
        raise MigrationError("no migration is under way that could be given up")
    expect = still(db, begun)
    back = begun.migration.back
    record = log_pb2.Migration(
        step=FAILED if back or error is not None else ROLLED_BACK,
        version=begun.migration.version,
        name=begun.migration.name,
        digest=begun.migration.digest,
        schema=evolve.given_up(base(db), db.schema.proto),
        error=str(error or ("its way back was given up" if back else "")),
        back=back,
    )
    was = db.schema.proto
    result = db.apply_migration(record, actor=by.actor, reason=by.reason, expect=expect)
    db.core.transforms = {}
    db.reclaim(was)
    return result


def cancel(db: Database, *, actor: str = "", reason: str = "", wait_s: float = WAIT_S) -> MigrationInfo:
    """Stops the migration that is being applied or rolled back, or that was stopped on its way, and
    gives it up: the database is as before it, and `apply` at the next start of a server leaves it out.

    A thread that is at work on it ends at its next sign of progress; `wait_s` is how many seconds that
    is waited for. Returns the migration, with the commit that gave it up. Raises MigrationError if none
    is under way, and if it ended before it could be cancelled. Writes one record.
    """
    by, at = Metadata(actor, reason).check(), db.head
    holder = ask_to_end(db.uuid, by)
    with lock(db.uuid, actor, wait_s=wait_s, reenter=True):
        begun = under_way(db)
        if begun is not None and begun.migration.step == SWITCHED:
            raise MigrationError(
                f"migration {begun.migration.version}_{begun.migration.name} serves two versions since commit"
                f" {begun.seq}: nothing is being built any more; `everlog complete` ends that,"
                " `everlog rollback` takes it back",
                version=begun.migration.version,
            )
        if begun is not None:
            one, result = begun.migration, give_up(db, by)
            state = State.APPLIED if one.back else State.PENDING
            return MigrationInfo(one.version, one.name, state, result.time_ns, result.seq, actor, one.digest)
        newer = [one for one in db.migration_records() if one.seq > at and one.migration.step != BACKFILL]
        if holder is not None and holder.ended:
            end = last(db)
            state = State.APPLIED if end.migration.back else State.PENDING
            return MigrationInfo(*holder.at, state, end.time_ns, end.seq, end.actor, end.migration.digest)
        if holder is not None and newer:
            end, one = newer[-1], newer[-1].migration
            raise MigrationError(
                f"migration {one.version}_{one.name} was not cancelled: it ended before, with commit"
                f" {end.seq} ({log_pb2.Migration.Step.Name(one.step).lower()})",
                version=one.version,
            )
    raise MigrationError("no migration is under way that could be cancelled")


def cancelled(db: Database, migration: Migration, by: Metadata, *, since: int) -> None:
    """Records that a migration was cancelled, unless a record after `since` says so: it had begun, and
    was given up."""
    given_up = (migration.version, ROLLED_BACK)
    if not any(
        (one.migration.version, one.migration.step) == given_up
        for one in db.migration_records()
        if one.seq > since
    ):
        digest = migration.folder.digest
        record = log_pb2.Migration(
            step=ROLLED_BACK, version=migration.version, name=migration.name, digest=digest
        )
        db.apply_migration(record, actor=by.actor, reason=by.reason, expect=still(db, None))


@contextmanager
def given_up_if_refused(db: Database, by: Metadata) -> Iterator[None]:
    """Give up the running migration if the block raises; its author is the caller of `cancel`, if any."""
    try:
        yield
    except REFUSALS as error:
        if under_way(db) is not None:
            if "cancelled_by" in error.facts:
                give_up(db, Metadata(error.cancelled_by, error.reason))
            else:
                give_up(db, by, error=error)
        raise
