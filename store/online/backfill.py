"""Backfill: build a migration's new generations and indexes beside the live tables, while reads and writes
continue.

    STARTED ─▶ every write goes to both ─▶ backfill: the rows that existed before ─▶ switch

    seeds       loaded before (`rewrite.fill`): rows that they replace are not copied
    an index    rows, a slice at a time ─▶ its entries ─▶ the tables, with a note on the progress
    new rows    rows, a slice at a time ─▶ `up` ─▶ a BACKFILL record with the progress

A slice is read and converted while others commit. Then, with the committer to itself, the backfill drops
the rows that were written since: their writers wrote both generations.

    row, version ─▶ convert ─▶ row, index values ─▶ its change in a record
                                                 ─▶ its edits of the tables

Everything but the seq of the record is computed before anybody waits for it. The results for one row
have the same position in each column: lists of bytes cost less than an object per row.

Progress of an online build:

    rows      a BACKFILL record in the log, which a note points to
    entries   a note for each index := 0x00 rows:u64be key of the last row     or 0x01, all rows

Invariants
  (1) the end of a slice is written with it: killed at any point, it resumes after the last whole slice;
  (2) nothing it writes can be read before the switch, which is one record;
  (3) a row keeps its version and its expiry;
  (4) a row that was written since the migration started is skipped: its writer wrote both generations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.core import Core, Work
from everlog.store.errors import DiskError, MigrationError
from everlog.store.progress import OnProgress, Pace, Progress
from everlog.store.rocks.errors import Refusal
from everlog.store.rocks.view import Item, take
from everlog.store.schema.schema import IndexInfo, Schema, TableInfo
from everlog.store.tables.projection import Edits, Staged
from everlog.store.tables.projector import built_note
from everlog.store.tables.tables import Tables
from everlog.store.tx.committer import commit_of
from everlog.store.tx.dual_write import Code, Converted, DualWrite
from everlog.store.tx.transaction import ANONYMOUS
from everlog.store.tx.validator import claim


class Slice:
    """Rows of the previous generation, converted to rows of `newer`."""

    def __init__(self, newer: TableInfo) -> None:
        self.newer = newer
        self.keys: dict[bytes, bytes] = {}  # full key of the old row -> that of the new row
        self.changes: list[bytes] = []  # encoded changes of the record
        self._rows: list[bytes] = []  # version and row, as stored in the tables after the header
        self._entries: list[bytes] = []  # one per row and index
        self.ends: dict[bytes, int] = {}  # full key of an expiring row -> its expiry

    def make(self, rows: Iterable[Item], convert: Callable[[bytes, bytes], Converted], *, since: int) -> None:
        """Convert rows, except those written by record `since` or later. Raises what `convert` raises.

        The hottest loop of a migration.
        """
        prefix, header = self.newer.row_prefix, self.newer.put_header
        skip, header_size = len(prefix), keys.HEADER_SIZE
        unpack, change_body, change = keys.HEADER.unpack_from, record.change_body, record.change
        mine, add_change, add_row, add_entry = (
            self.keys,
            self.changes.append,
            self._rows.append,
            self._entries.append,
        )
        join, known, packed, tail = b"".join, -1, b"", b""
        older, sealing = self.newer.other_generation, self.newer.sealing
        sealed = older is not None and older.sealed
        for full, value in rows:
            flags, version = unpack(value)
            if version >= since:
                continue
            if flags:
                version = keys.version_of(value)
                old = keys.row_of(older.opened(full[skip:], value) if older and sealed else value)
            else:
                old = value[header_size:]
            if version != known:  # adjacent rows were often written together
                known, packed, tail = version, keys.SEQ.pack(version), record.with_version(b"", version)
            key = full[skip:]
            row, values = convert(key, old)
            mine[full] = prefix + key
            if sealing is None:
                body = change_body(header, key, row) + tail
            else:
                key_id, row = sealing.seal(key, row)
                body = record.with_key(change_body(header, key, row) + tail, key_id)
                row = key_id + row
            if flags & keys.HAS_EXPIRY:
                end = self.ends[full] = keys.expires_of(value)
                body = record.with_expiry(body, end)
            add_change(join(change(body, 0)))
            add_row(packed + row)
            for one in values:
                add_entry(one + key)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """Size of the new rows and their versions, in bytes."""
        return sum(map(len, self._rows))

    def drop(self, full: bytes) -> None:
        """Remove one row again."""
        at, each = list(self.keys).index(full), len(self.newer.indexes)
        self.ends.pop(full, None)
        del self.keys[full], self.changes[at], self._rows[at], self._entries[at * each : (at + 1) * each]

    def edits(self, seq: int) -> Edits:
        """Return the edits of the tables by the record at `seq`."""
        sealed = self.newer.sealed
        header = keys.HEADER.pack(keys.HAS_VERSION | keys.HAS_KEY_ID * sealed, seq)
        edits: Edits = dict(zip(self.keys.values(), [header + row for row in self._rows], strict=True))
        edits.update(dict.fromkeys(self._entries, b""))
        if sealed:
            skip = len(self.newer.row_prefix)
            for full, row in zip(self.keys.values(), self._rows, strict=True):
                key_id = row[keys.SEQ.size : keys.SEQ.size + keys.KEY_ID_SIZE]
                edits[keys.NOTE_OF_KEY + key_id + full[: keys.SPACE.size] + full[skip:]] = b""
        for old, end in self.ends.items():
            full = self.keys[old]
            value = edits[full]
            assert value is not None
            edits[full] = keys.pack_value(
                seq,
                keys.row_of(value),
                version=keys.version_of(value),
                expires_ns=end,
                key_id=keys.key_id_of(value),
            )
            edits[keys.end_note(end, full)] = b""
        return edits

    def values(self, at: int) -> dict[bytes, bytes]:
        """Return the values in the index at a position among the table's, by the key of the row."""
        skip, entries = len(self.newer.row_prefix), self._entries[at :: len(self.newer.indexes)]
        found = zip([full[skip:] for full in self.keys], entries, strict=True)
        return {key: entry[: len(entry) - len(key)] for key, entry in found}


