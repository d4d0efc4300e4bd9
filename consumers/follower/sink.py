"""Sink: what a follower writes to, and what it must promise.

    open ─▶ State | None                       where it stopped, in which history
    begin ─▶ evolve | apply … ─▶ commit        one transaction: rows and position together
                              └▶ rollback
    rows ─▶ (key, row) …                       for the proof that it equals the source

Invariants that a sink holds, and tests/conformance/sinks.py tests
  (1) position, schema and rows change together or not at all, whatever kills the process;
  (2) after `commit` returns they survive a power failure;
  (3) a commit of the source is seen whole or not at all by readers of the target;
  (4) a second follower on the same target is refused, not interleaved;
  (5) `rows` gives back exactly what was put, made from what readers of the target see.

A sink that keeps the last state of each row can gather the changes of many commits first
(follower/sink.py); one that keeps events takes them as they come.

Pending: the changes of many commits, gathered to the last one of each row.

    commit 7   put a=1  put b=1  ┐
    commit 8   delete a          ├──▶  a: deleted   b: 2   c: 1
    commit 9   put b=2  put c=1  ┘

For sinks that keep the state of rows and not their history. A commit is added whole, so what is
gathered is always the state at a position of the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store.errors import SinkError
from everlog.store.schema.schema import Schema


@dataclass(frozen=True)
class State:
    """How far a sink has come."""

    position: log_pb2.Cursor  # the last commit that is in it whole
    schema: Schema  # in force at that position
    tables: tuple[str, ...]  # the only tables that it follows, sorted; empty: all


class Sink(Protocol):
    """A target of a follower. Errors are SinkError, and DiskError where its disk refuses."""

    @property
    def name(self) -> str:
        """For people, as `sqlite:mirror.db`; without any password."""

    def open(self) -> State | None:
        """Makes the target ready, once; tells where it is. None: nothing was followed into it yet."""

    def begin(self, tables: tuple[str, ...]) -> None:
        """Starts a transaction. `tables` as in State. Raises SinkError if another follower has
        moved the target since this one last looked."""

    def evolve(self, schema: Schema) -> None:
        """The schema in force for all that is applied from here on. In a transaction."""

    def apply(self, commits: Sequence[log_pb2.Commit]) -> None:
        """Takes the changes of these commits, in order. In a transaction."""

    def commit(self, position: log_pb2.Cursor, *, caught_up: bool) -> None:
        """Ends the transaction: all of it, and `position`, are durable when this returns. What
        slows down writing, as indexes do, may wait until it is `caught_up` with the source."""

    def rollback(self) -> None:
        """Forgets the transaction, if there is one."""

    def tables(self) -> Sequence[str]:
        """Names of the tables that are in the sink. Read-only."""

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Encoded key and deterministically serialised row of every row of a table, by key.
        Read-only. Raises SinkError naming a row that cannot be what was put."""

    def close(self) -> None:
        """Lets go of the target. Without effect the second time."""


class Pending:
    """For each space: key to row, or to None for a row that was deleted."""

    def __init__(self) -> None:
        self.spaces: defaultdict[int, dict[bytes, bytes | None]] = defaultdict(dict)

    def add(self, commits: Iterable[log_pb2.Commit], known: Container[int]) -> None:
        """Raises SinkError for a change that this program cannot read. `known`: all spaces of the
        schema in force, followed or not."""
        spaces, put, delete = self.spaces, log_pb2.PUT, log_pb2.DELETE
        for commit in commits:
            for change in commit.changes:
                op = change.op
                if change.key_id or (op != put and op != delete):  # noqa: PLR1714  runs for each row
                    raise SinkError(_why(commit, change), seq=commit.seq)
                spaces[change.space][change.key] = change.row if op == put else None
        for space in spaces:
            if space not in known:
                raise SinkError(
                    f"there are changes in space {space}, which no table of the schema in force has; the feed"
                    " left out a migration, or this program is too old: follow with a newer one",
                    space=space,
                )

    def clear(self) -> None:
        self.spaces.clear()


def _why(commit: log_pb2.Commit, change: log_pb2.Change) -> str:
    if change.key_id:
        return (
            f"commit {commit.seq} has a row that is sealed under key {change.key_id.hex()};"
            " this program cannot open sealed rows: follow without that table"
        )
    return f"commit {commit.seq} has a change of the unknown kind {change.op}; follow with a newer program"
