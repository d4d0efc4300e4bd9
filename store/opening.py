"""Opening: from a directory to an open log and its tables, or an error with the reason.

    marker? ─▶ lock ─▶ RocksDB ─▶ log edges ─▶ HEAD agrees? ─▶ applied <= log? ─▶ no gap? ─▶ project the rest

Nothing is created, cut or repaired if the directory is not as expected. The exception is a WAL gap,
records that are missing in the middle of the log, which is not always damage:

    write-ahead log 61   …  66 67 │ 68     the power fails before 68 is on disk; 69, in the next file,
    write-ahead log 63              69     was already written back by the operating system

RocksDB takes the lost end of one file for an interrupted commit, and continues with the next file. No
record after such a gap was ever confirmed to be on disk. So when a database is opened for writing, these
records are cut, as the records after the end of a single file would be.

    what HEAD says was on disk, what the tables were made of  ─▶ dense, or it is damage
    what comes after                                          ─▶ dense, or cut before the gap

A reader beside a writing process may see a gap, or an end too early, for another reason: a file was
flushed and removed between its reads of the one and the other. It looks again.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.clock import Clock
from everlog.store.core import Core, Options
from everlog.store.crypto.master_key import Master, MasterKey, master_of
from everlog.store.crypto.vault import Vault
from everlog.store.errors import CorruptionError, DiskError, Error, OpenError
from everlog.store.keys import SEQ
from everlog.store.log import Log
from everlog.store.program_log import about
from everlog.store.progress import OnProgress
from everlog.store.rocks import files, manifest
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import reason, translated
from everlog.store.rocks.files import KEYS, Head
from everlog.store.rocks.ownership import HALF, LOCK, Ownership, taken
from everlog.store.tables.projection import MemoryTarget
from everlog.store.tables.tables import Tables
from everlog.store.upkeep import recovery
from everlog.store.upkeep.status import software

GAP_LOOKS = 10

logger = logging.getLogger("everlog")


def cut(engine: Engine, log: Log, known: Head | None, applied: int) -> None:
    """Remove the records after a gap in the part of the log that was never known to be on disk.

    `known`: the content of HEAD; the tables are at `applied`.
    """
    gap = _first_missing(engine, max(applied, _known(log, known)))
    if gap is None:
        return
    logger.warning(
        "%s: record %d was lost in a power failure before it was on disk; it is cut, with the records up to"
        " %d after it. None of them was confirmed to be durable",
        engine.path,
        gap,
        log.written,
        extra=about("log.cut", database=str(engine.path), seq=gap),
    )
    log.cut(gap - 1)


def catch_up_to_head(engine: Engine, log: Log, known: Head | None) -> None:
    """As a reader beside a writer: catch up until every record that HEAD had stated is there, without a
    gap, or give up. Raises CorruptionError if the log has no beginning.

    RocksDB's reader passes over a file that the writer has just merged into another one and deleted. It then
    lacks old records, while it has newer ones, and opens the other file only after the writer's next change.
    It also lacks the newest ones, if the writer flushed them and deleted their write-ahead log between its
    reads of the list of files and of the write-ahead logs.
    """
    gap = None
    for look in range(GAP_LOOKS):
        gap = _first_gap(engine, log, known)
        behind = gap is not None or (known is not None and known.seq > log.written)
        if not behind and engine.is_current():
            return
        engine.catch_up(anew=behind and look > 0)
        log.reopen()
    if gap == 1:
        raise _without_beginning(engine.path, log)
    if gap is not None:
        log.end_at(gap - 1)


def _first_gap(engine: Engine, log: Log, known: Head | None) -> int | None:
    """Return the first missing record; None: none is missing up to the last."""
    if log.trimmed.first > 1 and not log.trimmed.base:
        return 1
    return _first_missing(engine, min(_dense_files(engine, log), _known(log, known)))


def _known(log: Log, known: Head | None) -> int:
    """Return the last seq that was known to be on disk."""
    return max(known.seq if known else 0, log.trimmed.first)


def _first_missing(engine: Engine, after: int) -> int | None:
    """Return the first missing record after `after`, up to the last; None: none is missing."""
    keys: Iterator[Any] = engine.log.keys(from_key=SEQ.pack(after + 1))
    with translated("looking at the end of the log"):
        for seq, key in enumerate(keys, after + 1):
            if SEQ.unpack(key)[0] != seq:
                return seq
    return None


def _dense_files(engine: Engine, log: Log) -> int:
    """Return the last seq of the log's files before a gap between two of them."""
    last = log.trimmed.first - 1
    for _, start, end in engine.log_files():
        if int.from_bytes(start, "big") > last + 1:
            break
        last = max(last, min(int.from_bytes(end[: SEQ.size], "big"), log.written))
    return last


