"""Read audit: the reads of audited tables at servers, in files beside the log: `db.access.reads()`.

    <database>/reads/<time_ns>-<random>.reads     one writing process each, locked; the newest is continued
    file   := "everlogr" version:u8=1 database:16 record*
    record := size:u32le crc32:u32le ReadRecord     crc32 of the ReadRecord (proto/access.proto)

    read ─▶ record, in one write ─▶ the answer       fsync every SYNC_S seconds, for all reads since

A process that is killed loses no record of an answer; a machine that loses power, those since the last fsync.
A part of a record at the end of a file, after a kill or on a full disk, is cut off by the next writer, and
readers stop before it.

A primary key that may be personal data is sealed with the key of its person, or left out if no row has it. So
nothing about a forgotten person can be read here.

Invariants
  (1) a read that must be recorded is recorded before its answer: otherwise it fails (DiskError);
  (2) all files have at most FILES_BYTES; the oldest are removed first;
  (3) nothing of a row other than its primary key is recorded, and bounds of ranges.

Format reference: docs/format.md, "Read audit".
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from everlog.proto import access_pb2 as pb
from everlog.store import keys
from everlog.store.core import Core
from everlog.store.errors import CorruptionError, DiskError, SealedError
from everlog.store.history.past import Past
from everlog.store.rocks import files
from everlog.store.rocks.errors import reason
from everlog.store.schema import arguments
from everlog.store.schema.arguments import Time, nanoseconds
from everlog.store.schema.schema import IndexInfo, TableInfo
from everlog.store.tx.transaction import proof_name, proof_of

MAGIC = b"everlogr\x01"
HEADER_SIZE = len(MAGIC) + 16
FILE_BYTES = 16 << 20  # a file that has more is followed by another
FILES_BYTES = 256 << 20  # of all files of a database
KEYS_BYTES = 64 << 10  # keys in one record; a read of more has several
SYNC_S = 1.0
BOUND = b"reads"  # what a sealed key is bound to, after the space of its table

_FRAME = struct.Struct("<II")


class RecordedRead(msgspec.Struct, frozen=True):
    """A read at a server, as it was recorded.

    `proof`: how the identity was proven. `call`: service and method. `table`: its current name. `keys` and
    `range` are texts for people. `at_seq`: the moment that was read; 0: now. `share`: of such reads that were
    recorded.
    """

    time_ns: int
    identity: str
    proof: str
    call: str
    table: str
    index: str
    keys: tuple[str, ...]
    range: str
    at_seq: int
    share: float


class Wanted(NamedTuple):
    """Which recorded reads to yield: empty or None, all."""

    who: str
    table: str
    since_ns: int
    before_ns: int
    limit: int | None


def check_asked_reads(
    who: str, table: str, since: Time | None, before: Time | None, limit: int | None
) -> Wanted:
    """Return checked arguments of `reads`. Raises RowError."""
    return Wanted(
        arguments.text(who, "who"),
        arguments.text(table, "table"),
        0 if since is None else nanoseconds(since),
        0 if before is None else nanoseconds(before),
        arguments.limit(limit, "reads"),
    )


# writing


class ReadLog:
    """Appends to the read audit of one database. Safe to use from many threads."""

    def __init__(self, path: Path, database: bytes) -> None:
        """`path`: the directory of the database. `database`: its UUID."""
        self._directory, self._database = path / files.READS, database
        self._lock = threading.Lock()
        self._file: int | None = None
        self._size = 0
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._syncing: threading.Thread | None = None
        self._lost: OSError | None = None  # an fsync failed, and the next read fails

    def append(self, records: Iterable[bytes]) -> None:
        """Append records in one write. Raises DiskError, and then none of them is there."""
        framed = b"".join(_FRAME.pack(len(one), zlib.crc32(one)) + one for one in records)
        with self._lock:
            try:
                if self._lost is not None:
                    error, self._lost = self._lost, None
                    self._leave()
                    raise error
                if self._file is None or self._size >= FILE_BYTES:
                    self._leave()
                    self._begin()
                self._write(framed)
            except OSError as error:
                raise DiskError(
                    "this read must be recorded in the read audit, and cannot be:"
                    f" {reason(error, self._directory)}; it was not answered. Make room in, or give access to"
                    f" {self._directory}",
                    outcome="nothing written",
                ) from None
            if self._syncing is None:
                self._syncing = threading.Thread(target=self._keep_synced, name="everlog-reads", daemon=True)
                self._syncing.start()
        self._dirty.set()

    def sync(self) -> None:
        """Wait until all records are on disk. A failure is reported by the next `append`."""
        with self._lock:
            if self._file is not None:
                try:
                    os.fsync(self._file)
                except OSError as error:
                    self._lost = error

    def close(self) -> None:
        """Wait until all records are on disk, and close the file."""
        self._closed.set()
        self._dirty.set()
        if self._syncing is not None:
            self._syncing.join()
        with self._lock:
            self._leave()

    def _keep_synced(self) -> None:
        while not self._closed.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._closed.wait(SYNC_S)
            self.sync()

    def _write(self, framed: bytes) -> None:
        assert self._file is not None
        try:
            written = os.write(self._file, framed)
            if written < len(framed):
                raise OSError(28, "no space left on the device")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(framed)

    def _begin(self) -> None:
        """Continue the newest file if no process writes to it, else begin another."""
        files.make_directory(self._directory)
        found = _files(self._directory)
        if found and found[-1].stat().st_size < FILE_BYTES and self._take(found[-1]):
            return
        sizes = {path: path.stat().st_size for path in found}
        for path in found:
            if sum(sizes.values()) <= FILES_BYTES - FILE_BYTES:
                break
            del sizes[path]
            path.unlink(missing_ok=True)
        last = int(found[-1].name.partition("-")[0]) if found else 0
        number = max(time.time_ns(), last + 1)
        path = self._directory / f"{number:020}-{secrets.token_hex(4)}{files.READS_SUFFIX}"
        self._file = files.private(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0
        self._write(MAGIC + self._database)
        files.sync_directory(self._directory)

    def _take(self, path: Path) -> bool:
        """Open an existing file, without a part of a record at its end; return whether it is continued."""
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with path.open("rb") as file:
                if file.read(HEADER_SIZE) != MAGIC + self._database:
                    raise BlockingIOError
                size = HEADER_SIZE + sum(_FRAME.size + len(one) for one in records_in(file))
            os.ftruncate(handle, size)
        except OSError:
            os.close(handle)
            return False
        self._file, self._size = handle, size
        return True

    def _leave(self) -> None:
        handle, self._file = self._file, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.fsync(handle)
            os.close(handle)


class Reading(msgspec.Struct, frozen=True):
    """A call that reads a table: by whom, and which rows, encoded as in its request."""

    identity: str
    call: str
    info: TableInfo
    index: str = ""
    keys: tuple[bytes, ...] = ()
    start: bytes = b""
    end: bytes = b""
    at_seq: int = 0


def records_of(core: Core, one: Reading, share: float) -> list[bytes]:
    """Return the records of a read, with keys that may be personal data sealed. Read-only."""
    info = one.info
    bounded = not info.sealed or not (one.index or info.key_is_personal)
    record = pb.ReadRecord(
        time_ns=core.clock.read(),
        identity=one.identity,
        proof=proof_of(one.identity),
        call=one.call,
        table=info.proto.id,
        space=info.space,
        index=one.index,
        start=one.start if bounded else b"",
        end=one.end if bounded else b"",
        at_seq=one.at_seq,
        share=share,
    )
    found, size = [], 0
    for key in one.keys:
        record.keys.append(_read_key(core, info, key))
        size += len(key) + 64
        if size >= KEYS_BYTES:
            found.append(record.SerializeToString())
            size = 0
            del record.keys[:]
    return found if found and not record.keys else [*found, record.SerializeToString()]


def _read_key(core: Core, info: TableInfo, key: bytes) -> pb.ReadKey:
    if not info.key_is_personal:
        return pb.ReadKey(key=key)
    value, vault = core.tables.get(info.row_prefix + key), core.tables.vault
    key_id = keys.key_id_of(value) if value is not None else b""
    if not key_id or vault is None:
        return pb.ReadKey()
    try:
        return pb.ReadKey(key=vault.seal(key_id, keys.SPACE.pack(info.space) + BOUND, key), key_id=key_id)
    except SealedError:
        return pb.ReadKey()


# reading


def recorded(core: Core, past: Past, wanted: Wanted) -> Iterator[RecordedRead]:
    """Yield recorded reads, oldest first. Read-only. Raises DiskError."""
    by_file = [_in_file(path) for path in _files(core.path / files.READS)]
    try:
        found = _matching(core, past, heapq.merge(*by_file, key=lambda record: record.time_ns), wanted)
        yield from islice(found, wanted.limit)
    finally:
        for one in by_file:
            one.close()


def _matching(
    core: Core, past: Past, found: Iterable[pb.ReadRecord], wanted: Wanted
) -> Iterator[RecordedRead]:
    tables = _Tables(core, past)
    for record in found:
        if (
            (wanted.who and record.identity != wanted.who)
            or record.time_ns < wanted.since_ns
            or (wanted.before_ns and record.time_ns >= wanted.before_ns)
        ):
            continue
        info = tables.of(record.table, record.space)
        name = tables.name(record.table, info)
        if wanted.table and name != wanted.table:
            continue
        yield RecordedRead(
            record.time_ns,
            record.identity,
            proof_name(record.proof),
            record.call,
            name,
            record.index,
            tuple(_key_text(core, info, key) for key in record.keys),
            _range_text(info, record),
            record.at_seq,
            record.share,
        )


class _Tables:
    """Tables by id and space, also those that are gone."""

    def __init__(self, core: Core, past: Past) -> None:
        self._core, self._past = core, past
        self._known: dict[tuple[int, int], TableInfo | None] = {}

    def of(self, id: int, space: int) -> TableInfo | None:
        info = self._core.schema.spaces.get(space)
        if info is not None and info.proto.id == id:
            return info
        if (id, space) not in self._known:
            generations = self._past.schemas.generations(id, self._core.head)
            infos = (one.info for one in generations if one.info.space == space)
            self._known[id, space] = next(infos, None)
        return self._known[id, space]

    def name(self, id: int, info: TableInfo | None) -> str:
        """Return the current name of a table, or the last that it had."""
        now = (one.name for one in self._core.schema.tables.values() if one.proto.id == id)
        return next(now, info.name if info is not None else f"table {id}")


def _key_text(core: Core, info: TableInfo | None, one: pb.ReadKey) -> str:
    if not one.key:
        return "(not recorded: it may be personal data)"
    key, vault = one.key, core.tables.vault
    if one.key_id:
        try:
            if vault is None or info is None:
                return "(sealed)"
            key = vault.open(one.key_id, keys.SPACE.pack(info.space) + BOUND, one.key)
        except SealedError as error:
            return "(of a forgotten person)" if error.facts.get("erased") else "(sealed)"
        except CorruptionError:
            return "(sealed)"
    try:
        return key.hex() if info is None else "/".join(str(value) for value in info.decode_key(key))
    except CorruptionError:
        return key.hex()


def _range_text(info: TableInfo | None, record: pb.ReadRecord) -> str:
    if not (record.start or record.end):
        return ""
    index = info.indexes.get(record.index) if info is not None and record.index else None
    return f"{_bound_text(info, index, record.start)} to {_bound_text(info, index, record.end)}"


def _bound_text(info: TableInfo | None, index: IndexInfo | None, bound: bytes) -> str:
    """Format a bound: its values, or its bytes, if it is no whole key."""
    if not bound:
        return "…"
    with contextlib.suppress(Exception):
        if index is not None:
            return index.show(bound)
        if info is not None:
            return "/".join(str(value) for value in info.decode_key(bound))
    return bound.hex()


def _files(directory: Path) -> list[Path]:
    """Return the files, oldest first."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(files.READS_SUFFIX))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DiskError(f"{directory} cannot be read: {error.strerror}", outcome="nothing written") from None


def _in_file(path: Path) -> Generator[pb.ReadRecord]:
    try:
        with path.open("rb") as file:
            if file.read(HEADER_SIZE).startswith(MAGIC):
                for record in records_in(file):
                    with contextlib.suppress(DecodeError):
                        yield pb.ReadRecord.FromString(record)
    except FileNotFoundError:  # just removed
        return
    except OSError as error:
        raise DiskError(f"{path} cannot be read: {error.strerror}", outcome="nothing written") from None


def records_in(file: BinaryIO) -> Iterator[bytes]:
    """Yield the whole records of a file after its header, up to one that is not."""
    while len(frame := file.read(_FRAME.size)) == _FRAME.size:
        size, checksum = _FRAME.unpack(frame)
        record = file.read(size)
        if len(record) < size or zlib.crc32(record) != checksum:
            return
        yield record
