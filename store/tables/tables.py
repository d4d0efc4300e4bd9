"""Tables: the live projection. Schema, rows, indexes, and the seq up to which they are projected.

`Window` holds the keys that recent commits touched. Transactions are validated against it:

    … │ seq 811: {row key, old entry, new entry} │ seq 812: {…} │   newest on the right

A transaction that read at a snapshot is valid if no later commit touched a key that it looked up or a
range that it scanned (Kung and Robinson 1981, backward validation). Keys are full keys of the tables: of
rows, and of index entries, old and new.

Invariants
  (1) applied <= the log's written seq; under `sync` also <= its head;
  (2) a snapshot and the seq reported for it belong together;
  (3) every commit after the window's `floor` is in it; a transaction that read earlier runs again.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable, Iterator
from itertools import count
from typing import Any

from rocksdict import Rdict

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.crypto.vault import Vault
from everlog.store.errors import CorruptionError, DiskError
from everlog.store.log import Log
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import translate, translated
from everlog.store.rocks.view import Overlay, SnapshotView, View
from everlog.store.schema import codec
from everlog.store.schema.schema import Schema
from everlog.store.tables.projection import FamilyTarget, MemoryTarget, Pending, Staged, Target
from everlog.store.tables.projector import Projector

KEYS_MAX, BYTES_MAX = 200_000, 16 << 20  # of keys in the window


class Window:
    """The keys of recent commits: about `KEYS_MAX` keys, or `BYTES_MAX` bytes of keys."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        # Tuples of bytes: the garbage collector soon stops tracking them, but would always traverse lists.
        self._commits: deque[tuple[int, tuple[bytes, ...], int]] = deque()
        self._keys = self._bytes = 0

    def add(self, seq: int, touched: tuple[bytes, ...]) -> None:
        """Add the keys that the commit at `seq` touched, and drop the oldest commits over the limits."""
        size = len(b"".join(touched))  # faster than adding up lengths
        self._commits.append((seq, touched, size))
        self._keys += len(touched)
        self._bytes += size
        while (self._keys > KEYS_MAX or self._bytes > BYTES_MAX) and len(self._commits) > 1:
            self.floor = self._commits[0][0]  # first: other threads may be reading
            _, gone, size = self._commits.popleft()
            self._keys -= len(gone)
            self._bytes -= size

    def cut(self, seq: int) -> None:
        """Drop the keys of commits after `seq`, which were added and then not written. No commit may run
        meanwhile."""
        for at in range(len(self._commits) - 1, -1, -1):
            number, touched, size = self._commits[at]
            if number <= seq:
                break
            self._commits[at] = seq, (), 0  # not removed: that would shift commits under other threads
            self._keys -= len(touched)
            self._bytes -= size

    def reset(self, seq: int) -> None:
        """Invalidate all reads before `seq`: the tables changed as a whole."""
        self.floor = seq
        self._commits.clear()
        self._keys = self._bytes = 0

    def conflict(
        self, snapshot: int, keys: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]
    ) -> tuple[int, bytes] | None:
        """Return (seq, key) of the newest commit since `snapshot` that touched what was read; None: valid.

        For a snapshot older than the window, return (floor, b""). Any thread may call it while another one
        commits: it iterates from the right, so a commit added meanwhile shifts the others away; one may be
        seen twice, but none is missed.
        """
        if snapshot < self.floor:
            return self.floor, b""
        keys = keys if isinstance(keys, (set, frozenset, dict)) else set(keys)
        spans = sorted(ranges)
        for at in count(1):
            try:
                seq, touched, _ = self._commits[-at]
            except IndexError:
                break
            if seq <= snapshot:
                break
            for key in touched:
                if key in keys or (spans and _inside(key, spans)):
                    return seq, key
        return (self.floor, b"") if snapshot < self.floor else None

    def touched(self, snapshot: int, keys: Container[bytes]) -> set[bytes] | None:
        """Return those of `keys` that a commit since `snapshot` touched; None: the snapshot is older than
        the window.

        No commit may run meanwhile.
        """
        if snapshot < self.floor:
            return None
        found: set[bytes] = set()
        for seq, touched, _ in reversed(self._commits):
            if seq <= snapshot:
                break
            found.update(key for key in touched if key in keys)
        return found


