"""Engine: an open RocksDB, its column families, and its settings.

    <path>/EVERLOG   identifies the directory: format and UUID, written once
    <path>/HEAD      the last record known to be on disk (rocks/files.py)
    <path>/OWNER     the process that has it open for writing, for the next one's error message
    <path>/LOCK      locked by the writer (rocks/ownership.py)
    <path>/db/       RocksDB, with the column families
        default        which column family holds the live tables: b"tables" -> name
                       the code version of an unfinished rebuild: b"rebuilding" -> number
        log            seq:u64be -> framed record                           (log.py)
        data-N         rows, index entries, notes                           (keys.py)
        kept           seq:u64be -> framed record, of archived records      (log.py)
        others         projections that catch up on demand                   (`side`)

Writes of the log go through the write-ahead log. Writes of the tables do not: on opening, they are
projected again from the log.
"""

from __future__ import annotations

import contextlib
import errno
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

from everlog.store.errors import ClosedError, CorruptionError, DiskError, Error, OpenError
from everlog.store.process import keep_in_child, notify_in_child, opening, quiesce_before_fork
from everlog.store.rocks.errors import (
    CLOSED,
    FORKED,
    Refusal,
    StoppedError,
    check_address_space,
    check_descriptors,
    is_write_refused,
    lacks_inodes,
    translate,
    translated,
)
from everlog.store.rocks.files import Temporary, below, hold_families, link, needs_links
from everlog.store.rocks.ownership import Ownership
from everlog.store.rocks.wal import Wal

LOG = "log"
TABLES, REBUILDING, PROBE = b"tables", b"rebuilding", b"probe"
KEPT = "kept"
FIRST_DATA = "data-1"
LOG_BUFFER_BYTES = 16 << 20
LOG_FILE_BYTES = 256 << 20
DATA_BUFFER_BYTES = 6 << 20
CACHE_BYTES = 32 << 20
REOPENINGS = 3  # attempts of a reader after which the files have not changed
REOPENING_S = 10.0  # how long it makes attempts while a writer changes them
FAMILY_BYTES = 256 << 10  # minimum free space to create a column family
NEWEST_MAX, REST_S = 4, 60.0  # files; how long `rest` waits until they are merged
RECOVERY_S = 0.5  # after the disk accepts writes again, RocksDB's recovery ends
CLOSE_S = 10.0  # how long closing waits for calls of other threads
# RocksDB's description of a column family's file: 12:3456[1 .. 9]['0000' seq:1, type:1 .. '00FF' seq:9, …
_FILE = re.compile(r"^ \d+:(\d+)\[.*?\]\['([0-9A-F]*)' seq:.*? \.\. '([0-9A-F]*)' seq:", re.MULTILINE)
_NEWEST, _ERRORS = "rocksdb.num-files-at-level0", "rocksdb.background-errors"
_PROPERTY = re.compile(r"# (entries|deletions|range deletions)=(\d+);")
_OBJECTS = ("log", "data", "get", "_db", "_put_log", "_write", "_log_handle")  # attributes that are RocksDB's
_STALLS = re.compile(r"\btotal-(?:delays|stops): (\d+)")
PROPERTIES = (  # numbers, after `rocksdb.`
    *("actual-delayed-write-rate", "background-errors", "block-cache-capacity", "block-cache-usage"),
    *("cur-size-all-mem-tables", "estimate-pending-compaction-bytes", "estimate-table-readers-mem"),
    *("is-write-stopped", "live-sst-files-size", "num-files-at-level0", "num-running-compactions"),
    *("num-running-flushes", "num-snapshots"),
)
_WORK = (
    "rocksdb.mem-table-flush-pending",
    "rocksdb.compaction-pending",
    "rocksdb.num-running-flushes",
    "rocksdb.num-running-compactions",
)


_started = threading.Event()  # this process has opened RocksDB


