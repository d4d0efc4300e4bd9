"""Engine: opens RocksDB for one directory, and reads and writes its column families.

    <path>/EVERLOG   what this directory is: format and UUID, written once
    <path>/HEAD      how far the log was known to be on disk (rocks/files.py)
    <path>/OWNER     who has it open for writing, for the message to the next
    <path>/LOCK      locked by the writer (rocks/ownership.py)
    <path>/db/       RocksDB, with the column families
        default        which column family holds the live tables: b"tables" -> name
                       by which code a rebuild makes the next: b"rebuilding" -> number
        log            seq:u64be -> framed record                           (log.py)
        data-N         rows, index entries, notes                           (keys.py)
        kept           seq:u64be -> framed record, of those that were archived (log.py)
        others         projections that catch up when they are asked         (`side`)

A write of the log goes through the write-ahead log, one of the tables does not: they are
projected again from the log on opening.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    ColumnFamily,
    CompactOptions,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from everlog.store.errors import ClosedError, CorruptionError, DiskError, Error
from everlog.store.process import keep_in_child, opening, rest_before_fork, tell_child
from everlog.store.rocks.errors import CLOSED, FORKED, StoppedError, translate, translated
from everlog.store.rocks.files import Temporary, link, needs_links
from everlog.store.rocks.ownership import Ownership
from everlog.store.rocks.refusal import Refusal
from everlog.store.rocks.wal import Wal

LOG = "log"
TABLES, REBUILDING, PROBE = b"tables", b"rebuilding", b"probe"
KEPT = "kept"
FIRST_DATA = "data-1"
LOG_BUFFER_BYTES = 16 << 20
LOG_FILE_BYTES = 256 << 20
DATA_BUFFER_BYTES = 6 << 20
CACHE_BYTES = 32 << 20
REOPENINGS = 3
FAMILY_BYTES = 256 << 10  # a column family is not made with less room
NEWEST_MAX, REST_S = 4, 60.0  # files; how long `rest` waits for their merging
CLOSE_S = 10.0  # closing waits so long for calls of other threads
# A file of a column family, as RocksDB describes it: 12:3456[1 .. 9]['0000' seq:1, type:1 .. '00FF' seq:9, …
_FILE = re.compile(r"^ \d+:(\d+)\[.*?\]\['([0-9A-F]*)' seq:.*? \.\. '([0-9A-F]*)' seq:", re.MULTILINE)
_NEWEST = "rocksdb.num-files-at-level0"
_PROPERTY = re.compile(r"# (entries|deletions|range deletions)=(\d+);")
_OBJECTS = ("log", "data", "get", "_db", "_put_log", "_write", "_log_handle")  # of RocksDB, in an Engine
_WORK = (
    "rocksdb.mem-table-flush-pending",
    "rocksdb.compaction-pending",
    "rocksdb.num-running-flushes",
    "rocksdb.num-running-compactions",
)


class Engine:
    """An open RocksDB. `secondary` opens it for reading while another process writes. `owner` owns its
    directory; without one the path must be private."""

    def __init__(
        self,
        path: Path,
        *,
        secondary: bool = False,
        recovery: DBRecoveryMode | None = None,
        owner: Ownership | None = None,
    ) -> None:
        keep_in_child(self)
        tell_child(self)
        if not secondary:
            rest_before_fork(self)
        self._compacting: list[int] = []  # threads that wait for RocksDB's
        self._pid = os.getpid()
        self.path = path
        self.refusal = Refusal(path)
        self.at = owner.at if owner else path  # for files beside RocksDB's
        self._owner = None if secondary else owner
        self.stopped: DiskError | None = None  # why nothing is written any more
        self._recovery = recovery
        self.secondary = secondary
        self._scratch = Temporary("everlog-reading-") if secondary else None
        self._opened = 0
        self.rebuilding = threading.Lock()
        self._live_writes = itertools.count(1)
        self.live_write = 0  # the last change of the live tables that was begun
        self._cache = Cache(CACHE_BYTES)
        # rocksdict lets nobody close a column family that another thread compacts or flushes.
        self._care = threading.Lock()
        self._appending = threading.Lock()  # or RocksDB's sync might follow another thread's failed append
        self.once = ReadOptions()  # for what is read from end to end: it leaves the cache to others
        self.once.fill_cache(False)  # type: ignore[call-arg]  # its stub is wrong
        self._to_os = WriteOptions()
        self._no_wal = WriteOptions()
        self._no_wal.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; its stub is wrong
        try:
            with opening(self, path, read_only=secondary), translated(f"opening {path}"):
                self._open_at_last()
        except Error:
            self._sweep()
            raise
        if self._owner is not None:
            try:
                self._owner.hold_rocksdb()
            except BaseException:
                self.close()
                raise

    def _open_at_last(self) -> None:
        """Opens it. A reader tries again: the writer may drop a column family after it was listed."""
        for _ in range(REOPENINGS if self.secondary else 0):
            with contextlib.suppress(Exception):
                self._open()
                return
        self._open()

    def _open(self) -> None:
        directory = str(self._linked() or self._directory())
        exists = Path(directory, "CURRENT").exists()
        names = Rdict.list_cf(directory, _options(self._cache)) if exists else ["default"]
        if not any(name.startswith("data-") for name in names):  # it is made now, or was when it was killed
            names.append(FIRST_DATA)
        families = {name: self._family_options(name) for name in {*names, LOG}}
        access = AccessType.read_write()
        if self._scratch:
            self._opened += 1
            access = AccessType.secondary(f"{self._scratch.path}/{self._opened}")
        self._db = Rdict(directory, self._db_options(), families, access)
        self._wal = Wal(directory)
        self.log = self._db.get_column_family(LOG)
        self._log_handle = self._db.get_column_family_handle(LOG)
        self.data_name = self._live_name()
        self.named = self.data_name  # which tables are live when it is opened again, for all one knows
        self.data = self._db.get_column_family(self.data_name)
        self.data_handle: ColumnFamily | None = self._db.get_column_family_handle(self.data_name)
        if not self.secondary:
            for name in names:
                if name.startswith("data-") and name not in {self.data_name, self.next_name}:
                    self._db.drop_column_family(name)  # the old tables, left by a kill after the switch
        self._names = set(names)
        self._sides: dict[str, tuple[Rdict, ColumnFamily]] = {}
        self._put_log: Any = self.log.put
        self._write: Any = self._db.write
        self.get = self.data.get

    def _directory(self) -> str:
        return self._owner.enter_rocksdb(self) if self._owner is not None else str(self.path / "db")

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        me = threading.get_ident()
        self._compacting.append(me)
        try:
            yield
        finally:
            self._compacting.remove(me)

    @contextlib.contextmanager
    def _filing(self, doing: str) -> Iterator[None]:
        """For work of RocksDB on files. Raises DiskError at once where the disk is full: RocksDB looks for
        room only when it has no other work, and callers may try again and again."""
        if self.refusal.is_full:
            raise DiskError(self.refusal.error, outcome="nothing written", full=True)
        try:
            with self._waiting():
                yield
        except Error:
            raise
        except Exception as error:
            raise self._refused(error, f"{doing} {self.path}", full=True) from error

    def is_idle(self) -> bool:
        """Whether RocksDB's threads have no work for this database."""
        if self._compacting:
            return False
        try:
            families = (self.log, self.data, *(family for family, _ in list(self._sides.values())))
            return not any(family.property_int_value(name) for family in families for name in _WORK)
        except ClosedError:
            return True
        except Exception:  # noqa: BLE001  it is being opened, or closed
            return False

    def stop(self, why: DiskError) -> None:
        """End writing: from now on writes raise `why`. Reads continue."""
        self.stopped = why
        self.refusal.begin(why)

        def refuse(*_: Any) -> Any:
            raise StoppedError(why)

        self._put_log = self._write = refuse
        with contextlib.suppress(Exception):  # the rest of what RocksDB does by itself
            self._db.set_options({"disable_auto_compactions": "true"})

    @staticmethod
    def _stopped_error(why: DiskError) -> Error:
        return translate(StoppedError(why), "")

    def _linked(self) -> Path | None:
        """Where a reader opens what lies in a place that cannot be written."""
        if self._scratch is None or not needs_links(self.path / "db"):
            return None
        with translated(f"reading {self.path}"):
            link(self.path / "db", self._scratch.path / "db")
        return self._scratch.path / "db"

    @property
    def next_name(self) -> str:
        """What the tables of the next rebuild are called, or of one that was killed."""
        return f"data-{int(self.data_name.split('-')[1]) + 1}"

    def _live_name(self) -> str:
        name: bytes | None = self._db.get(TABLES)
        return name.decode() if name else FIRST_DATA

    def _db_options(self) -> Options:
        options = _options(self._cache)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_wal_recovery_mode(self._recovery or DBRecoveryMode.tolerate_corrupted_tail_records())
        if self._recovery:  # to save what can be saved
            options.set_paranoid_checks(False)
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        # A secondary opens all files at once: the process that writes may delete them at any time.
        options.set_max_open_files(-1 if self.secondary else 512)
        options.set_max_total_wal_size(64 << 20)
        return options

    def _family_options(self, name: str) -> Options:
        options = _options(self._cache)
        options.set_write_buffer_size(LOG_BUFFER_BYTES if name == LOG else DATA_BUFFER_BYTES)
        options.set_max_write_buffer_number(3)
        if name == LOG:
            options.set_target_file_size_base(LOG_FILE_BYTES)
        options.set_disable_auto_compactions(self._recovery is not None)
        return options

    def append_record(self, key: bytes, framed: bytes) -> None:
        """Writes a record to the operating system. Raises DiskError: nothing was written."""
        with self._appending:
            try:
                self._put_log(key, framed, self._to_os)
            except Exception as error:
                raise self._refused(error, f"writing to the log in {self.path}") from error

    def append_records(self, records: list[tuple[bytes, bytes]]) -> None:
        """Writes records to the operating system. Raises DiskError: none was written."""
        writes = WriteBatch(raw_mode=True)
        with self._appending:
            try:
                for key, framed in records:
                    writes.put(key, framed, self._log_handle)
                self._write(writes, self._to_os)
            except Exception as error:
                raise self._refused(error, f"writing to the log in {self.path}") from error

    def trim(self, key: bytes, base: bytes, kept: list[tuple[bytes, bytes]]) -> None:
        """Puts `base` in the place of all records up to `key`, and those `kept` beside, durably and at once.
        Raises DiskError: nothing was done, or it is not known to be durable."""
        found = self.side(KEPT)
        assert found is not None
        writes = WriteBatch(raw_mode=True)
        for seq, framed in kept:
            writes.put(seq, framed, found[1])
        writes.delete_range(b"", key, self._log_handle)
        writes.put(key, base, self._log_handle)
        with translated(f"trimming the log in {self.path}"):
            self._write(writes, self._to_os)
        self.sync_log()

    def cut_log(self, key: bytes) -> None:
        """Removes all records from `key` on, durably. Raises DiskError."""
        writes = WriteBatch(raw_mode=True)
        writes.delete_range(key, b"\xff" * len(key), self._log_handle)
        with translated(f"cutting the log in {self.path}"):
            self._write(writes, self._to_os)
        self.sync_log()

    def log_bytes(self) -> int:
        """About how many bytes the log is, on disk and in memory. Read-only."""
        properties = ("rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        with translated(f"reading {self.path}"):
            return sum(self.log.property_int_value(name) or 0 for name in properties)

    def data_bytes(self) -> int:
        """Return the approximate bytes of the tables' files. Read-only."""
        with translated(f"reading {self.path}"):
            return self.data.property_int_value("rocksdb.live-sst-files-size") or 0

    def compact_log(self, end: bytes) -> None:
        """Free the disk of records removed from the log before `end`, except those that an older snapshot
        sees (`holds_before`). Releases the interpreter's lock."""
        with self._filing("compacting"):
            self.log.flush()
            self.log.compact_range(b"", end, _forced())

    @property
    def sequence(self) -> int:
        """Return RocksDB's sequence number of the newest write. Read-only."""
        with translated(f"reading {self.path}"):
            return int(self._db.latest_sequence_number())

    def holds_before(self, sequence: int) -> bool:
        """Whether an open snapshot sees entries removed up to `sequence`. Read-only."""
        with translated(f"reading {self.path}"):
            count, oldest = (
                self._db.property_int_value(f"rocksdb.{name}") or 0
                for name in ("num-snapshots", "oldest-snapshot-sequence")
            )
        return bool(count) and oldest < sequence

    def removed(self, *, log: bool) -> tuple[int, int, int]:
        """Return the number of entries in the files of the log, or of the tables, and how many of them delete
        a key or a range. Read-only."""
        with translated(f"reading {self.path}"):
            family = self.log if log else self.data
            described = family.property_value("rocksdb.aggregated-table-properties") or ""
        found = {name: int(value) for name, value in _PROPERTY.findall(described)}
        return found.get("entries", 0), found.get("deletions", 0), found.get("range deletions", 0)

    def log_files(self) -> list[tuple[int, bytes, bytes]]:
        """The files of the log, in its order: bytes, keys of the first and the last record. Read-only."""
        with translated(f"reading {self.path}"):
            described = self.log.property_value("rocksdb.sstables") or ""
        files = [
            (int(size), bytes.fromhex(first), bytes.fromhex(last))
            for size, first, last in _FILE.findall(described)
        ]
        return sorted(files, key=lambda file: file[1:])

    def merge_log(self, first: bytes, last: bytes) -> None:
        """Makes one file of those that have the records from `first` to `last`. Lets go of the interpreter's
        lock."""
        with self._filing("compacting"):
            self.log.compact_range(first, last, _forced())

    def sync_log(self) -> None:
        """Wait until all that was appended is on disk. Only for who keeps others from appending. Releases the
        interpreter's lock.

        Raises DiskError: whether it is on disk is unknown, until the database is opened again or, with the
        fact `resumes`, until writes are taken again.
        """
        with self._appending:
            self._sync(lambda: self._db.flush_wal(True))

    def sync_beside(self) -> None:
        """The same while others may append."""
        self._sync(self._wal.sync)

    def _sync(self, sync: Callable[[], None]) -> None:
        if self.stopped is not None:  # what was appended may well be on disk
            facts = self.stopped.facts | {"outcome": "unknown", "stopped": True}
            raise DiskError(str(self.stopped), **facts)
        if self.refusal.since_ns:  # a sync that fails now would keep RocksDB from resuming
            raise self._unconfirmed()
        try:
            sync()
        except Exception as error:
            self._refused(error, f"writing to the log in {self.path}", full=True)
            if self.refusal.since_ns:
                raise self._unconfirmed() from error
            raise DiskError(
                f"{self.path}: the disk did not confirm a write ({error}); whether it is on disk is unknown"
                " until the database is opened again, and nothing more is written until then",
                outcome="unknown",
            ) from error

    def resume(self) -> None:
        """After writes were refused: write, and wait until all that was appended is on disk. RocksDB has
        brought its memory to new files by then. Raises DiskError; `outcome` says whether writes are still
        refused, or it is unknown what is on disk."""
        if self.stopped is not None:
            raise self._stopped_error(self.stopped)
        with translated(f"writing to {self.path}"):
            self._db.delete(PROBE, self._no_wal)  # of a key that is never there
            if self.named != self.data_name:  # a switch to other tables that the full disk did not confirm
                self._db[TABLES] = self.data_name.encode()
        try:
            self._db.flush_wal(True)
            self.named = self.data_name
        except Exception as error:
            found = translate(error, f"writing to the log in {self.path}")
            raise DiskError(str(found), outcome="unknown", resumes=bool(found.facts.get("full"))) from error

    def _refused(self, error: Exception, doing: str, *, full: bool = False) -> Error:
        """RocksDB's error as everlog's, noted where the disk refuses; `full`: only for want of room."""
        found = translate(error, doing)
        if isinstance(found, CorruptionError) and self._owner is not None:
            found = self._owner.look() or found  # a file is gone: others may have taken the place of all
        if isinstance(found, DiskError) and (not full or found.facts.get("full")):
            self.refusal.begin(found)
        return found

    def _unconfirmed(self) -> DiskError:
        return DiskError(
            f"{self.path}: the disk did not confirm a write, and whether it is there is unknown until writes"
            f" are taken again, which they are by themselves where that is possible: {self.refusal.error}",
            outcome="unknown",
            resumes=True,
        )

    def write_data(self, writes: WriteBatch, *, live: bool = False) -> None:
        """Writes a projection, all or nothing, without the write-ahead log; `live`: that of the tables."""
        if live:
            self._begin_live_write()
        try:
            self._write(writes, self._no_wal)
        except Exception as error:
            raise self._refused(error, f"writing tables in {self.path}") from error

    def _begin_live_write(self) -> None:
        """Before it begins: whoever has read something and sees the same number saw nothing of it."""
        self.live_write = next(self._live_writes)

    def create_family(self, name: str) -> tuple[Rdict, ColumnFamily]:
        """Raises DiskError where there is no room: RocksDB would make one that nobody has a handle of."""
        if shutil.disk_usage(self.at).free < FAMILY_BYTES:
            raise self._refused(OSError("No space left on device"), f"creating {name} in {self.path}")
        with translated(f"creating {name}"):
            family = self._db.create_column_family(name, self._family_options(name))
            return family, self._db.get_column_family_handle(name)

    def next_family(self, made_by: bytes) -> tuple[Rdict, ColumnFamily]:
        """The column family for the tables of a rebuild: a new one, or what a killed one left, where
        that was `made_by` the same."""
        name = self.next_name
        if name in self._names:
            family = self._db.get_column_family(name)
            if self._db.get(REBUILDING) == made_by:
                return family, self._db.get_column_family_handle(name)
            self.drop_family(name, family)
        with self._appending, translated(f"creating {name}"):
            self._db[REBUILDING] = made_by
        made = self.create_family(name)
        self._names.add(name)
        return made

    def side(self, name: str, *, make: bool = True) -> tuple[Rdict, ColumnFamily] | None:
        """The column family of a projection beside the tables, made where it is missing; None where it is
        missing and not to be made, or to be made by the process that writes."""
        found = self._sides.get(name)
        if found is not None:
            return found
        with self._care:  # or two would make it
            found = self._sides.get(name)
            if found is None:
                if name in self._names:
                    found = self._db.get_column_family(name), self._db.get_column_family_handle(name)
                elif self.secondary or not make:
                    return None
                else:
                    found = self.create_family(name)
                self._names.add(name)
                self._sides[name] = found
            return found

    def drop_side(self, name: str) -> None:
        """Throws such a projection away. Who iterates over it keeps what was there; who has it and begins
        something gets a ClosedError; who asks for it gets a new one."""
        if self.side(name, make=False) is not None:
            with self._care:  # all of it: or who asks for it meanwhile is given what is being dropped
                found = self._sides.pop(name, None)
                if found is not None:
                    self._drop(name, found[0])

    def drop_family(self, name: str, family: Rdict) -> None:
        """Drops tables. Views of them stay, and with the last of them their disk is freed. Raises DiskError
        where the disk refuses writes: then nothing is dropped."""
        with self._care:
            self._drop(name, family)

    def _drop(self, name: str, family: Rdict) -> None:
        with self._appending, translated(f"dropping {name}"):
            if self.refusal.since_ns:  # to close it syncs the log, and RocksDB would never resume
                raise DiskError(self.refusal.error, outcome="nothing written", full=self.refusal.is_full)
            self._names.discard(name)
            family.close()  # first: or whoever keeps an error, and its frames, keeps the database locked
            self._db.drop_column_family(name)

    def switch_data(self, name: str, family: Rdict, handle: ColumnFamily) -> tuple[str, Rdict]:
        """Makes another column family the live tables, durably; returns the old one."""
        try:
            family.flush()
            self.named = name
            self._db[TABLES] = name.encode()
            self._db.flush_wal(True)
        except Exception as error:
            raise self._refused(error, "switching tables") from error
        old = self.data_name, self.data
        self.data_name = name
        self.data, self.data_handle, self.get = family, handle, family.get
        return old

    def give_up_data(self, name: str, family: Rdict) -> DiskError | None:
        """Drops tables that were to be live, unless they may be: nobody knows where the disk did not
        confirm it, and what is returned must end all writing. Where it was full, `resume` takes back which
        are to be live, before anything else is written. Where the disk refuses writes they are left to the
        next rebuild, or opening."""
        if self.named != name:
            with contextlib.suppress(DiskError):
                self.drop_family(name, family)
        elif self.data_name != name and not self.refusal.is_full:
            return DiskError(
                f"{self.path}: the disk did not confirm a rebuild, and nothing more is written until the"
                " database is opened again",
                outcome="nothing written",
            )
        return None

    def compact_data(self, start: bytes, end: bytes) -> None:
        """Frees the disk of what was deleted from the tables in a range. Lets go of the interpreter's
        lock."""
        with self._care, self._filing("compacting"):
            self.data.compact_range(start, end, _forced())

    def rest(self, family: Rdict) -> None:
        """Wait, a minute at most, until RocksDB has merged the newest files of a column family. A range
        holds a block of each of them in memory, and a block holds a whole row of up to 4 MiB."""
        until = time.monotonic() + REST_S
        with translated(f"reading {self.path}"):
            while (family.property_int_value(_NEWEST) or 0) > NEWEST_MAX and time.monotonic() < until:
                time.sleep(0.01)

    def flush(self) -> None:
        """Brings what is in memory to files, so that opening has nothing to replay."""
        with self._care, self._filing("flushing"):
            for family in (self.log, self.data, *(family for family, _ in self._sides.values())):
                family.flush()

    def catch_up(self) -> None:
        """As a secondary: sees what the writing process wrote since.

        Where that has rebuilt its tables there are column families that this one does not know,
        and none that it knew: then it is opened anew. Iterators of before stay as they are.
        """
        with translated(f"reading {self.path}"):
            for left in range(REOPENINGS, -1, -1):
                try:
                    self._begin_live_write()
                    self._linked()
                    self._db.try_catch_up_with_primary()
                    if self._live_name() == self.data_name:
                        return
                    self._open()
                    return
                except Exception:
                    if not left:
                        raise
                with contextlib.suppress(Exception):  # the next turn tells
                    self._open()

    def disk_bytes(self) -> int:
        sizes = 0
        for file in self.at.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # RocksDB deletes what it has compacted
                sizes += file.stat().st_size
        return sizes

    def close(self) -> None:
        """Lets go of RocksDB. What cannot be flushed any more is in the log, and projected again."""
        if self._pid != os.getpid():  # it is the parent's
            return
        # rocksdict keeps the lock of a database for as long as any handle of it lives, or any object
        # that could not be closed.
        self.data_handle = None
        sides = [family for family, _ in self._sides.values()]
        self._sides.clear()
        until = time.monotonic() + CLOSE_S
        for one in (self.log, self.data, *sides, self._db):
            while _is_busy(one) and time.monotonic() < until:
                time.sleep(0.001)  # another thread is in it
        for name in _OBJECTS:
            setattr(self, name, CLOSED)
        if self._owner is not None:
            self._owner.leave_rocksdb()
        self._sweep()

    def forked(self) -> None:
        """In a forked child: keep RocksDB's objects, which are the parent's, and refuse every use of them."""
        self._leaked = [*map(vars(self).get, _OBJECTS), self._sides]
        for name in _OBJECTS:
            setattr(self, name, FORKED)
        self._sides = {}
        self._care, self._appending = threading.Lock(), threading.Lock()  # threads of the parent had them

    def _sweep(self) -> None:
        if self._scratch:
            self._scratch.remove()


def _is_busy(one: Rdict) -> bool:
    """Close it, unless another thread uses it. Return whether one does."""
    try:
        one.close()
    except Exception as error:  # noqa: BLE001  what cannot be flushed any more is in the log
        return "already" in str(error).lower() and "borrowed" in str(error).lower()
    return False


def _forced() -> CompactOptions:
    """Options that rewrite files at the last level as well: they hold entries removed under a snapshot."""
    how = CompactOptions()
    how.set_exclusive_manual_compaction(False)  # or the tables would wait with the log
    how.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
    return how


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_bloom_filter(10, False)
    blocks.set_block_size(16 << 10)
    blocks.set_format_version(5)
    # Indexes and filters stay with their open files. Measured with them in the cache: from some
    # 200,000 rows on, when the filter of a file outgrows its place there, a get took 100 µs.
    blocks.set_cache_index_and_filter_blocks(False)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    return options
