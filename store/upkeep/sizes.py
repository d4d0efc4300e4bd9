"""Sizes: how much space tables, indexes and the log take, and by how much they grow.

    files of the tables  ─▶ sizes_of   ─▶ bytes of each table and index
    files of the log     ─▶ log_growth ─▶ records and bytes since a time
    sizes_of, repeatedly ─▶ samples.py ─▶ growth of each table and index since the oldest sample

RocksDB writes files again when it merges them, so their ages say nothing about growth. That of the log
follows from the times of commits. That of tables needs samples, which a server takes while it runs.

Invariants
  (1) all sizes are estimates: of files on disk, without what is only in memory, except that of the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

import msgspec

from everlog.store.core import Core
from everlog.store.history.past import Times

DAY_S = 86_400.0
WINDOWS_S = (DAY_S, 7 * DAY_S)


class LogGrowth(msgspec.Struct, frozen=True):
    """The records of the last `seconds`, and an estimate of their bytes."""

    seconds: float
    records: int
    bytes: int


def sizes_of(core: Core) -> dict[bytes, int]:
    """Estimate the bytes in files of each table and index, by its prefix. Read-only.

    A file with several of them is divided by their numbers of rows.
    """
    weights: dict[bytes, int] = {b"": 1}  # notes of the store, below all tables
    for info in core.schema.tables.values():
        count = 1 + core.tables.counts.get(info.space, 0)
        weights |= dict.fromkeys((info.row_prefix, *(one.prefix for one in info.indexes.values())), count)
    prefixes, sizes = sorted(weights), Counter[bytes]()
    for size, first, last in core.engine.data_files():
        start, end = bisect_right(prefixes, first) - 1, bisect_right(prefixes, last)
        inside = prefixes[max(0, start) : end]
        whole = sum(weights[one] for one in inside)
        for one in inside:
            sizes[one] += size * weights[one] // whole
    return sizes


def log_growth(core: Core) -> list[LogGrowth]:
    """Return the growth of the log in the last day and the last week, by the times of commits. Read-only."""
    head, now_ns = core.head, core.clock.read()
    oldest = max(core.log.oldest, core.log.trimmed.base + 1)  # archived records may be far away
    times = Times(core.log.get, oldest, head, lambda _: (), now_ns)
    files = [
        (size, int.from_bytes(first), int.from_bytes(last)) for size, first, last in core.engine.log_files()
    ]
    in_files = max((last for _, _, last in files), default=oldest - 1)
    in_memory = max(0, core.engine.log_bytes() - sum(size for size, _, _ in files))
    pieces = [*files, (in_memory, in_files + 1, head)]
    found = []
    for seconds in WINDOWS_S:
        after = times.before(now_ns - int(seconds * 1e9))
        size = sum(
            size * max(0, last - max(first - 1, after)) // (last - first + 1)
            for size, first, last in pieces
            if first <= last
        )
        found.append(LogGrowth(seconds, max(0, head - after), size))
    return found