class Engine:
    """An open RocksDB.

    `secondary` opens it for reading while another process writes. `owner` owns its directory; without an
    owner the path must be private.
    """

    def __init__(
        self,
        path: Path,
        *,
        secondary: bool = False,
        recovery: DBRecoveryMode | None = None,
        owner: Ownership | None = None,
    ) -> None:
        keep_in_child(self)
        notify_in_child(self)
        if not secondary:
            quiesce_before_fork(self)
        self._compacting: list[int] = []  # threads that wait for RocksDB's threads
        self._idle_at = 0  # RocksDB's sequence number when it was idle
        self._errors = 0  # background errors from which RocksDB has recovered
        self._recovered_s = 0.0  # when that was seen, by the steady clock; 0: there was none
        self._families: list[Rdict] = []  # every open column family, also of tables being made or dropped
        self._pid = os.getpid()
        self.path = path
        self.refusal = Refusal(path)
        self.at = owner.at if owner else path  # the directory of the files beside RocksDB's
        self._owner = None if secondary else owner
        self._place = owner  # its descriptor leads to the files for as long as RocksDB is open
        self.stopped: DiskError | None = None  # why writing has ended
        self._recovery = recovery
        self.secondary = secondary
        self._listed = list[tuple[str, int]]()  # as of a reader's last look
        self._scratch = Temporary("everlog-reading-") if secondary else None
        self._links = False  # a reader was refused to write in the place itself
        self._opened = 0
        self.rebuilding = threading.Lock()
        self._live_writes = itertools.count(1)
        self.live_write = 0  # number of the last change of the live tables that has begun
        self._cache = Cache(CACHE_BYTES)
        # rocksdict cannot close a column family that another thread compacts or flushes.
        self._maintenance = threading.Lock()
        self._appending = threading.Lock()  # RocksDB's sync must not follow another thread's failed append
        self.once = ReadOptions()  # for sequential scans, which should not fill the cache
        self.once.fill_cache(False)  # type: ignore[call-arg]  # its stub is wrong
        if not _started.is_set():  # later ones use the same threads
            check_address_space(path)
        self._to_os = WriteOptions()
        self._no_wal = WriteOptions()
        self._no_wal.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; its stub is wrong
        try:
            with opening(self, path, read_only=secondary), translated(f"opening {path}"):
                self._open_at_last()
            _started.set()
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
        """Open it. A reader tries again, because the writer may drop a column family after it was listed."""
        if not self.secondary:
            self._open()
            return
        for is_last in self._attempts():
            try:
                self._listed = self._manifests()
                self._open()
                return
            except Exception:
                if is_last:
                    raise

    def _attempts(self) -> Iterator[bool]:
        """Yield for each attempt of a reader whether it is the last.

        A writer may change the files during each of them: those after which nothing has changed are counted.
        Raises OpenError when it has changed them all the time.
        """
        left, seen, until = REOPENINGS, self._manifests(), time.monotonic() + REOPENING_S
        while time.monotonic() < until:
            yield not left
            now = self._manifests()
            left, seen = (REOPENINGS if now != seen else left - 1), now
        raise OpenError(
            f"{self.path}: the writing process replaced its tables during each attempt to read them, for"
            f" {REOPENING_S:.0f} s; try again when its rebuilds or migrations have ended"
        )

    def _manifests(self) -> list[tuple[str, int]]:
        """Return the names and sizes of the files that list RocksDB's files."""
        found = []
        for file in (self.at / "db").glob("MANIFEST-*"):
            with contextlib.suppress(OSError):  # replaced meanwhile
                found.append((file.name, file.stat().st_size))
        return found

    def _open(self) -> None:
        if not self.secondary:
            self._open_in(self._directory())
            return
        with hold_families(self.at, alone=False):
            self._open_as_reader()

    def _open_as_reader(self) -> None:
        linked = self._linked()
        try:
            self._open_in(str(linked or self._directory()))
        except Exception as error:
            if linked is not None or not is_write_refused(error):
                raise
            self._links = True  # nothing said so before: a file system after an error, a used-up quota
            self._open_in(str(self._linked()))

    def _open_in(self, directory: str) -> None:
        exists = Path(directory, "CURRENT").exists()
        names = Rdict.list_cf(directory, _options(self._cache)) if exists else ["default"]
        if not any(
            name.startswith("data-") for name in names
        ):  # a new database, or one killed during its creation
            names.append(FIRST_DATA)
        if self.secondary:
            names = self._without_old_tables(directory, names)
        families = {name: self._family_options(name) for name in {*names, LOG}}
        self._db = Rdict(directory, self._db_options(), families, self._access())
        self._wal = Wal(directory)
        self._families = []
        self.log = self._family(LOG)
        self._log_handle = self._db.get_column_family_handle(LOG)
        self.data_name = self._live_name()
        self.named = self.data_name  # the tables that may be live after the next opening
        self.data = self._family(self.data_name)
        self.data_handle: ColumnFamily | None = self._db.get_column_family_handle(self.data_name)
        known = {self.data_name, self.next_name}
        old = [name for name in names if name.startswith("data-") and name not in known]
        if old and not self.secondary:  # left by a kill after the switch
            with hold_families(self.at, alone=True):
                for name in old:
                    self._db.drop_column_family(name)
        self._names = set(names)
        self._sides: dict[str, tuple[Rdict, ColumnFamily]] = {}
        self._put_log: Any = self.log.put
        self._write: Any = self._db.write
        self.get = self.data.get

    def _access(self) -> AccessType:
        if self._scratch is None:
            return AccessType.read_write()
        self._opened += 1
        return AccessType.secondary(f"{self._scratch.path}/{self._opened}")

    def _without_old_tables(self, directory: str, names: list[str]) -> list[str]:
        """Return the column families that a reader opens: of tables only the live ones.

        Where there are no locks (`hold_families`), the writer may be dropping the others. RocksDB's reader
        crashes if it is to open a column family whose end it finds in the MANIFEST while only a part of the
        files has been deleted: it destroys a version of a column family that it has freed.
        """
        default = {"default": self._family_options("default")}
        with contextlib.closing(Rdict(directory, self._db_options(), default, self._access())) as db:
            found: bytes | None = db.get(TABLES)
        live = found.decode() if found else FIRST_DATA
        return [*(name for name in names if not name.startswith("data-")), live]

    def _family(self, name: str) -> Rdict:
        family = self._db.get_column_family(name)
        self._families.append(family)
        return family

    def _directory(self) -> str:
        return self._owner.enter_rocksdb(self) if self._owner is not None else str(self.at / "db")

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
        """For work of RocksDB on files. Raises DiskError at once if the disk is full, or few file descriptors
        are left.

        RocksDB checks for free space only when it has no other work, and callers may try again and again.
        """
        if self.refusal.is_full:
            raise DiskError(self.refusal.error, outcome="nothing written", full=True)
        check_descriptors(f"{doing} {self.path}")
        try:
            with self._waiting():
                yield
        except Error:
            raise
        except Exception as error:
            raise self._refused(error, f"{doing} {self.path}", full=True) from error

    def is_idle(self) -> bool:
        """Whether RocksDB's threads have no work for this database, and get none but by a call."""
        if self._compacting:
            return False
        try:
            idle = self._is_recovered() and not any(
                family.property_int_value(name) for family in (self._db, *self._families) for name in _WORK
            )
            self._idle_at = self._db.latest_sequence_number()
            return idle
        except ClosedError:
            return True
        except Exception:  # noqa: BLE001  being opened, or closed
            return False

    def _is_recovered(self) -> bool:
        """Whether RocksDB recovered from every error of its own threads some time ago: it accepts a write.

        Until then another of its threads waits for space, and flushes. For a moment longer it schedules work.
        """
        if self.stopped is not None:
            return True
        errors, now = self._db.property_int_value(_ERRORS) or 0, time.monotonic()
        if errors != self._errors:
            self._db.delete(PROBE, self._no_wal)  # a key that never exists; raises
            self._errors, self._recovered_s = errors, now
        ended_s = max(self._recovered_s, self.refusal.ended_s)
        return not self.refusal.since_ns and (not ended_s or now >= ended_s + RECOVERY_S)

    def has_worked(self) -> bool:
        """Whether RocksDB may have got work since `is_idle`. In a forked child; waits for no lock."""
        try:
            return bool(self._compacting) or self._db.latest_sequence_number() != self._idle_at
        except ClosedError:
            return False
        except Exception:  # noqa: BLE001  being opened, or closed
            return True

    def stop(self, why: DiskError) -> None:
        """End writing: from now on writes raise `why`. Reads continue."""
        self.stopped = why
        self.refusal.begin(why)

        def refuse(*_: Any) -> Any:
            raise StoppedError(why)

        self._put_log = self._write = refuse
        with contextlib.suppress(Exception):  # RocksDB's own background writes
            self._db.set_options({"disable_auto_compactions": "true"})

    @staticmethod
    def _stopped_error(why: DiskError) -> Error:
        return translate(StoppedError(why), "")

    def _linked(self) -> Path | None:
        """Return where a reader opens a database in a place that cannot be written; None: in its own
        place."""
        if self._scratch is None or not (self._links or needs_links(self.at / "db")):
            return None
        with translated(f"reading {self.path}"):
            link(self.at / "db", self._scratch.path / "db")
        return self._scratch.path / "db"

    @property
    def next_name(self) -> str:
        """The name of the next rebuild's tables, or of those of a killed one."""
        return f"data-{int(self.data_name.split('-')[1]) + 1}"

    def _live_name(self) -> str:
        name: bytes | None = self._db.get(TABLES)
        return name.decode() if name else FIRST_DATA

    def _db_options(self) -> Options:
        options = _options(self._cache)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_wal_recovery_mode(self._recovery or DBRecoveryMode.tolerate_corrupted_tail_records())
        if self._recovery:  # salvage as much as possible
            options.set_paranoid_checks(False)
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        # A secondary opens all files at once, because the writing process may delete them at any time.
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
        """Write a record to the operating system. Raises DiskError: nothing was written."""
        with self._appending:
            try:
                self._put_log(key, framed, self._to_os)
            except Exception as error:
                raise self._refused(error, f"writing to the log in {self.path}") from error

    def append_records(self, records: list[tuple[bytes, bytes]]) -> None:
        """Write records to the operating system. Raises DiskError: none was written."""
        writes = WriteBatch(raw_mode=True)
        with self._appending:
            try:
                for key, framed in records:
                    writes.put(key, framed, self._log_handle)
                self._write(writes, self._to_os)
            except Exception as error:
                raise self._refused(error, f"writing to the log in {self.path}") from error

    def trim(self, key: bytes, base: bytes, kept: list[tuple[bytes, bytes]]) -> None:
        """Replace all records up to `key` by `base`, and store `kept` beside the log, durably and
        atomically.

        Raises DiskError: nothing was done, or it is unknown whether it is durable.
        """
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
        """Remove all records from `key` on, durably. Raises DiskError."""
        writes = WriteBatch(raw_mode=True)
        writes.delete_range(key, b"\xff" * len(key), self._log_handle)
        with translated(f"cutting the log in {self.path}"):
            self._write(writes, self._to_os)
        self.sync_log()

    def log_bytes(self) -> int:
        """Return the approximate size of the log on disk and in memory, in bytes. Read-only."""
        properties = ("rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        with translated(f"reading {self.path}"):
            return sum(self.log.property_int_value(name) or 0 for name in properties)

    def data_bytes(self) -> int:
        """Return the approximate size of the tables' files, in bytes. Read-only."""
        with translated(f"reading {self.path}"):
            return self.data.property_int_value("rocksdb.live-sst-files-size") or 0

    def data_files(self) -> list[tuple[int, bytes, bytes]]:
        """Return the files of the tables: bytes, first and last key. Read-only."""
        return _files(self.data, self.path)

    def log_files(self) -> list[tuple[int, bytes, bytes]]:
        """Return the files of the log in order: bytes, keys of the first and the last record. Read-only."""
        return sorted(_files(self.log, self.path), key=lambda file: file[1:])

    def properties(self) -> dict[str, dict[str, int]]:
        """Return RocksDB's numbers, PROPERTIES, of the families `log` and `data`. Read-only."""
        with translated(f"reading {self.path}"):
            return {
                name: {one: int(family.property_value(f"rocksdb.{one}") or 0) for one in PROPERTIES}
                | {"stalls": _stalls(family)}
                for name, family in (("log", self.log), ("data", self.data))
            }

    def compact_log(self, end: bytes) -> None:
        """Free the disk space of records removed before `end`, except those that an older snapshot sees
        (`holds_before`).

        Releases the interpreter's lock.
        """
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
        """Return the number of entries in the files of the log, or of the tables, and how many of them
        delete a key, and a range. Read-only."""
        with translated(f"reading {self.path}"):
            family = self.log if log else self.data
            described = family.property_value("rocksdb.aggregated-table-properties") or ""
        found = {name: int(value) for name, value in _PROPERTY.findall(described)}
        return found.get("entries", 0), found.get("deletions", 0), found.get("range deletions", 0)

    def merge_log(self, first: bytes, last: bytes) -> None:
        """Merge the files with the records from `first` to `last` into one. Releases the interpreter's
        lock."""
        with self._filing("compacting"):
            self.log.compact_range(first, last, _forced())

    def sync_log(self) -> None:
        """Wait until everything appended is on disk. The caller keeps others from appending. Releases the
        interpreter's lock.

        Raises DiskError: it is unknown what is on disk, until the database is opened again or, with the
        fact `resumes`, until writes are accepted again.
        """
        with self._appending:
            self._sync(lambda: self._db.flush_wal(True))

    def sync_beside(self) -> None:
        """`sync_log` while others may append."""
        self._sync(self._wal.sync)

    def _sync(self, sync: Callable[[], None]) -> None:
        if self.stopped is not None:  # appended records may be on disk
            facts = self.stopped.facts | {"outcome": "unknown", "stopped": True}
            raise DiskError(str(self.stopped), **facts)
        if self.refusal.since_ns:  # a failed sync would keep RocksDB from resuming
            raise self._unconfirmed()
        try:
            sync()
        except Exception as error:
            self._refused(error, f"writing to the log in {self.path}", full=True)
            if self.refusal.since_ns:
                raise self._unconfirmed() from error
            raise DiskError(
                f"{self.path}: the disk did not confirm a write ({error}). Whether it is on disk is unknown"
                " until the database is opened again; nothing more is written until then",
                outcome="unknown",
            ) from error

    def resume(self) -> None:
        """Write again after writes were refused, and wait until everything appended is on disk.

        By then RocksDB has written its memory to new files. Raises DiskError; its `outcome` says whether
        writes are still refused, or it is unknown what is on disk.
        """
        if self.stopped is not None:
            raise self._stopped_error(self.stopped)
        with translated(f"writing to {self.path}"):
            self._db.delete(PROBE, self._no_wal)  # a key that never exists
            if self.named != self.data_name:  # undo a switch of tables that the full disk did not confirm
                self._db[TABLES] = self.data_name.encode()
        try:
            self._db.flush_wal(True)
            self.named = self.data_name
        except Exception as error:
            found = translate(error, f"writing to the log in {self.path}")
            raise DiskError(str(found), outcome="unknown", resumes=bool(found.facts.get("full"))) from error

    def _refused(self, error: Exception, doing: str, *, full: bool = False) -> Error:
        """Translate RocksDB's error, and record a refusal of the disk; `full`: only if the disk is full."""
        found = translate(error, doing)
        if isinstance(found, CorruptionError) and self._owner is not None:
            found = self._owner.look() or found  # a file is missing: the directory may have been replaced
        if isinstance(found, DiskError) and (not full or found.facts.get("full")):
            self.refusal.begin(found)
        return found

    def _unconfirmed(self) -> DiskError:
        return DiskError(
            f"{self.path}: the disk did not confirm a write. Whether it is on disk is unknown until writes"
            f" are accepted again, which happens automatically if possible: {self.refusal.error}",
            outcome="unknown",
            resumes=True,
        )

    def write_data(self, writes: WriteBatch, *, live: bool = False) -> None:
        """Write a batch of a projection atomically, without the write-ahead log. `live`: to the live
        tables."""
        if live:
            self._begin_live_write()
        try:
            self._write(writes, self._no_wal)
        except Exception as error:
            raise self._refused(error, f"writing tables in {self.path}") from error

    def _begin_live_write(self) -> None:
        """Count a write before it begins: a reader that sees the same number before and after saw nothing
        of a write."""
        self.live_write = next(self._live_writes)

    def create_family(self, name: str) -> tuple[Rdict, ColumnFamily]:
        """Create a column family. Raises DiskError without enough space, inodes or file descriptors: RocksDB
        would create one without a handle."""
        check_descriptors(f"creating {name} in {self.path}")
        if shutil.disk_usage(self.at).free < FAMILY_BYTES:
            raise self._refused(OSError("No space left on device"), f"creating {name} in {self.path}")
        if lacks_inodes(self.at):
            lacking = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.at))
            raise translate(lacking, f"creating {name} in {self.path}")
        with translated(f"creating {name}"):
            family = self._db.create_column_family(name, self._family_options(name))
            self._families.append(family)
            return family, self._db.get_column_family_handle(name)

    def next_family(self, made_by: bytes) -> tuple[Rdict, ColumnFamily]:
        """Return the column family for a rebuild's tables: a new one, or that of a killed rebuild with the
        same `made_by`."""
        name = self.next_name
        if name in self._names:
            family = self._family(name)
            if self._db.get(REBUILDING) == made_by:
                return family, self._db.get_column_family_handle(name)
            self.drop_family(name, family)
        with self._appending, translated(f"creating {name}"):
            self._db[REBUILDING] = made_by
        made = self.create_family(name)
        self._names.add(name)
        return made

    def side(self, name: str, *, make: bool = True) -> tuple[Rdict, ColumnFamily] | None:
        """Return the column family of a projection beside the tables, created if it is missing.

        None if it is missing and `make` is false, or if only the writing process may create it.
        """
        found = self._sides.get(name)
        if found is not None:
            return found
        with self._maintenance:  # otherwise two threads could create it
            found = self._sides.get(name)
            if found is None:
                if name in self._names:
                    found = self._family(name), self._db.get_column_family_handle(name)
                elif self.secondary or not make:
                    return None
                else:
                    found = self.create_family(name)
                self._names.add(name)
                self._sides[name] = found
            return found

    def drop_side(self, name: str) -> None:
        """Drop such a projection. Running iterations keep their data; later calls on the old object raise
        ClosedError; the next `side` creates a new one."""
        if self.side(name, make=False) is not None:
            with self._maintenance:  # throughout, so that no thread gets the family that is being dropped
                found = self._sides.pop(name, None)
                if found is not None:
                    self._drop(name, found[0])

    def drop_family(self, name: str, family: Rdict) -> None:
        """Drop tables. Views of them stay valid, and their disk space is freed with the last view.

        Raises DiskError if the disk refuses writes: then nothing is dropped.
        """
        with self._maintenance:
            self._drop(name, family)

    def _drop(self, name: str, family: Rdict) -> None:
        with hold_families(self.at, alone=True), self._appending, translated(f"dropping {name}"):
            if self.refusal.since_ns:  # closing it would sync the log, and RocksDB would never resume
                raise DiskError(self.refusal.error, outcome="nothing written", full=self.refusal.is_full)
            self._names.discard(name)
            with self._waiting():
                family.close()  # first: otherwise a kept traceback would keep the database locked
            with contextlib.suppress(ValueError):  # the engine was closed meanwhile
                self._families.remove(family)  # only now: `close` must wait for this thread
            self._db.drop_column_family(name)

    def switch_data(self, name: str, family: Rdict, handle: ColumnFamily) -> tuple[str, Rdict]:
        """Make another column family the live tables, durably. Return name and object of the old one."""
        check_descriptors("switching tables")
        try:
            with self._waiting():
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
        """Drop tables that were to become live, unless they may be live: a failed confirmation leaves that
        unknown.

        In that case return an error that must end all writing. After a full disk, `resume` restores the
        name of the live tables before anything else is written. While the disk refuses writes, the tables
        are left to the next rebuild or opening.
        """
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
        """Free the disk space of what was deleted from the tables in a range. Releases the interpreter's
        lock."""
        with self._maintenance, self._filing("compacting"):
            self.data.compact_range(start, end, _forced())

    def rest(self, family: Rdict) -> None:
        """Wait at most a minute until RocksDB has merged the newest files of a column family.

        A range scan holds a block of each of these files in memory, and a block holds at least one row, of
        up to 4 MiB.
        """
        until = time.monotonic() + REST_S
        with translated(f"reading {self.path}"):
            while (family.property_int_value(_NEWEST) or 0) > NEWEST_MAX and time.monotonic() < until:
                time.sleep(0.01)

    def flush(self) -> None:
        """Write the memory to files, so that opening has nothing to replay."""
        with self._maintenance, self._filing("flushing"):
            for family in (self.log, self.data, *(family for family, _ in self._sides.values())):
                family.flush()

    def catch_up(self, *, anew: bool = False) -> None:
        """In a secondary: see what the writing process has written since.

        After a rebuild by that process, there are column families that this one does not know, and the
        known ones are gone: then RocksDB is opened again, as with `anew`. Earlier iterators stay valid.
        """
        with translated(f"reading {self.path}"):
            for is_last in self._attempts():
                try:
                    self._begin_live_write()
                    self._listed = self._manifests()
                    if not anew:
                        self._linked()
                        self._db.try_catch_up_with_primary()
                    if anew or self._live_name() != self.data_name:
                        self._open()
                    return
                except Exception:
                    if is_last:
                        raise
                    anew = True

    def is_current(self) -> bool:
        """As a reader: whether the writer has listed no other files since it began to look for them."""
        return self._listed == self._manifests()

    def disk_bytes(self) -> int:
        """Return the size of all files in the directory, in bytes. Raises DiskError."""
        sizes = 0
        with translated(f"reading {self.path}"):
            for file in below(self.at):
                with contextlib.suppress(FileNotFoundError):  # RocksDB deletes what it has compacted
                    sizes += file.stat().st_size
        return sizes

    def close(self) -> None:
        """Release RocksDB. Data that cannot be flushed is in the log, and is projected again."""
        if self._pid != os.getpid():  # it belongs to the parent
            return
        # rocksdict keeps the database locked while any handle of it, or any object that could not be closed,
        # is alive.
        self.data_handle = None
        self._sides.clear()
        until = time.monotonic() + CLOSE_S
        with self._waiting():
            for one in self._closing():
                while _is_busy(one) and time.monotonic() < until:
                    time.sleep(0.001)  # another thread uses it
        self._families = []
        for name in _OBJECTS:
            setattr(self, name, CLOSED)
        if self._owner is not None:
            self._owner.leave_rocksdb()
        self._sweep()

    def _closing(self) -> Iterator[Rdict]:
        yield from list(self._families)
        yield self._db
        yield from list(self._families)  # those that another thread made meanwhile

    def forked(self) -> None:
        """In a forked child: keep the parent's RocksDB objects alive, and refuse every use of them."""
        # Another thread may have been opening it: not every attribute is set then.
        self._leaked = [*map(vars(self).get, (*_OBJECTS, "_sides", "_families"))]
        for name in _OBJECTS:
            setattr(self, name, FORKED)
        self._sides = {}
        # Threads of the parent may hold the old locks.
        self._maintenance, self._appending = threading.Lock(), threading.Lock()

    def _sweep(self) -> None:
        if self._scratch:
            self._scratch.remove()


