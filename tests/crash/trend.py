"""Trend: samples of a process's resources, and whether they grow.

Flat: over the last two thirds of the time, the line through the samples rises by less than `LEAST`, or twice
their noise.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from everlog.store.database import Database

HEADING = "minute   rss MB  descriptors  threads  log files       head"
POOLS = (
    "everlog "  # names of a server's pool threads begin so: each pool starts them on demand, up to its size
)
LEAST = {"rss MB": 8.0, "descriptors": 3.0, "threads": 2.0, "log files": 8.0}  # what varies in any case


class Sample(NamedTuple):
    """The resources of a process at one time."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    log_files: int
    head: int

    def __str__(self) -> str:
        many = f"{self.descriptors:12} {self.threads:8} {self.log_files:10} {self.head:10,}"
        return f"{self.at_s / 60:6.1f} {self.rss_mb:8.1f} {many}"

    @classmethod
    def take(cls, started: float, db: Database) -> Sample:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            time.monotonic() - started,
            pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
            sum(not name.endswith(".sst") for name in _opened()),
            sum(not thread.name.startswith(POOLS) for thread in threading.enumerate()),
            len(db.engine.log_files()),
            db.head,
        )


def _opened() -> list[str]:
    """Return what the descriptors refer to. RocksDB limits its open files of tables and log itself."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(str(handle.readlink()))
    return found


class Trend(NamedTuple):
    """How much a quantity grew over the last two thirds, and how much it varies in any case."""

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


def told(samples: list[Sample], say: Callable[[str], object]) -> bool:
    """Return whether all quantities stayed flat, and report the growth of each."""
    at_s, flat = [one.at_s for one in samples], True
    for name, values in (
        ("rss MB", [one.rss_mb for one in samples]),
        ("descriptors", [float(one.descriptors) for one in samples]),
        ("threads", [float(one.threads) for one in samples]),
        ("log files", [float(one.log_files) for one in samples]),
    ):
        trend = Trend.of(at_s, values)
        flat &= trend.is_flat(LEAST[name])
        say(
            f"{name:12} mean {trend.mean:8.1f}  rose by {trend.rise:+7.2f} over the last two thirds, noise"
            f" {trend.noise:.2f}: {'flat' if trend.is_flat(LEAST[name]) else 'NOT FLAT'}"
        )
    return flat
