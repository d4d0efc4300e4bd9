"""Report: the results as a table: medians and spread, ratios to the peers, floors and goals.

bench      everlog          sqlite   raw      x sqlite  x raw   floor              goal
commit     21,000/s ±4 %    5,100/s  61,000/s 4.1       0.34    2.5 x sqlite  met  …
"""

from collections.abc import Iterable
from statistics import median

from benchmarks.figures import FIGURES, UNITS, Found, Limit
from benchmarks.measure import Measure

SUBJECTS = ("everlog", "sqlite", "dbmate", "copytree", "raw")


def line(found: Measure) -> str:
    """Return one measure as a line of progress."""
    times = f"  p50 {_us(found.p50_us)} p99 {_us(found.p99_us)}" if found.p50_us else ""
    return (
        f"{found.number}  {found.bench:<16} {found.subject:<8} {found.n:>9,} in {found.seconds:8.3f} s"
        f" {found.rate:>12,.0f}/s{times}  {found.rss_mb:.0f} MB"
    )


def summary(measures: Iterable[Measure]) -> Found:
    """Return the median of each figure over the passes, for each bench and subject."""
    groups: dict[tuple[str, str], list[Measure]] = {}
    for found in measures:
        groups.setdefault((found.bench, found.subject), []).append(found)
    return {
        key: {
            "rate": median(found.rate for found in group),
            "low": min(found.rate for found in group),
            "high": max(found.rate for found in group),
            "seconds": median(found.seconds for found in group),
            "p50_us": median(found.p50_us for found in group),
            "p99_us": median(found.p99_us for found in group),
            "rss_mb": median(found.rss_mb for found in group),
        }
        for key, group in groups.items()
    }


def table(measures: list[Measure]) -> str:
    """Return the whole table in Markdown."""
    found = summary(measures)
    names = list(dict.fromkeys(each.bench for each in measures))
    subjects = [one for one in SUBJECTS if any(each.subject == one for each in measures)]
    peers = [one for one in subjects if one != "everlog"]
    known = [name for name in FIGURES if name in names]
    head = ("bench", *subjects, *(f"x {peer}" for peer in peers), "p50 / p99", "rss", "floor", "goal")
    lines = [head, tuple("---" for _ in head)]
    lines += [
        _row(name, found, subjects, peers) for name in known + [one for one in names if one not in FIGURES]
    ]
    passes = max(each.number for each in measures)
    note = f"\nMedian of {passes} passes; ± is half of the difference between the slowest and the fastest."
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n" + note


def _row(name: str, found: Found, subjects: list[str], peers: list[str]) -> tuple[str, ...]:
    rates = [_rate(name, found.get((name, subject))) for subject in subjects]
    ours = found.get((name, "everlog"), {})
    floor, goal = FIGURES.get(name, ((), ()))
    times = f"{_us(ours['p50_us'])} / {_us(ours['p99_us'])}" if ours.get("p50_us") else ""
    return (
        name,
        *rates,
        *(_ratio(found, name, peer) for peer in peers),
        times,
        f"{ours['rss_mb']:.0f} MB" if ours.get("rss_mb") else "",
        _verdict(floor, name, found),
        _verdict(goal, name, found),
    )


def _rate(name: str, figures: dict[str, float] | None) -> str:
    if figures is None:
        return ""
    spread = f" ±{(figures['high'] - figures['low']) / 2 / figures['rate']:.0%}"
    if UNITS.get(name) == "seconds":
        return f"{figures['seconds'] * 1000:,.1f} ms{spread}"
    if UNITS.get(name) == "p50_us":
        return f"{_us(figures['p50_us'])}"
    return f"{figures['rate']:,.0f}/s{spread}"


def _ratio(found: Found, name: str, peer: str) -> str:
    """Return the ratio of everlog's speed to the peer's."""
    ours, theirs = found.get((name, "everlog")), found.get((name, peer))
    if not ours or not theirs:
        return ""
    if UNITS.get(name) == "p50_us":
        return f"{theirs['p50_us'] / ours['p50_us']:.2f}"
    return f"{ours['rate'] / theirs['rate']:.2f}"


def _verdict(limits: tuple[Limit, ...], name: str, found: Found) -> str:
    parts = []
    for limit in limits:
        value = limit.value(name, found)
        verdict = "?" if value is None else "met" if limit.holds(value) else f"**missed: {value:,.2f}**"
        parts.append(f"{limit.text} {verdict}")
    return ", ".join(parts)


def _us(value: float) -> str:
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.1f} µs"
