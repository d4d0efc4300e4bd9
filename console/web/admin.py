"""Admin: the state of a database, checks and other long work, and the calls that its server runs.

/db/{database}/admin                  health, what failed lately, jobs, and forms to start them
POST /db/{database}/admin/check       also rebuild, archive, expire, clock, production
/db/{database}/admin/job?id=ID        one job: its progress, or its result
/db/{database}/admin/calls            what the server does now
    ?kill=ID                          the form to end a call
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response

from everlog.console.output import size
from everlog.console.web.format import href
from everlog.console.web.jobs import Job
from everlog.console.web.overview import described
from everlog.console.web.page import NotFoundError, Page, View, answered, route
from everlog.rpc.calls import RunningCall, WorkProgress
from everlog.store.errors import AccessError, RowError, quantity

DAY_NS = 86_400 * 10**9
JOBS = 10  # on the page

# The pages of this section.
TABS = (("", "State"), ("backups", "Backups"), ("calls", "Running calls"), ("settings", "Settings"))


def admin(view: View) -> Page:
    status = view.db.admin.status()
    _, attention = described(view, view.database, time.time_ns(), status)
    jobs = [job for job in view.console.jobs.of(view.database) if job.visible_to(view.session, view.rights)]
    values = {
        "health": msgspec.to_builtins(status.health),
        "read_only": status.read_only,
        "production": status.production,
        "head": status.head,
        "head_time_ns": status.head_time_ns,
        "oldest": status.oldest,
        "disk_bytes": status.disk_bytes,
        "log_bytes": status.log_bytes,
        "log_growth": msgspec.to_builtins(status.log_growth),
        "archive": msgspec.to_builtins(status.archive),
        "expiry": msgspec.to_builtins(status.expiry),
        "clock": msgspec.to_builtins(status.clock),
        "durability": status.durability,
        "software": status.software,
        "format": status.format,
        "attention": attention,
        "jobs": [job.told() for job in jobs[:JOBS]],
        "holds": _holds(view),
    }
    shown: dict[str, Any] = {
        "tabs": TABS,
        "tab": "",
        "running": any(job.running for job in jobs),
        "removable": None,
    }
    if "archive" in view.rights and (view.query("keep_days") or view.query("keep_records")):
        keep = _keep(view.query("keep_records"), view.query("keep_days"))
        last, held = view.db.archive.removable(**keep)
        shown["removable"] = {"records": max(0, last - status.archive.base) if last > 1 else 0, "held": held}
    return Page("admin.html", values, 200, shown)


def job_page(view: View) -> Page:
    job = view.console.jobs.get(view.query("id"))
    if job is None or job.database != view.database or not job.visible_to(view.session, view.rights):
        raise NotFoundError("this job is unknown; jobs are forgotten when the console starts again")
    return Page("job.html", job.told(), 200, {"tabs": TABS, "tab": "", "may_stop": job.kind in STOPPABLE})


def stop(view: View) -> Response:
    job = view.console.jobs.get(view.field("id"))
    if job is None or job.database != view.database or not job.visible_to(view.session, view.rights):
        raise NotFoundError("this job is unknown; it may have been forgotten")
    job.stop()
    return view.done(job_href(job), "The job stops at its next step.")


def job_href(job: Job) -> str:
    """Return the URL of a job's page."""
    return href("db", job.database, "admin", "job", id=job.id)


def _holds(view: View) -> dict[str, int]:
    try:
        return view.db.archive.holds()
    except AccessError:
        return {}


def _keep(records: str, days: str) -> dict[str, Any]:
    """Return what an archive keeps. Raises RowError."""
    found: dict[str, int] = {}
    for name, given, unit in (("keep_records", records, 1), ("keep_ns", days, DAY_NS)):
        word = given.replace(",", "").strip()
        try:
            value = float(word or 0)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e9:
            what = "days" if unit > 1 else "commits"
            raise RowError(f"expected {what} to keep as a number, found {word[:40]!r}")
        found[name] = int(value * unit)
    return found


# long work

STOPPABLE = frozenset({"check", "backup", "verify", "import", "testdata"})  # others continue at the server


def start(view: View, right: str, kind: str, title: str, work: Callable[[Job], str]) -> Response:
    """Start a job, and return the redirect to its page. Raises AccessError, ConflictError, LimitError."""
    view.need(right)
    return view.done(
        job_href(view.console.jobs.start(view.session, view.database, kind, title, work)),
        f"{title} has begun.",
    )


def check(view: View) -> Page | Response:
    db, deep = view.db, view.field("deep") == "1"

    def work(job: Job) -> str:
        for problem in db.admin.check(job.report, deep=deep):
            job.problem(problem)
        return "" if job.found else "No problems found."

    return answered(
        view, lambda: start(view, "check", "check", "Deep check" if deep else "Check", work), admin
    )


