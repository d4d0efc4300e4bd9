"""Trend: what a process has at a time, and whether that rises."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """What the process has at one time."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    head: int

    @classmethod
    def take(cls, started: float, head: int) -> Sample:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            time.monotonic() - started,
            pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
            sum(not name.endswith(".sst") for name in _opened()),
            threading.active_count(),
            head,
        )


def _opened() -> list[str]:
    """What the descriptors are of. Files of tables and log are counted by RocksDB, up to a limit."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(str(handle.readlink()))
    return found


class Trend(NamedTuple):
    """How much a quantity rose over the last two thirds, and how much it goes up and down anyway."""

    mean: float
    rise: float
    noise: float

    @classmethod
    def of(cls, at_s: list[float], values: list[float]) -> Trend:
        first = len(values) // 3
        at_s, values = at_s[first:], values[first:]
        slope, start = statistics.linear_regression(at_s, values)
        rest = [value - slope * at - start for at, value in zip(at_s, values, strict=True)]
        return cls(statistics.fmean(values), slope * (at_s[-1] - at_s[0]), statistics.pstdev(rest))

    def is_flat(self, least: float) -> bool:
        return self.rise < max(least, 2 * self.noise)
