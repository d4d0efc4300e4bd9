"""Follower: carries the commits of a database into a sink, each exactly once.

    source.feed(after=position) ─▶ batches ─▶ schema ─▶ evolve ┐
                                              commits ─▶ apply  ├─▶ commit(position) ─▶ …
                                              migration ─▶ both ┘

Several commits share one transaction of the sink, for speed: while catching up as many as fit, and
whatever a message brought once the feed is live. None is ever split.

Invariants
  (1) the position is written with the rows: whatever stops a follower, it goes on after the last
      commit that is in the sink, with no gap and no repeat;
  (2) a commit that does not follow the one before it is refused, not skipped;
  (3) the sink knows a migration's schema before its own changes, and after all earlier ones;
  (4) it raises or returns; it never logs and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from everlog.consumers.followable import FeedBatch, Followable
from everlog.consumers.sink import Sink, State
from everlog.proto import feed_pb2, log_pb2
from everlog.store.errors import SinkError
from everlog.store.progress import OnProgress, Progress
from everlog.store.record import check_requires
from everlog.store.schema import Schema

# One transaction of the sink ends at the first of these, while catching up.
CHANGES_MAX = 50_000
BYTES_MAX = 32 << 20
SECONDS_MAX = 1.0

HEARTBEAT_S = 1.0  # how soon `stop` is noticed when nothing comes


@dataclass
class Followed:
    """What one run carried over, and where it ended."""

    position: log_pb2.Cursor
    commits: int = 0
    changes: int = 0
    transactions: int = 0


class Follower:
    """Follows `source` into `sink`: all tables, or only those named in `tables`.

    While it catches up, a transaction of the sink ends after about `changes_max` changes.
    """

    def __init__(
        self,
        source: Followable,
        sink: Sink,
        *,
        tables: Sequence[str] | None = None,
        progress: OnProgress | None = None,
        changes_max: int = CHANGES_MAX,
    ) -> None:
        self.source = source
        self.sink = sink
        self.tables = tuple(sorted(set(tables or ())))
        self.progress = progress
        self.changes_max = changes_max
        self.settled = False  # the sink was told that it is caught up, and nothing came since

    def run(
        self, *, until: int | None = None, bounded: bool = False, stop: threading.Event | None = None
    ) -> Followed:
        """Follows until `until` is in the sink, or (`bounded`) all that is in the log now, or `stop`
        is set, or for ever. Writes to the sink. Raises SinkError if the sink refuses or is of another
        database, CursorError if the log has no such position any more or another record there;
        then the sink is as after its last transaction."""
        state = self.sink.open()
        if state is not None:
            self._check(state)
        run = _Run(self, state)
        feed = self.source.feed(
            after=state.position if state else 0,
            tables=self.tables or None,
            until=until,
            bounded=bounded,
            heartbeat_s=HEARTBEAT_S,
        )
        try:
            for batch in feed.batches():
                run.take(batch)
                if stop is not None and stop.is_set():
                    run.commit()
                    break
            else:
                run.commit(caught_up=True)
        except BaseException:
            self.sink.rollback()
            raise
        finally:
            feed.close()
        return run.done

    def _check(self, state: State) -> None:
        name, expected, found = self.sink.name, state.position.database, self.source.uuid
        if expected != found:
            raise SinkError(
                f"{name} follows database {expected.hex()}, this one is {found.hex()};"
                " follow into a new target, or from the database that it belongs to",
                expected=expected,
                found=found,
            )
        if state.tables != self.tables:
            raise SinkError(
                f"{name} follows {_listed(state.tables)}, and was asked to follow {_listed(self.tables)};"
                " what it passed over is lost to it: follow the same tables, or into a new target",
                expected=state.tables,
                found=self.tables,
            )


class _Run:
    """One run: where it has come to, and the transaction at hand."""

    def __init__(self, follower: Follower, state: State | None) -> None:
        self._follower = follower
        self._sink = follower.sink
        self._schema = state.schema.proto if state else None
        self._position = state.position if state else log_pb2.Cursor(database=follower.source.uuid)
        self._seq, self._checksum = self._position.seq, self._position.checksum
        self._live = False
        self._head = 0
        self._began: float | None = None
        self._changes = self._bytes = 0
        self.done = Followed(self._position)

    def take(self, batch: FeedBatch) -> None:
        """Applies a batch, and commits if it is time to."""
        mark = batch.mark
        if batch.schema is not None and batch.schema != self._schema:
            self._evolve(batch.schema)
        if batch.commits:
            self._apply(batch.commits)
        if mark is not None:
            self._live, self._head = mark.state == feed_pb2.Mark.LIVE, mark.head
            if mark.position.seq > self._seq:
                self._pass_over(mark.position)
        if self._is_due() or (self._live and not self._follower.settled):
            self.commit(caught_up=self._live)
        if self._follower.progress is not None:
            total = max(self._head, self._seq)
            self._follower.progress(Progress(step="follow", done=self._seq, total=total, unit="commits"))

    def commit(self, *, caught_up: bool = False) -> None:
        """Ends the transaction at hand; once it is caught up, also one that only says so."""
        if self._began is None:
            if self._follower.settled or not caught_up or not self._seq:
                return
            self._begin()
        position = log_pb2.Cursor(database=self._position.database, seq=self._seq, checksum=self._checksum)
        self._sink.commit(position, caught_up=caught_up)
        self._follower.settled = caught_up
        self.done.position = self._position = position
        self.done.transactions += 1
        self._began = None
        self._changes = self._bytes = 0

    def _apply(self, commits: Sequence[log_pb2.Commit]) -> None:
        self._begin()
        first = changes = size = 0
        for at, commit in enumerate(commits):
            self._check(commit)
            if commit.HasField("migration") and commit.migration.HasField("schema"):
                self._sink.apply(commits[first:at])
                first = at
                self._evolve(commit.migration.schema)
            changes += len(commit.changes)
            size += commit.ByteSize()
        self._sink.apply(commits[first:])
        self._changes += changes
        self._bytes += size
        self.done.commits += len(commits)
        self.done.changes += changes

    def _check(self, commit: log_pb2.Commit) -> None:
        """Whether this commit may come next; then it is where the run has come to."""
        seq = commit.seq
        if seq != self._seq + 1 and (seq <= self._seq or not self._follower.tables):
            raise SinkError(
                f"{self._sink.name} is at seq {self._seq} and the feed went on with {seq},"
                f" expected {self._seq + 1}; the feed is at fault: nothing of it was taken, follow again",
                expected=self._seq + 1,
                found=seq,
            )
        if commit.requires:
            check_requires(commit)
        self._seq, self._checksum = seq, commit.checksum

    def _pass_over(self, position: log_pb2.Cursor) -> None:
        """The feed had nothing for this follower up to there."""
        if not self._follower.tables:
            raise SinkError(
                f"{self._sink.name} is at seq {self._seq} and the feed says it came to {position.seq}"
                " without sending what lies between; the feed is at fault: follow again",
                expected=self._seq,
                found=position.seq,
            )
        self._begin()
        self._seq, self._checksum = position.seq, position.checksum

    def _begin(self) -> None:
        if self._began is None:
            self._sink.begin(self._follower.tables)
            self._began = time.monotonic()

    def _evolve(self, schema: log_pb2.Schema) -> None:
        self._refuse_another_name(schema)
        self._begin()
        self._sink.evolve(Schema(schema))
        self._schema = schema

    def _refuse_another_name(self, schema: log_pb2.Schema) -> None:
        """A choice of tables is one of names: a followed table that gets another would be lost."""
        chosen = self._follower.tables
        was = {table.id: table.name for table in self._schema.tables} if self._schema else {}
        for table in schema.tables:
            if was.get(table.id, table.name) in chosen and table.name not in chosen:
                raise SinkError(
                    f"table {was[table.id]} became {table.name} with migration {schema.version}, and"
                    f" {self._sink.name} follows {_listed(chosen)}; follow {table.name} into a new target",
                    table=table.name,
                )

    def _is_due(self) -> bool:
        return self._began is not None and (
            self._live
            or self._changes >= self._follower.changes_max
            or self._bytes >= BYTES_MAX
            or time.monotonic() - self._began >= SECONDS_MAX
        )


def _listed(tables: tuple[str, ...]) -> str:
    return ", ".join(tables) or "all tables"