BUILDING = b"\x00"


def progress_of(note: bytes | None) -> tuple[int, bytes]:
    """Return the progress of an index build: the number of rows with an entry, and the key of the last
    one."""
    if not note:
        return 0, b""
    count: int = keys.SEQ.unpack_from(note, len(BUILDING))[0]
    return count, note[len(BUILDING) + keys.SEQ.size :]


def backfilled(core: Core, schema: Schema) -> log_pb2.Migration | None:
    """Return the newest BACKFILL record of what `schema` builds. Read-only."""
    note = core.tables.get(keys.NOTE_BACKFILL) if schema.building else None
    if note is None:
        return None
    found = core.log.commit(keys.SEQ.unpack(note)[0]).migration
    space: int = keys.SPACE.unpack_from(found.cursor)[0]
    return found if any(info.space == space for info in schema.building.values()) else None


def seeds_of(done: log_pb2.Migration, schema: Schema) -> int:
    """Return how many rows of bootstrap data are loaded, by the newest BACKFILL record; 0: all of them,
    rows follow.

    Versions before 2 did not record it, and loaded them into tables that are `remade` only.
    """
    return done.seeds or (done.rows if all(one.proto.remade for one in schema.building.values()) else 0)


def built_rows(core: Core) -> int:
    """Return how many rows of the current build are done: rewritten rows, and index entries. Read-only."""
    newest = backfilled(core, core.schema)
    count = newest.rows if newest else 0
    for info in core.schema.spaces.values():
        for index in info.indexes.values():
            if index.building:
                found = core.tables.get(built_note(index))
                whole = found == keys.ALL_BUILT
                count += core.tables.counts.get(info.space, 0) if whole else progress_of(found)[0]
    return count


def is_building(schema: Schema) -> bool:
    """Return whether a migration builds rows or an index."""
    spaces = schema.spaces.values()
    return bool(schema.building) or any(one.building for info in spaces for one in info.indexes.values())


def prepared(core: Core) -> log_pb2.Migration | None:
    """Return the PREPARED record of the migration that waits for a decision, or None. Read-only."""
    note = core.tables.get(keys.NOTE_PREPARED)
    return core.log.commit(keys.SEQ.unpack(note)[0]).migration if note is not None else None


def total_rows(tables: Tables) -> int:
    """Return how many rows the current build has to do, by the current counts. Read-only."""
    counts, schema = tables.counts, tables.schema
    count = sum(
        counts.get(info.other_generation.space, 0)
        for info in schema.building.values()
        if info.other_generation
    )
    for info in schema.spaces.values():
        count += sum(counts.get(info.space, 0) for index in info.indexes.values() if index.building)
    return count


def check_unique(tables: Tables, index: IndexInfo, rows: dict[bytes, bytes]) -> Edits:
    """Return the keys of rows by their values in an index; `rows` has the values by key.

    No commit may run meanwhile. Raises UniqueError if two rows have the same values, or another row in the
    index.
    """
    taken: Edits = {}
    tables.flush()
    for key, values in rows.items():
        claim(taken, index, values, key, tables.target.view)
    return taken


