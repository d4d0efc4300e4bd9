"""Ledger: what a coordinator has on disk, in an everlog database of its own.

    epochs   one row: the epoch, and the UUID of the database that it was written in
    runs     a row for each run       ─┐ the values of `protocol.Ledger`
    seats    a row for each member    ─┘ of a run
    outcomes a row for each run: its times, for people
    plans    of fleet/approvals.py, and `rollouts` of fleet/rollouts.py
    mark     a file beside the database: the cursor of the newest commit of a coordinator

    event ─▶ protocol ─▶ `LedgerStore.save`: one commit that reads the epoch ─▶ mark ─▶ orders are sent

The log of the database is the audit of all runs: each commit has an actor and a reason.

A database that was restored from a backup may lack a decision that members have carried out. It is found by
the mark, which a restore of the database does not replace, and a fork by its UUID.

Invariants
  (1) Each commit reads the epoch: a coordinator that was replaced writes nothing.
  (2) A commit, and then the mark, is on disk before an order that follows from it is sent. So the mark is
      ahead of the log, or differs from it, only if the database was restored, forked or replaced.
  (3) A takeover compares the mark before it writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from everlog.feed import cursor
from everlog.feed.feed import Feed
from everlog.fleet import protocol
from everlog.fleet.migrations.v20261130120000_create_ledger import (
    EPOCHS,
    RUNS,
    SEATS,
    Epoch,
    Run,
    Seat,
)
from everlog.fleet.migrations.v20261130230000_create_outcomes import OUTCOMES, Outcome
from everlog.fleet.protocol import Decision, Ledger, Phase, Target, Vote, has_ended
from everlog.fleet.status import EndedRun
from everlog.proto import log_pb2
from everlog.store.errors import CursorError, MigrationError
from everlog.store.rocks import files
from everlog.store.tx.transaction import DEADLINE_S, Transaction

SOURCE = "everlog.fleet.migrations"  # for `everlog.open(url, migrations=SOURCE)`
ONLY = "fleet"  # the key of the row in `epochs`

R = TypeVar("R")


class LedgerDatabase(Protocol):
    """The part of a database, embedded or remote, that a ledger needs."""

    @property
    def uuid(self) -> bytes: ...
    def cursor(self) -> log_pb2.Cursor: ...
    def feed(self, after: log_pb2.Cursor, /, *, bounded: bool = False) -> Feed: ...
    def run(
        self,
        fn: Callable[[Transaction], R],
        *,
        retries: int | None = None,
        deadline_s: float = DEADLINE_S,
        **metadata: Any,
    ) -> R: ...


def stored_run(tx: Transaction, decision_id: bytes) -> protocol.Run | None:
    """Return a run, also one that has ended; None: there is none. Read-only."""
    row = tx.get(RUNS, decision_id)
    return row and _run(row, list(tx.scan(SEATS, decision_id)))


class Mark(msgspec.Struct):
    """The content of the mark: a cursor as text."""

    cursor: str


class LedgerStore:
    """The ledger in a database whose schema is that of SOURCE. `mark`: the path of the file with its cursor,
    outside of the database's directory."""

    def __init__(self, db: LedgerDatabase, mark: Path) -> None:
        self._db = db
        self._mark = mark
        self._marking = threading.Lock()
        self._marked: int | None = None  # the seq of the newest mark; None: before a takeover

    def take_over(self, *, actor: str = "", reason: str = "", accept: bool = False) -> Ledger:
        """Raise the epoch and return the ledger, in one commit. Runs that have ended are left out.

        `accept`: also if the database is not the one that a coordinator wrote last. Raises MigrationError if
        it was restored, forked or replaced. Writes.
        """
        known = files.read(self._mark, Mark, remedy="remove it, and take over with `accept`")
        if known is not None and not accept:
            self._check_mark(known)

        def checked(tx: Transaction) -> int:
            row = tx.get(EPOCHS, ONLY)
            if row is not None and not accept:
                self._check_row(row, known)
            return row.epoch if row else 0

        def write(tx: Transaction) -> Ledger:
            ledger = protocol.take_over(_read(tx, checked(tx))).ledger
            self._put_epoch(tx, ledger.epoch)
            return ledger

        if known is None or accept:  # first: a takeover that is killed must leave a mark
            self._db.run(checked)
            self._note(self._db.cursor())
        return self._commit(write, actor, reason or "takeover")

    def save(
        self,
        before: Ledger,
        after: Ledger,
        *,
        actor: str = "",
        reason: str = "",
        check: Callable[[Transaction], str] | None = None,
    ) -> str:
        """Write what differs between two ledgers, in one commit. Return why it was refused, by the ledger or
        by `check`, which is called in the same transaction and may write: nothing was written then; empty: it
        was written.

        Raises MigrationError if the epoch is not that of `before`: this coordinator was replaced, and nothing
        was written. After any other error the outcome is unknown: take over again. Writes.
        """

        def write(tx: Transaction) -> str:
            row = tx.get(EPOCHS, ONLY)
            if row is None or row.epoch != before.epoch:
                raise _replaced(row, before.epoch)
            known = {run.decision_id: run for run in before.runs}
            for run in after.runs:
                if run.decision_id not in known and tx.get(RUNS, run.decision_id) is not None:
                    return f"run {cursor.name(run.decision_id)} has ended; start the run with a new id"
            if check is not None and (refusal := check(tx)):
                return refusal
            if after.epoch != before.epoch:
                self._put_epoch(tx, after.epoch)
            for run in after.runs:
                if run is not known.get(run.decision_id):
                    _put_run(tx, run, known.get(run.decision_id), after.epoch)
                    _put_outcome(tx, run, actor, reason)
            return ""

        return self._commit(write, actor, reason)

    def run(self, decision_id: bytes) -> protocol.Run | None:
        """Return a run, also one that has ended; None: there is none. Read-only."""

        return self.read(lambda tx: stored_run(tx, decision_id))

    def ended(self, limit: int) -> list[EndedRun]:
        """Return the newest runs that have ended, in the order of their start. Read-only."""

        def read(tx: Transaction) -> list[EndedRun]:
            newest = (_ended(row) for row in tx.scan(OUTCOMES, reverse=True) if row.ended_ns)
            return list(islice(newest, limit))[::-1]

        return self.read(read)

    def read(self, fn: Callable[[Transaction], R]) -> R:
        """Return what a function reads in the database of the ledger. Read-only."""
        return self._db.run(fn)

    def commit(self, write: Callable[[Transaction], R], actor: str, reason: str) -> R:
        """Run a function in a transaction, and return its result when the commit is on disk, and so is the
        mark, after a takeover. Before, the mark stays: the database may have been restored. Writes one
        commit, or none."""
        return self._commit(write, actor, reason, mark=self._marked is not None)

    def _commit(self, write: Callable[[Transaction], R], actor: str, reason: str, *, mark: bool = True) -> R:
        last: list[Transaction] = []

        def noted(tx: Transaction) -> R:
            last[:] = [tx]
            return write(tx)

        made = self._db.run(noted, actor=actor, reason=reason, durability="sync")
        result = last[0].result
        if mark and result is not None and result.seq:
            self._note(log_pb2.Cursor(database=self._db.uuid, seq=result.seq, checksum=result.checksum))
        return made

    def _note(self, at: log_pb2.Cursor) -> None:
        with self._marking:
            if at.seq >= (self._marked or 0):  # a commit of another thread may have been faster
                files.write(self._mark, Mark(cursor.show(at)), sync=True)
                self._marked = at.seq

    def _put_epoch(self, tx: Transaction, epoch: int) -> None:
        tx.put(EPOCHS, Epoch(fleet=ONLY, epoch=epoch, ledger=self._db.uuid))

    def _check_mark(self, known: Mark) -> None:
        try:
            with self._db.feed(cursor.parse(known.cursor), bounded=True) as feed:
                next(feed.batches(), None)
        except CursorError as error:
            raise self._not_this(str(error)) from error

    def _check_row(self, row: Epoch, known: Mark | None) -> None:
        if row.ledger != self._db.uuid:
            raise self._not_this(
                f"it is a fork: its epoch was written in database {cursor.name(row.ledger)}, this is"
                f" {cursor.name(self._db.uuid)}"
            )
        if known is None:
            raise self._not_this(f"it has epoch {row.epoch}, but there is no mark {self._mark}")

    def _not_this(self, why: str) -> MigrationError:
        return MigrationError(
            f"the ledger may lack decisions of its fleet, and nothing was done: {why}. Use the database that"
            f" coordinated last with its mark, or restore its newest backup with `everlog restore`. Only if"
            " it has all decisions, or no member is prepared (`everlog status` on each), take over with"
            " `accept`",
            mark=str(self._mark),
        )


