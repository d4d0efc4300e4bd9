"""Read audit: records the reads of tables that declare it, before they are answered.

    admit ─▶ is a table of the request audited? ─ no ─▶ nothing, after one look-up
                  └ yes ─▶ call.before ─▶ in the thread of the method, before it: ReadLog.append
                                            └ fails ─▶ the call fails, unanswered

A method reads if the proto says that it needs `read`, `history`, `feed` or `backup`, or if it exports a
person. Its tables, keys, ranges and moment are fields of its request, by name: a new method is recorded
without further code.

Invariants
  (1) the event loop decides by look-ups in memory, and writes nothing;
  (2) a read of an audited table that cannot be recorded is not answered.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from everlog.proto import access_pb2 as pb
from everlog.rpc.server.needs import Need
from everlog.store.database import Database
from everlog.store.errors import SchemaError
from everlog.store.schema.schema import TableInfo
from everlog.store.upkeep.read_audit import Reading, ReadLog, records_of
from everlog.store.upkeep.roles import Holder

READING = frozenset({pb.READ, pb.HISTORY, pb.FEED, pb.BACKUP})
WRITING = frozenset({pb.WRITE, pb.LOAD})
EXPORT = "/everlog.v1.People/Export"
NO_ROWS = frozenset({"/everlog.v1.History/At"})  # answers the schema of a moment
RANGES = ("start", "end")
STORE = "/everlog.v1.Store/"


class ReadAudits:
    """The read audits of a server's databases."""

    def __init__(self, databases: Mapping[str, Database], needs: Mapping[str, tuple[Need, ...]]) -> None:
        """`needs`: what each method needs, by path."""
        self._logs = {name: ReadLog(db.path, db.uuid) for name, db in databases.items()}
        self._databases = databases
        reading = {
            path
            for path, needed in needs.items()
            if WRITING.isdisjoint(needed[0].rights)
            and any(not READING.isdisjoint(need.rights) for need in needed)
        }
        self._reading = (reading | {EXPORT}) - NO_ROWS

    def close(self) -> None:
        """Wait until all records are on disk."""
        for log in self._logs.values():
            log.close()

    def before(
        self,
        path: str,
        holder: Holder,
        who: str,
        tables_of: Callable[[Any], Iterable[tuple[str, str]]] | None,
        request: Any,
    ) -> Callable[[], None] | None:
        """Return what has to run before a method, in a thread; None: nothing. `tables_of`: returns the tables
        that a request names, with operations."""
        database = request.database
        db = self._databases[database]
        state = db.access.state
        if path not in self._reading or not (state.audits or holder.audited):
            return None
        tables = [name for name, _ in tables_of(request)] if tables_of is not None else []
        ids = [state.id_of(name) for name in tables]
        is_now = path.startswith(STORE) and not getattr(
            request, "at_seq", 0
        )  # else a name may be of another table
        if not holder.audited and ids and is_now and all(id and id not in state.audits for id in ids):
            return None

        def record() -> None:
            found = []
            for info in _infos(db, tables, request, is_now=is_now):
                share = max(state.share(info.proto.id), holder.audited)
                if share and random.random() < share:  # noqa: S311  a sample
                    found += records_of(db.core, _reading(path, who, info, request), share)
            if found:
                self._logs[database].append(found)

        return record


def _infos(db: Database, names: list[str], request: Any, *, is_now: bool) -> Iterable[TableInfo]:
    """Return the tables that a request reads: those that it names, or all. In the past, a name may be that of
    several tables."""
    schema, at_seq = db.schema, getattr(request, "at_seq", 0)
    if not names:
        return schema.tables.values()
    found: dict[int, TableInfo] = {}
    for name in names:
        with contextlib.suppress(SchemaError):  # the method reports it
            if is_now or at_seq:
                then = db.past.schemas.at(at_seq) if at_seq else schema
                info = then.generation(name, getattr(request, "space", 0))
                found[info.proto.id] = info
                continue
            for one in db.past.schemas.ever(name, db.tables.applied).generations[::-1]:
                found[one.info.proto.id] = one.info
    return found.values()


def _reading(path: str, who: str, info: TableInfo, request: Any) -> Reading:
    """Return what a request reads of a table."""
    fields = request.DESCRIPTOR.fields_by_name
    keys = tuple(request.keys) if "keys" in fields else ()
    if "key" in fields and request.key:
        keys = (request.key,)
    start, end = (getattr(request, name) if name in fields else b"" for name in RANGES)
    return Reading(
        who,
        path.removeprefix("/everlog.v1."),
        info,
        request.index if "index" in fields else "",
        keys,
        start,
        end,
        request.at_seq if "at_seq" in fields else 0,
    )
