"""Measure: the result of one bench of one subject, and the functions that measure it."""

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
    """Raised when a subject needs something that is not on this machine. It is skipped, and does not fail."""


class Measure(msgspec.Struct, omit_defaults=True):
    """One line of `results.jsonl`. `rate` is in `n` per second; a percentile of 0 was not measured."""

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
    """The arguments of a bench: the amount of work, and its directories."""

    bench: str
    subject: str
    n: int
    # An empty directory on the measured disk; removed afterwards.
    folder: Path
    # Kept for the whole run: databases that are read; building them is not measured.
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
        """Return the measure of `n` items in `seconds`; `took_ns`: the duration of each, for percentiles."""
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
    """Return the peak memory of this process so far, or of any child process that has ended."""
    if children:
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit, 1)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 1)


def each(items: Iterable[T], do: Callable[[T], object]) -> tuple[float, array[int]]:
    """Call `do` with every item. Return the seconds for all, and the nanoseconds for each."""
    took = array("Q")
    now, note = time.perf_counter_ns, took.append
    begin = now()
    for item in items:
        start = now()
        do(item)
        note(now() - start)
    return (now() - begin) / 1e9, took


def once(do: Callable[[], object]) -> float:
    """Call `do` once. Return the seconds that it took."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def paced(items: Iterable[T], do: Callable[[T], object], rate: float) -> tuple[array[int], array[int]]:
    """Call `do` with every item, `rate` times per second. Return the start of each call (nanoseconds since
    the Unix epoch) and its duration. A late call does not make later ones start earlier."""
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