def _inside(key: bytes, spans: list[tuple[bytes, bytes]]) -> bool:
    if len(spans) > 8:  # sorted by start, so only those that start at or before the key
        spans = spans[: bisect_left(spans, (key + b"\x00", b""))]
    return any(start <= key < end for start, end in spans)


class Tables:
    """The live tables of one open database."""

    target: Target
    pending: Pending
    counts: dict[int, int]
    applied: int
    checksum: int

    def __init__(
        self,
        engine: Engine,
        log: Log,
        memory: type[MemoryTarget] | None = None,
        vault: Vault | None = None,
    ) -> None:
        self._engine = engine
        self._log = log
        self.lock = threading.RLock()
        self._memory = memory
        self._torn = False  # an interrupt may have left `pending` half updated
        self._views: weakref.WeakSet[Any] = weakref.WeakSet()
        self.window = Window(0)
        self.vault = vault
        self.schema = Schema(log_pb2.Schema(), vault)
        self._read()
        self.window.reset(self.applied)

    def adopt(self, fresh: Tables) -> None:
        """Replace the state by that of a newer reading of the same tables, at once. The caller holds the
        lock."""
        self.target, self.pending, self.counts = fresh.target, fresh.pending, fresh.counts
        self.applied, self.checksum, self._flushed = fresh.applied, fresh.checksum, fresh.applied
        self._torn = False
        if self.schema.proto != fresh.schema.proto:
            self.schema = fresh.schema
        self.window.reset(self.applied)

    def _read(self) -> None:
        """Read the state of the tables from disk."""
        live = FamilyTarget(self._engine)
        self._become(live, *_found(live.view, self._log))

    def _become(
        self, live: FamilyTarget, applied: tuple[int, int], schema: log_pb2.Schema, counts: dict[int, int]
    ) -> None:
        self.target = live if self._memory is None else self._memory(live.view)
        self.applied, self.checksum = applied
        if self.schema.proto != schema:  # otherwise keep the schema and everything bound to it
            self.schema = Schema(schema, self.vault)
        self.counts = counts
        self.pending = Pending(self.target, self.counts)
        self._flushed = self.applied

    def project(self, staged: Staged, seq: int, size: int) -> None:
        """Add the edits of a group of commits; `seq` is the last one, `size` the bytes of all records."""
        pending = self.pending
        with self.lock:  # a snapshot and its seq belong together
            self._torn = True
            is_full = pending.take(staged, size)
            self.applied = seq
            self._torn = False
            if is_full:
                self.try_flush()

    def sync_keys(self) -> None:
        """Wait until the keys of persons are on disk, before data sealed with them is. Raises DiskError."""
        if self.vault is not None and self.vault.is_dirty:
            self.vault.sync()

    def flush(self) -> None:
        """Write the pending edits to RocksDB, so that ranges can be read. Does not sync."""
        if self._flushed != self.applied:
            with self.lock:
                self._flush()

    def try_flush(self) -> bool:
        """Flush; the caller holds the lock, so nothing is written meanwhile.

        False: the disk refuses writes. The edits stay pending; `moment` includes them all the same.
        """
        try:
            self._flush()
        except DiskError:
            return False
        return True

    def _flush(self) -> None:
        if self._flushed != self.applied and not self._torn:
            self.pending.flush(self.applied, self._log.checksum_at(self.applied))
            self._flushed = self.applied

    def get(self, full: bytes) -> bytes | None:
        """Return the current value of a full key, or None. Read-only."""
        edits = self.pending.edits
        if full in edits:
            return edits[full]
        stored = self.target.stored
        try:
            return stored(full)
        except Exception as error:
            if self.target.stored != stored:  # a rebuild switched the tables meanwhile
                return self.get(full)
            raise translate(error, "reading a table") from error

    def projector(self, following: Schema | None = None) -> Projector:
        """Return a projector for the records that are not projected yet. Call `took` afterwards.

        `following`: the schema of the next record, if the caller has it already.
        """
        checksum = self._log.checksum_at(self.applied)
        return Projector(self.pending, self.schema, self.applied, checksum, following)

    def take_over(self, projector: Projector) -> None:
        """Take over the position of a projector. Transactions that read before must run again."""
        with self.lock:
            projector.flush()
            self.applied = projector.applied
            self._flushed, self.schema = self.applied, projector.schema
            self.window.reset(self.applied)

    def catch_up(self, progress: OnProgress | None = None) -> None:
        """Project the records of the log that the tables lack. Writes. Raises Error."""
        first, last = self.applied, self._log.written
        if first == last:
            return
        projector = self.projector()
        with translated("projecting the log onto the tables"):
            for seq, framed in self._log.scan(first, last):
                projector.add(framed)
                if progress is not None and not seq % 1024:
                    progress(Progress("replay", seq - first, last - first, "records"))
        self.take_over(projector)

    def reread(self) -> None:
        """Drop the edits in memory, which an interrupt may have left incomplete, and project them again
        from the log.

        No commit may run meanwhile. Raises Error, and then changes nothing.
        """
        fresh = Tables(self._engine, self._log, self._memory, self.vault)
        fresh.catch_up()
        with self.lock:
            self.adopt(fresh)

    def snapshot(self) -> tuple[View, int]:
        """Return a view of the current state, and its seq. Read-only."""
        with self.lock:
            self.try_flush()
            return self.moment(), self.applied

    def moment(self) -> View:
        """Return a view that stays valid after later writes. The caller holds the lock."""
        view: View = SnapshotView(self._engine)
        if isinstance(self.target, MemoryTarget):
            view = self.target.over(view)
        if self._flushed != self.applied:
            view = Overlay(view, self.pending.whole(self.applied, self._log.checksum_at(self.applied)))
        self._views.add(view)
        return view

    def close(self) -> None:
        """Close all views; later reads from them raise ClosedError."""
        for view in list(self._views):
            view.close()

    def keep(self) -> None:
        """In a forked child: keep the views alive, because their destructors would touch the parent's
        files, and refuse reads."""
        for view in self._views:
            view.forked()

    def migrations(self) -> list[int]:
        """Return the seqs of all Migration records, oldest first. Read-only."""
        start = keys.NOTE_MIGRATION
        return [keys.SEQ.unpack(note[len(start) :])[0] for note, _ in self.notes(start)]

    def notes(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the notes of the current state whose keys start with `start`, also while the disk is full.
        Read-only."""
        view, _ = self.snapshot()
        try:
            yield from view.items(start, codec.after(start))
        finally:
            view.close()

    def switch(self, target: FamilyTarget, name: str) -> tuple[str, Rdict]:
        """Make rebuilt tables, which are equal, the live ones, durably. Return the old family's name and
        handle. Writes."""
        assert target.handle is not None
        assert target.family is not None
        with self.lock:
            found = _found(target.view, self._log)  # first: nothing may fail after the switch
            old = self._engine.switch_data(name, target.family, target.handle)
            self._become(FamilyTarget(self._engine), *found)
            return old


def _found(view: View, log: Log) -> tuple[tuple[int, int], log_pb2.Schema, dict[int, int]]:
    """Read (applied, checksum), the schema and the row counts."""
    return read_applied(view), schema_of(view, log), read_counts(view)


def read_applied(view: View) -> tuple[int, int]:
    """Return seq and checksum of the last projected record."""
    value = view.get(keys.NOTE_APPLIED)
    return keys.APPLIED.unpack(value) if value else (0, 0)


def read_counts(view: View) -> dict[int, int]:
    """Return the number of rows of each space."""
    skip = len(keys.NOTE_ROWS)
    return {
        keys.SPACE.unpack(key[skip:])[0]: keys.SEQ.unpack(value)[0]
        for key, value in view.items(keys.NOTE_ROWS, codec.after(keys.NOTE_ROWS))
    }


def schema_of(view: View, log: Log) -> log_pb2.Schema:
    """Return the schema in force at the seq of the tables. Raises CorruptionError."""
    value = view.get(keys.NOTE_SCHEMA)
    if value is None:
        return log_pb2.Schema()
    seq: int = keys.SEQ.unpack(value)[0]
    commit = log.commit(seq)
    if commit.HasField("base"):
        return commit.base.schema
    if not commit.migration.HasField("schema"):
        raise CorruptionError(f"expected record {seq} to carry a schema, found none", seq=seq)
    return commit.migration.schema
