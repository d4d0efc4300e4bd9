"""As-of: the position in the log that a page shows, chosen with a slider over the commits of the log.

?at=963534                  as of a commit: the form in which addresses are shared
?time=2026-02-18T09:11Z     as of a time or, in digits alone, a commit; or ?ms=… of the slider: leads to the
                            commit of that time
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from starlette.responses import Response

from everlog.console.web import plots
from everlog.console.web.page import View, redirect
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.history import RemoteMoment
from everlog.store.errors import AccessError, Error

WIDTH, HEIGHT = 720, 36
MS_NS = 10**6
AGO = (("1 h ago", 3600), ("1 d ago", 86_400), ("7 d ago", 7 * 86_400), ("30 d ago", 30 * 86_400))  # links


class AsOf(NamedTuple):
    """Where a page reads. `moment` None: now."""

    moment: RemoteMoment | None
    values: dict[str, Any]


def redirected(view: View) -> Response | None:
    """Return the redirect from a time to the commit of that time, if the query has a time. Raises
    CursorError, RowError."""
    text, slider = view.query("time").strip(), view.whole("ms")
    if not text and not slider:
        return None
    if (digits := text.replace(",", "")).isdecimal() and digits.isascii() and len(digits) < 20:
        seq = view.db.at(seq=int(digits)).seq
    elif text:
        seq = view.db.at(time=text).seq
    else:
        (seq,), ends = view.console.known.at(view.db, [slider * MS_NS + MS_NS - 1])
        seq = max(seq, ends.oldest)
        if seq >= ends.head:
            return redirect(view.href(time=None, ms=None, at=None))
    return redirect(view.href(time=None, ms=None, at=seq))


def asof(view: View) -> AsOf:
    """Return where the page reads. Raises CursorError for a position that the log does not have."""
    found = moment(view)
    return AsOf(found, described(view.console.known, view.db, found))


def moment(view: View) -> RemoteMoment | None:
    """Return the moment in the query; None: now. Raises CursorError."""
    seq = view.whole("at")
    return view.db.at(seq=seq) if seq else None


def described(known: plots.Known, db: RemoteDatabase, moment: RemoteMoment | None) -> dict[str, Any]:
    """Return what the panel of the slider shows. Without the right on the state of the database it has no
    plot."""
    found: dict[str, Any] = {"at": moment.seq if moment else 0, "at_ns": moment.time_ns if moment else 0}
    try:
        commits = known.whole(db)
    except AccessError:
        return {**found, "plot": None}
    at_ns = moment.time_ns if moment else commits.head_ns
    if moment is not None:
        found["actor"], found["reason"] = _who(db, moment.seq)
    found["plot"] = {
        "oldest": commits.oldest,
        "oldest_ns": commits.oldest_ns,
        "head": commits.head,
        "head_ns": commits.head_ns,
        "middle_ns": (commits.oldest_ns + commits.head_ns) // 2,
        "ago": ago(commits.oldest_ns, time.time_ns()),
        "low": commits.oldest_ns // MS_NS,
        "high": commits.head_ns // MS_NS,
        "value": at_ns // MS_NS,
        "bars": plots.bars(commits, WIDTH, HEIGHT, at_ns),
        "width": WIDTH,
        "height": HEIGHT,
    }
    return found


def ago(oldest_ns: int, now_ns: int) -> list[str]:
    """Return the times, as people type them, to which a log reaches back."""
    return [text for text, seconds in AGO if now_ns - seconds * 10**9 >= oldest_ns]


def _who(db: RemoteDatabase, seq: int) -> tuple[str, str]:
    try:
        entry = next(db.past.log(after=seq - 1, until=seq, limit=1), None)
    except Error:
        return "", ""
    return (entry.actor, entry.reason) if entry is not None else ("", "")
