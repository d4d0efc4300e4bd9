"""Past walk: over the versions of many rows, giving of each the newest at or before a seq.

    JFK 812 · JFK 790 · JFK 2 · LAX 640 · LAX 2 · …       as of 800: JFK 790, LAX 640

Versions are read in chunks, in their order. Where a row has many it is not stepped through: the walk
leaps to the version that is wanted, or to the next row.

Invariants
  (1) an iteration that ends has come to its end: a damaged block raises CorruptionError;
  (2) the handle of a column family lives as long as what seeks in it: one may be dropped meanwhile, and
      RocksDB looks at the handle (tests/store/test_engine_facts.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from everlog.store.errors import ClosedError
from everlog.store.past_place import INVERTED_SIZE, inverted
from everlog.store.seam import translated, verify_end
from everlog.store.versions import Versions

CHUNK_FIRST, CHUNK_MAX = 16, 1024
LEAP_FROM = 64  # versions of one row in a chunk

# Space and key of a row, and key and value of the version that it had.
Found = tuple[bytes, bytes, bytes]
# What walks have of RocksDB, in lists. Who clears the lists ends the walks.
Held = list[list[Any]]

_LAST = b"\xff" * INVERTED_SIZE


def walk(
    versions: Versions,
    family: tuple[Any, Any],
    start: bytes,
    end: bytes,
    *,
    seq: int,
    held: Held,
    reverse: bool,
) -> Iterator[Found]:
    """The rows from `start` to `end` (exclusive), spaces and keys, in their order or backwards, in one
    of the column families of `versions`; deleted ones as well. Read-only."""
    chunks = _Chunks([*family], start, end, held, reverse=reverse)
    if reverse:
        return _backwards(chunks, versions, start, end, seq)
    return _forwards(chunks, start, end, inverted(seq))


def let_go(held: Held) -> None:
    """Ends walks, though somebody iterates over them."""
    for one in reversed(held):  # iterators before what they are of
        one.clear()


class _Chunks:
    """Chunks of versions from one end of a range on. `leap` goes on elsewhere."""

    def __init__(self, family: list[Any], start: bytes, end: bytes, held: Held, *, reverse: bool) -> None:
        """`family` is let go of with what is `held`: a column family and its handle, in a list."""
        self._start, self._end, self._reverse = start, end, reverse
        self._family, self._held = family, list[Any]()
        held += (self._family, self._held)
        self._size = CHUNK_FIRST
        self.leap(end if reverse else start)

    def leap(self, to: bytes) -> None:
        with translated("reading the versions of rows"):
            if not self._family:
                raise ClosedError("what this reads from is closed")
            # The one that verifies is older: it knows nothing that was projected meanwhile.
            verifier = self._family[0].iter()
            self._held[:] = [self._family[0].items(backwards=self._reverse, from_key=to), verifier]
            del verifier
        if self._reverse:
            self._end = to
        else:
            self._start = to
        self._last: bytes | None = None

    def next(self) -> list[tuple[bytes, bytes]]:
        """The next versions; none at the end. Raises CorruptionError, ClosedError."""
        if not self._held:
            raise ClosedError("what this reads from is closed")
        with translated("reading the versions of rows"):
            chunk: list[Any] = list(islice(self._held[0], self._size))
            if len(chunk) < self._size:
                last = chunk[-1][0] if chunk else self._last
                verify_end(self._held[1], last, self._start, self._end, reverse=self._reverse)
        if chunk:
            self._last = chunk[-1][0]
        self._size = min(self._size * 4, CHUNK_MAX)
        return chunk


def _forwards(chunks: _Chunks, start: bytes, end: bytes, upto: bytes) -> Iterator[Found]:
    done = b""
    while chunk := chunks.next():
        for full, value in chunk:
            row = full[:-INVERTED_SIZE]
            if row == done:
                continue
            if row >= end:
                return
            if row < start or full[-INVERTED_SIZE:] < upto:
                continue  # it is newer than what is asked for
            done = row
            yield row, full, value
        row = chunk[-1][0][:-INVERTED_SIZE]
        if len(chunk) >= LEAP_FROM and chunk[-LEAP_FROM][0][:-INVERTED_SIZE] == row:
            chunks.leap(row + _LAST + b"\x00" if row == done or row < start else row + upto)


def _backwards(chunks: _Chunks, versions: Versions, start: bytes, end: bytes, seq: int) -> Iterator[Found]:
    """The oldest version of a row comes first here."""
    upto, at = inverted(seq), b""
    best: Found | None = None
    while chunk := chunks.next():
        for full, value in chunk:
            row = full[:-INVERTED_SIZE]
            if row != at:
                if best is not None:
                    yield best
                at, best = row, None
                if row < start:
                    return
            if row < end and full[-INVERTED_SIZE:] >= upto:
                best = row, full, value
        if len(chunk) >= LEAP_FROM and chunk[-LEAP_FROM][0][:-INVERTED_SIZE] == at:
            found = versions.raw(at, seq) if at < end else None
            best = None if found is None else (at, *found)
            chunks.leap(at)
    if best is not None:
        yield best
