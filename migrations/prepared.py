"""Prepared: a migration that is built, and waits for a decision from outside.

    prepare ─▶ STARTED ─▶ BACKFILL … ─▶ PREPARED ─┬─▶ commit_prepared ─▶ FINISHED, or SWITCHED with `hold`
                  └─▶ FAILED: it does not fit     └─▶ abort_prepared ──▶ ROLLED_BACK: nothing has changed

    abort_prepared of an unknown decision ─▶ ABORTED: a `prepare` that comes later is refused

Several databases can be upgraded in unison this way: prepare all, decide once, commit all or abort all. While
it is prepared, clients read and write the previous version, and each write is written in both forms. A write
that the new form refuses is refused.

PREPARED is a vote that must stay true, so the switch writes no rows, builds no index and runs no code. What
needs that is taken into the vote where possible: bootstrap rows are loaded, and tables with an index over a
new field are copied. What cannot be is refused before anything is built (`check_holdable`).

Invariants
  (1) After PREPARED only an order with its decision ends the migration (`in_progress.check_undecided`).
  (2) A decision ends once. An order that comes again gets the answer of the first, from the log.
  (3) An order with a lower fence than a recorded one changes nothing.
  (4) The switch depends on the log alone: a folder that was edited or lost meanwhile changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec

from everlog.migrations import in_progress
from everlog.migrations.bootstrap import bootstrap
from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.in_progress import (
    ABORTED,
    FAILED,
    FINISHED,
    PREPARED,
    ROLLED_BACK,
    STARTED,
    SWITCHED,
    Order,
    current_migration,
)
from everlog.migrations.lock import WAIT_S, ask_to_end, lock
from everlog.migrations.plan import check_holdable, check_target, load_for, only_one, pending
from everlog.migrations.proposal import settled
from everlog.migrations.runner import run_one
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.online.apply import Recorded
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments
from everlog.store.tx.transaction import Metadata


class DecisionState(StrEnum):
    """The state of a decision in one database. The API uses the same words."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Decision(msgspec.Struct, frozen=True):
    """A decision from outside, and what this database knows of it.

    `decision_id`: its UUID, 16 bytes. `fence`: the highest fencing number of its orders so far. `version` and
    `name` are those of its migration; 0 and empty: it was aborted before it was prepared. `seq`, `time_ns`
    and `actor` are those of the commit that brought it into this state. `error`: why it could not be
    prepared.
    """

    decision_id: bytes
    state: DecisionState
    version: int = 0
    name: str = ""
    seq: int = 0
    time_ns: int = 0
    actor: str = ""
    fence: int = 0
    error: str = ""

    @property
    def title(self) -> str:
        """Version and name of the migration, as in 20260105093000_create_airports; empty: none."""
        return f"{self.version}_{self.name}" if self.version else ""

    @property
    def shown(self) -> str:
        """The id as text, as in 01980f3e-0000-7000-8000-000000000001."""
        return str(UUID(bytes=self.decision_id))


_STATES = {
    STARTED: DecisionState.PREPARING,
    PREPARED: DecisionState.PREPARED,
    SWITCHED: DecisionState.COMMITTED,
    FINISHED: DecisionState.COMMITTED,
    FAILED: DecisionState.ABORTED,
    ROLLED_BACK: DecisionState.ABORTED,
    ABORTED: DecisionState.ABORTED,
}


def decision(db: Database, decision_id: bytes) -> Decision | None:
    """Return what the log knows of a decision; None: nothing. Read-only."""
    found: Decision | None = None
    for record in db.migration_records():
        one = record.migration
        if one.decision_id == decision_id and one.step in _STATES:
            found = _decision(record)
            if found.state in {DecisionState.COMMITTED, DecisionState.ABORTED}:
                break  # `complete` repeats a decision that was committed
    return found


def _recorded(db: Database, order: Order) -> Decision:
    """Return the decision of an order that was carried out."""
    found = decision(db, order.decision_id)
    assert found is not None
    return found


def _decision(record: Recorded) -> Decision:
    one = record.migration
    return Decision(
        one.decision_id,
        _STATES[one.step],
        one.version,
        one.name,
        record.seq,
        record.time_ns,
        record.actor,
        one.fence,
        one.error,
    )


