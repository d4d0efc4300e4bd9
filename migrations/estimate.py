"""Estimate: how long a planned migration takes, the disk that it needs, and what writers notice.

    the first rows of a table ─▶ `up` of each migration in turn ─▶ bytes of new rows and of index entries
                                                                ─▶ time of a row

The sample is at most SAMPLE_ROWS rows and SAMPLE_S of each table. Everything else follows from the number of
rows. `unknown` names what cannot be estimated.

    disk   = rows * (new row + its index entries), in the tables, and new rows in the log as well;
             scaled by the compression of the table as it is
    time   = rows * (a row's time in the sample + 1 / REWRITTEN_PER_S), rows / INDEXED_PER_S for an index

Invariants
  (1) it writes nothing, and no error of a row in the sample stops it: the dry run reports these.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

import msgspec

from everlog.migrations.bootstrap import Bootstrap
from everlog.migrations.checks import has_checks
from everlog.migrations.dry_run import maker
from everlog.migrations.migration import Migration
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.schema import evolve
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tx import write
from everlog.store.upkeep.sizes import sizes_of

REWRITTEN_PER_S, INDEXED_PER_S = 50_000, 100_000
SAMPLE_ROWS, SAMPLE_S = 500, 0.05
OVERHEAD = 9  # bytes of a row in the tables, in addition to its key and its fields
SMALL_ROWS = 1000
COMPRESSED_MIN = 0.2  # less than this part of a table on disk: most of it is in memory only


class Estimate(msgspec.Struct, frozen=True):
    """What a migration costs.

    `rows`: read or written; `seconds`: of the steps that depend on rows; `waits_s`: of these, the time for
    which writers wait. `bytes`: of disk until it has ended, `freed_bytes`: freed then, `free_bytes`: free on
    the disk of the database now, 0: unknown. `twice`: the tables whose commits are written in both forms
    until it has ended. `unknown`: what it costs in addition, in words. `sampled`: rows that were measured.
    """

    rows: int = 0
    seconds: float = 0.0
    waits_s: float = 0.0
    bytes: int = 0
    freed_bytes: int = 0
    free_bytes: int = 0
    twice: list[str] = []
    unknown: list[str] = []
    sampled: int = 0

    @property
    def small(self) -> bool:
        """Whether nobody notices it."""
        return self.rows <= SMALL_ROWS and not self.unknown

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it, as far as is known."""
        return not self.free_bytes or self.bytes < self.free_bytes


class _Sampled(NamedTuple):
    """Rows of a table at one point of the plan: key and row, and how many bytes on disk are one of these."""

    rows: list[tuple[bytes, bytes]]
    ratio: float


