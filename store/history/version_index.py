"""Version index: where each version of every row lies in the log. A projection in a column family beside
the tables, which catches up on demand.

    version := space:u32be key inverted:u64be        value: op:u8 offset:varint size:varint
    note    := 0x00000000 kind:u16be                 the projection's own, below every space
    inverted := 2^64 - 1 - seq                       so that the newest version comes first
    note kinds: 1 applied  seq:u64be checksum:u32be of the last record that is in it

    space 3, key JFK:   seq 812 ─ seq 790 ─ seq 2        one seek finds the newest at or before a seq
                          │
                          └─▶ record 812 of the log, `size` bytes of it from `offset` on: the Change

A value is the position of the change in its framed record, and contains nothing of the row: what is
erased in the log is erased. Times need no index: records carry theirs, which never go back, and the log
is bisected.

A reader beside a writing process puts versions that the projection lacks into a scratch one of its own.
So does a writer whose disk refuses writes. Numbers are on disk; format reference: docs/format.md,
"Versions".

Invariants
  (1) entries never change: a (space, key, seq) has one value, or none yet;
  (2) the batch that writes versions moves `applied` with them: killed at any point, it resumes there;
  (3) it never covers more than what the disk has of the log; one that does (or is of another log) is
      discarded and built again;
  (4) no key is a prefix of another (schema/codec.py), so versions of two rows never mingle;
  (5) a read as of a seq sees all versions up to that seq: after a discard, they are built again first.
      `discarded` tells a running reader that this happened;
  (6) the bytes at a position are a change of that row, or an error is raised.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from rocksdict import ColumnFamily, Rdict, WriteBatch

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import CorruptionError, CursorError, DiskError
from everlog.store.log import Log
from everlog.store.process import keep_in_child
from everlog.store.progress import OnProgress, Progress
from everlog.store.record import changes, read_varint, varint
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import translate, translated, verify_end
from everlog.store.rocks.files import Temporary

INVERTED_SIZE = 8
_MASK = (1 << 64) - 1
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


class Place(NamedTuple):
    """The position of a version: the seq of its record, and where the change lies in it."""

    seq: int
    op: int
    offset: int
    size: int


def row_of(space: int, key: bytes) -> bytes:
    """Return the common prefix of all versions of a row."""
    return _U32.pack(space) + key


def inverted(seq: int) -> bytes:
    """Return the encoded seq at the end of a version's key."""
    return _U64.pack(_MASK ^ seq)


def packed(op: int, offset: int, size: int) -> bytes:
    """Return the value of a version."""
    return bytes((op,)) + varint(offset) + varint(size)


def place_of(full: bytes, value: bytes) -> Place:
    """Decode a version from its key and value."""
    seq = _MASK ^ _U64.unpack_from(full, len(full) - INVERTED_SIZE)[0]
    if len(value) == 4 and value[1] < 0x80 <= value[2]:  # fast path for short records, which are most
        return Place(seq, value[0], value[1], value[2] & 0x7F | value[3] << 7)
    offset, at = read_varint(value, 1)
    return Place(seq, value[0], offset, read_varint(value, at)[0])


def change_at(framed: bytes, row: bytes, place: Place) -> log_pb2.Change:
    """Return the change of a row in a checked record. Raises CorruptionError if it is not there."""
    try:
        change = log_pb2.Change.FromString(framed[place.offset : place.offset + place.size])
    except DecodeError:
        change = log_pb2.Change()
    if row_of(change.space, change.key) != row:
        raise CorruptionError(
            f"expected a change of row {row.hex()} in record {place.seq} at byte {place.offset}, found"
            " other data: the version index does not belong to this log; delete it with `db.past.forget()`,"
            " and it is built again",
            seq=place.seq,
            place=row.hex(),
        )
    return change


FAMILY = "past"
APPLIED = keys.PREFIX.pack(0, 1)
WRITE_AT = 1024  # versions in a batch; a write holds the interpreter's lock


