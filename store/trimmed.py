"""Trimmed: the beginning of a log that was archived and removed, and what stands for it.

    log    [ removed … ] Base at `base` ─▶ base + 1 ─▶ …
    kept   seq ─▶ framed record      of those removed, what the store looks up: the first, migrations
    older  the archive               all of them, wherever it is; given by who opens the database

The Base takes the seq of the last record that it stands for. That record's own checksum is in it, so that
a cursor that stands there still tells which history it is of.

Invariants
  (1) a record is in the log, or in the archive that was verified before it went: removal is one batch;
  (2) a record that is not held anywhere any more is an error that says so, never a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from everlog.store import record
from everlog.store.engine import KEPT, Engine
from everlog.store.errors import CursorError
from everlog.store.keys import SEQ
from everlog.store.seam import translated, verify_end


class Older(Protocol):
    """Where removed records are."""

    @property
    def last(self) -> int:
        """The newest that it has; it has all before. 0: none."""

    def get(self, seq: int) -> bytes:
        """One framed record. Raises CursorError and CorruptionError naming the file that is missing."""

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Records after `after`, one at the least, and the seq of the last of them."""

    def reload(self) -> None:
        """Look again what it has."""


class Trimmed:
    """What was removed from a log: records 1 to `base`; 0: nothing."""

    def __init__(self, engine: Engine, first: tuple[bytes, bytes] | None, older: Older | None = None) -> None:
        self._engine = engine
        self.base = self.checksum = self.time_ns = 0
        self.older = older
        self.first = SEQ.unpack(first[0])[0] if first else 0  # whose record is in the log
        if first and self.first > 1:
            commit = record.decode(first[1], self.first)
            if commit.HasField("base"):
                self.base, self.checksum = self.first, commit.base.checksum
                self.time_ns = commit.time_ns

    @property
    def is_archived(self) -> bool:
        """Whether all that was removed is in an archive that was given."""
        return self.older is not None and self.older.last >= self.base

    def get(self, seq: int) -> bytes | None:
        """A removed record; None for the one in whose place the Base is, where there is no archive. Raises
        CursorError."""
        kept = self._engine.side(KEPT, make=False)
        if kept is not None:
            with translated(f"reading record {seq}, which was kept"):
                framed: bytes | None = kept[0].get(SEQ.pack(seq))
            if framed is not None:
                return framed
        if self.older is not None and self.older.last >= seq:
            return self.older.get(seq)
        if seq == self.base:
            return None
        raise self._gone(seq)

    def kept(self) -> list[tuple[int, bytes]]:
        """The removed records that stayed to be looked up, unchecked, each with its seq, in order."""
        kept = self._engine.side(KEPT, make=False)
        if kept is None or not self.base:
            return []
        with translated("reading the records that were kept"):
            verifier = kept[0].iter()
            found: list[Any] = list(kept[0].items())
            verify_end(verifier, found[-1][0] if found else None, b"", b"\xff" * 9)
        return [(SEQ.unpack(key)[0], framed) for key, framed in found]

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Removed records after `after`, one at the least. Raises CursorError."""
        if self.older is None or self.older.last <= after:
            raise self._gone(after + 1)
        return self.older.some(after, min(until, self.base), max_bytes)

    def all(self, after: int, until: int) -> Iterator[bytes]:
        """Removed records, in order. Raises CursorError."""
        while after < until:
            some, after = self.some(after, until, 1 << 20)
            yield from some

    def _gone(self, seq: int) -> CursorError:
        return CursorError(
            f"the log starts at {self.base + 1}, record {seq} was archived and removed, and no archive that"
            " has it is known here: put its directory back, or start again from a snapshot",
            seq=seq,
            oldest=self.base + 1,
        )


def edge(engine: Engine, *, first: bool) -> tuple[bytes, bytes] | None:
    """Key and value of the first, or last, record in the log."""
    cursor: Any = engine.log.iter()
    try:
        cursor.seek_to_first() if first else cursor.seek_to_last()
        if not cursor.valid():
            cursor.status()
            return None
        return cursor.key(), cursor.value()
    finally:
        del cursor  # or whoever keeps the error keeps the database locked
