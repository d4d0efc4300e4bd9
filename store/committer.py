"""Committer: the one place where transactions become records.

    transactions ─▶ validate in order ─▶ frame ─▶ log.append ─▶ log.sync ─▶ project ─▶ answer
                    window, preconditions           one write    one fsync   one batch

It is a role, not a thread: the first writer that waits leads, takes all that wait behind it, and
answers each alone (group commit, turns.py). While it waits for the disk, others prepare the next
group.

Invariants
  (1) seq is dense: a record is framed only when everything before it in the group was accepted;
  (2) under `sync` nothing is projected, answered or shown before it is on disk;
  (3) after a sync that failed nothing is written any more, for nobody knows what is on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.clock import Clock
from everlog.store.engine import translate
from everlog.store.errors import DiskError
from everlog.store.flusher import Flusher
from everlog.store.keys import HEADER, seq_of
from everlog.store.log import Log
from everlog.store.projection import NO_VALUES, Edits, edit_notes, edit_row
from everlog.store.tables import Tables
from everlog.store.transaction import ANONYMOUS, CommitResult, Metadata, Transaction
from everlog.store.turns import Ticket, Turns
from everlog.store.validate import Rows, Staged, Validator

GROUP_MAX = 256
PUT = log_pb2.PUT

About = Callable[[log_pb2.Commit], None]


class Candidate(Ticket):
    """A transaction that wants to commit, and afterwards its answer."""

    same_as: Candidate | None = None  # the one of its group that has the same commit_id
    result: CommitResult | None = None
    error: BaseException | None = None

    def __init__(self, transaction: Transaction, sync: bool, about: About | None) -> None:
        self.transaction = transaction
        self.sync = sync
        self.about = about


class Alone(Ticket):
    """Somebody who wants no one to commit meanwhile."""

    alone = True


class Committer:
    """Commits to one log and its tables."""

    def __init__(self, log: Log, tables: Tables, clock: Clock, idempotency_s: float) -> None:
        self._log = log
        self._tables = tables
        self._clock = clock
        self._turns = Turns()
        self._flusher = Flusher(self._sync, log)
        self.validator = Validator(log, tables, clock, idempotency_s)
        self.failed: DiskError | None = None

    def commit(self, transaction: Transaction, *, sync: bool, about: About | None = None) -> CommitResult:
        """Validates and commits, with whoever else waits. Raises what the transaction deserves.

        `about` fills in what the commit is about, besides its changes.
        """
        candidate, turns = Candidate(transaction, sync, about), self._turns
        if turns.enter(candidate):
            followers: list[Ticket] = []
            try:
                if turns.waiting:
                    followers = turns.gather(GROUP_MAX)
                self._run([candidate, *cast("list[Candidate]", followers)])
            finally:
                turns.leave()
                if followers:
                    turns.answer(followers)
        if candidate.error is not None:
            raise candidate.error
        assert candidate.result is not None
        return candidate.result

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While it is entered, nobody else commits. Raises the DiskError that ended all writing."""
        self._turns.enter(Alone())
        try:
            if self.failed:
                raise self.failed
            yield
        finally:
            self._turns.leave()

    def _run(self, group: list[Candidate]) -> None:
        """Commits what of a group is valid. Every candidate gets its answer; nothing is raised."""
        seq = self._log.written
        staged = Staged()
        framed: list[bytes] = []
        accepted: list[Candidate] = []
        sync = False
        for candidate in group:
            try:
                one = self._accept(candidate, seq + 1, staged, accepted)
            except BaseException as error:  # noqa: BLE001  each is answered alone
                candidate.error = translate(error, "reading a table") if type(error) is Exception else error
                continue
            if one is not None:
                seq += 1
                framed.append(one)
                accepted.append(candidate)
                sync = sync or candidate.sync
        if framed:
            try:
                self._write(framed, staged, sync)
            except BaseException as error:  # noqa: BLE001  each is answered alone
                for candidate in accepted:
                    candidate.error = error
        if len(accepted) < len(group):
            _answer_repeated(group)

    def _accept(
        self, candidate: Candidate, seq: int, staged: Staged, accepted: list[Candidate]
    ) -> bytes | None:
        """The framed record of a transaction that is valid; None if its id was known already."""
        if self.failed:
            raise self.failed
        transaction, about = candidate.transaction, candidate.about
        meta, schema = transaction.metadata, self._tables.schema
        if meta.commit_id and self._known(candidate, meta.commit_id, accepted):
            return None
        rows, uniques = self.validator.validate(transaction, staged, schema)
        time_ns = self._clock.now()
        edits: Edits = {}
        if meta is ANONYMOUS and about is None:
            parts = [record.head(seq, time_ns, schema.head)]
        else:
            commit = commit_of(meta, seq, time_ns, schema.version)
            if about is not None:
                about(commit)
            edit_notes(edits, commit)
            parts = [commit.SerializeToString()]
        add_changes(parts, rows)
        one = record.frame_parts(parts)
        edit_rows(edits, staged.deltas, rows, HEADER.pack(0, seq))
        if accepted:
            staged.edits.update(edits)
        else:
            staged.edits = edits
        if uniques:
            staged.uniques.update(uniques)
        self._tables.window.add(seq, list(edits))
        candidate.result = CommitResult(seq, time_ns, record.checksum_of(one))
        return one

    def _known(self, candidate: Candidate, commit_id: bytes, accepted: list[Candidate]) -> bool:
        """Whether a commit with this id is in this group, or in the log."""
        for first in accepted:
            if first.transaction.metadata.commit_id == commit_id:
                candidate.same_as = first
                return True
        candidate.result = self.validator.repeated(candidate.transaction)
        return candidate.result is not None

    def _write(self, framed: list[bytes], staged: Staged, sync: bool) -> None:
        log = self._log
        log.append(framed)
        if sync:
            self._sync()
        try:
            self._tables.project(staged.edits, staged.uniques, staged.deltas, log.written, log.checksum)
        except Exception as error:
            self.failed = DiskError(
                f"commit {log.written} is in the log, but its tables could not be written ({error});"
                " open the database again: what is missing is projected from the log",
                outcome="written",
            )
            raise self.failed from error
        if sync:
            log.tell()
        elif not self._flusher.awake:
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
        self._turns.enter(Alone())
        try:
            if self.failed is None:
                self._flusher.close()
            self.failed = self.failed or DiskError("the database is closed", outcome="nothing written")
        finally:
            self._turns.leave()