SLICE_BYTES = 512 << 10
LOOK_S = 0.5  # between two calls of `progress` while the disk is full

R = TypeVar("R")


@contextmanager
def marked_as_builder(core: Core, seeds: int = 0) -> Iterator[None]:
    """Mark this process as the one that builds, for the block."""
    before = core.backfilling
    core.backfilling = Work(time.monotonic(), built_rows(core), seeds or (before.seeds if before else 0))
    try:
        yield
    finally:
        core.backfilling = before


def retry_while_full(
    refusal: Refusal,
    do: Callable[[], R],
    progress: OnProgress | None,
    stopped: Callable[[], bool] = lambda: False,
) -> R:
    """Call `do` and return its result. While the disk is full, wait and call it again. `progress` is called
    meanwhile, and may raise. Raises all other errors of `do`."""
    while True:
        try:
            return do()
        except DiskError as error:
            if not (error.facts.get("full") or error.facts.get("resumes")) or stopped():
                raise
        if not refusal.is_full:  # the disk refused only the key store, or has space again
            if progress is not None:
                progress(Progress("waiting for space on the disk", 0))
            time.sleep(LOOK_S)
        while refusal.is_full and not stopped():
            if progress is not None:
                progress(Progress("stopped: the disk is full", 0))
            refusal.wait(LOOK_S)


