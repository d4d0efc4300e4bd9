"""Committer: the one place where transactions become records.

    transactions ─▶ validate in order ─▶ frame ─▶ log.append ─▶ log.sync ─▶ project ─▶ answer
                    window, preconditions           one write    one fsync   one batch

It is a role, not a thread: the first writer that waits leads, takes all that wait behind it, and
answers each alone (group commit). While it waits for the disk, others prepare the next group.

Invariants
  (1) seq is dense: a record is framed only when everything before it in the group was accepted;
  (2) under `sync` nothing is projected, answered or shown before it is on disk;
  (3) after a sync that failed nothing is written any more, for nobody knows what is on disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.clock import Clock
from everlog.store.errors import DiskError
from everlog.store.keys import HEADER, seq_of
from everlog.store.log import Log
from everlog.store.projection import Effects, note_about
from everlog.store.tables import Tables
from everlog.store.transaction import ANONYMOUS, CommitResult, Metadata, Transaction
from everlog.store.validate import Rows, Validator

GROUP_MAX = 256
FLUSH_EVERY_S = 0.020
PUT = log_pb2.PUT

About = Callable[[log_pb2.Commit], None]


class Ticket:
    """A transaction that waits, and afterwards its answer."""

    same_as: Ticket | None = None  # the one of this group that has the same commit_id
    turn: threading.Lock | None = None
    done = False
    result: CommitResult | None = None
    error: BaseException | None = None

    def __init__(self, transaction: Transaction | None, sync: bool, about: About | None = None) -> None:
        self.transaction = transaction  # None: wants to be alone
        self.sync = sync
        self.about = about


class Committer:
    """Commits to one log and its tables."""

    def __init__(self, log: Log, tables: Tables, clock: Clock, idempotency_s: float) -> None:
        self._log = log
        self._tables = tables
        self._clock = clock
        self.validator = Validator(log, tables, clock, idempotency_s)
        self._flusher = Flusher(self._sync, log)
        self._mutex = threading.Lock()
        self._busy = False
        self._waiting: deque[Ticket] = deque()
        self.failed: DiskError | None = None

    def commit(self, transaction: Transaction, *, sync: bool, about: About | None = None) -> CommitResult:
        """Validates and commits, with whoever else waits. Raises what the transaction deserves.

        `about` fills in what the commit is about, besides its changes.
        """
        ticket = Ticket(transaction, sync, about)
        if self._enter(ticket):
            group = [ticket]
            if self._waiting:
                self._gather(group)
            try:
                self._run(group)
            except BaseException as error:  # noqa: BLE001  each is answered alone
                for one in group:
                    if not one.done and one.error is None and one.result is None:
                        one.error = error
            finally:
                self._leave()
                for follower in group[1:]:
                    follower.done = True
                    assert follower.turn is not None
                    follower.turn.release()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.result is not None
        return ticket.result

    def _gather(self, group: list[Ticket]) -> None:
        """Takes along those who wait, up to one that wants to be alone."""
        waiting = self._waiting
        with self._mutex:
            while waiting and len(group) < GROUP_MAX and waiting[0].transaction is not None:
                group.append(waiting.popleft())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While it is entered, nobody else commits."""
        self._enter(Ticket(None, sync=True))
        try:
            if self.failed:
                raise self.failed
            yield
        finally:
            self._leave()

    def _enter(self, ticket: Ticket) -> bool:
        """Waits. True: this thread leads. False: another leader has answered the ticket."""
        with self._mutex:
            if not self._busy:
                self._busy = True
                return True
            ticket.turn = threading.Lock()
            ticket.turn.acquire()
            self._waiting.append(ticket)
        ticket.turn.acquire()
        return not ticket.done

    def _leave(self) -> None:
        with self._mutex:
            if not self._waiting:
                self._busy = False
                return
            turn = self._waiting.popleft().turn
        assert turn is not None
        turn.release()

    def _run(self, group: list[Ticket]) -> None:
        if self.failed:
            raise self.failed
        tables, log = self._tables, self._log
        effects = Effects(tables.target, tables.counts)
        framed: list[bytes] = []
        accepted: list[Ticket] = []
        for ticket in group:
            try:
                one = self._accept(ticket, log.written + len(framed) + 1, effects, accepted)
            except Exception as error:  # noqa: BLE001  each is answered alone
                ticket.error = error
                continue
            if one is not None:
                framed.append(one)
                accepted.append(ticket)
        if framed:
            try:
                self._write(framed, effects, sync=any(ticket.sync for ticket in accepted))
            except BaseException as error:  # noqa: BLE001  each is answered alone
                for ticket in accepted:
                    ticket.result, ticket.error = None, error
        if len(group) > len(accepted):
            _answer_repeated(group)

    def _accept(self, ticket: Ticket, seq: int, effects: Effects, accepted: list[Ticket]) -> bytes | None:
        """The framed record of a transaction that is valid; None if its id was known already."""
        transaction = ticket.transaction
        assert transaction is not None
        commit_id = transaction.metadata.commit_id
        if commit_id:
            for first in accepted:
                if first.transaction is not None and first.transaction.metadata.commit_id == commit_id:
                    ticket.same_as = first
                    return None
            ticket.result = self.validator.repeated(transaction)
            if ticket.result is not None:
                return None
        rows, uniques = self.validator.validate(transaction, effects, self._tables.schema)
        commit = self.commit_of(transaction.metadata, seq)
        if ticket.about is not None:
            ticket.about(commit)
        add_changes(commit, rows)
        one = record.frame(commit)
        if uniques:
            effects.uniques.update(uniques)
        header = HEADER.pack(0, seq)
        touched: list[bytes] = []
        for write, old in rows:
            if write.op == PUT:
                touched += effects.row(write.info, write.full, header + write.row, old, write.values)
            elif old is not None:
                touched += effects.row(write.info, write.full, None, old, [])
        if commit_id or ticket.about is not None:
            touched += note_about(effects, commit)
        self._tables.window.add(seq, touched)
        ticket.result = CommitResult(seq, commit.time_ns, record.checksum_of(one))
        return one

    def commit_of(self, meta: Metadata, seq: int) -> log_pb2.Commit:
        """A commit without changes."""
        commit = log_pb2.Commit(seq=seq, time_ns=self._clock.now(), schema=self._tables.schema.version)
        if meta is ANONYMOUS:
            return commit
        if meta.actor:
            commit.actor = meta.actor
        if meta.reason:
            commit.reason = meta.reason
        if meta.correlation_id:
            commit.correlation_id = meta.correlation_id
        if meta.causation_id:
            commit.causation_id = meta.causation_id
        if meta.client:
            commit.client = meta.client
        if meta.commit_id:
            commit.commit_id = meta.commit_id
        return commit

    def _write(self, framed: list[bytes], effects: Effects, *, sync: bool) -> None:
        log, tables = self._log, self._tables
        log.append(framed)
        if sync:
            self._sync()
        try:
            tables.project(effects, log.written, log.checksum)
        except Exception as error:
            self.failed = DiskError(
                f"commit {log.written} is in the log, but its tables could not be written ({error});"
                " open the database again: what is missing is projected from the log",
                outcome="written",
            )
            raise self.failed from error
        if sync:
            log.tell()
        else:
            self._flusher.wake()

    def _sync(self) -> None:
        try:
            self._log.sync()
        except DiskError as error:
            self.failed = error
            raise

    def append_alone(self, framed: bytes) -> None:
        """Appends one record and waits for the disk, without projecting it. Only inside `alone`."""
        self._log.append([framed])
        self._sync()

    def close(self) -> None:
        """Waits until all that was written is on disk. Afterwards nothing can be committed."""
        with self.alone():
            self._flusher.close()
            self.failed = self.failed or DiskError("the database is closed", outcome="nothing written")


