"""Follower: applies the commits of a database to a sink, each exactly once.

    source.feed(after=position) ─▶ batches ─▶ Run ─▶ sink: rows and position in one transaction

    batch ─▶ schema ─▶ evolve ┐
             commits ─▶ apply  ├─▶ due? ─▶ commit(position)
             mark ─▶ position ┘

Several commits share one transaction of the sink, for speed; no commit is split. While catching up, a
transaction takes as many commits as fit. Once the feed is live, it ends with each batch.

Invariants
  (1) the position is written with the rows: after any interruption a follower continues after the last
      commit in the sink, without gap or repetition;
  (2) a commit that does not follow the previous one is an error, never skipped;
  (3) the sink gets a migration's schema before its own changes, and after all earlier ones;
  (4) it raises or returns; it never logs an error and continues. A transient failure of the target is
      retried only if `retrying` is given, which is called first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter, methodcaller

from everlog.consumers.follower.bookmark import Bookmark
from everlog.consumers.follower.followable import FeedBatch, Followable, Subscription
from everlog.consumers.follower.sink import Sink, State
from everlog.proto import feed_pb2, log_pb2
from everlog.rpc import traces
from everlog.rpc.errors import is_transient
from everlog.store.crypto.vault import Opener
from everlog.store.errors import DiskError, Error, SinkError, UnavailableError
from everlog.store.progress import OnProgress, Progress
from everlog.store.record import check_requires
from everlog.store.schema.schema import Schema
from everlog.store.tables.projection import SHREDDED
from everlog.store.upkeep.consumers import Cap

# While catching up, a transaction of the sink ends at the first of these limits.
CHANGES_MAX = 50_000
BYTES_MAX = 32 << 20
SECONDS_MAX = 1.0

RETRY_FIRST_S, RETRY_MAX_S = 0.1, 10.0  # the first and the longest wait for a target; each wait doubles
HEARTBEAT_S = 1.0  # how soon `stop` is noticed on an idle feed
LOOK_EVERY_S = 0.25  # how often `stop` is checked when not even heartbeats arrive

OnRetry = Callable[[Error, float], None]

SEALED = log_pb2.SEALED

_seq, _changes, _requires = attrgetter("seq"), attrgetter("changes"), attrgetter("requires")
_about = methodcaller("WhichOneof", "about")


@dataclass
class Followed:
    """Result of a run: what the sink committed, and the position where the run ended."""

    position: log_pb2.Cursor
    commits: int = 0
    changes: int = 0
    transactions: int = 0


class Follower:
    """Follows `source` into `sink`: all tables, or only those named in `tables`.

    While it catches up, a transaction of the sink ends after about `changes_max` changes. With `consumer` it
    registers under that durable name: the source then reports its lag, and archiving keeps what it has not
    read, up to `cap`. A name belongs to one sink; the last to register has it.

    `retrying(error, seconds)` is called before each wait for a target that fails temporarily (another process
    has locked it, its disk is full) or a server that is unavailable. Without it such an error ends the run.
    """

    def __init__(
        self,
        source: Followable,
        sink: Sink,
        *,
        tables: Sequence[str] | None = None,
        progress: OnProgress | None = None,
        changes_max: int = CHANGES_MAX,
        consumer: str | None = None,
        cap: Cap | None = None,
        retrying: OnRetry | None = None,
    ) -> None:
        self.source = source
        self.sink = sink
        self.tables = tuple(sorted(set(tables or ())))
        self.progress = progress
        self.changes_max = changes_max
        self.consumer, self.cap = consumer, cap
        self.retrying = retrying
        self._settled = False

    def run(
        self, *, until: int | None = None, bounded: bool = False, stop: threading.Event | None = None
    ) -> Followed:
        """Follow until the record `until` is in the sink, or (`bounded`) everything up to the current head,
        or until `stop` is set, or forever. Writes to the sink.

        Returns a `Followed`. Raises SinkError if the sink refuses or is of another database, CursorError if
        the log no longer has the position, has another record there, or the consumer's name was taken. The
        sink is then as after its last transaction."""
        stop = stop or threading.Event()
        total = Followed(log_pb2.Cursor(database=self.source.uuid))
        wait_s = RETRY_FIRST_S
        while True:
            transactions = total.transactions
            try:
                self._run(total, until=until, bounded=bounded, stop=stop)
                return total
            except (SinkError, DiskError, UnavailableError) as error:
                passes = error.facts.get("transient") or is_transient(error)
                if self.retrying is None or not passes:
                    raise
                if total.transactions > transactions:  # it made progress meanwhile
                    wait_s = RETRY_FIRST_S
                self.retrying(error, wait_s)
            if stop.wait(wait_s):
                return total
            wait_s = min(RETRY_MAX_S, 2 * wait_s)

    def _run(self, total: Followed, *, until: int | None, bounded: bool, stop: threading.Event) -> None:
        """Follow once, from the sink's position; add to `total` what the sink commits."""
        state = self.sink.open()
        if state is not None:
            self._check(state)
        bookmark = None
        if self.consumer is not None:
            position = state.position if state else None
            bookmark = Bookmark.of(self.source, self.consumer, position, self.cap)
        run = Run(
            self.sink,
            state,
            database=self.source.uuid,
            tables=self.tables,
            progress=self.progress,
            changes_max=self.changes_max,
            settled=self._settled,
            opener=self.source.opener(self.tables),
            done=total,
        )
        feed = self.source.feed(
            after=state.position if state else 0,
            tables=self.tables or None,
            until=until,
            bounded=bounded,
            heartbeat_s=HEARTBEAT_S,
        )
        try:
            with _closed_after(stop, feed):
                for batch in feed.batches():
                    run.take(batch)
                    if bookmark is not None:
                        bookmark.at(run.done.position)
                    if stop.is_set():
                        break
            run.commit(caught_up=not stop.is_set())
            if bookmark is not None:
                bookmark.at(run.done.position, last=True)
        except BaseException:
            self.sink.rollback()
            raise
        finally:
            feed.close()
        self._settled = run.settled

    def _check(self, state: State) -> None:
        name, expected, found = self.sink.name, state.position.database, self.source.uuid
        if expected != found:
            raise SinkError(
                f"{name} follows database {expected.hex()}, but this one is {found.hex()};"
                " follow into a new target, or from the database that it belongs to",
                expected=expected,
                found=found,
            )
        if state.tables != self.tables:
            raise SinkError(
                f"{name} follows {_listed(state.tables)}, but was asked to follow {_listed(self.tables)};"
                " commits that it skipped are missing: follow the same tables, or into a new target",
                expected=state.tables,
                found=self.tables,
            )