def _replaced(row: Epoch | None, epoch: int) -> MigrationError:
    found = row.epoch if row else 0
    return MigrationError(
        f"this coordinator has epoch {epoch}, but the ledger has epoch {found}: another one took over"
        " meanwhile, and nothing was written; stop this one, or let it take over again",
        epoch=epoch,
        expected=found,
    )


def _read(tx: Transaction, epoch: int) -> Ledger:
    found = [
        (row.epoch, _run(row, list(tx.scan(SEATS, row.decision_id))))
        for row in tx.scan(RUNS)
        if not row.ended
    ]
    return Ledger(epoch, tuple(run for _, run in sorted(found, key=itemgetter(0))))


def _run(row: Run, seats: list[Seat]) -> protocol.Run:
    return protocol.Run(
        row.decision_id,
        tuple(_seat(seat) for seat in sorted(seats, key=lambda seat: seat.database)),
        row.deadline_ns,
        Decision(Run.Decision.Name(row.decision)) if row.decision else None,
        row.contract,
    )


def _seat(row: Seat) -> protocol.Seat:
    return protocol.Seat(
        Target(row.database, row.from_version, row.to_version, row.folder_digest, row.hold),
        Vote(Seat.Vote.Name(row.vote)) if row.vote else None,
        row.reason,
        row.removed,
        Phase(Seat.End.Name(row.end)) if row.end else None,
    )


