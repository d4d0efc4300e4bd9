"""Overlay: a view with some keys put over it: what a read-only opening projected in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge

from everlog.store.view import Item, View


class Overlay(View):
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

    def forked(self) -> None:
        super().forked()
        self._base.forked()
