"""Committer: the one place where transactions become records.

    transactions ─▶ validate in order ─▶ encode ─▶ log.append ─▶ log.sync ─▶ project ─▶ answer
                    window, preconditions           one write    one fsync   one batch

It is a role, not a thread: the first waiting writer leads, commits for all behind it, and answers each
of them (group commit, tx/group_commit.py). While it waits for the disk, others prepare the next group.

The `Flusher` syncs commits with durability `os`, at most 20 ms later: one thread per database, started
on demand, which sleeps while there is nothing to do.

Invariants
  (1) seq is dense: a record is framed only after everything before it in the group was accepted;
  (2) under `sync` nothing is projected, answered or visible before it is on disk;
  (3) after a failed sync nothing more is written, because it is unknown what is on disk; after a full disk,
      nothing until there is space and all appended records are on disk;
  (4) an interrupt costs at most the commit that it hits: records that are in the log and not in the
      tables are projected before the next commit;
  (5) no follower of a group commit receives a result for a commit that is not in the log;
  (6) every follower receives a result or an error.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.clock import Clock
from everlog.store.errors import DiskError, Error
from everlog.store.log import Log
from everlog.store.measures import Measures
from everlog.store.progress import Activity
from everlog.store.rocks.errors import translate
from everlog.store.tables.projection import Staged, edit_notes
from everlog.store.tables.tables import Tables
from everlog.store.tx.group_commit import CommitQueue, ExclusiveTicket, Ticket
from everlog.store.tx.transaction import ANONYMOUS, About, Actor, CommitResult, Metadata, Transaction
from everlog.store.tx.validator import Validator, other_content
from everlog.store.tx.write import encode, project


class CommitSteps:
    """When the steps of a group commit ended, in nanoseconds since the Unix epoch; 0: they did not."""

    def __init__(self, size: int) -> None:
        self.size = size  # commits in the group
        self.began_ns = time.time_ns()
        self.appended_ns = self.synced_ns = self.projected_ns = 0

    def spans(self, called_ns: int) -> Iterator[tuple[str, int, int]]:
        """Yield name, start and end of each step, of a commit that was called then."""
        yield "wait", called_ns, max(called_ns, self.began_ns)
        if self.appended_ns:
            yield "group", self.began_ns, self.appended_ns
        if self.synced_ns:
            yield "sync", self.appended_ns, self.synced_ns
        if self.projected_ns:
            yield "project", self.synced_ns or self.appended_ns, self.projected_ns


class CommitTracer(Protocol):
    """Makes spans of commits. `begin` may change the transaction's metadata."""

    def begin(self, transaction: Transaction) -> Any: ...

    def end(self, span: Any, pending: PendingCommit) -> None: ...


class PendingCommit(Ticket):
    """A transaction waiting to be committed, and its answer: a result or an error."""

    result: CommitResult | None = None
    error: BaseException | None = None
    same_as: PendingCommit | None = None  # the commit in its group with the same commit_id
    began_s = 0.0  # perf_counter, if it is measured
    called_ns = 0  # if it is traced
    span: Any = None  # if it is traced
    steps: CommitSteps | None = None  # of its group, if it is traced

    def __init__(self, transaction: Transaction, about: About | None, sync: bool) -> None:
        """See `Committer.commit`."""
        self.transaction = transaction
        self.about = about
        self.sync = sync


def answer_repeated(group: Iterable[PendingCommit]) -> None:
    """Give commits whose id occurred earlier in the group the answer of the first one."""
    for one in group:
        first = one.same_as
        if first is not None:
            one.error = first.error
            one.result = first.result and first.result._replace(repeated=True).lacking(first.result.missing)


def answer_unwritten(followers: Iterable[PendingCommit], written: int) -> None:
    """Give the followers of an interrupted leader an error, unless their commits are in the log, which ends
    at `written`."""
    for one in followers:
        # A result of seq 0 changed nothing, perhaps because of another commit that was not written.
        if one.error is None and (one.result is None or not 0 < one.result.seq <= written):
            one.result = None
            one.error = DiskError(
                "the leader of this commit's group was interrupted before it was written; run it again",
                outcome="nothing written",
            )


