"""Opening: from a directory to a log and its tables, or a sentence that says why not.

    marker? ─▶ lock ─▶ RocksDB ─▶ log edges ─▶ HEAD agrees? ─▶ applied <= log? ─▶ no hole? ─▶ project the rest

Nothing is created, cut or mended where something else was expected; what was never on disk is another matter
(opening.py).

Hole: records that are missing in the middle of a log, which is not always damage.

    write-ahead log 61   …  66 67 │ 68     the power fails before 68 is on disk; 69, in the next
    write-ahead log 63              69     file, was put there by the operating system, of itself

RocksDB takes the lost end of one file for that of a commit that was cut short, and goes on with the next.
Nothing behind such a hole was ever on disk for all one knows: nobody was told that it is. So when a
database is opened for writing those records go, as they would with the end of the one file.

    what HEAD says was on disk, what the tables were made of  ─▶ dense, or it is damage
    what comes after                                          ─▶ dense, or cut before the hole

A reader beside a process that writes sees a hole, or an end too early, for another reason: a file was
flushed, and went, between its look at the one and the other. It looks again.
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
from everlog.store.progress import OnProgress
from everlog.store.rocks import files, manifest
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import translated
from everlog.store.rocks.files import KEYS, Head
from everlog.store.rocks.ownership import LOCK, Ownership, taken
from everlog.store.rocks.removal import HALF
from everlog.store.tables.projection import MemoryTarget
from everlog.store.tables.tables import Tables
from everlog.store.upkeep import recovery
from everlog.store.upkeep.status import software

GAP_LOOKS = 10

logger = logging.getLogger("everlog")


def cut(engine: Engine, log: Log, known: Head | None, applied: int) -> None:
    """Removes what is behind a hole in what was never known to be on disk. `known`: what HEAD says; the
    tables are at `applied`."""
    hole = _first_missing(engine, max(applied, _known(log, known)))
    if hole is None:
        return
    logger.warning(
        "%s: record %d was lost with the power before it was on disk, and so are those up to %d, which were"
        " behind it; nobody was told that they are there to stay",
        engine.path,
        hole,
        log.written,
    )
    log.cut(hole - 1)


def look_again(engine: Engine, log: Log, known: Head | None) -> None:
    """As a reader beside a process that writes: until all is there that HEAD said before, without a hole;
    or it is not to be had."""
    hole = None
    for _ in range(GAP_LOOKS):
        hole = _first_missing(engine, min(_dense_files(engine, log), _known(log, known)))
        if hole is None and (known is None or known.seq <= log.written):
            return
        engine.catch_up()
        log.reopen()
    if hole is not None:
        log.end_at(hole - 1)


def _known(log: Log, known: Head | None) -> int:
    """How far the log was known to be on disk."""
    return max(known.seq if known else 0, log.trimmed.first)


def _first_missing(engine: Engine, after: int) -> int | None:
    """The first record that is missing after one, of those up to the last; None if they are all there."""
    keys: Iterator[Any] = engine.log.keys(from_key=SEQ.pack(after + 1))
    with translated("looking at the end of the log"):
        for seq, key in enumerate(keys, after + 1):
            if SEQ.unpack(key)[0] != seq:
                return seq
    return None


def _dense_files(engine: Engine, log: Log) -> int:
    """How far the files of the log go without a hole between two of them."""
    last = log.trimmed.first - 1
    for _, start, end in engine.log_files():
        if int.from_bytes(start, "big") > last + 1:
            break
        last = max(last, min(int.from_bytes(end[: SEQ.size], "big"), log.written))
    return last


READER_LOOKS = 3  # of a reader, where keys go between its look at the tables and that at the keys


def refresh(core: Core) -> None:
    """As a reader beside a writer: sees what was written since."""
    with core.tables.lock:  # who reads meanwhile sees what was before
        fresh = _look(core)
        for _ in range(READER_LOOKS - 1):
            if not recovery.came_bare(core.engine, fresh):
                break
            fresh = _look(core)
        recovery.obey(fresh)
        core.tables.adopt(fresh)


def _look(core: Core) -> Tables:
    """The tables as they are now."""
    core.engine.catch_up()
    core.log.reopen()
    look_again(core.engine, core.log, files.read(core.owner.at / files.HEAD, files.Head))
    # Keys that are gone only in the log open the rows that it deletes, which these files have.
    core.vault.refresh(recovery.shredded_on_disk(core.engine))
    fresh = Tables(core.engine, core.log, MemoryTarget, core.vault)
    fresh.catch_up()
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
    """Opens, or makes, the database in `path`, which is resolved. Raises OpenError and CorruptionError."""
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
    known = files.read(at / files.HEAD, files.Head)  # first: a process that writes goes on with both
    engine = _engine(owner, known, read_only=read_only)
    try:
        log = Log(engine)
        if read_only:
            look_again(engine, log, known)
        log.check_head(known)
        if not read_only:
            files.write(at / files.OWNER, files.this_process(), sync=False)
        if not log.written:
            if read_only:
                raise OpenError(f"{path}: its making was interrupted, there is nothing to read yet")
            log.append([_created(uuid.UUID(marker.database), clock)])
            log.sync()
            log.write_head_file(sync=True)
        elif known is None and not read_only:  # killed while it was made
            with contextlib.suppress(Error):
                log.sync()
                log.write_head_file(sync=True)
        _check_first(path, log, marker)
        database = uuid.UUID(marker.database).bytes
        vault = Vault(at / KEYS, database, master, read_only=read_only, origin=log.created().origin)
        if read_only and vault.is_there:
            # A key that had gone by then is noted in the log of now; one that came, or went, since, is there.
            engine.catch_up()
            log.reopen()
            look_again(engine, log, files.read(at / files.HEAD, files.Head))
            vault.refresh()
        tables = Tables(engine, log, MemoryTarget if read_only else None, vault)
        _check_applied(path, log, tables)
        if not read_only:
            cut(engine, log, known, tables.applied)
        tables.catch_up(progress)
        recovery.finish(engine, tables, read_only=read_only)
        newest = log.commit(log.written)
        clock.start(max(clock.last_ns, newest.time_ns), newest.reading_ns)
        if not read_only:
            owner.watch(engine.stop)
        core = Core(owner, engine, log, tables, clock, options)
        core.committer.on_settled = lambda: recovery.finish(engine, tables, read_only=False)
        core.committer.owes = lambda: recovery.owes(tables)
        core.committer.pay = lambda: recovery.pay(engine, tables)
        return core
    except BaseException:
        engine.close()
        raise


def _prepare(path: Path, *, create: bool) -> None:
    """Makes a directory where there is none. Raises OpenError for one with other things in it."""
    if (path / HALF).exists():
        raise OpenError(
            f"{path}: a rebuild into it is not through, or was killed: wait for it, or run it again"
            " (`everlog rebuild --into`), which begins anew"
        )
    begun = {f"{files.MARKER}.new", LOCK}  # its making was interrupted
    if path.exists() and any(file.name not in begun for file in path.iterdir()):
        raise OpenError(
            f"{path} is no everlog database: it has other files and no {files.MARKER}; name another directory"
        )
    if not create:
        raise OpenError(
            f"there is no database at {path}; check the path, or create it first (`everlog create`)"
        )
    try:
        files.make_directory(path)
    except OSError as error:
        raise OpenError(f"{path}: cannot make a database there: {error.strerror}") from error


def _mark(path: Path, at: Path) -> files.Marker:
    """Says in a new directory that it is a database. Raises OpenError."""
    marker = files.Marker(files.FORMAT, str(uuid.uuid4()))
    try:
        files.write(at / files.MARKER, marker, sync=True)
    except DiskError as error:
        raise OpenError(f"{path}: cannot make a database there: {error}") from error
    return marker


def _engine(owner: Ownership, known: files.Head | None, *, read_only: bool) -> Engine:
    path = owner.path
    if not (owner.at / "db" / "CURRENT").exists():
        if known is not None:
            raise CorruptionError(
                f"{path}: the log was on disk up to record {known.seq}, but its files are gone: there is no"
                " db/CURRENT. Restore a backup, or `everlog repair` saves what is left",
                place=f"{path}/db/CURRENT",
            )
        if read_only:
            raise OpenError(f"{path}: its making was interrupted, there is nothing to read yet")
    elif known is not None:  # else its making was interrupted
        manifest.check_listed(path)  # a reader would leave out what it does not find
    try:
        return Engine(path, secondary=read_only, owner=owner)
    except OpenError as error:  # an older everlog, which knows no other lock than RocksDB's
        if not error.facts.get("locked"):
            raise
        raise taken(path, files.read(owner.at / files.OWNER, files.Owner)) from error


def _created(database: uuid.UUID, clock: Clock) -> bytes:
    created = log_pb2.Created(database=database.bytes, format=files.FORMAT, software=software())
    return record.frame(log_pb2.Commit(seq=1, time_ns=clock.now(), created=created))


def _check_first(path: Path, log: Log, marker: files.Marker) -> None:
    first = log.beginning()
    database = first.base.database if first.HasField("base") else first.created.database
    if not database:
        raise CorruptionError(
            f"{path}: the log begins with record {log.oldest}, which does not say what came before it: its"
            " beginning is lost. Restore a backup",
            seq=log.oldest,
        )
    if marker.database != str(uuid.UUID(bytes=database)):
        raise OpenError(
            f"{path} is said to be database {marker.database} by its file {files.MARKER}, and its log is of"
            f" {uuid.UUID(bytes=database)}: files of two databases are mixed"
        )


def _check_applied(path: Path, log: Log, tables: Tables) -> None:
    if tables.applied > log.written:
        raise CorruptionError(
            f"{path}: the tables are at record {tables.applied}, the log ends at {log.written}: the end of"
            " the log is lost. Restore a backup, or `everlog repair` accepts what is left",
            seq=log.written + 1,
        )
    if tables.applied >= log.oldest and tables.applied and log.checksum_at(tables.applied) != tables.checksum:
        raise CorruptionError(
            f"{path}: record {tables.applied} of the log is not the one that the tables were made from",
            seq=tables.applied,
        )