def _is_busy(one: Rdict) -> bool:
    """Close it, unless another thread uses it. Return whether one does."""
    try:
        one.close()
    except Exception as error:  # noqa: BLE001  data that cannot be flushed is in the log
        return "already" in str(error).lower() and "borrowed" in str(error).lower()
    return False


def _files(family: Rdict, path: Path) -> list[tuple[int, bytes, bytes]]:
    with translated(f"reading {path}"):
        described = family.property_value("rocksdb.sstables") or ""
    return [
        (int(size), bytes.fromhex(first), bytes.fromhex(last))
        for size, first, last in _FILE.findall(described)
    ]


def _stalls(family: Rdict) -> int:
    """Return how many writes RocksDB delayed or stopped."""
    described = family.property_value("rocksdb.cf-write-stall-stats") or ""
    return sum(map(int, _STALLS.findall(described)))


def _forced() -> CompactOptions:
    """Return options that rewrite files at the last level as well: they hold entries removed under a
    snapshot."""
    how = CompactOptions()
    how.set_exclusive_manual_compaction(False)  # otherwise the tables would wait for the log
    how.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
    return how


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_bloom_filter(10, False)
    blocks.set_block_size(16 << 10)
    blocks.set_format_version(5)
    # Keep indexes and filters with their open files. Measured with them in the cache: from some 200,000 rows
    # on, when a file's filter no longer fits there, a get took 100 µs.
    blocks.set_cache_index_and_filter_blocks(False)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    return options