class Backfill:
    """The remaining work of a migration that record `since` started.

    `rate`: maximum rows per second; None: unlimited.
    """

    def __init__(
        self,
        core: Core,
        migration: log_pb2.Migration,
        code: Code,
        *,
        since: int,
        rate: float | None = None,
        progress: OnProgress | None = None,
        stopped: Callable[[], bool] = lambda: False,
        deleted: Container[tuple[str, bytes]] = (),
    ) -> None:
        """`deleted`: rows, by table and key, of tables with bootstrap data that need not be copied."""
        self._core = core
        self._deleted = deleted
        self._migration = migration
        self._schema = core.tables.schema
        self._dual_write = DualWrite(self._schema, code)
        self._since = since
        self._pace = Pace(rate)
        self._progress = progress
        self._stopped = stopped

    def run(self) -> bool:
        """Do the remaining work. Return True if all of it is done, False if it was stopped. Writes.

        While the disk is full, it waits for space, and continues. Raises MigrationError, UniqueError and
        RowError that name the invalid row: the migration should then be aborted.
        """
        with marked_as_builder(self._core):
            return retry_while_full(self._core.engine.refusal, self._run, self._progress, self._stopped)

    def _run(self) -> bool:
        for info in self._schema.tables.values():
            for index in info.indexes.values():
                if index.building and not self._index(info, index):
                    return False
        newer = sorted(
            (info for info in self._schema.building.values() if info.other_generation),
            key=lambda info: info.space,
        )
        return all(self._rows(info) for info in newer)

    def _index(self, info: TableInfo, index: IndexInfo) -> bool:
        note = built_note(index)
        done = self._core.tables.get(note)
        if done == keys.ALL_BUILT:
            return True
        count, at = progress_of(done)
        total = self._core.tables.counts.get(info.space, 0)
        end, skip, parse = self._end(info), len(info.row_prefix), info.salvage
        entry_of = info.own.entry_ofs[list(info.indexes.values()).index(index)]
        while not self._stopped():
            rows, seen = self._read(info, at, end)
            if not rows:
                with self._core.committer.exclusive():
                    self._write_entries({note: keys.ALL_BUILT})
                return True
            entries = {full: entry_of(parse(info.row_in(full[skip:], value))) for full, value in rows}
            last = rows[-1][0][skip:]
            with self._core.committer.exclusive():
                changed = self._changed(seen, entries)
                if changed is None:
                    continue
                for full in changed:
                    del entries[full]
                if index.unique:
                    check_unique(
                        self._core.tables, index, {full[skip:]: values for full, values in entries.items()}
                    )
                at, count = last, count + len(rows)
                edits: Edits = {values + full[skip:]: b"" for full, values in entries.items()}
                edits[note] = BUILDING + keys.SEQ.pack(count) + at
                self._write_entries(edits)
            self._report(f"build index {info.name}.{index.name}", count, total)
        return False

    def _rows(self, newer: TableInfo) -> bool:
        older = newer.other_generation
        assert older is not None
        done = backfilled(self._core, self._schema)
        at, count = b"", done.rows if done else 0
        if done is not None and not seeds_of(done, self._schema):
            space: int = keys.SPACE.unpack_from(done.cursor)[0]
            if space > newer.space:
                return True
            at = done.cursor[keys.SPACE.size :] if space == newer.space else b""
        olders = [info.other_generation for info in self._schema.building.values() if info.other_generation]
        total = sum(self._core.tables.counts.get(info.space, 0) for info in olders)
        convert, skip, end = self._dual_write.converter(older, newer), len(older.row_prefix), self._end(older)
        verb = "rewrite" if newer.proto.since != older.proto.since else "copy"
        while not self._stopped():
            rows, seen = self._read(older, at, end)
            if not rows:
                return True
            made = Slice(newer)
            made.make(self._left(rows, newer, skip), convert, since=self._since)
            if made.size > record.RECORD_BYTES_MAX // 2:
                self._pace.slice_rows = max(1, self._pace.slice_rows // 2)  # rows grow: take fewer at once
                if len(rows) > 1:
                    continue
            last = rows[-1][0][skip:]
            with self._core.committer.exclusive():
                changed = self._changed(seen, made.keys)
                if changed is None:
                    continue
                for full in changed:
                    made.drop(full)
                count += len(rows)
                migration = log_pb2.Migration(
                    step=log_pb2.Migration.BACKFILL,
                    version=self._migration.version,
                    name=self._migration.name,
                    cursor=keys.SPACE.pack(newer.space) + last,
                    rows=count,
                )
                self._append(migration, made)
            at = last
            self._report(f"{verb} {older.name}", count, total)
        return False

    def _left(self, rows: list[Item], newer: TableInfo, skip: int) -> list[Item]:
        """Return the rows to copy, without those that bootstrap data replaces, all of which is loaded
        already."""
        seeded, deleted, get = newer.proto.seeded, self._deleted, self._core.tables.get
        if not seeded:
            return rows
        left = []
        for full, value in rows:
            key = full[skip:]
            there = get(newer.row_prefix + key)
            is_seed = there is not None and keys.version_of(there) == seeded
            if not is_seed and (newer.name, key) not in deleted:
                left.append((full, value))
        return left

    def _append(self, migration: log_pb2.Migration, made: Slice) -> None:
        core = self._core
        seq = core.log.written + 1
        commit = commit_of(ANONYMOUS, seq, core.clock.now(), self._schema.version, core.clock.reading_ns)
        commit.migration.CopyFrom(migration)
        uniques: Edits = {}
        for at, index in made.newer.unique:
            uniques.update(check_unique(core.tables, index, made.values(at)))
        if made:
            commit.requires.append(log_pb2.REWRITTEN)
            if made.newer.sealed:
                commit.requires.append(log_pb2.SEALED)
        if made.ends:
            commit.requires.append(log_pb2.EXPIRY)
        framed, _ = record.frame_parts([commit.SerializeToString(), *made.changes])
        edits = made.edits(seq)
        edits[keys.NOTE_BACKFILL] = keys.SEQ.pack(seq)
        more = {made.newer.space: len(made)}
        if made.ends:
            more[keys.ENDS] = len(made.ends)
        core.committer.write_exclusive(framed, Staged(edits, uniques, more))

    def _write_entries(self, edits: Edits) -> None:
        """Write index entries, which are not recorded because they follow from the rows. Only inside
        `alone`."""
        target = self._core.tables.target
        writes = target.batch()
        for full, value in edits.items():
            assert value is not None
            writes[full] = value
        target.write(writes)

    def _read(self, info: TableInfo, after: bytes, end: bytes) -> tuple[list[Item], int]:
        """Return the next rows, and the seq that they were read at."""
        view, seq = self._core.tables.snapshot()
        try:
            start = info.row_prefix + after + b"\x00" if after else info.row_prefix
            return take(
                view.items(start, end), self._pace.slice_rows, SLICE_BYTES
            ) if start < end else [], seq
        finally:
            view.close()

    def _end(self, info: TableInfo) -> bytes:
        """Return a key after the last current row. Later rows are complete; following them might never
        end."""
        tables = self._core.tables
        tables.flush()
        last = tables.target.view.first_items(info.row_prefix, keys.prefix(info.space, 1), 1, reverse=True)
        return last[0][0] + b"\x00" if last else info.row_prefix

    def _changed(self, seen: int, keys: Container[bytes]) -> set[bytes] | None:
        """Return those of a slice's keys that were written since it was read; None: read it again. Only
        inside `alone`.

        Raises MigrationError if there is nothing to build any more.
        """
        if self._schema is not self._core.tables.schema:
            raise MigrationError(
                f"migration {self._migration.version} is no longer being built: another process has finished"
                " or aborted it",
                version=self._migration.version,
            )
        return self._core.tables.window.touched(seen, keys)

    def _report(self, step: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(Progress(step, done, max(done, total)))
        self._pace.wait()