class Versions:
    """The versions of all rows of one open database. Safe to use from many threads."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._lock = threading.Lock()  # held to catch up
        self._reading = threading.Lock()  # guards the cursors
        self._scratch: tuple[Temporary, Engine] | None = None
        self._cursors: list[Any] | None = None
        self._checked = False  # whether the stored projection is known to be of this log
        self._base_upto = 0  # last seq of the projection in the database's own directory
        self.applied = 0
        self.discarded = 0  # how often it was discarded

    def catch_up(self, upto: int, progress: OnProgress | None = None) -> None:
        """Project all versions up to `upto`. Writes the projection; if interrupted, it keeps what is done.

        Raises CorruptionError that names the record, and CursorError if the log was cut.
        """
        if self.applied >= upto and not self._is_elsewhere:
            return
        with self._lock:
            if self._is_elsewhere and not self._engine.refusal.since_ns:
                self._begin_anew()
            if not self._checked:
                self._check()
            if self.applied >= upto:
                return
            oldest = self._log.oldest
            if oldest > 1 and self.applied < oldest - 1:
                raise CursorError(
                    f"the log starts at {oldest}, but versions are indexed only up to {self.applied}:"
                    " history before that needs the archive of the removed records",
                    oldest=oldest,
                )
            if upto > self._log.head and not self._engine.secondary and not self._is_synced(upto):
                self._begin_scratch()  # the disk refuses that part of the log
            try:
                self._project(upto, progress)
            except DiskError:
                if self._scratch is not None:
                    raise
                self._begin_scratch()
                self._project(upto, progress)

    def _is_synced(self, upto: int) -> bool:
        """Sync the log, and return whether the disk has it up to a record: projected records must not be
        lost from the log.

        Raises the DiskError that ended writing.
        """
        try:
            self._log.sync(beside=True)
        except DiskError as error:
            if not error.facts.get("resumes"):
                raise
        return upto <= self._log.head

    @property
    def _is_elsewhere(self) -> bool:
        """Whether this is the writer, and the disk refused its last write."""
        return self._scratch is not None and not self._engine.secondary

    def _begin_scratch(self) -> None:
        """Project new records to another place while the disk refuses writes. For the writer."""
        if self._scratch is None:
            directory = Temporary("everlog-past-")
            with self._reading:
                self._base_upto, self._cursors = self.applied, None
                self._scratch = directory, Engine(directory.path)

    def _begin_anew(self) -> None:
        """Project into the database again, including what was projected elsewhere, now that writes work."""
        with self._reading:
            self.applied, self._cursors, self.discarded = self._base_upto, None, self.discarded + 1
            self._let_go_of_scratch()

    def _project(self, upto: int, progress: OnProgress | None) -> None:
        handle = self._writable()[1]
        found, seq, framed, start = dict[bytes, bytes](), self.applied, b"", self.applied
        for seq, framed in self._log.scan(start, upto):
            tail = inverted(seq)
            for space, op, key, offset, size in changes(framed, seq):
                found[row_of(space, key) + tail] = packed(op, offset, size)
            if len(found) >= WRITE_AT:
                self._write(found, handle, seq, framed)
                found.clear()
                if progress is not None:
                    progress(Progress("read the log for versions", seq - start, upto - start, "records"))
        if seq > self.applied:
            self._write(found, handle, seq, framed)

    def _write(self, found: dict[bytes, bytes], handle: ColumnFamily, seq: int, framed: bytes) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.set_default_column_family(handle)
        for full in sorted(found):  # RocksDB writes sorted keys three times as fast
            batch[full] = found[full]
        batch[APPLIED] = keys.APPLIED.pack(seq, record.checksum_of(framed))
        engine = self._scratch[1] if self._scratch else self._engine
        engine.write_data(batch)
        with self._reading:
            self.applied, self._cursors = seq, None

    def _writable(self) -> tuple[Rdict, ColumnFamily]:
        if self._engine.secondary and self._scratch is None:
            directory = Temporary("everlog-past-")
            self._scratch = directory, Engine(directory.path)
        found = (self._scratch[1] if self._scratch else self._engine).side(FAMILY)
        assert found is not None
        return found

    def _check(self) -> None:
        """Read how far the projection is; discard one that is not of this log."""
        found = self._engine.side(FAMILY, make=False)
        with translated("reading the versions of rows"):
            value = found[0].get(APPLIED) if found else None
        seq, checksum = keys.APPLIED.unpack(value) if value else (0, 0)
        log = self._log
        if seq > log.head or (seq >= log.oldest and log.checksum_at(seq) != checksum):
            del found
            if not self._engine.secondary:
                self._engine.drop_side(FAMILY)
            seq = 0
        self._base_upto = seq
        self.applied, self._checked = seq, True

    def forget(self) -> None:
        """Discard the projection; it is built again on demand. Writes."""
        with self._lock, self._reading:
            self._cursors, self.applied, self.discarded = None, 0, self.discarded + 1
            self._engine.drop_side(FAMILY)

    def refresh(self) -> None:
        """As a reader beside a writer: use what the writer has projected meanwhile."""
        with self._lock, self._reading:
            self._cursors = None
            applied, base = self.applied, self._base_upto
            self._check()
            if self._base_upto >= base:
                self.applied = max(self.applied, applied)
            else:  # the writer discarded its part, on which the scratch one builds
                self.discarded += 1
                self._let_go_of_scratch()

    # reading

    def families(self, upto: int = 0) -> list[tuple[Rdict, ColumnFamily]]:
        """Return the column families that hold all versions up to a seq: one, or the writer's and the
        scratch one.

        The caller keeps a family's handle as long as it seeks with an iterator of it.
        """
        with self._known(upto):
            return self._families()

    def _families(self) -> list[tuple[Rdict, ColumnFamily]]:
        engines = [self._engine] if self._base_upto or not (self._scratch or self._engine.secondary) else []
        if self._scratch:
            engines.append(self._scratch[1])
        return [found for engine in engines if (found := engine.side(FAMILY)) is not None]

    @contextmanager
    def _known(self, upto: int) -> Iterator[None]:
        """Keep the projection from being discarded for the block, with all versions up to a seq."""
        while True:
            self.catch_up(upto)
            with self._reading:
                if self.applied >= upto:
                    yield
                    return

    def find(self, row: bytes, seq: int) -> Place | None:
        """Return the newest version of a row (its space and key) at or before `seq`. Read-only."""
        found = self.raw(row, seq)
        return None if found is None else place_of(*found)

    def raw(self, row: bytes, seq: int) -> tuple[bytes, bytes] | None:
        """`find`, as the version is stored."""
        wanted, best = row + inverted(seq), None
        try:
            with self._known(seq):
                for cursor in self._cursors or self._fresh():
                    cursor.seek(wanted)
                    full = cursor.key()
                    if full is None:
                        cursor.status()
                    elif full[:-INVERTED_SIZE] == row and (best is None or full < best[0]):
                        best = full, cursor.value()
        except Exception as error:
            raise translate(error, "reading the versions of rows") from error
        return best

    def _fresh(self) -> list[Any]:
        self._cursors = [family.iter() for family, _ in self._families()]
        return self._cursors

    def of(self, row: bytes, *, start: int, end: int) -> Iterator[Place]:
        """Yield the versions of a row from seq `end` back to `start`, both included. Read-only."""
        size = 4
        while start <= end:
            places = self._some(row, start, end, size)
            yield from places
            if len(places) < size:
                return
            end, size = places[-1].seq - 1, min(size * 4, 1024)

    def _some(self, row: bytes, start: int, end: int, most: int) -> list[Place]:
        """Return the newest of them. Reads `most` from each family, so that none between two is missed."""
        least, last = row + inverted(end), row + inverted(start)
        found: dict[bytes, bytes] = {}
        with self._known(end), translated("reading the versions of rows"):
            for family, _ in self._families():
                verifier = family.iter()  # first: it must not see what is projected meanwhile
                chunk: list[Any] = list(islice(family.items(from_key=least), most))
                if len(chunk) < most:
                    verify_end(verifier, chunk[-1][0] if chunk else None, least, last + b"\x00")
                found.update((full, value) for full, value in chunk if full <= last)
        return [place_of(full, found[full]) for full in sorted(found)[:most]]

    def keep(self) -> None:
        """In a forked child: keep RocksDB's objects alive, and use them no more."""
        self._leaked, self._cursors = self._cursors, None
        keep_in_child(self)
        self._lock, self._reading = (
            threading.Lock(),
            threading.Lock(),
        )  # the parent's threads may hold the old

    def close(self) -> None:
        """Release RocksDB's objects."""
        with self._lock, self._reading:
            self._cursors = None
            self._let_go_of_scratch()

    def _let_go_of_scratch(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch[1].close()
            scratch[0].remove()
