"""Remote backup: the log of a database on a server, as what a backup is made of.

    feed ─▶ message ─▶ its records, as they are ─▶ block ─▶ everlog.audit.backup

The feed sends records as they stand in the log, in order, checks where it begins, and goes on after a
connection that broke: a backup needs no service of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from everlog.audit.manifest import Hashes
from everlog.audit.segment import BLOCK_BYTES
from everlog.audit.source import Records, check_position, diverged
from everlog.proto import log_pb2
from everlog.rpc.remote import RemoteDatabase
from everlog.store.errors import CorruptionError, CursorError
from everlog.store.progress import OnProgress
from everlog.store.record import read_varint

COMMITS_TAG = 0x0A


class RemoteLog:
    """The log of a database on a server, up to what is on its disk now."""

    def __init__(self, db: RemoteDatabase) -> None:
        self._db = db
        self._cursor = db.cursor()
        self.database, self.head = db.uuid, self._cursor.seq
        self._position = log_pb2.Cursor(database=db.uuid)

    def check(self, position: log_pb2.Cursor) -> None:
        check_position(position, self.database, self.head)
        try:
            self._db.feed(position, until=position.seq).close()
        except CursorError as error:
            raise diverged(position, str(error)) from None
        self._position = position

    def blocks(self, after: int, until: int) -> Iterator[Records]:
        assert after == self._position.seq, "a backup goes on where it was checked"
        first, parts, size = after + 1, list[bytes](), 0
        if after >= until:
            return
        with self._db.feed(self._position, until=until) as feed:
            for batch in feed.batches():
                data, count = _records(batch.raw)
                if not count:
                    continue
                parts.append(data)
                size += len(data)
                after += count
                if size >= BLOCK_BYTES or after == until:
                    yield Records(first, after, b"".join(parts))
                    first, parts, size = after + 1, [], 0
                if after == until:
                    return
        raise CorruptionError(f"{self._db.url}: expected records up to {until}, the feed ended at {after}")

    def hashes(self, progress: OnProgress | None, *, any_size: bool) -> Hashes | None:
        """None: a server's hashes are those of another moment."""
        return None

    def close(self) -> None:
        """Nothing is held."""


def _records(raw: bytes) -> tuple[bytes, int]:
    """The records that a message of the feed begins with, joined, and how many they are."""
    at = count = 0
    while at < len(raw) and raw[at] == COMMITS_TAG:
        size, start = read_varint(raw, at + 1)
        at = start + size
        count += 1
    return raw[:at], count