class Run:
    """One run of a follower into `sink`, from the sink's position.

    `settled`: the sink was already told that it is caught up, and nothing arrived since.
    """

    def __init__(
        self,
        sink: Sink,
        state: State | None,
        *,
        database: bytes,
        tables: tuple[str, ...],
        progress: OnProgress | None,
        changes_max: int,
        settled: bool,
        opener: Opener,
        done: Followed,
    ) -> None:
        self._sink = sink
        self._tables = tables
        self._progress = progress
        self._changes_max = changes_max
        self.settled = settled
        self._opener = opener
        self._schema = state.schema.proto if state else None
        self._position = state.position if state else log_pb2.Cursor(database=database)
        self._seq, self._checksum = self._position.seq, self._position.checksum
        self._live = False
        self._head = 0
        self._began: float | None = None
        self._commits = self._changes = self._bytes = 0
        self.done = done
        done.position = self._position

    def take(self, batch: FeedBatch) -> None:
        """Apply a batch, and commit if a commit is due."""
        mark = batch.mark
        if batch.schema is not None and batch.schema != self._schema:
            self._evolve(batch.schema)
        if batch.commits:
            self._apply(batch.commits)
        if mark is not None:
            self._live, self._head = mark.state == feed_pb2.Mark.LIVE, mark.head
            if mark.position.seq > self._seq:
                self._skip_to(mark.position)
        if self._is_due() or (self._live and not self.settled):
            self.commit(caught_up=self._live)
        if self._progress is not None:
            total = max(self._head, self._seq)
            self._progress(Progress(step="follow", done=self._seq, total=total, unit="commits"))

    def commit(self, *, caught_up: bool = False) -> None:
        """End the current transaction; when caught up, also write one that only records this."""
        if self._began is None:
            if self.settled or not caught_up or not self._seq:
                return
            self._begin()
        position = log_pb2.Cursor(database=self._position.database, seq=self._seq, checksum=self._checksum)
        self._sink.commit(position, caught_up=caught_up)
        self.settled = caught_up
        self.done.position = self._position = position
        self.done.transactions += 1
        self.done.commits += self._commits
        self.done.changes += self._changes
        self._began = None
        self._commits = self._changes = self._bytes = 0

    def _apply(self, commits: Sequence[log_pb2.Commit]) -> None:
        self._begin()
        first = 0
        if self._are_plain(commits):
            self._seq, self._checksum = commits[-1].seq, commits[-1].checksum
        else:
            commits = self._open_sealed(commits)
            for at, commit in enumerate(commits):
                self._check(commit)
                if commit.HasField("migration") and commit.migration.HasField("schema"):
                    self._give(commits[first:at])
                    first = at
                    self._evolve(commit.migration.schema)
        self._give(commits[first:])
        changes = sum(map(len, map(_changes, commits)))
        self._changes += changes
        self._bytes += sum(map(log_pb2.Commit.ByteSize, commits))
        self._commits += len(commits)

    def _give(self, commits: Sequence[log_pb2.Commit]) -> None:
        if traces.tracing is None or not commits:
            self._sink.apply(commits)
        else:
            with traces.tracing.apply(self._sink.name, commits):
                self._sink.apply(commits)

    def _open_sealed(self, commits: Sequence[log_pb2.Commit]) -> list[log_pb2.Commit]:
        """Return the commits with their sealed rows opened; keys are requested together. The rows of a
        person who was forgotten since become deletions: the deletes follow later in the log."""
        opened = [_copied(commit) if SEALED in commit.requires else commit for commit in commits]
        wanted = (commit.changes for commit in opened if SEALED in commit.requires)
        sealed = [change for changes in wanted for change in changes if change.key_id]
        for change, row in zip(sealed, self._opener.open(sealed) if sealed else (), strict=True):
            change.ClearField("key_id")
            change.row = row or b""
            if row is None:
                change.op = log_pb2.DELETE
        for commit in opened:
            if commit.notice.kind == SHREDDED:
                self._opener.drop(commit.notice.detail)
        return opened

    def _are_plain(self, commits: Sequence[log_pb2.Commit]) -> bool:
        """Return whether all commits are consecutive and contain only changes. Nearly always true, and
        tested without a loop over the commits."""
        expected = range(self._seq + 1, self._seq + 1 + len(commits))
        return (
            list(map(_seq, commits)) == list(expected)
            and not any(map(_about, commits))
            and not any(map(_requires, commits))
        )

    def _check(self, commit: log_pb2.Commit) -> None:
        """Check that this commit may come next, and advance the position to it."""
        seq = commit.seq
        if seq != self._seq + 1 and (seq <= self._seq or not self._tables):
            raise SinkError(
                f"{self._sink.name} is at seq {self._seq} and the feed continued with {seq},"
                f" expected {self._seq + 1}; the feed is at fault: nothing of it was applied, follow again",
                expected=self._seq + 1,
                found=seq,
            )
        if commit.requires:
            check_requires(commit)
        self._seq, self._checksum = seq, commit.checksum

    def _skip_to(self, position: log_pb2.Cursor) -> None:
        """Advance to a position up to which the feed had nothing for this follower."""
        if not self._tables:
            raise SinkError(
                f"{self._sink.name} is at seq {self._seq} and the feed advanced to {position.seq}"
                " without sending the commits between; the feed is at fault: follow again",
                expected=self._seq,
                found=position.seq,
            )
        self._begin()
        self._seq, self._checksum = position.seq, position.checksum

    def _begin(self) -> None:
        if self._began is None:
            self._sink.begin(self._tables)
            self._began = time.monotonic()

    def _evolve(self, schema: log_pb2.Schema) -> None:
        self._refuse_rename(schema)
        self._begin()
        self._sink.evolve(Schema(schema))
        self._schema = schema

    def _refuse_rename(self, schema: log_pb2.Schema) -> None:
        """Raise SinkError if a schema renames a followed table: tables are followed by name."""
        chosen = self._tables
        was = {table.id: table.name for table in self._schema.tables} if self._schema else {}
        for table in schema.tables:
            if was.get(table.id, table.name) in chosen and table.name not in chosen:
                raise SinkError(
                    f"table {was[table.id]} became {table.name} with migration {schema.version}, but"
                    f" {self._sink.name} follows {', '.join(chosen)}; follow {table.name} into a new target",
                    table=table.name,
                )

    def _is_due(self) -> bool:
        return self._began is not None and (
            self._live
            or self._changes >= self._changes_max
            or self._bytes >= BYTES_MAX
            or time.monotonic() - self._began >= SECONDS_MAX
        )


def _copied(commit: log_pb2.Commit) -> log_pb2.Commit:
    copy = log_pb2.Commit()
    copy.CopyFrom(commit)
    return copy


@contextmanager
def _closed_after(stop: threading.Event, feed: Subscription) -> Iterator[None]:
    """Close the feed if `stop` is set and no message arrives that would let the run notice it: the server is
    unavailable, and the feed waits for it."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            if stop.is_set() and not ended.wait(2 * HEARTBEAT_S):
                feed.close()
                return

    watcher = threading.Thread(target=watch, name="everlog-follower", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _listed(tables: tuple[str, ...]) -> str:
    return ", ".join(tables) or "all tables"
