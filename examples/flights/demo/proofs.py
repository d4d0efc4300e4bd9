"""Proofs: no acknowledged commit is lost or repeated, and three databases are equal."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from everlog import EmbeddedDatabase, Progress
from everlog.consumers import SqliteSink, verify
from everlog.rpc.client.database import RemoteDatabase
from flights.demo.writer import Acknowledged

OnProgress = Callable[[Progress], None]


class Read(NamedTuple):
    """The result of reading the whole log over the feed."""

    commits: int
    changes: int
    seconds: float


class Rebuilt(NamedTuple):
    tables: int
    rows: int
    changes: int
    seconds: float


def every_acknowledged_commit_is_there(
    db: RemoteDatabase, acknowledged: Iterable[Acknowledged], progress: OnProgress
) -> Read:
    """Read the log from its first record, and check that it has every acknowledged commit once."""
    expected = {one.seq: one for one in acknowledged}
    edits: set[str] = set()
    commits = changes = 0
    began, head = time.monotonic(), db.head
    for commit in db.feed(after=0, until=head):
        commits += 1
        changes += len(commit.changes)
        _must(commit.seq == commits, f"commit {commit.seq} is where {commits} should be")
        if commit.actor == "writer":
            _must(commit.reason not in edits, f"{commit.reason} is in the log twice")
            edits.add(commit.reason)
        one = expected.pop(commit.seq, None)
        if one is not None:
            same = (commit.reason, commit.checksum) == (f"edit {one.number}", one.checksum)
            _must(same, f"commit {commit.seq} is not what was acknowledged")
        if not commits % 1024:
            progress(Progress("read the log", commits, head, "commits"))
    _must(not expected, f"acknowledged, but not in the log: {sorted(expected)[:5]}")
    return Read(commits, changes, time.monotonic() - began)


def the_mirror_is_equal(db: RemoteDatabase, sqlite: Path, progress: OnProgress) -> None:
    """Compare rows and content hash of each table with those computed from SQLite's columns."""
    sink = SqliteSink(sqlite)
    try:
        differences = verify(db, sink, progress=progress)
    finally:
        sink.close()
    _must(not differences, "; ".join(map(str, differences)))


def the_log_alone_is_enough(db: EmbeddedDatabase, path: Path, changes: int, progress: OnProgress) -> Rebuilt:
    """Rebuild every table from the log alone, in another directory."""
    began = time.monotonic()
    rebuilt = db.admin.rebuild_into(path, progress=progress)
    seconds = time.monotonic() - began
    _must(rebuilt == db.admin.hashes(progress=progress), "the rebuilt tables differ from the live ones")
    return Rebuilt(len(rebuilt), sum(table.rows for table in rebuilt.values()), changes, seconds)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"NOT PROVEN: {otherwise}")