def _answer_repeated(group: list[Ticket]) -> None:
    """Those that came twice in one group get the first one's answer."""
    for ticket in group:
        if ticket.same_as is not None:
            first = ticket.same_as
            ticket.error = first.error
            ticket.result = first.result and first.result._replace(repeated=True)


def add_changes(commit: log_pb2.Commit, rows: Rows) -> None:
    """What a transaction does, as the log says it. Deleting what is not there says nothing."""
    add = commit.changes.add
    for write, old in rows:
        if old is not None:
            add(space=write.info.space, op=write.op, key=write.key, row=write.row, prior=seq_of(old))
        elif write.op == PUT:
            add(space=write.info.space, key=write.key, row=write.row)


class Flusher:
    """Brings what was committed under `os` to the disk, every 20 ms."""

    def __init__(self, sync: Callable[[], None], log: Log) -> None:
        self._sync = sync
        self._log = log
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="everlog-flusher", daemon=True)
            self._thread.start()
        if not self._wanted.is_set():
            self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopped.wait(FLUSH_EVERY_S):
                return
            self._wanted.clear()
            try:
                self._sync()
            except DiskError:
                return  # the next commit raises it
            self._log.tell()

    def close(self) -> None:
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        if self._log.head < self._log.written:
            self._sync()
            self._log.tell()