def _put_run(tx: Transaction, run: protocol.Run, before: protocol.Run | None, epoch: int) -> None:
    row = Run(decision_id=run.decision_id, epoch=epoch) if before is None else tx.get(RUNS, run.decision_id)
    assert row is not None
    was = row.SerializeToString(deterministic=True)
    row.deadline_ns, row.contract, row.ended = run.deadline_ns, run.contract, has_ended(run)
    if run.decision is not None:
        row.decision = Run.Decision.Value(run.decision.value)
    if before is None or row.SerializeToString(deterministic=True) != was:
        tx.put(RUNS, row)
    known = before.seats if before is not None else (None,) * len(run.seats)
    for seat, old in zip(run.seats, known, strict=True):
        if seat is not old:
            tx.put(SEATS, _seat_row(run.decision_id, seat))


def _seat_row(decision_id: bytes, seat: protocol.Seat) -> Seat:
    target = seat.target
    return Seat(
        decision_id=decision_id,
        database=target.database,
        from_version=target.from_version,
        to_version=target.to_version,
        folder_digest=target.folder_digest,
        hold=target.hold,
        vote=Seat.Vote.Value(seat.vote.value) if seat.vote else Seat.UNKNOWN,
        reason=seat.reason,
        removed=seat.removed,
        end=Seat.End.Value(seat.end.value) if seat.end else Seat.OPEN,
    )


def _put_outcome(tx: Transaction, run: protocol.Run, actor: str, reason: str) -> None:
    """Write when a run has started, was decided and has ended, by a commit with this actor and reason."""
    begun = tx.get(RUNS, run.decision_id)
    assert begun is not None
    row, now_ns = tx.get(OUTCOMES, begun.epoch), time.time_ns()
    if row is None:
        row = Outcome(epoch=begun.epoch, decision_id=run.decision_id)
        row.started_ns, row.actor, row.reason = now_ns, actor, reason
        tx.put(OUTCOMES, row)
    if run.decision is None:
        return
    was = row.SerializeToString(deterministic=True)
    if not row.decided_ns:
        row.decided_ns, row.committed = now_ns, run.decision is Decision.COMMIT
        row.why = "" if row.committed else next((seat.reason for seat in run.seats if seat.reason), reason)
    if not row.ended_ns and has_ended(run):
        stayed = [seat for seat in run.seats if not seat.removed]
        row.ended_ns, row.members = now_ns, len(stayed)
        row.upgraded = sum(seat.end is Phase.CONTRACTED for seat in stayed)
    if row.SerializeToString(deterministic=True) != was:
        tx.put(OUTCOMES, row)


def _ended(row: Outcome) -> EndedRun:
    return EndedRun(
        decision_id=row.decision_id,
        decision=Decision.COMMIT if row.committed else Decision.ABORT,
        members=row.members,
        upgraded=row.upgraded,
        started_ns=row.started_ns,
        decided_ns=row.decided_ns,
        ended_ns=row.ended_ns,
        actor=row.actor,
        reason=row.reason,
        why=row.why,
    )
