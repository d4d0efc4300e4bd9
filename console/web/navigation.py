"""Navigation: the sections of a database that an identity may see, and what needs attention in each.

Both are kept for a few seconds, so that a page costs no more calls than its own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from everlog.console.web import overview
from everlog.console.web.format import href
from everlog.console.web.page import View
from everlog.console.web.session import Session
from everlog.store.errors import Error

KNOWN_S = 10.0


class Section(NamedTuple):
    """A part of the navigation: the last part of its path, title, the paths of its icon, and the rights of
    which it needs one; none: any right in the database."""

    key: str
    title: str
    icon: str
    rights: frozenset[str] = frozenset()


SECTIONS = (
    Section("migrations", "Migrations", "M3 4h7M3 8h10M3 12h6M11.5 2.5l2 1.5-2 1.5"),
    Section("tables", "Tables", "M2.5 3h11v10h-11zM2.5 6.5h11M6.5 6.5v6.5"),
    Section("log", "Log", "M4 2.5v11M7 4h6.5M7 8h6.5M7 12h6.5M2.7 4h2.6M2.7 8h2.6M2.7 12h2.6"),
    Section("load", "Load", "M8 2v8M5 7l3 3 3-3M2.5 13h11", frozenset({"load"})),
    Section("consumers", "Consumers", "M2.5 8h7M7 5l3 3-3 3M12.5 3v10", frozenset({"consumers", "status"})),
    Section(
        "people",
        "People",
        "M8 7.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5M3 13.5c.4-2.6 2.4-4 5-4s4.6 1.4 5 4",
        frozenset({"forget", "audit", "status"}),
    ),
    Section(
        "access",
        "Access",
        "M5.5 8.5a2.75 2.75 0 1 1 2.3-1.2L13.5 13v-2M11 10.5l-1.5 1.5",
        frozenset({"audit"}),
    ),
    Section(
        "admin", "Admin", "M2.5 4.5h5M10.5 4.5h3M2.5 11.5h3M8.5 11.5h5M9 3v3M7 10v3", frozenset({"status"})
    ),
)


# Of the whole server, if one of its databases is the ledger of a fleet.
FLEET = Section("fleet", "Fleet", "M2.5 2.5h4v4h-4zM9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 9.5h4v4h-4z")


class Known(NamedTuple):
    """What is known of a database: the rights of the identity (None: unknown), and the number of things that
    need attention, by section."""

    until: float
    rights: frozenset[str] | None
    counts: Mapping[str, int]


class Navigation:
    """The navigation of one console. Thread-safe."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Session, dict[str, Known]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget what is known: a form may have changed it."""
        with self._lock:
            self._known.clear()

    def sections(self, view: View, session: Session, database: str) -> list[dict[str, Any]]:
        """Return the sections of a database for a page."""
        known, path = self._of(view, session, database), view.request.url.path
        ledgers = _ledgers(session)
        fleets = [
            {
                "key": FLEET.key,
                "title": FLEET.title,
                "icon": FLEET.icon,
                "href": href(FLEET.key),
                "count": sum(self._of(view, session, name).counts.get(FLEET.key, 0) for name in ledgers),
                "current": bool(view.database)
                and path.startswith((href(FLEET.key), href("db", view.database, FLEET.key))),
            }
        ]
        found = [
            {
                "key": one.key,
                "title": one.title,
                "icon": one.icon,
                "href": href("db", database, one.key),
                "count": known.counts.get(one.key, 0),
                "current": bool(view.database)
                and path.startswith((href("db", view.database, one.key), href(one.key))),
            }
            for one in SECTIONS
            if not one.rights or known.rights is None or one.rights & known.rights
        ]
        return [*found, *fleets] if ledgers else found

    def _of(self, view: View, session: Session, database: str) -> Known:
        with self._lock:
            found = self._known.get(session, {}).get(database)
        if found is not None and time.monotonic() < found.until:
            return found
        found = _read(view, session, database)
        with self._lock:
            self._known.setdefault(session, {})[database] = found
        return found


def _ledgers(session: Session) -> list[str]:
    try:
        return session.ledgers()
    except Error:
        return []


def _read(view: View, session: Session, database: str) -> Known:
    rights: frozenset[str] | None = None
    counts = Counter[str]()
    try:
        rights = frozenset(session.database(database).access.whoami().rights)
        if "status" in rights:
            _, things = overview.described(view, database, time.time_ns())
            counts.update(one["section"] for one in things if one["kind"] != "info")
    except Error:
        pass
    return Known(time.monotonic() + KNOWN_S, rights, counts)
