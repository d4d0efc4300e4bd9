"""People: tables whose rows are sealed, all data about one person, and forgetting them.

/db/{database}/people              sealed tables, and the form to find a person
POST /db/{database}/people/person  what the database has of one person, and what forgetting leaves
POST /db/{database}/people/export  the same data as a JSON file
POST /db/{database}/people/forget  deletes the rows and destroys the key
POST /db/{database}/people/readable, /rotate    jobs

Persons are named in forms, and never in an address: addresses are kept in histories and logs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from everlog.console import output
from everlog.console.web.admin import start
from everlog.console.web.jobs import Job
from everlog.console.web.page import JSON_TYPE, Page, View, answered, render, route
from everlog.console.web.tables import encoded_key
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import RowError, quantity
from everlog.store.schema.descriptors import descriptor_of, dotted, resolve
from everlog.store.schema.schema import TableInfo
from everlog.store.upkeep.personal_data import elements

SEQS = 50  # of commits, on the page
TAIL_BYTES = 64 << 10  # of an export, which have the state of the key


def people(view: View) -> Page:
    schema, status = view.db.refresh_schema(), view.db.admin.status()
    counts = {one.name: one.rows for one in status.tables}
    sealed = [info for _, info in sorted(schema.tables.items()) if info.sealed]
    jobs = [one for one in view.console.jobs.of(view.database) if one.kind in {"readable", "rotate"}]
    values = {
        "tables": [
            {
                "name": info.name,
                "rows": counts.get(info.name, 0),
                "person": _person_field(info),
                "key": [dotted(path) for path in info.key_fields],
            }
            for info in sealed
        ],
        "jobs": [one.told() for one in jobs if one.session is view.session],
    }
    shown = {
        "may_forget": "forget" in view.rights,
        "may_read": bool({"forget", "audit"} & view.rights),
        "may_rotate": "admin" in view.rights,
    }
    return Page("people.html", values, 200, shown)


def _person_field(info: TableInfo) -> str:
    return dotted(_person_path(info))


def _person_path(info: TableInfo) -> Any:
    return resolve(descriptor_of(info.model), info.proto.person.numbers)


def _who(view: View, db: RemoteDatabase) -> tuple[str, dict[str, Any], str]:
    """Return table and person of a form, as arguments of `People`, and the word that confirms. Raises
    RowError, SchemaError."""
    table, key, person = view.field("table"), view.field("key").strip(), view.field("person")
    info = db.refresh_schema().table(table)
    if not info.sealed:
        raise RowError(f"the rows of {table} are not sealed, so it knows no persons")
    if bool(key) == bool(person):
        raise RowError("expected the key of a row, or the value that names the person; fill in one of them")
    if key:
        return table, {"key": encoded_key(info, key.split("/"))}, key
    return table, {"person": output.values((_person_path(info),), (person,), "the person")}, person


class _Tail:
    """Pieces of an export; keeps the last bytes."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.last = b""

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.last = (self.last + piece)[-TAIL_BYTES:]
            yield piece

    @property
    def key(self) -> dict[str, Any]:
        """The state of the person's key, with which every export ends."""
        found = self.last.rpartition(b'"key":')[2].strip().removesuffix(b"}")
        try:
            decoded: dict[str, Any] = msgspec.json.decode(found)
        except msgspec.DecodeError:
            return {}
        return decoded


def person(view: View) -> Page | Response:
    def work() -> Response:
        return render(view, _held(view))

    return answered(view, work, people)


def _held(view: View) -> Page:
    """Return the page of what the database has of one person. Raises RowError if it has nothing."""
    table, who, word = _who(view, view.db)
    tail = _Tail(view.db.people.stream(table, **who))
    rows, versions, seqs, mentions = Counter[str](), Counter[str](), list[int](), list[dict[str, Any]]()
    for section, one in elements(tail):
        if section == "rows":
            rows[one["table"]] += 1
        elif section == "versions":
            versions[one["is"]] += 1
        elif section == "commits":
            seqs.append(one["seq"])
        elif section == "mentions":
            mentions.append(one)
    values = {
        "table": table,
        "rows": dict(sorted(rows.items())),
        "versions": sum(versions.values()),
        "open": versions["open"],
        "commits": len(seqs),
        "mentions": mentions[:SEQS],
        "mentions_count": len(mentions),
        "key_state": tail.key.get("state", "unknown"),
        "key_id": tail.key.get("id", ""),
        "given_to": tail.key.get("given_to", []),
    }
    shown = {
        "word": word,
        "seqs": seqs[-SEQS:],
        "personal_key": view.db.schema.table(table).key_is_personal,
        "fields": [(name, view.field(name)) for name in ("table", "key", "person") if view.field(name)],
    }
    return Page("person.html", values, 200, shown)


def export(view: View) -> Page | Response:
    def work() -> Response:
        table, who, _ = _who(view, view.db)
        pieces = view.db.people.stream(table, **who)
        headers = {"Content-Disposition": 'attachment; filename="person.json"'}
        return StreamingResponse(pieces, media_type=JSON_TYPE, headers=headers)

    return answered(view, work, people)


def forget(view: View) -> Page | Response:
    def work() -> Response:
        table, who, word = _who(view, view.db)
        reason = view.reason()
        view.check_typed(word)
        done = view.db.people.forget(table, **who, reason=reason)
        values = {
            "seq": done.seq,
            "key_id": done.key_id.hex(),
            "rows": done.rows,
            "remaining": msgspec.to_builtins(done.remaining),
        }
        return render(view, Page("forgotten.html", values))

    def again(view: View) -> Page:
        try:
            return _held(view)
        except RowError:
            return people(view)

    return answered(view, work, again)


def readable(view: View) -> Page | Response:
    db = view.db

    def work(job: Job) -> str:
        for one in db.people.readable():
            job.problem(one.text)
        return "" if job.found else "No personal data is readable without keys."

    right = "forget" if "forget" in view.rights else "audit"
    title = "Search for readable personal data"
    return answered(view, lambda: start(view, right, "readable", title, work), people)


def rotate(view: View) -> Page | Response:
    db = view.db

    def begin() -> Response:
        reason = view.reason()

        def work(job: Job) -> str:
            count = db.people.rotate_key(progress=job.report, reason=reason)
            if not count:
                return "All keys are under that master key already."
            return f"{quantity(count, 'key')} moved to the next master key. Use that one from now on."

        return start(view, "admin", "rotate", "Rotation of the master key", work)

    return answered(view, begin, people)


ROUTES = [
    *route("/db/{database}/people", people, "GET"),
    *route("/db/{database}/people/person", person, "POST"),
    *route("/db/{database}/people/export", export, "POST", twin=False),
    *route("/db/{database}/people/forget", forget, "POST"),
    *route("/db/{database}/people/readable", readable, "POST"),
    *route("/db/{database}/people/rotate", rotate, "POST"),
]
