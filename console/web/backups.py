"""Backups: the backup of a database, and the commands that restore it to a commit.

/db/{database}/admin/backups          the backup, and restoring
    ?at=963534                        to a commit; ?time= and ?ms= lead to one, as in asof.py
POST /db/{database}/admin/backup      copies new commits to the backup
POST /db/{database}/admin/verify      verifies every record of the backup

A backup is where the operator of the console says (`--backup-at`): a page cannot name another place, because
it would be written with the rights of the console's process. A restore makes a new database, in a directory
of a machine: the page shows the command.
"""

from __future__ import annotations

from shlex import quote

import msgspec
from starlette.responses import Response

from everlog.audit.verify_backup import verify_backup
from everlog.console.output import size
from everlog.console.web import asof as asof_
from everlog.console.web.admin import TABS, start
from everlog.console.web.jobs import Job
from everlog.console.web.page import Page, View, answered, route
from everlog.store.errors import quantity

SEGMENTS = 20  # on the page


def backups(view: View) -> Page | Response:
    if (answer := asof_.redirected(view)) is not None:
        return answer
    where, status = asof_.asof(view), view.db.admin.status()
    found = view.console.backups.of(view.database)
    may, to, name = "backup" in view.rights, where.values["at"] or status.head, quote(view.database)
    url, source = view.db.url, found.target if found else f"{view.database}.backup"
    values = {
        "head": status.head,
        "backup": None
        if found is None
        else {
            "target": found.target,
            "seq": found.seq,
            "time_ns": found.time_ns,
            "bytes": found.bytes,
            "segments": len(found.segments),
            "hashes_seq": found.hashes_seq,
            "error": found.error,
            "missing": max(0, status.head - found.seq),
        },
        "at": where.values["at"] or None,
        "restore": f"everlog restore {quote(source)} {name}-{to}.db --at {to}",
        "rebuild": f"everlog rebuild --from {quote(url)} --into {name}-{to}.db --at {to}",
        "copy": f"everlog -u {quote(url)} backup {name}.backup",
    }
    shown = {
        "tabs": TABS,
        "tab": "backups",
        "asof": where.values,
        "to": to,
        "may_backup": may,
        "segments_shown": found.segments[-SEGMENTS:][::-1] if found is not None and may else (),
    }
    return Page("backups.html", values, 200, shown)


def backup(view: View) -> Page | Response:
    db, known, name = view.db, view.console.backups, view.database

    def begin() -> Response:
        target = known.target(name)

        def work(job: Job) -> str:
            done = db.archive.backup(target, progress=job.report)
            known.changed(name)
            if not done.records:
                return f"Nothing new: the backup has every commit up to {done.last:,}."
            return (
                f"{quantity(done.records, 'commit')} copied, {size(done.written_bytes)}, up to {done.last:,}."
            )

        return start(view, "backup", "backup", "Backup", work)

    return answered(view, begin, backups)


def verify(view: View) -> Page | Response:
    deep = view.field("deep") == "1"

    def begin() -> Response:
        target = view.console.backups.target(view.database)

        def work(job: Job) -> str:
            for problem in verify_backup(target, deep=deep, progress=job.report):
                job.problem(problem)
            return "" if job.found else "Every record of the backup is unchanged."

        title = "Deep verification of the backup" if deep else "Verification of the backup"
        return start(view, "backup", "verify", title, work)

    return answered(view, begin, backups)


def settings(view: View) -> Page:
    """Show the settings of the server to those whom it shows its connections: they have the right `admin` in
    all of its databases."""
    setup, allowed = view.console.setup, bool(view.db.admin.calls().connections_max)
    values = {
        "settings": msgspec.to_builtins(setup.settings) if allowed else [],
        "urls": dict(setup.urls) if allowed else {},
    }
    return Page("settings.html", values, 200, {"tabs": TABS, "tab": "settings", "allowed": allowed})


ROUTES = [
    *route("/db/{database}/admin/backups", backups, "GET"),
    *route("/db/{database}/admin/backup", backup, "POST"),
    *route("/db/{database}/admin/verify", verify, "POST"),
    *route("/db/{database}/admin/settings", settings, "GET"),
]
