"""Run: one run of a follower; where it has come to, and the sink's transaction at hand.

    batch ─▶ schema ─▶ evolve ┐
             commits ─▶ apply  ├─▶ is it time? ─▶ commit(position)
             mark ─▶ position ┘

While catching up a transaction takes as many commits as fit; once the feed is live it ends with
each batch. Invariants: everlog.consumers.follower.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller

from everlog.consumers.followable import FeedBatch
from everlog.consumers.sink import Sink, State
from everlog.proto import feed_pb2, log_pb2
from everlog.store.errors import SinkError
from everlog.store.opener import Opener
from everlog.store.progress import OnProgress, Progress
from everlog.store.projection import SHREDDED
from everlog.store.record import check_requires
from everlog.store.schema import Schema

# A transaction of the sink ends at the first of these, while catching up.
CHANGES_MAX = 50_000
BYTES_MAX = 32 << 20
SECONDS_MAX = 1.0

SEALED = log_pb2.SEALED

_seq, _changes, _requires = attrgetter("seq"), attrgetter("changes"), attrgetter("requires")
_about = methodcaller("WhichOneof", "about")


@dataclass
class Followed:
    """What one run carried over, and where it ended."""

    position: log_pb2.Cursor
    commits: int = 0
    changes: int = 0
    transactions: int = 0


class Run:
    """One run of a follower into `sink`, from where the sink is.

    `settled`: the sink was told before that it is caught up, and nothing came since.
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
        if self._is_due() or (self._live and not self.settled):
            self.commit(caught_up=self._live)
        if self._progress is not None:
            total = max(self._head, self._seq)
            self._progress(Progress(step="follow", done=self._seq, total=total, unit="commits"))

    def commit(self, *, caught_up: bool = False) -> None:
        """Ends the transaction at hand; once it is caught up, also one that only says so."""
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
            commits = self._opened(commits)
            for at, commit in enumerate(commits):
                self._check(commit)
                if commit.HasField("migration") and commit.migration.HasField("schema"):
                    self._sink.apply(commits[first:at])
                    first = at
                    self._evolve(commit.migration.schema)
        self._sink.apply(commits[first:])
        changes = sum(map(len, map(_changes, commits)))
        self._changes += changes
        self._bytes += sum(map(log_pb2.Commit.ByteSize, commits))
        self._commits += len(commits)

    def _opened(self, commits: Sequence[log_pb2.Commit]) -> list[log_pb2.Commit]:
        """The commits with their sealed rows open, for which keys are asked for together. One that was
        forgotten since is as deleted: the log goes on to say so."""
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
        """Whether all follow each other and are about their changes alone: nearly always, and seen
        without looking at one after the other."""
        expected = range(self._seq + 1, self._seq + 1 + len(commits))
        return (
            list(map(_seq, commits)) == list(expected)
            and not any(map(_about, commits))
            and not any(map(_requires, commits))
        )

    def _check(self, commit: log_pb2.Commit) -> None:
        """Whether this commit may come next; then it is where the run has come to."""
        seq = commit.seq
        if seq != self._seq + 1 and (seq <= self._seq or not self._tables):
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
        if not self._tables:
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
            self._sink.begin(self._tables)
            self._began = time.monotonic()

    def _evolve(self, schema: log_pb2.Schema) -> None:
        self._refuse_another_name(schema)
        self._begin()
        self._sink.evolve(Schema(schema))
        self._schema = schema

    def _refuse_another_name(self, schema: log_pb2.Schema) -> None:
        """A choice of tables is one of names: a followed table that gets another would be lost."""
        chosen = self._tables
        was = {table.id: table.name for table in self._schema.tables} if self._schema else {}
        for table in schema.tables:
            if was.get(table.id, table.name) in chosen and table.name not in chosen:
                raise SinkError(
                    f"table {was[table.id]} became {table.name} with migration {schema.version}, and"
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