READER_LOOKS = 5  # attempts of a reader, if keys disappear between its reads of the tables and of the keys


def refresh(core: Core) -> None:
    """As a reader beside a writer: see what was written since. Raises OpenError if other files are in their
    place now."""
    with core.tables.lock:  # concurrent reads see the previous state
        core.owner.check_place()
        try:
            fresh = _current(core.owner.at, core.engine, core.log, core.vault)
        except Exception:
            core.owner.check_place()  # they were replaced meanwhile
            raise
        recovery.drop_shredded(fresh)
        core.tables.adopt(fresh)


def _current(at: Path, engine: Engine, log: Log, vault: Vault, progress: OnProgress | None = None) -> Tables:
    """Return the current tables beside a writer.

    A key that was created and forgotten between two reads, of the log and of the keys, was never seen here:
    its rows then look as if their key were missing. The next look finds them erased.
    """
    fresh = _look(at, engine, log, vault, progress)
    for _ in range(READER_LOOKS - 1):
        if not recovery.lacks_entries(engine, fresh):
            break
        fresh = _look(at, engine, log, vault, progress)
    return fresh


def _look(at: Path, engine: Engine, log: Log, vault: Vault, progress: OnProgress | None) -> Tables:
    engine.catch_up()
    log.reopen()
    catch_up_to_head(engine, log, files.read_head(at))
    # Keys forgotten only in the log still open the rows that it deletes, which these files have.
    vault.refresh(recovery.shredded_on_disk(engine))
    fresh = Tables(engine, log, MemoryTarget, vault)
    fresh.catch_up(progress)
    return fresh


def open_directory(
    path: Path,
    options: Options,
    *,
    create: bool,
    clock: Clock,
    progress: OnProgress | None,
    master_key: MasterKey | None = None,
) -> Core:
    """Open the database in `path`, a resolved path; create it if `create`. Raises OpenError and
    CorruptionError."""
    master, read_only = master_of(master_key), options.read_only
    if path.is_file():
        raise OpenError(f"{path} is a file; an everlog database is a directory")
    if files.read_marker(path) is None:
        _prepare(path, create=create and not read_only)
    owner = Ownership(path, writing=not read_only)
    try:
        return _open(owner, clock, progress, master, options)
    except BaseException:
        owner.release()
        raise


def _open(
    owner: Ownership, clock: Clock, progress: OnProgress | None, master: Master | None, options: Options
) -> Core:
    path, at, read_only = owner.path, owner.at, options.read_only
    marker = files.read_marker(at)
    if marker is None:
        marker = _mark(path, at)
    known = files.read_head(at)  # first: a writing process changes both
    engine = _engine(owner, known, read_only=read_only)
    try:
        log = Log(engine)
        if read_only:
            catch_up_to_head(engine, log, known)
        log.check_head(known)
        if not read_only:
            files.write(at / files.OWNER, files.this_process(), sync=False)
        if not log.written:
            if read_only:
                raise _interrupted(path)
            log.append([_created(uuid.UUID(marker.database), clock)])
            log.sync()
            log.write_head_file(sync=True)
        elif known is None and not read_only:  # killed during its creation
            with contextlib.suppress(Error):
                log.sync()
                log.write_head_file(sync=True)
        _check_first(path, log, marker)
        database = uuid.UUID(marker.database).bytes
        vault = Vault(at / KEYS, database, master, read_only=read_only, origin=log.created().origin)
        tables = Tables(engine, log, MemoryTarget if read_only else None, vault)
        _check_applied(path, log, tables)
        if not read_only:
            cut(engine, log, known, tables.applied)
        if read_only and vault.file_exists:
            # Again: a key that was forgotten before the vault was read is now noted in the log.
            tables = _current(at, engine, log, vault, progress)
        else:
            tables.catch_up(progress)
        recovery.finish(engine, tables, read_only=read_only)
        newest = log.commit(log.written)
        clock.start(max(clock.last_ns, newest.time_ns), newest.reading_ns)
        if read_only:
            owner.remember()
        else:
            owner.watch(engine.stop)
        core = Core(owner, engine, log, tables, clock, options)
        core.committer.on_settled = lambda: recovery.finish(engine, tables, read_only=False)
        core.committer.shreds_pending = lambda: recovery.shreds_pending(tables)
        core.committer.retry_shreds = lambda: recovery.retry_shreds(engine, tables)
        return core
    except BaseException:
        engine.close()
        raise


