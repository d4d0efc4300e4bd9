"""Schemas: the schema in force at any seq of the log, and the lineage of a table.

    seq ─▶ the newest record at or before it with a schema ─▶ Schema

    airports, id 1     space 3 from record 2 ─▶ space 9 from record 640 (rewritten) ─▶ renamed at 812
                       `generations` of the table: where its rows were, and from when to when

A table that is rolled back and created again gets another id. Tables that had one name in schemas of one
version are the same table to a caller; one that has only the name in common, in another version, is not.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError
from everlog.store.schema import arguments
from everlog.store.schema.descriptors import version_of
from everlog.store.schema.schema import Schema, TableInfo

if TYPE_CHECKING:
    from everlog.store.log import Log
    from everlog.store.schema.schema import Binding
    from everlog.store.schema.table import Table
    from everlog.store.tables.tables import Tables

KEPT = 64  # schemas kept in memory


class Generation(NamedTuple):
    """A table while its rows were in one space: from the record at `start` to `end` (included). `info` is
    its last definition."""

    start: int
    end: int
    info: TableInfo


class TableLineage(NamedTuple):
    """The table that a constant or a name refers to, up to the record at `upto`: its generations, newest
    first."""

    generations: list[Generation]
    upto: int

    @property
    def info(self) -> TableInfo:
        """The table's last definition."""
        return self.generations[0].info

    def id_at(self, seq: int) -> int:
        """Return the table's id after the record at `seq`; 0: it did not exist."""
        found = (one for one in self.generations if one.start <= seq <= one.end)
        return next((one.info.proto.id for one in found), 0)

    def is_of(self, table: int, seq: int) -> bool:
        """Return whether the table with this id is this table at `seq`, or at any time if it did not exist
        at `seq`."""
        id = self.id_at(seq)
        return table == id if id else any(table == one.info.proto.id for one in self.generations)