def prepare(
    db: Database,
    decision_id: bytes,
    source: Source = SOURCE,
    *,
    fence: int = 0,
    to: int | None = None,
    hold: bool = False,
    rate: float | None = None,
    actor: str = "",
    reason: str = "",
    wait_s: float = WAIT_S,
    progress: OnProgress | None = None,
) -> Decision:
    """Build the pending migration beside the live tables, and let it wait for a decision. Return that.

    `decision_id` is a UUID, 16 bytes. `fence`: the fencing number of the caller; 0: none. `to` is the version
    of the migration, if several are pending. With `hold`, both versions are served after the switch, until
    `complete`. `rate`: rows a second at most. `actor` and `reason` go into the log. Waits up to `wait_s`
    seconds while another thread migrates. When it returns, the vote is on disk.

    Resumes if it was interrupted; does nothing if it is prepared already, or committed. Raises MigrationError
    if the migration cannot be prepared, if it does not fit the rows (then it was given up, and the decision
    is aborted here), if the decision was aborted, if another migration is in progress, or if `fence` is lower
    than one in the log. Writes several records.
    """
    order, by = order_of(decision_id, fence), Metadata(actor, reason).check()
    check_target(to, rate)
    with lock(db.uuid, actor, wait_s=wait_s, progress=progress, reenter=True) as holder:
        found = _checked(db, order)
        if found is not None and found.state is DecisionState.COMMITTED:
            return found
        if found is not None and found.state is DecisionState.ABORTED:
            raise _over(found, "it cannot be prepared any more; take another id")
        begun = current_migration(db)
        if found is not None and found.state is DecisionState.PREPARED:
            assert begun is not None
            return found if order.fence <= found.fence else _raise_fence(db, begun, order, by)
        known = load_for(db, source)
        begun = in_progress.attach(db, known)
        _check_other(begun, order)
        migration = only_one(pending(db, known, to if found is None else found.version))
        if begun is None and (rejected := settled(db, [migration], rejected_only=True)) is not None:
            raise MigrationError(rejected.says, version=migration.version)
        rows = bootstrap(migration)
        check_holdable(migration, rows)
        holder.at, holder.decision_id = (migration.version, migration.name), order.decision_id
        try:
            run_one(db, migration, rows, by, hold=hold, rate=rate, progress=progress, order=order)
        finally:
            holder.decision_id = b""
        return _recorded(db, order)


def commit_prepared(
    db: Database,
    decision_id: bytes,
    *,
    fence: int = 0,
    actor: str = "",
    reason: str = "",
    wait_s: float = WAIT_S,
) -> Decision:
    """Put the migration that waits for this decision in force. Return the decision, with the commit.

    `decision_id` is its UUID, 16 bytes. `fence`: the fencing number of the caller; 0: none. `actor` and
    `reason` go into the log. Needs no folder, and runs no code of one. Does nothing if it was committed
    before. Raises MigrationError if it was aborted, if it is not prepared here, or if `fence` is lower than
    one in the log. Writes one record.
    """
    order, by = order_of(decision_id, fence), Metadata(actor, reason).check()
    with lock(db.uuid, actor, wait_s=wait_s, reenter=True):
        found = _checked(db, order)
        if found is not None and found.state is DecisionState.COMMITTED:
            return found
        if found is not None and found.state is DecisionState.ABORTED:
            raise _over(found, "it cannot be committed any more")
        begun = current_migration(db)
        _check_other(begun, order)
        if begun is None:
            raise MigrationError(
                f"decision {order.shown} is unknown here, and no migration is prepared: run `everlog prepare"
                f" {order.shown}` first",
                decision_id=order.shown,
            )
        if begun.migration.step == STARTED:
            in_progress.check_undecided(begun)
        first, one = in_progress.start(db, begun), begun.migration
        record = log_pb2.Migration(
            step=SWITCHED if one.following.retiring else FINISHED,
            version=one.version,
            name=one.name,
            digest=one.digest,
            schema=one.following,
            sources=first.migration.sources,
            decision_id=one.decision_id,
            fence=max(one.fence, order.fence),
        )
        was = db.schema.proto
        expect = in_progress.expect_in_progress(db, begun)
        db.apply_migration(record, actor=by.actor, reason=by.reason, expect=expect)
        if record.step == FINISHED:
            db.core.code.pop(record.version, None)
            db.reclaim(was)
        return _recorded(db, order)


