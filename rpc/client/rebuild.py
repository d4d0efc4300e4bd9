"""Rebuild: make a local copy of a server's database from its feed.

    Subscribe(after) ─▶ messages ─▶ framed records, unchanged ─▶ checked one by one ─▶ log and tables
                                                                └─▶ equal to the server's hashes at that seq

It is made by the code of a rebuild (upkeep/rebuild.py): whole or not at all. After a kill, or a long outage
of the server, the next run resumes it, if the server has its last record.

Keys do not come with the feed. Sealed rows stay sealed, and are compared as stored; they open once the key
store of the server's database is put beside them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import msgspec

from everlog.feed.subscription import HEARTBEAT_S
from everlog.proto import log_pb2
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.feed import RemoteBatches
from everlog.store import record
from everlog.store.errors import CorruptionError, CursorError
from everlog.store.progress import OnProgress
from everlog.store.rocks import files
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep import rebuild

COMMITS_TAG = 0x0A


class Origin(Protocol):
    """The part of a database on a server that a rebuild from it needs."""

    @property
    def url(self) -> str: ...
    @property
    def channel(self) -> Channel: ...
    def cursor(self) -> log_pb2.Cursor: ...
    def hashes(
        self, progress: OnProgress | None = None, *, seq: int | None = None, sealed: bool = False
    ) -> dict[str, TableHash]: ...


def rebuild_from(
    remote: Origin,
    path: Path,
    progress: OnProgress | None = None,
    *,
    seq: int | None = None,
    time_ns: int | None = None,
) -> dict[str, TableHash]:
    """Build a copy of a server's database in a new directory, as of now, of the record at `seq`, or of a
    time. Return the hashes of its tables, which equal those of the server.

    Writes to `path` alone. Raises OpenError; CursorError for a missing moment; UnavailableError, after which
    it can be resumed; CorruptionError for a damaged record (nothing is left then) or tables that differ.
    """
    position = remote.cursor()
    last = position.seq if seq is None else seq
    if time_ns is not None:
        last = _at_time(remote, position.seq, time_ns)
    if not 1 <= last <= position.seq:
        raise CursorError(
            f"{remote.url} has records up to {position.seq}, there is no record {last}", seq=last
        )
    marker = files.Marker(files.FORMAT, str(uuid.UUID(bytes=position.database)))

    def source(after: int) -> Iterator[bytes]:
        return records(remote, after, last)

    made = rebuild.make(path, msgspec.json.encode(marker) + b"\n", source, last, progress)
    theirs = remote.hashes(progress, seq=last, sealed=True)
    if theirs != made:
        different = sorted(name for name in made.keys() | theirs.keys() if made.get(name) != theirs.get(name))
        raise CorruptionError(
            f"at record {last} the tables in {path} are not those of {remote.url}: {', '.join(different)}."
            " Both logs are the same; `everlog check` and `everlog rebuild` there tell whose tables err",
            seq=last,
            tables=different,
        )
    return made


def records(remote: Origin, after: int, last: int) -> Iterator[bytes]:
    """Yield framed records after a seq, up to another, as the server has them. Read-only."""
    batches = RemoteBatches(
        remote.channel, after, tables=(), now=False, until=last, bounded=False, heartbeat_s=HEARTBEAT_S
    )
    with closing(batches):
        for batch in batches:
            yield from _framed(batch.raw)


def _framed(raw: bytes) -> Iterator[bytes]:
    """Yield the records at the start of a message, whose checksum was verified."""
    at = 0
    while raw[at] == COMMITS_TAG:
        size, start = record.read_varint(raw, at + 1)
        yield raw[at : start + size]
        at = start + size


def _at_time(remote: Origin, newest: int, time_ns: int) -> int:
    """Return the last record at or before a time; 0 if there is none."""
    low, high = 0, newest + 1
    while high - low > 1:
        middle = (low + high) // 2
        if record.time_of(next(records(remote, middle - 1, middle))) <= time_ns:
            low = middle
        else:
            high = middle
    return low
