"""Overview: all databases of the server, what needs attention first.

    /                       all databases
        ?range=1h           of the plot: 15m, 1h, 24h or 30d

What the identity may not see is left out: without the right on the state of a database, only its name is
shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from everlog.console.output import size
from everlog.console.web import fleet, fleet_plans, plots
from everlog.console.web.format import duration, href, number
from everlog.console.web.page import Page, View, route, thing
from everlog.console.web.setup import Copied
from everlog.migrations.proposal import Proposal, ProposalState
from everlog.migrations.status import MigrationInfo, State
from everlog.store.errors import AccessError, RowError, UnavailableError, quantity
from everlog.store.upkeep.consumers import Consumer
from everlog.store.upkeep.samples import Sample
from everlog.store.upkeep.status import Status

RANGES = {"15m": 900, "1h": 3600, "24h": 86_400, "30d": 30 * 86_400}
RANGE = "1h"
WIDTH, HEIGHT, SIZES_HEIGHT = 720, 216, 72
SPARK_WIDTH, SPARK_HEIGHT, SPARK_BUCKETS = 96, 22, 30
STUCK_S, BEHIND_S = 86_400.0, 60.0
DAY_S, GROWTH_S, BACKUP_S = 86_400.0, 600.0, 2 * 86_400.0
MIGRATIONS = 6

# The order of attention.
URGENCY = ("danger", "waiting", "info")


def overview(view: View) -> Page:
    chosen = view.query("range", RANGE)
    if chosen not in RANGES:
        raise RowError(f"expected a range of {', '.join(RANGES)}, found {chosen[:40]!r}")
    now_ns, found, attention = time.time_ns(), list[dict[str, Any]](), list[dict[str, str]]()
    lines, known = list[tuple[str, plots.Commits]](), view.console.known
    times, taken = plots.times_of(RANGES[chosen], now_ns), list[list[Sample]]()
    for name in view.session.databases():
        try:
            db = view.session.database(name)
            one, things = described(view, name, now_ns)
        except (AccessError, UnavailableError) as error:
            found.append({"name": name, "error": str(error), "state": "Not visible", "kind": ""})
            continue
        attention += things
        try:
            commits = known.recent(db, RANGES[chosen], now_ns=now_ns)
            spark = known.recent(db, RANGES[chosen], now_ns=now_ns, buckets=SPARK_BUCKETS)
        except AccessError:
            pass
        else:
            lines.append((name, commits))
            one["rate"] = commits.rates[-2] if len(commits.rates) > 1 else 0.0
            one["spark"] = plots.line(spark.rates, SPARK_WIDTH, SPARK_HEIGHT - 2, plots.top_of(spark.rates))
        taken.append(plots.samples_of(db, times[0], points=2 * plots.BUCKETS))
        found.append(one)
    attention.sort(key=lambda thing: URGENCY.index(thing["kind"]))
    values = {
        "range": chosen,
        "databases_shown": found,
        "attention": attention,
        "commits": {name: {"width_s": one.width_ns / 1e9, "counts": one.counts} for name, one in lines},
    }
    shown = {
        "ranges": list(RANGES),
        "plot": _plot(lines),
        "disk": _disk([one for one in found if "log_bytes" in one]),
        "sizes": _sizes(taken, times),
        "consumers": [(one["name"], each) for one in found for each in one.get("consumers", ())],
        "migrations": _newest([(one["name"], each) for one in found for each in one.get("migrations", ())]),
    }
    return Page("overview.html", values, 200, shown)


def _newest(found: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    waiting = [one for one in found if one[1]["kind"] != "ok"]
    done = sorted((one for one in found if one[1]["kind"] == "ok"), key=lambda one: -one[1]["applied_ns"])
    return [*waiting, *done][: max(MIGRATIONS, len(waiting))]


def described(
    view: View, name: str, now_ns: int, status: Status | None = None
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return a database as JSON values, and what needs attention in it, the most urgent first. `status`: its
    known state. Raises AccessError, UnavailableError."""
    db = view.session.database(name)
    status = db.admin.status() if status is None else status
    consumers = _optional(lambda: list(db.consumers)) or []
    copied = view.console.backups.of(name)
    infos = _optional(db.migrations.status) or []
    proposals = _optional(db.migrations.proposals) or []
    things = [
        {**one, "section": section}
        for section, those in (
            ("admin", _of_status(name, status, now_ns)),
            ("consumers", _of_consumers(name, consumers)),
            ("migrations", _of_migrations(name, infos)),
            ("migrations", _of_proposals(name, proposals, now_ns)),
            ("admin", _of_backup(name, copied, status.head, now_ns)),
            ("admin", _of_jobs(view, name)),
            ("fleet", _of_fleet(view, name)),
        )
        for one in those
    ]
    things.sort(key=lambda one: URGENCY.index(one["kind"]))
    worst = things[0] if things else None
    found = {
        "name": name,
        "error": "",
        "state": "Healthy" if worst is None else worst["badge"],
        "kind": "ok" if worst is None else worst["kind"],
        "schema_version": status.schema_version,
        "rows": sum(one.rows for one in status.tables),
        "tables": len(status.tables),
        "disk_bytes": status.disk_bytes,
        "head": status.head,
        "head_time_ns": status.head_time_ns,
        "oldest": status.oldest,
        "production": status.production,
        "read_only": status.read_only,
        "archived_ns": status.archive.archived_ns,
        "archive_target": status.archive.target,
        "durability": status.durability,
        "backup_ns": copied.time_ns if copied is not None else None,
        "log_bytes": status.log_bytes,
        "table_bytes": sum(one.bytes for one in status.tables),
        "index_bytes": sum(sum(one.index_bytes) for one in status.tables),
        "grown_bytes": _grown(status),
        "software": status.software,
        "rate": None,
        "spark": "",
        "consumers": [_consumer(one) for one in consumers],
        "migrations": [_migration(one) for one in infos],
    }
    return found, things