FLUSH_EVERY_S = 0.020
LOOK_EVERY_S = 1.0  # between two checks for space on a full disk


class Flusher:
    """Syncs in the background.

    `sync` waits for the disk, and raises DiskError. `is_settled` then tries to finish what is left, and
    returns whether nothing is; it is called again until it does.
    """

    def __init__(self, sync: Callable[[], None], is_settled: Callable[[], bool], log: Log) -> None:
        self._sync = sync
        self._is_settled = is_settled
        self._log = log
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.awake = False  # a flush is due; read without a lock, by committing threads

    def wake(self) -> None:
        """Schedule a flush."""
        self.awake = True
        self.look()

    def look(self) -> None:
        """Wake the thread: there is something to flush or to settle. For any thread."""
        if self._thread is None:
            self._start()
        self._wanted.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopped.is_set():
                thread = threading.Thread(target=self._run, name="everlog-flusher", daemon=True)
                thread.start()
                self._thread = thread  # once it runs: `stop` joins it

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()  # first: otherwise it would undo a `stop` after `_stopped` was read
            if self._stopped.wait(FLUSH_EVERY_S):
                return
            self.awake = False  # before the sync: later commits wake it again
            with contextlib.suppress(DiskError):  # the next commit raises it
                if self._log.head < self._log.written:
                    self._sync()
                    self._log.notify()
            while not self._is_settled():
                if self._stopped.wait(LOOK_EVERY_S):
                    return

    def stop(self) -> None:
        """End the thread; `close` flushes the rest."""
        with self._starting:
            self._stopped.set()
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Flush what is left, after `stop`. Raises DiskError."""
        if self._log.head < self._log.written:
            self._sync()
            self._log.notify()


GROUP_MAX = 256
SAMPLE = 64  # one in SAMPLE commits with durability `os` is measured: they take some 10 µs
WRITTEN_BYTES = 4 << 20  # of records in one write; a larger group is written in parts


class Committer:
    """Commits to one log and its tables."""

    def __init__(self, log: Log, tables: Tables, clock: Clock, idempotency_s: float) -> None:
        self._log = log
        self._tables = tables
        self._clock = clock
        self._queue = CommitQueue()
        self.refusal = log.refusal
        self._flusher = Flusher(self._sync_beside, self._is_settled, log)
        self.refusal.on_change(self._flusher.look)
        self._unsettled = False  # records may be missing on disk or in the tables
        self.on_settled: Callable[[], None] = lambda: None  # called after late records were projected
        self.shreds_pending: Callable[[], bool] = lambda: False  # whether a disk refused to overwrite keys
        self.retry_shreds: Callable[[], None] = lambda: None  # overwrites them, while no commit runs
        self.validator = Validator(log, tables, clock)
        self.idempotency_s = idempotency_s  # how long archiving keeps a commit with an id
        self.failed: DiskError | None = None
        self._exclusive_thread = 0  # the thread that is in `exclusive`
        self.measures: Measures | None = None  # None: nothing is measured
        self.tracer: CommitTracer | None = None  # None: nothing is traced
        self.watched = False  # whether one of both is
        self._sample_at = 0  # the seq from which the next commit with durability `os` is measured
        self._steps: CommitSteps | None = None  # of the group that is written, if it is traced

    def commit(self, transaction: Transaction, *, sync: bool, about: About | None = None) -> CommitResult:
        """Validate and commit, together with all waiting transactions. Writes one record.

        `sync`: return when the record is on disk. `about` fills in the fields of the commit that are not
        changes. Returns the result. Raises ConflictError, PreconditionError, RowError and the like if the
        transaction is not valid, DiskError if it could not be written.
        """
        queue = self._queue
        Activity.commits += 1
        mine = PendingCommit(transaction, about, sync)
        watched = self.watched and (sync or self._log.written >= self._sample_at)
        if watched:
            self._begin(mine)
        followers: list[PendingCommit] = []
        told = False
        try:
            try:
                if queue.enter(mine):
                    if len(queue.tickets) > 1:  # `waiting`, without a call
                        queue.gather(GROUP_MAX, followers)
                    if watched:
                        self._run_watched([mine, *followers])
                    else:
                        self._run([mine, *followers])
            except BaseException:  # interrupted: it costs this commit, and none of the others
                self._spare(mine, followers)
                raise
            finally:
                queue.leave(mine)
                if followers:
                    queue.answer(followers)
                told = True
        finally:
            if not told:  # these lines were interrupted: again
                followers = [one for one in followers if one.taken]
                answer_unwritten(followers, self._log.written)
                queue.leave(mine)
                queue.answer(followers)
                queue.wake()
        if watched and mine.span is not None and self.tracer is not None:
            self.tracer.end(mine.span, mine)
        if mine.error is not None:
            raise mine.error
        assert mine.result is not None
        return mine.result

    def watch(self, *, measures: Measures | None = None, tracer: CommitTracer | None = None) -> None:
        """Measure commits, or trace them, from now on. None changes nothing."""
        self.measures = measures or self.measures
        self.tracer = tracer or self.tracer
        self.watched = self.measures is not None or self.tracer is not None

    def _begin(self, mine: PendingCommit) -> None:
        mine.began_s = time.perf_counter()
        self._sample_at = self._log.written + SAMPLE
        if self.tracer is not None:
            self._sample_at = 0  # each is traced
            mine.called_ns = time.time_ns()
            mine.span = self.tracer.begin(mine.transaction)

    def _run_watched(self, group: list[PendingCommit]) -> None:
        """`_run`, measured and traced."""
        if self.tracer is not None:
            self._steps = CommitSteps(len(group))
            for one in group:
                one.steps = self._steps
        self._run(group)
        self._steps = None
        if self.measures is not None:
            _measure(self.measures, group)

    @property
    def waiting(self) -> int:
        """The number of transactions that wait for their turn."""
        return len(self._queue.waiting)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other commits out for the block. The same thread may enter it again. Raises the DiskError
        that ended writing."""
        me = threading.get_ident()
        if self._exclusive_thread == me:
            yield
            return
        ticket, left = ExclusiveTicket(), False
        try:
            try:
                self._queue.enter(ticket)
                self._exclusive_thread = me
                self._settle()
                yield
            finally:
                if self._queue.leads(ticket):
                    self._exclusive_thread = 0
                    self._check_projected()
                self._queue.leave(ticket)
                left = True
        finally:
            if not left:  # these lines were interrupted: again
                if self._queue.leads(ticket):
                    self._exclusive_thread = 0
                self._queue.leave(ticket)
                self._queue.wake()

    def _spare(self, leader: PendingCommit, followers: list[PendingCommit]) -> None:
        """Settle the followers of an interrupted leader: those in the log get their results, the others go
        back to the queue."""
        if not self._queue.leads(leader):
            return
        self._unsettled = True
        with contextlib.suppress(Error):
            self._settle()
        back = []
        for one in followers:
            if one.error is None and (one.result is None or one.result.seq > self._log.written):
                one.result, one.same_as = None, None
                back.append(one)
            elif one.error is None and self._unsettled and one.result and not one.result.repeated:
                one.error = DiskError(
                    f"commit {one.result.seq} was interrupted; whether it is on disk is not known before the"
                    " next commit",
                    outcome="unknown",
                )
        self._queue.put_back(back)
        followers[:] = [one for one in followers if one.taken]

    def _run(self, group: list[PendingCommit]) -> None:
        """Commit the valid transactions of a group. Each gets its result or error; nothing is raised."""
        while group:
            if self._unsettled or self.failed or self.refusal.since_ns:
                try:
                    self._settle()
                except Exception as error:  # noqa: BLE001  each is answered on its own
                    for one in group:
                        one.error = error
                    return
            group = self._commit(group)

    def _commit(self, group: list[PendingCommit]) -> list[PendingCommit]:
        """Commit the valid transactions of a group that fit into one write. Return the unanswered ones."""
        seq = self._log.written
        staged: Staged | None = None
        framed: list[bytes] = []
        accepted: list[PendingCommit] = []
        left: list[PendingCommit] = []
        size, sync = 0, False
        for one in group:
            try:
                if one.transaction.metadata.commit_id and self._known(one, accepted):
                    continue
                record_framed, edits = self._accept(one, seq + 1, staged)
            except Exception as error:  # noqa: BLE001  each is answered on its own
                one.error = translate(error, "reading a table") if type(error) is Exception else error
                self._count(one.error)
                continue
            accepted.append(one)
            if one.sync:
                sync = True
            if edits is None:
                continue
            seq += 1
            framed.append(record_framed)
            if staged is None:
                staged = edits
            else:
                staged.add(edits)
            size += len(record_framed)
            if size >= WRITTEN_BYTES:
                done = group.index(one) + 1
                group, left = group[:done], group[done:]
                break
        if staged is not None:
            try:
                self._write(framed, staged, sync, size)
            except Exception as error:  # noqa: BLE001  each is answered on its own
                self._check_projected()
                for one in accepted:
                    one.error = error
                    self._count(error)
        if len(accepted) < len(group):
            answer_repeated(group)
        return left

    def _count(self, error: BaseException) -> None:
        """Count a refused commit by the class of its error."""
        if self.measures is not None:
            errors, kind = self.measures.errors, type(error).__name__
            errors[kind] = errors.get(kind, 0) + 1

    def _accept(self, pending: PendingCommit, seq: int, staged: Staged | None) -> tuple[bytes, Staged | None]:
        """Validate a transaction, and give it its result. Return its framed record and its edits of the
        tables; no record and None if it only deletes rows that do not exist."""
        transaction, about, schema = pending.transaction, pending.about, self._tables.schema
        meta, time_ns, reading_ns = transaction.metadata, self._clock.now(), self._clock.reading_ns
        rows, uniques, missing = self.validator.validate(transaction, staged, schema)
        if not rows and about is None:
            pending.result = CommitResult(0).lacking(missing)
            return b"", None
        what = project(rows, uniques, seq)
        if meta is ANONYMOUS and about is None:
            header = record.commit_header(seq, time_ns, schema.version_field, reading_ns)
        else:
            commit = commit_of(meta, seq, time_ns, schema.version, reading_ns)
            if about is not None:
                about(commit)
            header = commit.SerializeToString()
            if about is not None or meta.commit_id:
                edit_notes(what.edits, commit)
        framed, checksum = record.frame_parts(encode(header, rows))
        self._tables.window.add(seq, tuple(what.edits))
        pending.result = result = CommitResult(seq, time_ns, checksum)
        if missing:
            result.missing = missing
        return framed, what

    def _known(self, pending: PendingCommit, accepted: list[PendingCommit]) -> bool:
        """Whether a commit with this id is in this group, or in the log."""
        transaction = pending.transaction
        commit_id = transaction.metadata.commit_id
        for first in accepted:
            if first.transaction.metadata.commit_id == commit_id:
                if first.transaction.content() != transaction.content():
                    raise other_content(commit_id, None)
                pending.same_as = first
                return True
        pending.result = self.validator.repeated(transaction)
        return pending.result is not None

    def _write(self, framed: list[bytes], staged: Staged, sync: bool, size: int) -> None:
        """Append records, `size` bytes in all, and project them."""
        log = self._log
        self._tables.sync_keys()
        log.append(framed)
        if (steps := self._steps) is not None:
            steps.appended_ns = time.time_ns()
        if sync:
            self._sync()
            if steps is not None:
                steps.synced_ns = time.time_ns()
        try:
            self._tables.project(staged, log.written, size)
        except Exception as error:
            self._unsettled = True
            raise DiskError(
                f"commit {log.written} is in the log, but the tables could not be written ({error}); they are"
                " brought up to date before the next commit",
                outcome="written",
            ) from error
        if steps is not None:
            steps.projected_ns = time.time_ns()
        if sync:
            log.notify()
        elif not self._flusher.awake:
            self._flusher.wake()

    def _settle(self) -> None:
        """Finish what a full disk or an interrupt left undone: sync and project. Only inside a turn.

        Raises the DiskError that ended writing, or one that says that the disk is still full.
        """
        if self.failed:
            raise self.failed
        if not (self._unsettled or self.refusal.since_ns):
            return
        try:
            self._log.resume()
        except DiskError as error:
            if error.outcome == "unknown" and not error.facts.get("resumes"):
                self._fail(error)
            raise
        if self._unsettled:
            self._tables.reread()
            self.on_settled()
            self._unsettled = False
        self.refusal.end()
        self._log.notify()

    def _is_settled(self) -> bool:
        """Try to settle, and return whether nothing is left; the flusher calls it again if something is."""
        if self.failed is None and (self._unsettled or self.refusal.since_ns or self.shreds_pending()):
            with contextlib.suppress(Error), self.exclusive():
                self.retry_shreds()
        return self.failed is not None or not (self.refusal.since_ns or self.shreds_pending())

    def retry(self) -> None:
        """Try again, once a second, what the disk refused, until nothing is left."""
        self._flusher.look()

    def _fail(self, error: DiskError) -> None:
        """End writing until the next opening."""
        self.failed = error
        self.refusal.begin(error)

    def _check_projected(self) -> None:
        """Bring the tables up to the log after an error or an interrupt between the two: now, or before the
        next commit. Only inside a turn."""
        self._tables.window.cut(self._log.written)  # refused commits conflict with nothing
        if self._log.written != self._tables.applied:
            self._unsettled = True
            if not self.refusal.since_ns:
                with contextlib.suppress(Error):
                    self._settle()

    def _sync_beside(self) -> None:
        """Sync while others may append."""
        self._sync(beside=True)

    def _sync(self, *, beside: bool = False) -> None:
        try:
            self._log.sync(beside=beside)
        except DiskError as error:
            if error.facts.get("resumes"):
                self._unsettled = True
            elif not error.facts.get("stopped"):  # the engine refuses later ones itself
                self._fail(error)
            raise

    def append_exclusive(self, framed: bytes) -> None:
        """Append one record and sync it, without projecting it. Only inside `exclusive`."""
        self._tables.sync_keys()
        self._log.append([framed])
        self._sync()

    def commit_exclusive(self, transaction: Transaction, *, sync: bool, about: About | None = None) -> int:
        """As `commit`, without waiting for a turn; returns its seq. Only inside `exclusive`."""
        seq = self._log.written + 1
        framed, staged = self._accept(PendingCommit(transaction, about, sync), seq, None)
        assert staged is not None  # a commit inside `exclusive` is never empty
        self._write([framed], staged, sync, len(framed))
        return seq

    def write_exclusive(self, framed: bytes, staged: Staged) -> None:
        """Append one record and project it, without a sync. Only inside `exclusive`."""
        self._write([framed], staged, False, len(framed))

    def close(self) -> None:
        """Sync all records, and refuse later commits."""
        self._flusher.stop()  # first: it may wait for its turn
        ticket = ExclusiveTicket()
        try:
            self._queue.enter(ticket)
            if self.failed is None and not self.refusal.since_ns:  # a full disk was reported already
                self._flusher.close()
            self.failed = self.failed or DiskError("the database is closed", outcome="nothing written")
        finally:
            self._queue.leave(ticket)


def _measure(measures: Measures, group: list[PendingCommit]) -> None:
    """Add the commits of a group to the measures. Only inside a turn."""
    now, written = time.perf_counter(), 0
    for one in group:
        if one.error is None and one.result and one.result.seq and not one.result.repeated:
            written += 1
            if one.began_s:
                measures.latency.add(now - one.began_s)
    if written:
        measures.groups.add(written)


def commit_of(meta: Metadata, seq: int, time_ns: int, schema: int, reading_ns: int = 0) -> log_pb2.Commit:
    """A commit without changes. `reading_ns`: see `Clock`."""
    actor, reason, correlation_id, causation_id, client, commit_id, _ = meta
    commit = log_pb2.Commit(
        seq=seq,
        time_ns=time_ns,
        schema=schema,
        actor=actor,
        reason=reason,
        correlation_id=correlation_id,
        causation_id=causation_id,
        client=client,
        commit_id=commit_id,
    )
    if isinstance(actor, Actor):
        commit.proof = actor.proof
    if reading_ns:
        commit.reading_ns = reading_ns
    return commit
