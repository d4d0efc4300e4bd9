"""Plots: paths of SVG, computed on the server, and what they show over time.

    positions at the edges of buckets ─▶ commits of each bucket ─▶ line(…) or bars(…) ─▶ <path d="…">
    samples of the server             ─▶ series(…)              ─▶ lines(…)

The edges of buckets are multiples of the width of a bucket, so that the positions at all but the newest edges
are known from the previous request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, UnavailableError
from everlog.store.upkeep.samples import Sample

BUCKETS = 120
KNOWN_MAX = 50_000
SECOND_NS = 10**9
HEADROOM = 1.15  # the label of the top covers no line

# Widths of buckets that people can name, in seconds.
WIDTHS_S = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200),
    *(86_400 * days for days in (1, 2, 7, 14, 30, 61, 122, 365, 730, 3650)),
)


class Commits(NamedTuple):
    """Commits of a log in buckets of equal width, oldest first. Bucket n begins at start_ns + n *
    width_ns."""

    start_ns: int
    width_ns: int
    counts: list[int]
    oldest: int
    oldest_ns: int
    head: int
    head_ns: int

    @property
    def end_ns(self) -> int:
        return self.start_ns + len(self.counts) * self.width_ns

    @property
    def rates(self) -> list[float]:
        """Commits a second of each bucket."""
        return [count * SECOND_NS / self.width_ns for count in self.counts]


class Known:
    """Commits of logs over time, of one console. It keeps positions that do not change any more.
    Thread-safe."""

    def __init__(self) -> None:
        self._seqs: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._heads = dict[bytes, int]()
        self._lock = threading.Lock()

    def at(self, db: RemoteDatabase, times: Sequence[int]) -> tuple[list[int], Commits]:
        """Return the seq at each time, and the ends of the log (without buckets). Read-only."""
        with self._lock:
            found = {time: seq for time in times if (seq := self._seqs.get((db.uuid, time))) is not None}
        asked = [time for time in times if time not in found]
        got = db.past.positions(asked)
        if got.head < self._heads.get(db.uuid, 0):  # it was restored to an earlier record
            with self._lock:
                self._heads.pop(db.uuid, None)
                for key in [key for key in self._seqs if key[0] == db.uuid]:
                    del self._seqs[key]
            return self.at(db, times)
        found.update(zip(asked, got.seqs, strict=True))
        with self._lock:
            self._heads[db.uuid] = got.head
            for one, seq in zip(asked, got.seqs, strict=True):
                if one < got.head_ns and seq >= got.oldest:
                    self._seqs[db.uuid, one] = seq
            while len(self._seqs) > KNOWN_MAX:
                self._seqs.popitem(last=False)
        ends = Commits(0, 1, [], got.oldest, got.oldest_ns, got.head, got.head_ns)
        return [max(found[one], got.oldest - 1) for one in times], ends

    def commits(self, db: RemoteDatabase, start_ns: int, end_ns: int, *, buckets: int = BUCKETS) -> Commits:
        """Return the commits between two times in at most this many buckets. Read-only."""
        width = width_of(max(end_ns - start_ns, 1), buckets)
        first = start_ns // width
        edges = [(first + number) * width for number in range((end_ns - first * width) // width + 2)]
        edges = edges[-buckets - 1 :]
        seqs, ends = self.at(db, [max(edge - 1, 0) for edge in edges])
        counts = [max(0, after - before) for before, after in pairwise(seqs)]
        return ends._replace(start_ns=edges[0], width_ns=width, counts=counts)

    def whole(self, db: RemoteDatabase, *, buckets: int = BUCKETS) -> Commits:
        """Return the commits of the whole log. Read-only."""
        _, ends = self.at(db, [])
        return self.commits(db, ends.oldest_ns, ends.head_ns, buckets=buckets)

    def recent(
        self, db: RemoteDatabase, seconds: int, *, now_ns: int | None = None, buckets: int = BUCKETS
    ) -> Commits:
        """Return the commits of the last seconds. Read-only."""
        end = time.time_ns() if now_ns is None else now_ns
        return self.commits(db, end - seconds * SECOND_NS, end, buckets=buckets)


def width_of(span_ns: int, buckets: int = BUCKETS) -> int:
    """Return the width of a bucket, so that at most this many cover a span, in nanoseconds."""
    for width_s in WIDTHS_S:
        if width_s * SECOND_NS * (buckets - 1) >= span_ns:
            return width_s * SECOND_NS
    return WIDTHS_S[-1] * SECOND_NS


def top_of(values: Sequence[float]) -> float:
    """Return the top of an axis: a round number that no value exceeds."""
    highest = max(values, default=0.0)
    power = 1.0
    while power < highest:
        power *= 10
    for part in (0.1, 0.2, 0.25, 0.5, 1.0):
        if power * part >= highest:
            return max(power * part, 1.0 if highest >= 0.5 or not highest else power * part)
    return power


def line(values: Sequence[float], width: float, height: float, top: float, *, x: float = 0) -> str:
    """Return the path of a line through values, scaled to a frame that begins at x."""
    if not values:
        return ""
    step = width / max(len(values) - 1, 1)
    points = [
        f"{x + number * step:.1f} {height - min(value / top, 1.0) * height:.1f}"
        for number, value in enumerate(values)
    ]
    return "M" + "L".join(points)


def area(values: Sequence[float], width: float, height: float, top: float, *, x: float = 0) -> str:
    """Return the path of the area below a line."""
    path = line(values, width, height, top, x=x)
    return f"{path}L{x + width:g} {height:g}L{x:g} {height:g}Z" if path else ""


class Bar(NamedTuple):
    """A bar of a histogram in its frame. `past`: it is before or at the chosen position."""

    x: float
    y: float
    width: float
    height: float
    past: bool


def bars(found: Commits, width: float, height: float, at_ns: int) -> list[Bar]:
    """Return the bars of a histogram of commits. They grow with the root of the number, so that a load of
    many rows does not hide single commits."""
    top = max((count**0.5 for count in found.counts), default=0.0)
    step = width / max(len(found.counts), 1)
    return [
        Bar(
            round(number * step, 1),
            round(height - tall, 1),
            round(step * 0.75, 2),
            round(tall, 1),
            found.start_ns + number * found.width_ns <= at_ns,
        )
        for number, count in enumerate(found.counts)
        if count and (tall := max(count**0.5 / top * height, 2.0))
    ]


def samples_of(db: RemoteDatabase, since_ns: int, **which: Any) -> list[Sample]:
    """Return the samples of a server; none without the right to them, or at an older server. Read-only."""
    try:
        return db.admin.samples(max(since_ns, 0), **which)
    except (AccessError, UnavailableError):
        return []


def series(
    samples: Sequence[Sample], value: Callable[[Sample], float], times: Sequence[int]
) -> list[float | None]:
    """Return the value of the last sample at or before each time; None: there is none. Both are in their
    order."""
    found, at = list[float | None](), -1
    for time_ns in times:
        while at + 1 < len(samples) and samples[at + 1].time_ns <= time_ns:
            at += 1
        found.append(value(samples[at]) if at >= 0 else None)
    return found


def times_of(seconds: int, now_ns: int, *, buckets: int = BUCKETS) -> list[int]:
    """Return times of equal distance up to now."""
    return [now_ns - seconds * SECOND_NS * (buckets - number) // buckets for number in range(buckets + 1)]


def lines(
    named: Sequence[tuple[str, Sequence[float | None]]], times: Sequence[int], *, width: float, height: float
) -> dict[str, Any] | None:
    """Return lines over the same times as `_lines.html` draws them; None: no value is known. The first values
    may be unknown."""
    start = next((at for at in range(len(times)) if any(one[at] is not None for _, one in named)), len(times))
    if len(times) - start < 2:
        return None
    top = top_of([(value or 0.0) * HEADROOM for _, one in named for value in one[start:]])
    x = width * start / (len(times) - 1)
    return {
        "width": width,
        "height": height,
        "top": top,
        "lines": [
            {
                "title": title,
                "path": line([value or 0.0 for value in one[start:]], width - x, height, top, x=x),
                "now": one[-1] or 0.0,
            }
            for title, one in named
        ],
        "since_ns": times[start] if start else 0,
        "ticks": [times[part * (len(times) - 1) // 4] for part in range(4)],
    }
