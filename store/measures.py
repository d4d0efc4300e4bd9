"""Measures: counters and histograms of one open database.

    writer ─▶ += 1 ─▶ Measures ◀─ read ─ metrics (rpc/server/metrics.py)

A database measures from the call of `Database.measure` on; before it costs one comparison per commit. Commits
themselves are counted by their seq. Numbers only grow.

Invariants
  (1) no lock: a histogram has one writer at a time, which is the leader of a group commit, or holds the lock
      of the sync;
  (2) memory is constant: bounds are fixed, and errors are counted by their class.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
)
GROUP = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts values by upper bounds: value <= bound. The last count is of greater values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """The number of values added."""
        return sum(self.counts)


def quantile(counts: Sequence[int], part: float, bounds: Sequence[float] = SECONDS) -> float | None:
    """Return the value that this part of counted values does not exceed, as far as the bounds tell; None:
    there are no values. Values above the last bound count as this bound."""
    rank, below = part * sum(counts), 0
    if not rank:
        return None
    for number, count in enumerate(counts[: len(bounds)]):
        if count and below + count >= rank:
            start = bounds[number - 1] if number else 0.0
            return start + (bounds[number] - start) * (rank - below) / count
        below += count
    return bounds[-1]


class Measures:
    """The measurements of a database since it began to measure.

    `latency`: of commits, from the call to the result, with the wait for the group. `groups`: commits in one
    write. Of commits with durability `os` a sample (tx/committer.py). `syncs`: waits for the disk. `errors`:
    refused commits, by the class of their error. `since`: the last record before.
    """

    def __init__(self, since: int) -> None:
        self.since = since
        self.latency = Histogram()
        self.groups = Histogram(GROUP)
        self.syncs = Histogram()
        self.errors: dict[str, int] = {}