class PastSchemas:
    """The schemas in the log of one open database. Read-only; safe to use from many threads."""

    def __init__(self, log: Log, tables: Tables) -> None:
        self._log = log
        self._tables = tables
        self._lock = threading.Lock()
        self._seqs: list[int] = []
        self._newest: Schema | None = None  # the schema in force when `_seqs` was read
        self._schemas: dict[int, Schema] = {}

    def seqs(self) -> list[int]:
        """Return the records that put a schema in force, oldest first."""
        now = self._tables.schema  # a new object after every record with a schema
        if now is self._newest:
            return self._seqs
        with self._lock:
            known, oldest = (self._seqs[-1] if self._seqs else 0), self._log.oldest
            found = [seq for seq in self._tables.migrations() if seq > known and seq >= oldest]
            if not known and self._log.commit(oldest).HasField("base"):
                found = [oldest, *(seq for seq in found if seq > oldest)]
            self._seqs = [*self._seqs, *(seq for seq in found if self._carried(seq) is not None)]
            self._newest = now
            return self._seqs

    def refresh(self) -> None:
        """As a reader beside a writer: read the records again, even if the schema in force is the same."""
        self._newest = None

    def at(self, seq: int) -> Schema:
        """Return the schema in force after the record at `seq`."""
        seqs = self.seqs()
        place = bisect_right(seqs, seq)
        return self._ready(seqs[place - 1]) if place else Schema(log_pb2.Schema())

    def _ready(self, seq: int) -> Schema:
        found = self._schemas.get(seq)
        if found is None:
            proto = self._carried(seq)
            assert proto is not None
            found = Schema(proto, self._tables.vault)
            with self._lock:
                while len(self._schemas) >= KEPT:
                    del self._schemas[next(iter(self._schemas))]
                self._schemas[seq] = found
        return found

    def _carried(self, seq: int) -> log_pb2.Schema | None:
        commit = self._log.commit(seq)
        if commit.HasField("base"):
            return commit.base.schema
        return commit.migration.schema if commit.migration.HasField("schema") else None

    def generations(self, table: int, upto: int) -> list[Generation]:
        """Return where the rows of the table with this id were, newest first, up to `upto`."""
        return self._generations(lambda then: _with_id(then, table), upto)

    def _generations(self, table_in: Callable[[Schema], TableInfo | None], upto: int) -> list[Generation]:
        found: list[Generation] = []
        seqs = [seq for seq in self.seqs() if seq <= upto]
        for seq, following in zip(seqs, [*seqs[1:], upto + 1], strict=True):
            info = table_in(self._ready(seq))
            if info is None:
                continue
            if found and found[-1].info.space == info.space and found[-1].end == seq - 1:
                found[-1] = Generation(found[-1].start, following - 1, info)
            else:
                found.append(Generation(seq, following - 1, info))
        return found[::-1]

    def with_id(self, table: int, seq: int) -> TableInfo | None:
        """Return the table with this id in the schema in force at `seq`."""
        return _with_id(self.at(seq), table)

    def lineage(self, table: Table[Any, Any] | str, upto: int) -> TableLineage:
        """Return the lineage of a constant or a name. Raises SchemaError if there never was such a table."""
        name = arguments.table_name(table)
        version = 0 if isinstance(table, str) else version_of(table.model)
        return self.named(name, version, upto)

    def named(self, name: str, version: int, upto: int) -> TableLineage:
        """Return the lineage of the table with this name in the schema of a version (0: of any)."""
        ids = self._ids(name, version, upto)
        if not ids:
            self.at(upto).table(name)  # raises it
        return TableLineage(self._generations(lambda then: _with_one_of(then, ids), upto), upto)

    def ever(self, name: str, upto: int) -> TableLineage:
        """Return the lineage of a name alone: at each moment the table with the name, else one that had
        it."""
        schemas = [self._ready(seq) for seq in self.seqs() if seq <= upto]
        ids = {one.tables[name].proto.id for one in schemas if name in one.tables}
        if not ids:
            self.at(upto).table(name)  # raises it
        return TableLineage(
            self._generations(lambda then: then.tables.get(name) or _with_one_of(then, ids), upto), upto
        )

    def bind(self, table: Table[Any, Any], seq: int) -> Binding:
        """Return the binding of a constant of any version, in the schema in force at `seq`. Raises
        SchemaError.

        The table is found by id, so one that was renamed since is the same. Constants newer than the rows
        work unless the rows were rewritten in between.
        """
        then = self.at(seq)
        known = then.bound.get(table)
        if known is not None:
            return known
        version = version_of(table.model)
        if table.name in then.tables and version <= then.version:
            return then.bind(table)
        binding = then.bound[table] = self.resolve(table.name, version, seq).bind(table.model)
        return binding

    def resolve(self, name: str, version: int, seq: int) -> TableInfo:
        """Return the table at `seq` that has this name in the schema of a version (0: of any). Raises
        SchemaError."""
        then, newest = self.at(seq), self._tables.applied
        info = then.tables.get(name)
        if info is not None and version <= then.version:
            return info
        info = _with_one_of(then, self._ids(name, version, newest))
        if info is None:
            raise SchemaError(
                f"there was no table {name!r} at record {seq} (schema version {then.version}); the"
                f" tables were: {', '.join(sorted(then.tables)) or 'none'}",
                table=name,
            )
        if version > then.version:
            self._check_rewritten(name, info, version, newest)
        return info

    def _ids(self, name: str, version: int, upto: int) -> set[int]:
        """Return the ids of the table with a name in the schema of a version, or else of the newest one
        with the name.

        Includes the ids of the tables it was created again as, and of those it replaces.
        """
        ids, names = defaultdict[tuple[str, int], set[int]](set), defaultdict[int, set[tuple[str, int]]](set)
        newest = set[int]()
        for seq in [seq for seq in self.seqs() if seq <= upto]:
            schema = self._ready(seq)
            for info in schema.tables.values():
                ids[info.name, schema.version].add(info.proto.id)
                names[info.proto.id].add((info.name, schema.version))
            if name in schema.tables:
                newest = {schema.tables[name].proto.id}
        found, more = set[int](), ids.get((name, version)) or newest
        while more:
            found |= more
            more = {id for one in more for at in names[one] for id in ids[at]} - found
        return found

    def _check_rewritten(self, name: str, info: TableInfo, version: int, upto: int) -> None:
        for generation in reversed(self.generations(info.proto.id, upto)):
            since = generation.info.proto.since
            if generation.info.proto.generation > info.proto.generation and version >= since:
                raise SchemaError(
                    f"the rows of table {name} were rewritten by migration {since}; their model before it was"
                    f" {info.proto.model}: read them with the tables of that version, or by table name",
                    table=name,
                    version=since,
                )


def _with_id(schema: Schema, table: int) -> TableInfo | None:
    return next((info for info in schema.tables.values() if info.proto.id == table), None)


def _with_one_of(schema: Schema, tables: set[int]) -> TableInfo | None:
    return next((info for info in schema.tables.values() if info.proto.id in tables), None)
