"""Samples: sizes, lags of consumers and latencies of commits over time, in memory.

    every EVERY_S ─▶ sample ─▶ the last RECENT samples ─▶ one of each minute ─▶ of the last day

They begin with the process that takes them, which is a server, and end with it. RocksDB writes files again
when it merges them, and a bookmark replaces the previous one, so neither has a past.

Invariants
  (1) memory is bounded: RECENT + MINUTES samples of at most TABLES_MAX tables and CONSUMERS_MAX consumers,
      packed, some 100 bytes each and 30 bytes more for each table and consumer;
  (2) sizes are those of files (sizes.py); numbers of commits only grow.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from everlog.store.core import Core
from everlog.store.measures import Measures
from everlog.store.upkeep.consumers import Consumer
from everlog.store.upkeep.sizes import sizes_of

EVERY_S = 10.0
RECENT, MINUTES = 60, 1440
TABLES_MAX = CONSUMERS_MAX = 100  # the largest, and those farthest behind
MINUTE_NS = 60 * 10**9


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One moment of a database.

    `tables`: bytes of each table and of its indexes; `lags`: commits that each consumer has not confirmed;
    `latency`: commits by their latency since the start, as in `Histogram.counts`.
    """

    time_ns: int
    head: int
    log_bytes: int
    table_bytes: int
    index_bytes: int
    tables: dict[str, tuple[int, int]] = {}
    lags: dict[str, int] = {}
    latency: list[int] = []


def sample(core: Core, consumers: Iterable[Consumer], measures: Measures) -> Sample:
    """Return the sample of this moment. Read-only."""
    sizes, tables = sizes_of(core), dict[str, tuple[int, int]]()
    for name, info in core.schema.tables.items():
        indexes = sum(sizes.get(one.prefix, 0) for one in info.indexes.values())
        tables[name] = sizes.get(info.row_prefix, 0), indexes
    largest = sorted(tables, key=lambda name: (-sum(tables[name]), name))[:TABLES_MAX]
    behind = sorted(consumers, key=lambda one: (-one.lag_records, one.name))[:CONSUMERS_MAX]
    return Sample(
        time.time_ns(),
        core.head,
        core.engine.log_bytes(),
        sum(size for size, _ in tables.values()),
        sum(size for _, size in tables.values()),
        {name: tables[name] for name in largest},
        {one.name: one.lag_records for one in behind},
        list(measures.latency.counts),
    )


class Samples:
    """The samples of one open database. `measure` begins to measure its commits. Thread-safe."""

    def __init__(self, core: Core, consumers: Iterable[Consumer], measure: Callable[[], Measures]) -> None:
        self._core, self._consumers, self._measure = core, consumers, measure
        self._recent = deque[bytes]()
        self._minutes = deque[bytes](maxlen=MINUTES)
        self._minute, self._taken_s, self._began_s = 0, 0.0, 0.0
        self._lock = threading.Lock()

    def now(self) -> Sample:
        """Return the sample of this moment. From the first call on, the database measures its commits.
        Read-only."""
        return sample(self._core, self._consumers, self._measure())

    def take(self) -> None:
        """Add a sample, at most every EVERY_S."""
        now_s = time.monotonic()
        with self._lock:
            if self._recent and now_s - self._taken_s < EVERY_S:
                return
            self._taken_s, self._began_s = now_s, self._began_s or now_s
            self._recent.append(msgspec.msgpack.encode(self.now()))
            if len(self._recent) > RECENT:
                self._keep(self._recent.popleft())

    def _keep(self, packed: bytes) -> None:
        minute = _decoded(packed).time_ns // MINUTE_NS
        if minute != self._minute:
            self._minute = minute
            self._minutes.append(packed)

    def since(self, time_ns: int = 0, points: int = 0) -> list[Sample]:
        """Return the last sample before a time, those from it on, and that of this moment, oldest first.
        Read-only.

        `points`: the maximum number of samples, at about equal distance; 0: all.
        """
        with self._lock:
            packed = [*self._minutes, *self._recent]
        taken = [*map(_decoded, packed)]
        found = taken[max(0, bisect_left(taken, time_ns, key=lambda one: one.time_ns) - 1) :]
        if points and len(found) >= points:
            step = len(found) / max(points - 1, 1)
            found = [found[int(number * step)] for number in range(points - 1)]
        return [*found, self.now()]

    def growth(self) -> tuple[float, dict[str, int]]:
        """Return the age of the oldest sample in seconds (0: there is none), and the growth since then of
        each table with its indexes, by name."""
        with self._lock:
            oldest = next(iter((*self._minutes, *self._recent)), None)
            began_s = self._began_s
        if oldest is None:
            return 0.0, {}
        then, now = _decoded(oldest), self.now()
        age_s = min(time.monotonic() - began_s, max(now.time_ns - then.time_ns, 0) / 1e9)
        grown = {name: sum(sizes) - sum(then.tables.get(name, (0, 0))) for name, sizes in now.tables.items()}
        return age_s, grown


_decoded = msgspec.msgpack.Decoder(Sample).decode