def rebuild(view: View) -> Page | Response:
    db = view.db

    def work(job: Job) -> str:
        tables = db.admin.rebuild(job.report)
        rows = sum(one.rows for one in tables.values())
        return f"{quantity(len(tables), 'table')} with {quantity(rows, 'row')} equal the log, and are in use."

    return answered(view, lambda: start(view, "rebuild", "rebuild", "Rebuild", work), admin)


def archive(view: View) -> Page | Response:
    db = view.db

    def begin() -> Response:
        keep = _keep(view.field("keep_records"), view.field("keep_days"))

        def work(job: Job) -> str:
            done = db.archive.move(progress=job.report, **keep)
            if not done.removed:
                return f"Nothing to archive: {done.held}."
            freed = size(max(0, done.bytes_before - done.bytes_after))
            return f"{quantity(done.removed, 'record')} archived, up to commit {done.base:,}; {freed} freed."

        return start(view, "archive", "archive", "Archive", work)

    return answered(view, begin, admin)


def expire(view: View) -> Page | Response:
    def work() -> Response:
        rows = view.db.admin.expire(confirm_time=view.field("confirm") == "1")
        return view.done(href("db", view.database, "admin"), f"{quantity(rows, 'row')} expired.")

    return answered(view, work, admin)


def correct_clock(view: View) -> Page | Response:
    def work() -> Response:
        seq = view.db.admin.correct_clock(reason=view.reason())
        words = f"Recorded in commit {seq:,}: the clock is correct." if seq else "The log is not ahead."
        return view.done(href("db", view.database, "admin"), words)

    return answered(view, work, admin)


def set_production(view: View) -> Page | Response:
    def work() -> Response:
        on = view.field("production") == "1"
        view.check_typed(view.database)
        view.db.admin.set_production(on, reason=view.reason())
        words = f"{view.database} is marked as production." if on else f"{view.database} is not production."
        return view.done(href("db", view.database, "admin"), words)

    return answered(view, work, admin)


def release(view: View) -> Page | Response:
    def work() -> Response:
        name = view.field("name")
        view.check_typed(name)
        view.db.archive.release(name, reason=view.reason())
        return view.done(href("db", view.database, "admin"), f"Hold {name} is released.")

    return answered(view, work, admin)


# running calls


def calls(view: View) -> Page:
    now = view.db.admin.calls()
    chosen = view.query("kill") or view.field("id")
    values = msgspec.to_builtins(now)
    values["calls"] = [{**one, "told": told(now.calls[at])} for at, one in enumerate(values["calls"])]
    shown = {
        "tabs": TABS,
        "tab": "calls",
        "chosen": next((one for one in now.calls if one.id and str(one.id) == chosen), None),
        "gone": bool(chosen) and not any(str(one.id) == chosen for one in now.calls),
        "progress_words": progress_words,
    }
    return Page("calls.html", values, 200, shown)


def kill(view: View) -> Page | Response:
    def work() -> Response:
        id = view.field("id")
        if not (id.isascii() and id.isdecimal() and len(id) < 20):
            raise RowError(f"expected the id of a call, found {id[:40]!r}")
        ended = view.db.admin.kill(int(id), reason=view.reason())
        return view.done(
            href("db", view.database, "admin", "calls"), f"Call {ended.id}, {ended.method}, was ended."
        )

    return answered(view, work, calls)


def told(one: RunningCall) -> str:
    """Return the state of a call in words."""
    found = one.state
    found += f": {one.waits_for}" if one.waits_for else ""
    found += f", {one.ahead:,} before it" if one.ahead else ""
    return found + (f", behind {', '.join(map(str, one.behind))}" if one.behind else "")


def progress_words(one: WorkProgress | dict[str, Any]) -> str:
    """Return the progress of work in words."""
    at = one if isinstance(one, dict) else msgspec.to_builtins(one)
    of = f" of {at['total']:,}" if at["total"] else ""
    return f"{at['step']}: {at['done']:,}{of} {at['unit']}"


ROUTES = [
    *route("/db/{database}/admin", admin, "GET"),
    *route("/db/{database}/admin/job", job_page, "GET"),
    *route("/db/{database}/admin/stop", stop, "POST"),
    *route("/db/{database}/admin/check", check, "POST"),
    *route("/db/{database}/admin/rebuild", rebuild, "POST"),
    *route("/db/{database}/admin/archive", archive, "POST"),
    *route("/db/{database}/admin/expire", expire, "POST"),
    *route("/db/{database}/admin/clock", correct_clock, "POST"),
    *route("/db/{database}/admin/production", set_production, "POST"),
    *route("/db/{database}/admin/release", release, "POST"),
    *route("/db/{database}/admin/calls", calls, "GET"),
    *route("/db/{database}/admin/kill", kill, "POST"),
]
