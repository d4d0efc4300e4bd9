"""View: the column family of the tables, at one moment.

    get(key) -> value | None          items(start, end) -> (key, value) in key order, either way

    LiveView      the newest projected state; each call stands for itself
    SnapshotView  one moment for as long as it is held
    Overlay       another view with some keys put over it: what a read-only opening projected in
                  memory, or what a group of commits has not projected yet

Invariants
  (1) an iteration that ends has come to its end: a damaged block raises CorruptionError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from typing import Any, Protocol

from everlog.store.engine import Engine, translate, verify_end

Item = tuple[bytes, bytes]


class View(Protocol):
    """The tables at one moment."""

    def get(self, key: bytes) -> bytes | None: ...

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]: ...

    def close(self) -> None:
        """Lets go of what it holds."""


class LiveView:
    """The tables as they are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._engine.get(key)
        except Exception as error:
            raise translate(error, "reading a table") from error
        return value

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        return iterate(self._engine.data, start, end, reverse=reverse)

    def close(self) -> None:
        pass


class SnapshotView:
    """The tables as they were when it was made. `close` lets the store forget that moment."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = snapshot

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes = self._snapshot[key]
        except Exception as error:
            if str(error) == "key not found":
                return None
            raise translate(error, "reading a snapshot") from error
        return value

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        return iterate(self._snapshot, start, end, reverse=reverse)

    def close(self) -> None:
        self._snapshot = None


class FamilyView:
    """A column family that is not the live one."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._family.get(key)
        except Exception as error:
            raise translate(error, "reading a table") from error
        return value

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        return iterate(self._family, start, end, reverse=reverse)

    def close(self) -> None:
        pass


class Overlay:
    """`base` with the keys of `over` put over it; None stands for a key that is deleted."""

    def __init__(self, base: View, over: Mapping[bytes, bytes | None]) -> None:
        self._base = base
        self._over = over

    def get(self, key: bytes) -> bytes | None:
        return self._over[key] if key in self._over else self._base.get(key)

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        over = self._over
        below = (item for item in self._base.items(start, end, reverse=reverse) if item[0] not in over)
        inside = sorted((key for key in over if start <= key < end), reverse=reverse)
        above = ((key, value) for key in inside if (value := over[key]) is not None)
        return merge(below, above, key=lambda item: item[0], reverse=reverse)

    def close(self) -> None:
        self._base.close()


def iterate(source: Any, start: bytes, end: bytes, *, reverse: bool) -> Iterator[Item]:
    """The items of a column family or a snapshot from `start` to `end` (exclusive)."""
    key: bytes | None = None
    try:
        if reverse:
            for key, value in source.items(backwards=True, from_key=end):
                if key >= end:
                    continue
                if key < start:
                    return
                yield key, value
        else:
            for key, value in source.items(from_key=start):
                if key >= end:
                    return
                yield key, value
    except Exception as error:
        raise translate(error, "reading a table") from error
    # Ran off the end of the column family, or into a block that cannot be read.
    verify_end(source, key, start, end, backwards=reverse)
