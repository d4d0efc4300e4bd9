"""Benches: the list of benches: their subjects, full sizes, and functions."""

from collections.abc import Callable
from functools import partial

import msgspec

from benchmarks import (
    backup,
    commit,
    console,
    fan_out,
    feed,
    fleet,
    folders,
    history,
    latency,
    load,
    migrate,
    opening,
    proofs,
    read,
    rebuild,
    testing,
)
from benchmarks.measure import Measure, Run

Subject = Callable[[Run], "Measure | list[Measure]"]


class Bench(msgspec.Struct):
    """One bench, and one line of the report. `n`: its full size."""

    name: str
    n: int
    subjects: dict[str, Subject]


OPENED = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}

_ALL = [
    Bench(
        "commit",
        50_000,
        {
            "everlog": partial(commit.everlog, durability="os"),
            "sqlite": partial(commit.sqlite, synchronous="NORMAL"),
            "raw": commit.raw,
        },
    ),
    Bench(
        "commit_sync",
        2_000,
        {
            "everlog": partial(commit.everlog, durability="sync"),
            "sqlite": partial(commit.sqlite, synchronous="FULL"),
            "raw": partial(commit.raw, sync=True),
        },
    ),
    Bench(
        "commit_sync_8",
        16_000,
        {
            "everlog": partial(commit.everlog, durability="sync", threads=commit.THREADS),
            "sqlite": partial(commit.sqlite, synchronous="FULL", threads=commit.THREADS),
            "raw": partial(commit.raw, sync=True, threads=commit.THREADS),
        },
    ),
    Bench(
        "batch",
        200_000,
        {
            "everlog": commit.everlog_batch,
            "sqlite": commit.sqlite_batch,
            "raw": partial(commit.raw, size=commit.BATCH),
        },
    ),
    Bench("load", 1_000_000, {"everlog": load.everlog, "sqlite": load.sqlite, "raw": load.raw}),
    Bench("get", 200_000, {"everlog": read.everlog_get, "sqlite": read.sqlite_get, "raw": read.raw_get}),
    Bench(
        "get_by_index",
        200_000,
        {
            "everlog": read.everlog_get_by_index,
            "sqlite": read.sqlite_get_by_index,
            "raw": read.raw_get_by_index,
        },
    ),
    Bench("scan", 200_000, {"everlog": read.everlog_scan, "sqlite": read.sqlite_scan, "raw": read.raw_scan}),
    Bench("scan_index", 200_000, {"everlog": read.everlog_scan_index, "sqlite": read.sqlite_scan_index}),
    Bench("check", 1_000_000, {"everlog": read.everlog_check, "sqlite": read.sqlite_check}),
    Bench("feed", 1_000_000, {"everlog": feed.everlog, "raw": feed.raw}),
    Bench("latency", 2_000, {"everlog": latency.everlog, "raw": latency.raw}),
    Bench(
        "latency_remote",
        2_000,
        {
            "everlog": partial(latency.everlog, remote=True),
            "raw": partial(latency.raw, remote=True),
        },
    ),
    Bench("fan_out", 2_000, {"everlog": fan_out.everlog, "raw": fan_out.raw}),
    Bench("console", 1_000_000, {"everlog": console.pages}),
    Bench("console_live", 300, {"everlog": console.live}),
    Bench("rebuild_1000", 1_000_000, {"everlog": partial(rebuild.everlog, size=1000)}),
    Bench("rebuild_1", 200_000, {"everlog": partial(rebuild.everlog, size=1)}),
    *(
        Bench(
            f"backup_{size}",
            n,
            {"everlog": partial(backup.everlog, size=size), "copytree": partial(backup.copytree, size=size)},
        )
        for size, n in ((1000, 1_000_000), (1, 200_000))
    ),
    Bench("backup_more", 1_000_000, {"everlog": partial(backup.everlog_more, size=1000)}),
    Bench("history_row", 1_000_000, {"everlog": history.history_row}),
    *(Bench(f"at_get_{name}", n, {"everlog": history.at_get}) for name, n in OPENED.items()),
    Bench("catch_up", 1_000_000, {"everlog": history.catch_up}),
    Bench("commit_past", 50_000, {"everlog": history.commit_past}),
    Bench("merkle", 1_000_000, {"everlog": proofs.everlog_merkle, "raw": proofs.raw_merkle}),
    Bench("prove", 1_000_000, {"everlog": proofs.everlog_prove}),
    *(
        Bench(
            f"migrate_{change}",
            1_000_000,
            {
                "everlog": partial(migrate.everlog, change=change),
                "sqlite": partial(migrate.sqlite, change=change),
                "dbmate": partial(migrate.dbmate, change=change),
            },
        )
        for change in migrate.CHANGES
    ),
    Bench("migrate_beside", 200_000, {"everlog": migrate.beside}),
    Bench("fleet", 200, {"everlog": fleet.everlog}),
    Bench("fleet_status", 2_000, {"everlog": fleet.many}),
    *(
        Bench(
            f"{what}_{'applied' if applied else 'new'}",
            n,
            {"everlog": partial(folders.everlog, applied=applied, tables=what == "tables")},
        )
        for what, n in (("folders", 300), ("tables", 1000))
        for applied in (False, True)
    ),
    Bench("fixture", 200, {"everlog": testing.everlog_fixture, "sqlite": testing.sqlite_fixture}),
    Bench("testdata", 200_000, {"everlog": testing.everlog_testdata, "raw": testing.raw_testdata}),
    *(
        Bench(
            f"open_{name}{'_killed' if killed else ''}",
            n,
            {
                "everlog": partial(opening.everlog, killed=killed),
                "sqlite": partial(opening.sqlite, killed=killed),
            },
        )
        for name, n in OPENED.items()
        for killed in (False, True)
    ),
]
BENCHES = {bench.name: bench for bench in _ALL}
