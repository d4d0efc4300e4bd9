"""Measure: what one bench found of one subject, and the clocks that find it."""

from __future__ import annotations

import resource
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class MissingError(Exception):
    """Raised when what a subject needs is not on this machine: it is left out, not failed."""


class Measure(msgspec.Struct, omit_defaults=True):
    """One line of `results.jsonl`. `rate` is in `n` a second; a percentile of 0 was not taken."""

    bench: str
    subject: str
    n: int
    seconds: float
    rate: float
    p50_us: float = 0
    p99_us: float = 0
    rss_mb: float = 0
    number: int = msgspec.field(default=0, name="pass")


class Run(msgspec.Struct):
    """What a bench is given: how much to do, and where."""

    bench: str
    subject: str
    n: int
    # Empty, on the disk that is measured, and removed afterwards.
    folder: Path
    # Kept for the whole run: databases that are read, but not measured as they are built.
    prepared: Path

    def measure(
        self,
        n: int,
        seconds: float,
        took_ns: Iterable[int] = (),
        *,
        bench: str | None = None,
        rss_mb: float | None = None,
    ) -> Measure:
        """What `n` in `seconds` amounts to; `took_ns`: of each, for the percentiles."""
        return Measure(
            bench=bench or self.bench,
            subject=self.subject,
            n=n,
            seconds=round(seconds, 6),
            rate=round(n / seconds, 1),
            p50_us=percentile_us(took_ns, 0.50),
            p99_us=percentile_us(took_ns, 0.99),
            rss_mb=peak_rss_mb() if rss_mb is None else rss_mb,
        )


def percentile_us(took_ns: Iterable[int], share: float) -> float:
    ordered = sorted(took_ns)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1000, 2) if ordered else 0


def peak_rss_mb(*, children: bool = False) -> float:
    """The most memory that this process has had so far; or any of those that it started and that
    have ended."""
    if children:
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit, 1)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 1)


def each(items: Iterable[T], do: Callable[[T], object]) -> tuple[float, array[int]]:
    """Seconds for all, and nanoseconds for each, of doing something with every item."""
    took = array("Q")
    now, note = time.perf_counter_ns, took.append
    begin = now()
    for item in items:
        start = now()
        do(item)
        note(now() - start)
    return (now() - begin) / 1e9, took


def once(do: Callable[[], object]) -> float:
    """Seconds for doing something once."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def paced(items: Iterable[T], do: Callable[[T], object], rate: float) -> tuple[array[int], array[int]]:
    """Does something with every item, `rate` a second. When each started (nanoseconds since the
    epoch), and how long each took. One that is late does not hurry those after it."""
    starts, took = array("Q"), array("Q")
    due = time.perf_counter()
    for item in items:
        due = max(due + 1 / rate, time.perf_counter())
        while (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        starts.append(time.time_ns())
        start = time.perf_counter_ns()
        do(item)
        took.append(time.perf_counter_ns() - start)
    return starts, took
