"""Pending: the changes of many commits, gathered to the last one of each row.

    commit 7   put a=1  put b=1  ┐
    commit 8   delete a          ├──▶  a: deleted   b: 2   c: 1
    commit 9   put b=2  put c=1  ┘

For sinks that keep the state of rows and not their history. A commit is added whole, so what is
gathered is always the state at a position of the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable

from everlog.proto import log_pb2
from everlog.store.errors import SinkError


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
