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
(pending.py); one that keeps events takes them as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store.schema import Schema


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