def _optional(call: Any) -> Any:
    """Return what a call returns; None without the right to it, or at an older server."""
    try:
        return call()
    except (AccessError, UnavailableError):
        return None


def _of_status(name: str, status: Status, now_ns: int) -> Iterator[dict[str, str]]:
    if status.writes.error:
        since = duration((now_ns - status.writes.since_ns) / 1e9) if status.writes.since_ns else ""
        title = f"{name} refuses writes" + (f" since {since}" if since else "")
        yield thing("danger", "Read-only", title, status.writes.error)
    if status.archive.error:
        yield thing("danger", "Archive", f"The archive of {name} fails", status.archive.error)
    if status.consumers.error:
        title = f"Positions of consumers of {name} are unknown"
        yield thing("danger", "Consumers", title, status.consumers.error)
    if status.clock.ahead_s and not status.clock.corrected:
        title = f"The log of {name} is {duration(status.clock.ahead_s)} ahead of its clock"
        yield thing("waiting", "Clock", title, "Check the clock of its machine, then run everlog clock.")
    if status.expiry.jumped_s:
        words = f"The clock jumped by {duration(status.expiry.jumped_s)}. Confirm it with everlog expire."
        yield thing("waiting", "Expiry", f"Rows of {name} do not expire", words)
    for sentence in status.warnings:
        yield thing("waiting", "Warning", f"{name}: a task for its operator", sentence)


def _grown(status: Status) -> dict[str, float]:
    """Return by how many bytes log and tables grow in a day."""
    day = next((one for one in status.log_growth if one.seconds >= DAY_S), None)
    found = {"log": day.bytes * DAY_S / day.seconds} if day is not None else {}
    if status.grown_s >= GROWTH_S:
        found["tables"] = sum(one.grown_bytes for one in status.tables) * DAY_S / status.grown_s
    return found


def _of_backup(name: str, copied: Copied | None, head: int, now_ns: int) -> Iterator[dict[str, str]]:
    if copied is None:
        return
    link = {"href": href("db", name, "admin", "backups")}
    age_s = (now_ns - copied.time_ns) / 1e9
    if copied.error:
        yield thing("danger", "Backup", f"The backup of {name} cannot be read", copied.error, **link)
    elif head > copied.seq and age_s > BACKUP_S:
        title = f"{name} has no backup yet"
        if copied.seq:
            title = f"The backup of {name} is {duration(age_s)} old"
        words = f"It lacks {quantity(head - copied.seq, 'commit')}."
        yield thing("waiting", "Backup", title, words, action="Back up", **link)


