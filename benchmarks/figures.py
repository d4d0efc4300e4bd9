"""Figures: what each bench must reach (floor) and should reach (goal).

The floors were measured on prototypes of the critical paths; a goal is the figure of the best peer, or half
of the raw limit.
"""

from __future__ import annotations

import msgspec

from benchmarks.console import PAGES

# (bench, subject) to its figures: rate, seconds, p50_us, p99_us, rss_mb.
Found = dict[tuple[str, str], dict[str, float]]


class Limit(msgspec.Struct):
    """A bound on one figure, or on its ratio to the same figure of `of`: another subject of the same bench,
    or another bench of the same subject."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    of: str | None = None

    def value(self, bench: str, found: Found) -> float | None:
        ours = found.get((bench, "everlog"))
        if ours is None:
            return None
        if self.of is None:
            return ours[self.figure]
        theirs = found.get((bench, self.of)) or found.get((self.of, "everlog"))
        return ours[self.figure] / theirs[self.figure] if theirs and theirs[self.figure] else None

    def holds(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0)

    @property
    def text(self) -> str:
        bound = self.at_least if self.at_least is not None else self.at_most
        sign = "≥" if self.at_least is not None else "≤"
        return f"{self.figure} {sign} {bound:,g}" + (f" x {self.of}" if self.of else "")


Limits = tuple[Limit, ...]


def rate(at_least: float, of: str | None = None) -> Limit:
    return Limit("rate", at_least=at_least, of=of)


def most(figure: str, at_most: float, of: str | None = None) -> Limit:
    return Limit(figure, at_most=at_most, of=of)


def latency(p50_us: float, p99_us: float) -> Limits:
    return (most("p50_us", p50_us), most("p99_us", p99_us))


# bench: floor, goal.
FIGURES: dict[str, tuple[Limits, Limits]] = {
    "commit": ((rate(2.5, "sqlite"), rate(0.3, "raw")), (rate(4, "sqlite"), rate(0.5, "raw"))),
    "commit_sync": ((rate(0.9, "sqlite"),), (rate(1, "sqlite"),)),
    "commit_sync_8": ((rate(3, "sqlite"),), (rate(16_200),)),
    "batch": ((rate(1.2, "sqlite"), rate(0.4, "raw")), (rate(167_000),)),
    "load": ((rate(1.3, "sqlite"),), (rate(2, "sqlite"),)),
    "get": ((rate(1.1, "sqlite"),), (rate(1.5, "sqlite"),)),
    "get_by_index": ((rate(0.8, "sqlite"),), (rate(1.2, "sqlite"),)),
    "scan": ((rate(0.6, "sqlite"),), (rate(1, "sqlite"),)),
    "scan_index": ((rate(0.6, "sqlite"),), (rate(1, "sqlite"),)),
    "check": ((rate(200_000),), ()),
    "folders_new": ((most("seconds", 6),), (most("seconds", 3),)),
    "folders_applied": ((most("seconds", 3),), (most("seconds", 1),)),
    "tables_new": ((most("seconds", 3),), (most("seconds", 1),)),
    "tables_applied": ((most("seconds", 3),), (most("seconds", 1),)),
    "feed": ((rate(600_000),), (rate(1_000_000), rate(0.33, "raw"))),
    "latency": (latency(1000, 3000), latency(500, 1500)),
    "latency_remote": (latency(2000, 5000), latency(1000, 2500)),
    "fan_out": ((most("p99_us", 30_000), most("rss_mb", 120)), (most("p99_us", 20_000),)),
    "fan_out_writer": (
        (most("p50_us", 1.2, "fan_out_alone"),),
        (most("p50_us", 1.1, "fan_out_alone"),),
    ),
    "fan_out_alone": ((), ()),
    **{f"console_{page}": ((most("p50_us", 200_000),), (most("p99_us", 200_000),)) for page in PAGES},
    "console_live": ((most("p50_us", 1.1, "console_alone"),), ()),
    "console_alone": ((), ()),
    "rebuild_1000": ((rate(180_000),), (rate(300_000),)),
    "rebuild_1": ((rate(80_000),), (rate(130_000),)),
    **{f"backup_{size}": ((rate(0.5, "copytree"),), (rate(1, "copytree"),)) for size in (1000, 1)},
    "backup_more": ((), ()),
    "history_row": ((most("p50_us", 20_000),), (most("p50_us", 10_000),)),
    **{
        f"at_get_{size}": ((most("p50_us", 5, f"now_get_{size}"),), (most("p50_us", 3, f"now_get_{size}"),))
        for size in ("10k", "100k", "1m")
    },
    **{f"now_get_{size}": ((), ()) for size in ("10k", "100k", "1m")},
    "catch_up": ((rate(50_000),), (rate(150_000),)),
    "commit_past": ((rate(0.95, "commit_alone"),), (rate(1, "commit_alone"),)),
    "commit_alone": ((), ()),
    "merkle": ((rate(200_000),), (rate(300_000), rate(0.15, "raw"))),
    "prove": ((most("p50_us", 5_000),), (most("p99_us", 5_000),)),
    "migrate_add": ((most("seconds", 0.05),), ()),
    "migrate_index": ((rate(150_000),), ()),
    "migrate_transform": ((rate(80_000),), ()),
    "migrate_beside": ((rate(10_000), most("p99_us", 3, "migrate_idle")), (rate(20_000),)),
    "migrate_idle": ((), ()),
    "migrate_switch": ((most("seconds", 0.05),), ()),
    "fleet": ((most("seconds", 15), most("rss_mb", 150)), (most("seconds", 6),)),
    "fleet_switch": ((most("seconds", 3),), (most("seconds", 1),)),
    "fleet_abort": ((most("seconds", 5),), ()),
    "fleet_writer": ((most("p99_us", 3, "fleet_idle"),), ()),
    "fleet_idle": ((), ()),
    "fleet_blocked": ((most("seconds", 0.05),), ()),
    "fleet_status": ((most("p50_us", 1_000_000), most("rss_mb", 150)), ()),
    "member_reports": ((rate(4_000),), (rate(8_000),)),
    "fixture": ((most("p50_us", 20_000),), (most("p99_us", 20_000),)),
    "testdata": ((rate(100_000),), ()),
}
for _size in ("10k", "100k", "1m"):
    FIGURES[f"open_{_size}"] = ((most("seconds", 0.1),), ())
    FIGURES[f"open_{_size}_killed"] = ((most("seconds", 0.6),), ())

# The main figure of a bench, if it is not the rate.
_LASTING = ("open_", "migrate_add", "migrate_switch", "fleet")
UNITS = {name: "seconds" for name in FIGURES if name.startswith(_LASTING)}
_WAITED_FOR = (
    "latency",
    "fan_out",
    "fleet_writer",
    "fleet_idle",
    "fleet_status",
    "console",
    "fixture",
    "prove",
    "history_row",
    "at_get",
    "now_get",
)
UNITS |= {name: "p50_us" for name in FIGURES if name.startswith(_WAITED_FOR)}