def _answer_repeated(group: list[Candidate]) -> None:
    """Those that came twice in one group get the first one's answer."""
    for candidate in group:
        first = candidate.same_as
        if first is not None:
            candidate.error = first.error
            candidate.result = first.result and first.result._replace(repeated=True)


def commit_of(meta: Metadata, seq: int, time_ns: int, schema: int) -> log_pb2.Commit:
    """A commit without changes."""
    return log_pb2.Commit(
        seq=seq,
        time_ns=time_ns,
        schema=schema,
        actor=meta.actor,
        reason=meta.reason,
        correlation_id=meta.correlation_id,
        causation_id=meta.causation_id,
        client=meta.client,
        commit_id=meta.commit_id,
    )


def add_changes(parts: list[bytes], rows: Rows) -> None:
    """What a transaction does, as the log says it. Deleting what is not there says nothing."""
    for write, old in rows:
        if old is not None:
            parts += record.change(write.body, seq_of(old))
        elif write.op == PUT:
            parts += record.change(write.body, 0)


def edit_rows(edits: Edits, deltas: dict[int, int], rows: Rows, header: bytes) -> None:
    """What a transaction does, as the tables have it."""
    for write, old in rows:
        if write.op == PUT:
            edit_row(edits, deltas, write.info, write.full, header + write.row, old, write.values)
        elif old is not None:
            edit_row(edits, deltas, write.info, write.full, None, old, NO_VALUES)