def _of_jobs(view: View, name: str) -> Iterator[dict[str, str]]:
    """Yield what failed the last time that it ran from this console."""
    seen = set[str]()
    for job in view.console.jobs.of(name):
        if job.kind in seen or job.running or not job.visible_to(view.session):
            continue
        seen.add(job.kind)
        kind, state = job.state
        if kind == "danger":
            words = job.error or f"{quantity(job.found, 'problem')} found. The first: {job.problems[0]}"
            link = {"href": href("db", name, "admin", "job", id=job.id)}
            title = f"{job.title} of {name} {'failed' if job.error else 'found problems'}"
            yield thing("danger", state, title, words, **link)


def _of_fleet(view: View, name: str) -> list[dict[str, str]]:
    if name not in view.session.ledgers():
        return []
    found = _optional(lambda: list(fleet.attention(view.session, name))) or []
    return [*found, *(_optional(lambda: fleet_plans.attention(view.session, name)) or [])]


def _of_consumers(name: str, consumers: list[Consumer]) -> Iterator[dict[str, str]]:
    for one in consumers:
        lag = f"It is {quantity(one.lag_records, 'commit')} behind"
        if one.over:
            words = f"{lag}, over its cap of {one.over}. Archiving may remove what it has not read."
            title = f"Nothing is held for consumer {one.name} of {name}"
            yield thing("danger", "Dropped", title, words, href=consumer_href(name, one.name))
        elif one.lag_s > STUCK_S:
            words = f"{lag}. {size(one.held_bytes)} of log is held for it and cannot be archived."
            title = f"Consumer {one.name} of {name} is {duration(one.lag_s)} behind"
            yield thing("danger", "Stuck", title, words, href=consumer_href(name, one.name))


def _of_migrations(name: str, infos: list[MigrationInfo]) -> Iterator[dict[str, str]]:
    for info in infos:
        where = href("db", name, "migrations", info.version)
        if info.stopped:
            title = f"Migration {info.title} of {name} does not continue"
            yield thing("danger", "Stopped", title, info.stopped, href=where)
        elif info.held:
            words = "Complete it to stop serving the previous version, or roll it back."
            title = f"{name} serves two versions, during {info.title}"
            yield thing("info", "Two versions", title, words, href=where, action="Decide")
        elif info.prepared:
            words = f"It is built, and waits for decision {info.decision}."
            title = f"Migration {info.title} of {name} is prepared"
            yield thing("waiting", "Prepared", title, words, href=where)
        elif info.state is State.BUILDING or info.rolling_back:
            words = f"{number(info.rows)} of {quantity(info.total, 'row')} done."
            verb = "is being rolled back" if info.rolling_back else "is running"
            yield thing("info", "Running", f"Migration {info.title} of {name} {verb}", words, href=where)


def _of_proposals(name: str, proposals: list[Proposal], now_ns: int) -> Iterator[dict[str, str]]:
    for one in proposals:
        if one.state is ProposalState.WAITING:
            by = f"{one.proposed.actor} proposed it" if one.proposed.actor else "It was proposed"
            ago = duration((now_ns - one.proposed.time_ns) / 1e9)
            errors, findings = (
                quantity(len(one.plan.errors), "error"),
                quantity(len(one.plan.findings), "finding"),
            )
            title = f"A migration of {name} to {one.plan.to_version} waits for approval"
            url = href("migrations", one.digest.hex())
            words = f"{by} {ago} ago; {errors}, {findings} of lint."
            yield thing("waiting", "Waiting", title, words, href=url, action="Review")


def consumer_href(database: str, name: str) -> str:
    """Return the URL of a consumer's page."""
    return href("db", database, "consumers", "one", name=name)


def state_of(one: Consumer) -> tuple[str, str]:
    """Return the kind and the word of a consumer's badge."""
    if one.over:
        return "danger", "Dropped"
    if one.lag_s > STUCK_S:
        return "danger", "Stuck"
    if one.lag_s > BEHIND_S:
        return "waiting", "Behind"
    return "ok", "Following" if one.lag_records else "Up to date"