def _prepare(path: Path, *, create: bool) -> None:
    """Create the directory. Raises OpenError if it contains other files."""
    if (path / HALF).exists():
        raise OpenError(
            f"{path}: a rebuild into it is running or was killed: wait for it, or run it again"
            " (`everlog rebuild --into`)"
        )
    if (path / files.HEAD).exists() and (path / "db").is_dir():
        raise OpenError(f"{path} has a database, but its file {files.MARKER} is missing. {files.REMEDY}")
    begun = {f"{files.MARKER}.new", LOCK}  # left by an interrupted creation
    if path.exists() and any(file.name not in begun for file in path.iterdir()):
        raise OpenError(
            f"{path} is not an everlog database: it has other files and no {files.MARKER}; name another"
            " directory"
        )
    if not create:
        raise OpenError(
            f"there is no database at {path}; check the path, or create it first (`everlog create`)"
        )
    try:
        files.make_directory(path)
    except OSError as error:
        raise OpenError(f"{path}: the database cannot be created: {reason(error, path)}") from error


def _mark(path: Path, at: Path) -> files.Marker:
    """Mark a new directory as a database. Raises OpenError."""
    marker = files.Marker(files.FORMAT, str(uuid.uuid4()))
    try:
        files.write(at / files.MARKER, marker, sync=True)
    except DiskError as error:
        raise OpenError(f"{path}: the database cannot be created: {error}") from error
    return marker


def _engine(owner: Ownership, known: files.Head | None, *, read_only: bool) -> Engine:
    path = owner.path
    if not (owner.at / "db" / "CURRENT").exists():
        if known is not None:
            raise CorruptionError(
                f"{path}: the log was on disk up to record {known.seq}, but its files are missing: there is"
                " no db/CURRENT. Restore a backup, or salvage the rest with `everlog repair`",
                place=f"{path}/db/CURRENT",
            )
        if read_only:
            raise _interrupted(path)
    elif known is not None:  # otherwise its creation was interrupted
        manifest.check_listed(path)  # RocksDB would silently ignore missing files
        if not read_only and manifest.has_unlisted(path):
            _check_listed_end(owner, known)
    try:
        return Engine(path, secondary=read_only, owner=owner)
    except OpenError as error:  # an older version of everlog, which uses only RocksDB's lock
        if not error.facts.get("locked"):
            raise
        raise taken(path, files.read(owner.at / files.OWNER, files.Owner)) from error


def _check_listed_end(owner: Ownership, known: Head) -> None:
    """Raise CorruptionError if the listed files have fewer records than HEAD says.

    The MANIFEST is then cut or an older copy, and RocksDB, opened for writing, would remove all other files.
    """
    engine = Engine(owner.path, secondary=True, owner=owner)
    try:
        Log(engine).check_head(known)
    finally:
        engine.close()


def _interrupted(path: Path) -> OpenError:
    return OpenError(
        f"{path}: its creation was interrupted, and there is nothing to read yet; complete it with"
        " `everlog create`",
        interrupted=True,
    )


def _created(database: uuid.UUID, clock: Clock) -> bytes:
    created = log_pb2.Created(database=database.bytes, format=files.FORMAT, software=software())
    return record.frame(log_pb2.Commit(seq=1, time_ns=clock.now(), created=created))


def _check_first(path: Path, log: Log, marker: files.Marker) -> None:
    first = log.beginning()
    database = first.base.database if first.HasField("base") else first.created.database
    if not database:
        raise _without_beginning(path, log)
    if marker.database != str(uuid.UUID(bytes=database)):
        raise OpenError(
            f"{path}: its file {files.MARKER} is of database {marker.database}, but its log is of"
            f" {uuid.UUID(bytes=database)}: files of two databases are mixed"
        )


def _without_beginning(path: Path, log: Log) -> CorruptionError:
    return CorruptionError(
        f"{path}: the log begins with record {log.oldest}, which is neither Created nor a Base: its beginning"
        " is lost. Restore a backup",
        seq=log.oldest,
    )


def _check_applied(path: Path, log: Log, tables: Tables) -> None:
    if tables.applied > log.written:
        raise CorruptionError(
            f"{path}: the tables are at record {tables.applied}, but the log ends at {log.written}: the end"
            " of the log is lost. Restore a backup, or accept what is left with `everlog repair`",
            seq=log.written + 1,
        )
    if tables.applied >= log.oldest and tables.applied and log.checksum_at(tables.applied) != tables.checksum:
        raise CorruptionError(
            f"{path}: the tables were projected from another record {tables.applied} than the log has."
            " Restore a backup, or rebuild the tables with `everlog repair`",
            seq=tables.applied,
        )
