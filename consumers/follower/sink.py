"""Sink: the interface of a follower's target, and its guarantees.

    open ─▶ State | None                       position and history, None if empty
    begin ─▶ evolve | apply … ─▶ commit        one transaction: rows and position together
                              └▶ rollback
    rows ─▶ (key, row) …                       to prove that the sink equals the source

Invariants of every sink, tested by tests/conformance/sinks.py
  (1) position, schema and rows change together or not at all, whatever kills the process;
  (2) after `commit` returns, they survive a power failure;
  (3) readers of the target see a commit of the source whole or not at all;
  (4) a second follower on the same target is refused, not interleaved;
  (5) `rows` returns exactly what was put, computed from what readers of the target see.

A sink that stores only the last state of each row can gather the changes of many commits in `Pending`; a
sink that stores events applies them as they arrive.

    commit 7   put a=1  put b=1  ┐
    commit 8   delete a          ├──▶  a: deleted   b: 2   c: 1
    commit 9   put b=2  put c=1  ┘

Commits are added whole, so `Pending` is always the state at a position of the log.
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
    """The position of a sink."""

    position: log_pb2.Cursor  # the last commit that is completely applied
    schema: Schema  # in force at that position
    tables: tuple[str, ...]  # the tables that it follows, sorted; empty: all


class Sink(Protocol):
    """A follower's target. Raises SinkError, and DiskError if its disk refuses."""

    @property
    def name(self) -> str:
        """For messages, such as `sqlite:mirror.db`; without any password."""

    def open(self) -> State | None:
        """Prepare the target, once; return its state, or None if nothing was followed into it yet."""

    def begin(self, tables: tuple[str, ...]) -> None:
        """Begin a transaction. `tables` as in State. Raises SinkError if another follower moved the target
        since this one last read its state."""

    def evolve(self, schema: Schema) -> None:
        """Set the schema of all changes that follow. Within a transaction."""

    def apply(self, commits: Sequence[log_pb2.Commit]) -> None:
        """Apply the changes of these commits, in order. Within a transaction."""

    def commit(self, position: log_pb2.Cursor, *, caught_up: bool) -> None:
        """Commit the transaction: it and `position` are durable when this returns. Work that slows down
        writes, such as indexes, may wait until the sink is `caught_up` with the source."""

    def rollback(self) -> None:
        """Discard the transaction, if there is one."""

    def tables(self) -> Sequence[str]:
        """Return the names of the tables in the sink. Read-only."""

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield encoded key and deterministically serialised row of each row of a table, in key order.
        Read-only. Raises SinkError naming a row that was changed."""

    def close(self) -> None:
        """Release the target. Idempotent."""


class Pending:
    """Gathered changes by space: key to row, or to None for a deleted row."""

    def __init__(self) -> None:
        self.spaces: defaultdict[int, dict[bytes, bytes | None]] = defaultdict(dict)

    def add(self, commits: Iterable[log_pb2.Commit], known: Container[int]) -> None:
        """Gather the changes of these commits. `known`: all spaces of the schema in force, followed or not.
        Raises SinkError for a change that this program cannot read."""
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
                    f"there are changes in space {space}, which belongs to no table of the schema in force;"
                    " the"
                    " feed omitted a migration, or this program is too old: follow with a newer version",
                    space=space,
                )

    def clear(self) -> None:
        self.spaces.clear()


def _why(commit: log_pb2.Commit, change: log_pb2.Change) -> str:
    if change.key_id:
        return (
            f"commit {commit.seq} has a row sealed with key {change.key_id.hex()};"
            " this program cannot open sealed rows: follow without that table"
        )
    return f"commit {commit.seq} has a change of unknown kind {change.op}; follow with a newer version"
