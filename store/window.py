"""Window: the keys that recent commits touched, against which a transaction is validated.

    … │ seq 811: {row key, old entry, new entry} │ seq 812: {…} │   newest on the right

A transaction that read at a snapshot is valid if no commit since touched a key that it looked up
or that lies in a range that it scanned (Kung and Robinson 1981, backward validation). Keys are
whole keys of the tables: of rows, and of index entries, old and new.

Invariants
  (1) every commit after `floor` is in it; a transaction that read at less runs again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable
from itertools import count

KEYS_MAX, BYTES_MAX = 200_000, 16 << 20  # of keys


class Window:
    """The last commits: about `KEYS_MAX` keys of them, or `BYTES_MAX` bytes of keys."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        # Tuples of bytes: the garbage collector soon passes them over, lists it would look at for ever.
        self._commits: deque[tuple[int, tuple[bytes, ...], int]] = deque()
        self._keys = self._bytes = 0

    def add(self, seq: int, touched: tuple[bytes, ...]) -> None:
        size = sum(map(len, touched))
        self._commits.append((seq, touched, size))
        self._keys += len(touched)
        self._bytes += size
        while (self._keys > KEYS_MAX or self._bytes > BYTES_MAX) and len(self._commits) > 1:
            self.floor = self._commits[0][0]  # first, for those who look meanwhile
            _, gone, size = self._commits.popleft()
            self._keys -= len(gone)
            self._bytes -= size

    def reset(self, seq: int) -> None:
        """Whatever was read before `seq` is no longer valid: tables have changed as a whole."""
        self.floor = seq
        self._commits.clear()
        self._keys = self._bytes = 0

    def conflict(
        self, snapshot: int, keys: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]
    ) -> tuple[int, bytes] | None:
        """The newest commit since `snapshot` that touched what was read, and the key; None: valid.

        With a snapshot older than the window the answer is (floor, b""). Any thread may ask while
        another one commits: from the right, a commit that is added shifts the others away, so
        that one may be seen twice, but none is missed.
        """
        if snapshot < self.floor:
            return self.floor, b""
        keys = keys if isinstance(keys, (set, frozenset, dict)) else set(keys)
        spans = sorted(ranges)
        for at in count(1):
            try:
                seq, touched, _ = self._commits[-at]
            except IndexError:
                break
            if seq <= snapshot:
                break
            for key in touched:
                if key in keys or (spans and _inside(key, spans)):
                    return seq, key
        return (self.floor, b"") if snapshot < self.floor else None

    def touched(self, snapshot: int, keys: Container[bytes]) -> set[bytes] | None:
        """Those of `keys` that a commit since `snapshot` touched; None: it is too long ago to tell.
        Nobody may commit meanwhile."""
        if snapshot < self.floor:
            return None
        found: set[bytes] = set()
        for seq, touched, _ in reversed(self._commits):
            if seq <= snapshot:
                break
            found.update(key for key in touched if key in keys)
        return found


def _inside(key: bytes, spans: list[tuple[bytes, bytes]]) -> bool:
    if len(spans) > 8:  # sorted by start, so only those that start at or before the key
        spans = spans[: bisect_left(spans, (key + b"\x00", b""))]
    return any(start <= key < end for start, end in spans)
