"""In progress: the migration that was started and has not ended, according to the log.

    STARTED ─▶ … ─▶ FINISHED                     `online`, or `complete` here
               └──▶ FAILED, ROLLED_BACK          `give_up`, `cancel`: nothing has changed

    STARTED ─▶ … ─▶ PREPARED ─▶ …                `prepared`: waits for a decision from outside

    STARTED back ─▶ … ─▶ ROLLED_BACK             `reverse`
                    └──▶ FAILED back             `give_up`: still in force

Invariants
  (1) At most one migration is in progress. It ends, or is given up, before the next starts.
  (2) Until then it can be given up: what it built is dropped, and nothing else has changed.
  (3) A record that ends it is appended only if it is still in progress at that moment
      (`expect_in_progress`).
  (4) Only its decision ends a prepared migration, and only an order with that decision continues a migration
      that is being prepared (`check_undecided`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from uuid import UUID

from everlog.migrations.folder import same_content
from everlog.migrations.lock import WAIT_S, ask_to_end, lock
from everlog.migrations.migration import Migration
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, PreconditionError, RowError, SchemaError
from everlog.store.online.apply import Recorded
from everlog.store.schema import evolve
from everlog.store.tx.dual_write import Transforms
from everlog.store.tx.transaction import CommitResult, Metadata

STARTED, SWITCHED = log_pb2.Migration.STARTED, log_pb2.Migration.SWITCHED
PREPARED, ABORTED = log_pb2.Migration.PREPARED, log_pb2.Migration.ABORTED
FINISHED, FAILED = log_pb2.Migration.FINISHED, log_pb2.Migration.FAILED
ROLLED_BACK, BACKFILL = log_pb2.Migration.ROLLED_BACK, log_pb2.Migration.BACKFILL

# Errors that say that a migration does not fit the rows. After any other error it can resume.
REFUSALS = (MigrationError, PreconditionError, RowError, SchemaError)


def current_migration(db: Database) -> Recorded | None:
    """Return the newest record of the migration in progress, or None. Read-only."""
    for record in db.newest_migration_records():
        if record.migration.step in (STARTED, PREPARED, SWITCHED):
            return record
        if record.migration.step in (FINISHED, FAILED, ROLLED_BACK):
            break
    return None


def attach(db: Database, migrations: Iterable[Migration]) -> Recorded | None:
    """Give the database the code of the migration in progress, which its writes need.

    Returns its newest record, or None. Raises MigrationError if its folder was edited since it started.
    """
    begun = current_migration(db)
    if begun is None:
        return None
    for migration in migrations:
        if migration.version == begun.migration.version:
            same, first = partial(same_content, vault=db.tables.vault), start(db, begun)
            if not migration.folder.is_as(first.migration.digest, first.migration.sources, same):
                prepared = begun.migration.step == PREPARED
                remedy = (
                    f"to write to its tables; it is prepared, and waits for decision {shown(begun.migration)}"
                    if prepared
                    else "to resume, or give the migration up with `everlog rollback`"
                )
                raise MigrationError(
                    f"migration {migration.title} was edited after commit {first.seq} started it; restore"
                    f" the folder {remedy}",
                    version=migration.version,
                )
            db.core.code[migration.version] = transforms_of(migration)
    return begun


def transforms_of(migration: Migration) -> Transforms:
    """Return the transforms of a migration in the form that the store applies."""
    return {name: one.directions() for name, one in migration.transforms.items()}


def base(db: Database) -> log_pb2.Schema:
    """Return the schema in force without the migration in progress. Read-only."""
    begun = current_migration(db)
    return db.schema.proto if begun is None else db.schema_at(start_seq(db, begun) - 1)


def start_seq(db: Database, begun: Recorded) -> int:
    """Return the seq of the record that started the migration in progress."""
    return start(db, begun).seq


def start(db: Database, begun: Recorded) -> Recorded:
    """Return the record that started the migration in progress. Read-only."""
    version = begun.migration.version
    return next(
        record
        for record in db.newest_migration_records()
        if record.migration.version == version and record.migration.step == STARTED
    )


class Order(NamedTuple):
    """An order about the decision with this UUID, 16 bytes. `fence`: the fencing number of who gives it, such
    as the epoch of a coordinator; 0: none."""

    decision_id: bytes
    fence: int = 0

    @property
    def shown(self) -> str:
        return str(UUID(bytes=self.decision_id))


def shown(migration: log_pb2.Migration) -> str:
    """Return the decision of a record as text."""
    return str(UUID(bytes=migration.decision_id))


def undecided(begun: Recorded | None) -> MigrationError | None:
    """Return the error for a caller without the decision that the migration in progress waits for, or is
    being prepared for; None: it waits for none."""
    if begun is None or not begun.migration.decision_id or begun.migration.step not in (STARTED, PREPARED):
        return None
    one, decision = begun.migration, shown(begun.migration)
    text = (
        f"has been prepared since commit {begun.seq}, and waits for decision {decision}, which alone ends it:"
        f" `everlog commit-prepared {decision}` or `everlog abort-prepared {decision}`"
        if one.step == PREPARED
        else f"has been in preparation for decision {decision} since commit {begun.seq}: `everlog prepare"
        f" {decision}` resumes it, `everlog abort-prepared {decision}` gives it up"
    )
    return MigrationError(
        f"migration {one.version}_{one.name} {text}",
        version=one.version,
        decision_id=decision,
        fence=one.fence,
        prepared=one.step == PREPARED,
    )


def check_undecided(begun: Recorded | None) -> None:
    """Raise MigrationError if the migration in progress waits for a decision, or is being prepared for
    one."""
    if (error := undecided(begun)) is not None:
        raise error


def check_not_prepared(begun: Recorded | None) -> None:
    """Raise MigrationError if the migration in progress waits for a decision."""
    if begun is not None and begun.migration.step == PREPARED:
        check_undecided(begun)


def expect_in_progress(db: Database, begun: Recorded | None) -> Callable[[], None]:
    """Return a precondition (`expect`) for a record: the migration in progress is still that of `begun`."""

    def expect() -> None:
        now = current_migration(db)
        if (now.seq if now else 0) != (begun.seq if begun else 0):
            one = (begun or now or newest_record(db)).migration
            raise MigrationError(
                f"migration {one.version}_{one.name} was started, finished, rolled back or given up by"
                f" another caller in the meantime (commit {newest_record(db).seq}); run `everlog status`"
                " and try again",
                version=one.version,
            )

    return expect


def newest_record(db: Database) -> Recorded:
    """Return the newest record of any migration. Read-only."""
    return next(db.newest_migration_records())


NOT_HELD = "no migration is held, so only one version is served"


def complete(db: Database, *, actor: str = "", reason: str = "") -> MigrationInfo:
    """Stop serving the previous schema version, and free the space of its rows.

    `actor` and `reason` go into the log. Returns the finished migration. Raises MigrationError if only one
    version is served. Writes one record.
    """
    Metadata(actor, reason).check()
    with lock(db.uuid, actor, reenter=True):
        begun = current_migration(db)
        check_undecided(begun)
        if begun is None or begun.migration.step != SWITCHED:
            raise MigrationError(NOT_HELD)
        record = log_pb2.Migration()
        record.CopyFrom(begun.migration)
        record.step = FINISHED
        record.schema.CopyFrom(evolve.without_previous(db.schema.proto))
        was = db.schema.proto
        result = db.apply_migration(record, actor=actor, reason=reason, expect=expect_in_progress(db, begun))
        db.core.code.pop(record.version, None)
        db.reclaim(was)
    done = begun.migration
    return MigrationInfo(
        done.version, done.name, State.APPLIED, result.time_ns, result.seq, actor, done.digest, done.digest
    )


def give_up(
    db: Database, by: Metadata, *, error: Error | None = None, order: Order | None = None
) -> CommitResult:
    """End the migration in progress without any effect on the database. Return the commit. Writes one record.

    Rows written meanwhile through either version stay, in the old shape. `error` is why it failed, if it did.
    Raises MigrationError if no migration is in progress, or if it is prepared and this is not by `order` of
    its decision.
    """
    begun = current_migration(db)
    if begun is None:
        raise MigrationError("no migration is in progress, so there is none to give up")
    if order is None:
        check_not_prepared(begun)
    expect = expect_in_progress(db, begun)
    back = begun.migration.back
    record = log_pb2.Migration(
        step=FAILED if back or error is not None else ROLLED_BACK,
        version=begun.migration.version,
        name=begun.migration.name,
        digest=begun.migration.digest,
        schema=evolve.aborted(base(db), db.schema.proto),
        error=str(error or ("its rollback was given up" if back else "")),
        back=back,
    )
    if begun.migration.step != SWITCHED:
        record.decision_id = begun.migration.decision_id
        record.fence = max(begun.migration.fence, order.fence if order else 0)
    was = db.schema.proto
    result = db.apply_migration(record, actor=by.actor, reason=by.reason, expect=expect)
    db.core.code.pop(record.version, None)
    db.reclaim(was)
    return result


def cancel(db: Database, *, actor: str = "", reason: str = "", wait_s: float = WAIT_S) -> MigrationInfo:
    """Stop the migration that is being applied or rolled back, or was interrupted, and give it up.

    Afterwards the database is unchanged, and an automatic run at the next start of a server skips this
    migration. A thread that works on it stops at its next progress report; waits up to `wait_s` seconds for
    that. Returns the migration, with the commit that gave it up. Raises MigrationError if none is in
    progress, or if it ended before it could be cancelled. Writes one record.
    """
    by, at = Metadata(actor, reason).check(), db.head
    holder = ask_to_end(db.uuid, by)
    with lock(db.uuid, actor, wait_s=wait_s, reenter=True):
        begun = current_migration(db)
        check_not_prepared(begun)
        if begun is not None and begun.migration.step == SWITCHED:
            raise MigrationError(
                f"migration {begun.migration.version}_{begun.migration.name} has served two versions since"
                f" commit {begun.seq}, so there is nothing left to cancel: run `everlog complete` to"
                " finish it, or `everlog rollback` to take it back",
                version=begun.migration.version,
            )
        if begun is not None:
            one, result = begun.migration, give_up(db, by)
            state = State.APPLIED if one.back else State.PENDING
            return MigrationInfo(one.version, one.name, state, result.time_ns, result.seq, actor, one.digest)
        newer = [one for one in db.migration_records() if one.seq > at and one.migration.step != BACKFILL]
        if holder is not None and holder.ended:
            end = newest_record(db)
            state = State.APPLIED if end.migration.back else State.PENDING
            return MigrationInfo(*holder.at, state, end.time_ns, end.seq, end.actor, end.migration.digest)
        if holder is not None and newer:
            end, one = newer[-1], newer[-1].migration
            raise MigrationError(
                f"migration {one.version}_{one.name} was not cancelled: it had already ended, with commit"
                f" {end.seq} ({log_pb2.Migration.Step.Name(one.step).lower()})",
                version=one.version,
            )
    raise MigrationError("no migration is in progress, so there is none to cancel")


def cancelled(db: Database, migration: Migration, by: Metadata, *, since: int) -> None:
    """Record that a migration was cancelled, unless a record after `since` already states it.

    It already does if the migration had started and was given up.
    """
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
        db.apply_migration(record, actor=by.actor, reason=by.reason, expect=expect_in_progress(db, None))


@contextmanager
def given_up_if_refused(db: Database, by: Metadata) -> Iterator[None]:
    """Give up the migration in progress if the block raises. Its author is the caller of `cancel`, if any."""
    try:
        yield
    except REFUSALS as error:
        if current_migration(db) is not None:
            if "cancelled_by" in error.facts:
                give_up(db, Metadata(error.cancelled_by, error.reason))
            else:
                give_up(db, by, error=error)
        raise