class Estimates:
    """Estimates the migrations of a plan, in their order. `current`: the schema before the first."""

    def __init__(self, db: Database, current: Schema) -> None:
        self._db = db
        self._sizes = sizes_of(db.core)
        self._samples = dict[int, _Sampled]()
        self._now = {info.proto.id: info for info in current.tables.values()}
        self._counts = Counter({id: db.tables.counts.get(one.space, 0) for id, one in self._now.items()})
        self._free = shutil.disk_usage(db.path).free

    def of(
        self,
        old: Schema,
        new: Schema,
        migration: Migration,
        data: Bootstrap,
        online: Collection[tuple[int, int]],
    ) -> Estimate:
        """Estimate the next migration. Read-only; runs its code on the sample.

        `data`: its bootstrap rows; `online`: the result of `beside`.
        """
        was = {info.proto.id: info for info in old.tables.values()}
        remade = migration.up.names if migration.up is not None else ()
        found = _Sum(unknown=_unknown(migration))
        found.bytes += 2 * data.sizes.total()  # in the tables and in the log
        for name, table in new.tables.items():
            known, rows = was.get(table.proto.id), self._counts[table.proto.id]
            if name in remade or known is None or not rows:
                continue
            if known.space != table.space and name in migration.transforms:
                found.twice.append(name)
                self._rewritten(found, known, table, migration, rows)
            else:
                self._indexed(found, known, table, rows, online)
        if remade:
            read = self._counts.total()
            found.rows, found.seconds = found.rows + read, found.seconds + read / REWRITTEN_PER_S
            found.waits_s += read / REWRITTEN_PER_S
        for name, count in data.counts.items():
            self._counts[new.tables[name].proto.id] += count
        for id in was.keys() - {info.proto.id for info in new.tables.values()}:
            found.freed += self._on_disk(self._now.get(id))
        return Estimate(
            found.rows,
            found.seconds,
            found.waits_s,
            int(found.bytes),
            found.freed,
            self._free,
            found.twice,
            found.unknown,
            found.sampled,
        )

    def _rewritten(
        self, found: _Sum, known: TableInfo, table: TableInfo, migration: Migration, rows: int
    ) -> None:
        sample = self._sample(known)
        make = maker(known, table, migration.transforms[table.name])
        made, size, began = list[tuple[bytes, bytes]](), 0, time.perf_counter()
        for key, row in sample.rows:
            try:
                one = make(key, row)
            except Error:  # the dry run names it
                continue
            made.append((one.key, one.row))
            size += 2 * (len(one.key) + len(one.row) + OVERHEAD)  # in the tables and in the log
            size += sum(len(value) + len(one.key) for value in one.values)
        each_s = (time.perf_counter() - began) / max(len(sample.rows), 1)
        found.rows += rows
        found.seconds += rows * (each_s + 1 / REWRITTEN_PER_S)
        found.bytes += rows * sample.ratio * size / max(len(made), 1)
        found.freed += self._on_disk(self._now.get(known.proto.id))
        found.note(table.name, rows, len(made))
        self._samples[table.proto.id] = _Sampled(made, sample.ratio)

    def _indexed(
        self, found: _Sum, known: TableInfo, table: TableInfo, rows: int, online: Collection[tuple[int, int]]
    ) -> None:
        """Add the indexes that are built over rows which stay as they are."""
        kept = {index.id for index in known.indexes.values()}
        at = [number for number, index in enumerate(table.indexes.values()) if index.id not in kept]
        if not at:
            return
        sample, size, measured = self._sample(known), 0, 0
        for _, raw in sample.rows:
            try:
                one = write.put(table.own, table.parse(raw))
            except Error:  # a row that does not fit
                continue
            measured += 1
            size += sum(len(one.values[number]) + len(one.key) for number in at)
        ids = [index.id for index in table.indexes.values()]
        waits = [number for number in at if (table.proto.id, ids[number]) not in online]
        found.rows += rows * len(at)
        found.seconds += rows * len(at) / INDEXED_PER_S
        found.waits_s += rows * len(waits) / INDEXED_PER_S
        found.bytes += rows * sample.ratio * size / max(measured, 1)
        found.note(table.name, rows, measured)

    def _sample(self, known: TableInfo) -> _Sampled:
        """Return the first rows of a table, as the migrations before have left them."""
        id = known.proto.id
        if id not in self._samples and id not in self._now:  # an earlier migration of the plan creates it
            self._samples[id] = _Sampled([], 1.0)
        if id not in self._samples:
            rows, until, size = list[tuple[bytes, bytes]](), time.monotonic() + SAMPLE_S, 0
            info = self._db.schema.table(self._now[id].name)
            try:
                for message in islice(self._db.scan(table_of(info)), SAMPLE_ROWS):
                    rows.append((info.own.key_of(message), message.SerializePartialToString()))
                    size += sum(map(len, rows[-1])) + OVERHEAD
                    if time.monotonic() > until:
                        break
            except Error:  # such as sealed rows without a key
                pass
            whole = self._counts[id] * size / max(len(rows), 1)
            ratio = self._sizes.get(info.row_prefix, 0) / whole if whole else 0.0
            self._samples[id] = _Sampled(rows, min(ratio, 1.0) if ratio >= COMPRESSED_MIN else 1.0)
        return self._samples[id]

    def _on_disk(self, info: TableInfo | None) -> int:
        """Return the bytes of a table and its indexes on disk."""
        if info is None:
            return 0
        prefixes = (info.row_prefix, *(one.prefix for one in info.indexes.values()))
        return sum(self._sizes.get(one, 0) for one in prefixes)


class _Sum:
    """The costs of a migration, as they are added up."""

    def __init__(self, unknown: list[str]) -> None:
        self.rows, self.sampled, self.freed = 0, 0, 0
        self.seconds, self.waits_s, self.bytes = 0.0, 0.0, 0.0
        self.twice, self.unknown = list[str](), unknown

    def note(self, table: str, rows: int, sampled: int) -> None:
        """Note how many of a table's rows were measured."""
        self.sampled += sampled
        if not sampled and rows > SMALL_ROWS:
            self.unknown.append(f"the disk for {table}, of which no row could be read")


def _unknown(migration: Migration) -> list[str]:
    found = []
    if migration.up is not None:
        found.append("time and disk of the rows that `up` makes")
    if has_checks(migration):
        found.append("the time of checks.py, for which writers wait")
    return found


def beside(old: Schema, new: Schema, migration: Migration) -> set[tuple[int, int]]:
    """Return the indexes that are built beside the live table: ids of table and index."""
    remade = migration.up.names if migration.up is not None else ()
    online = evolve.online(old.proto, new.proto, remade=remade) or log_pb2.Schema()
    return {(one.id, index.id) for one in online.tables for index in one.indexes if index.building}