def _consumer(one: Consumer) -> dict[str, Any]:
    kind, state = state_of(one)
    return {
        "name": one.name,
        "kind": kind,
        "state": state,
        "position": one.position.seq,
        "lag_records": one.lag_records,
        "lag_s": one.lag_s,
        "held_bytes": one.held_bytes,
        "owner": one.owner,
    }


def _word(one: MigrationInfo) -> str:
    if one.held or one.prepared:
        return "two versions" if one.held else "prepared"
    return "applied" if one.state is State.AHEAD else str(one.state)


def _migration(one: MigrationInfo) -> dict[str, Any]:
    kinds = {State.APPLIED: "ok", State.AHEAD: "ok", State.PENDING: "waiting", State.BUILDING: "info"}
    return {
        "version": one.version,
        "name": one.name,
        "state": _word(one),
        "kind": "info" if one.held else "waiting" if one.prepared else kinds.get(one.state, "danger"),
        "applied_ns": one.applied_ns,
        "actor": one.actor,
    }


def _plot(lines: list[tuple[str, plots.Commits]]) -> dict[str, Any] | None:
    """Return the plot of all databases together, and of the busiest alone."""
    if not lines:
        return None
    count = min(len(one.counts) for _, one in lines)
    every = [sum(one.rates[-count:][at] for _, one in lines) for at in range(count)][:-1]
    name, busiest = max(lines, key=lambda one: sum(one[1].counts))
    alone = busiest.rates[-count:][:-1] if len(lines) > 1 else []
    top = plots.top_of(every)
    peak = max(every, default=0.0)
    start_ns = busiest.end_ns - count * busiest.width_ns
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "top": top,
        "area": plots.area(every, WIDTH, HEIGHT, top),
        "line": plots.line(every, WIDTH, HEIGHT, top),
        "second": plots.line(alone, WIDTH, HEIGHT, top),
        "second_name": name,
        "second_now": alone[-1] if alone else 0.0,
        "now": every[-1] if every else 0.0,
        "peak": peak,
        "peak_ns": start_ns + (every.index(peak) if every else 0) * busiest.width_ns,
        "ticks": [start_ns + part * count * busiest.width_ns // 4 for part in range(4)],
    }


def _sizes(taken: list[list[Sample]], times: list[int]) -> dict[str, Any] | None:
    """Return the plot of the bytes of all databases over time."""
    parts: tuple[tuple[str, Callable[[Sample], float]], ...] = (
        ("Log", lambda one: one.log_bytes),
        ("Tables", lambda one: one.table_bytes),
        ("Indexes", lambda one: one.index_bytes),
    )
    named = []
    for title, value in parts:
        each = [plots.series(one, value, times) for one in taken if one]
        sums = [
            sum(filter(None, at)) if any(v is not None for v in at) else None
            for at in zip(*each, strict=True)
        ]
        named.append((title, sums or [None] * len(times)))
    return plots.lines(named, times, width=WIDTH, height=SIZES_HEIGHT)


def _disk(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the bar and the lines of the disk of all databases."""
    if not found:
        return None
    log, tables, indexes = (sum(one[f"{part}_bytes"] for one in found) for part in ("log", "table", "index"))
    total = max(sum(one["disk_bytes"] for one in found), log + tables + indexes, 1)
    parts, x = [], 0.0
    for place, (title, count, grown) in enumerate(
        (
            ("Log", log, "log"),
            ("Tables", tables, "tables"),
            ("Indexes", indexes, ""),
            ("Other files", total - log - tables - indexes, ""),
        )
    ):
        width = count * 100 / total
        a_day = sum(one["grown_bytes"].get(grown, 0) for one in found)
        known_day = any(grown in one["grown_bytes"] for one in found)
        parts.append(
            {
                "title": title,
                "bytes": count,
                "class": f"c{place + 1}",
                "x": round(x, 2),
                "width": round(width, 2),
                "a_day": a_day if known_day else None,
            }
        )
        x += width
    return {"total": total, "parts": parts}


ROUTES = [*route("/", overview), *route("/overview", overview)]