def abort_prepared(
    db: Database,
    decision_id: bytes,
    *,
    fence: int = 0,
    actor: str = "",
    reason: str = "",
    wait_s: float = WAIT_S,
) -> Decision:
    """Give up the migration that waits for this decision, or is being prepared for it. Return the decision.

    The schema is the previous one, and so are the rows, except those written meanwhile. The arguments are
    those of `commit_prepared`. A decision that is unknown here is recorded as aborted, so that a
    `prepare` that comes later is refused. Does nothing if it was aborted before. Raises MigrationError if it
    was committed, or if `fence` is lower than one in the log. Writes one record.
    """
    order, by = order_of(decision_id, fence), Metadata(actor, reason).check()
    _checked(db, order)  # a stale order stops nobody
    ask_to_end(db.uuid, by, decision_id=order.decision_id)
    with lock(db.uuid, actor, wait_s=wait_s, reenter=True):
        found = _checked(db, order)
        if found is not None and found.state is DecisionState.ABORTED:
            return found
        if found is not None and found.state is DecisionState.COMMITTED:
            raise _over(found, "it cannot be aborted any more; `everlog rollback` takes the migration back")
        if found is None:
            record = log_pb2.Migration(step=ABORTED, decision_id=order.decision_id, fence=order.fence)
            db.apply_migration(record, actor=by.actor, reason=by.reason)
        else:
            in_progress.give_up(db, by, order=order)
        return _recorded(db, order)


def order_of(decision_id: bytes, fence: int) -> Order:
    """Return the arguments of a call as an order. Raises MigrationError for invalid ones."""
    given: object = decision_id
    if not isinstance(given, bytes) or len(given) != 16:
        found = f"{len(given)} bytes" if isinstance(given, bytes) else type(given).__name__
        raise MigrationError(f"expected a decision id, the 16 bytes of a UUID, found {found}")
    return Order(decision_id, arguments.counted(fence, "a fence", error=MigrationError))


def _checked(db: Database, order: Order) -> Decision | None:
    """Return what the log knows of an order's decision. Raises MigrationError for a stale order."""
    known = decision(db, order.decision_id)
    newest = known
    if known is None:  # a caller with a lower fence than any other decision had is stale as well
        fenced = [_decision(one) for one in db.migration_records() if one.migration.fence]
        newest = max(fenced, key=lambda one: one.fence, default=None)
    if newest is not None and 0 < order.fence < newest.fence:
        raise MigrationError(
            f"the order about decision {order.shown} has fence {order.fence}, but commit {newest.seq} has"
            f" fence {newest.fence}, for decision {newest.shown}: its caller was replaced meanwhile, and"
            " nothing was done",
            decision_id=order.shown,
            fence=order.fence,
            expected=newest.fence,
        )
    return known


def _check_other(begun: Recorded | None, order: Order) -> None:
    """Raise MigrationError if a migration is in progress that is not about this decision."""
    if begun is None or begun.migration.decision_id == order.decision_id:
        return
    other = in_progress.undecided(begun)
    one = begun.migration
    text = (
        f"{other}"
        if other
        else f"migration {one.version}_{one.name} has been in progress since commit {begun.seq}"
    )
    remedy = "" if other else "; end it first (`everlog status` says how)"
    raise MigrationError(
        f"the order is about decision {order.shown}, but {text}{remedy}",
        decision_id=order.shown,
        version=one.version,
    )


def _raise_fence(db: Database, begun: Recorded, order: Order, by: Metadata) -> Decision:
    """Record a higher fence, so that orders of a caller that was replaced are refused from now on."""
    record = log_pb2.Migration()
    record.CopyFrom(begun.migration)
    record.fence = order.fence
    expect = in_progress.expect_in_progress(db, begun)
    db.apply_migration(record, actor=by.actor, reason=by.reason, expect=expect)
    return _recorded(db, order)


def _over(found: Decision, what: str) -> MigrationError:
    """Return the error for an order that contradicts how a decision ended."""
    of = f" (migration {found.title})" if found.title else ""
    why = f": {found.error}" if found.error else ""
    return MigrationError(
        f"decision {found.shown} was {found.state} by commit {found.seq}{of}{why}; {what}",
        decision_id=found.shown,
        state=str(found.state),
        seq=found.seq,
    )
