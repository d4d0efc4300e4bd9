"""Opening: from a directory to a log and its tables, or a sentence that says why not.

    marker? ─▶ lock ─▶ RocksDB ─▶ log edges ─▶ HEAD agrees? ─▶ applied <= log? ─▶ no hole? ─▶ project the rest

Nothing is created, cut or mended where something else was expected; what was never on disk is another matter
(hole.py).
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from everlog.proto import log_pb2
from everlog.store import files, head, hole, mending, record
from everlog.store.clock import Clock
from everlog.store.engine import Engine
from everlog.store.errors import CorruptionError, DiskError, Error, OpenError
from everlog.store.head import KEYS
from everlog.store.log import Log
from everlog.store.master import Master, MasterKey, master_of
from everlog.store.ownership import LOCK, Ownership, taken
from everlog.store.past_log import AskedLog
from everlog.store.progress import OnProgress
from everlog.store.removal import HALF
from everlog.store.status import software
from everlog.store.tables import Tables
from everlog.store.target import MemoryTarget
from everlog.store.vault import Vault

LOOKS = 3  # of a reader, where keys go between its look at the tables and that at the keys


class Opened:
    """What an open database consists of."""

    def __init__(self, owner: Ownership, engine: Engine, log: AskedLog, tables: Tables, clock: Clock) -> None:
        first = log.beginning()
        self.uuid = first.base.database if first.HasField("base") else first.created.database
        self.log, self.tables, self.clock = log, tables, clock
        self.engine = engine
        assert tables.vault is not None
        self.vault = tables.vault
        self._owner = owner

    def refresh(self) -> None:
        """As a reader beside a writer: sees what was written since."""
        with self.tables.lock:  # who reads meanwhile sees what was before
            fresh = self._look()
            for _ in range(LOOKS - 1):
                if not mending.came_bare(self.engine, fresh):
                    break
                fresh = self._look()
            mending.obey(fresh)
            self.tables.adopt(fresh)

    def _look(self) -> Tables:
        """The tables as they are now."""
        self.engine.catch_up()
        self.log.reopen()
        hole.look_again(self.engine, self.log, head.read(self._owner.at / head.HEAD, head.Head))
        # Keys that are gone only in the log open the rows that it deletes, which these files have.
        self.vault.refresh(mending.shredded_on_disk(self.engine))
        fresh = Tables(self.engine, self.log, MemoryTarget, self.vault)
        fresh.catch_up()
        return fresh

    def settled(self) -> None:
        """After records were projected late: what follows from them. Only inside a turn of the committer."""
        mending.finish(self.engine, self.tables, read_only=False)

    def owes(self) -> bool:
        """Whether there are keys that were forgotten and that a disk refused to overwrite."""
        return bool(self.vault.leaving)

    def pay(self) -> None:
        """Overwrite them, unless a rebuild needs the keys that there are. Only inside a turn of the
        committer. Raises DiskError."""
        if self.owes() and self.engine.rebuilding.acquire(blocking=False):
            try:
                mending.shred(self.engine, self.tables)
            finally:
                self.engine.rebuilding.release()

    def close(self) -> None:
        if not self.engine.secondary and self.engine.stopped is None:
            try:
                self.tables.flush()
                self.engine.flush()
                self.log.write_head_file(sync=True)
                (self._owner.at / head.OWNER).unlink(missing_ok=True)
            except (Error, OSError):
                pass  # what could not be flushed is replayed from the log when it is opened again
            with contextlib.suppress(Error):
                self.log.merger.close()
        self.vault.close()
        self.engine.close()
        self._owner.release()


def open_directory(
    path: Path,
    *,
    create: bool,
    read_only: bool,
    clock: Clock,
    progress: OnProgress | None,
    master_key: MasterKey | None = None,
) -> Opened:
    """Opens, or makes, the database in `path`, which is resolved. Raises OpenError and CorruptionError."""
    master = master_of(master_key)
    if path.is_file():
        raise OpenError(f"{path} is a file; an everlog database is a directory")
    if head.read_marker(path) is None:
        _prepare(path, create=create and not read_only)
    owner = Ownership(path, writing=not read_only)
    try:
        return _open(owner, clock, progress, master, read_only=read_only)
    except BaseException:
        owner.release()
        raise


def _open(
    owner: Ownership, clock: Clock, progress: OnProgress | None, master: Master | None, *, read_only: bool
) -> Opened:
    path, at = owner.path, owner.at
    marker = head.read_marker(at)
    if marker is None:
        marker = _mark(path, at)
    known = head.read(at / head.HEAD, head.Head)  # first: a process that writes goes on with both
    engine = _engine(owner, known, read_only=read_only)
    try:
        log = AskedLog(engine)
        if read_only:
            hole.look_again(engine, log, known)
        log.check_head(known)
        if not read_only:
            head.write(at / head.OWNER, head.this_process(), sync=False)
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
            hole.look_again(engine, log, head.read(at / head.HEAD, head.Head))
            vault.refresh()
        tables = Tables(engine, log, MemoryTarget if read_only else None, vault)
        _check_applied(path, log, tables)
        if not read_only:
            hole.cut(engine, log, known, tables.applied)
        tables.catch_up(progress)
        mending.finish(engine, tables, read_only=read_only)
        newest = log.commit(log.written)
        clock.start(max(clock.last_ns, newest.time_ns), newest.reading_ns)
        if not read_only:
            owner.watch(engine.stop)
        return Opened(owner, engine, log, tables, clock)
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
    begun = {f"{head.MARKER}.new", LOCK}  # its making was interrupted
    if path.exists() and any(file.name not in begun for file in path.iterdir()):
        raise OpenError(
            f"{path} is no everlog database: it has other files and no {head.MARKER}; name another directory"
        )
    if not create:
        raise OpenError(
            f"there is no database at {path}; check the path, or create it first (`everlog create`)"
        )
    try:
        head.make_directory(path)
    except OSError as error:
        raise OpenError(f"{path}: cannot make a database there: {error.strerror}") from error


def _mark(path: Path, at: Path) -> head.Marker:
    """Says in a new directory that it is a database. Raises OpenError."""
    marker = head.Marker(head.FORMAT, str(uuid.uuid4()))
    try:
        head.write(at / head.MARKER, marker, sync=True)
    except DiskError as error:
        raise OpenError(f"{path}: cannot make a database there: {error}") from error
    return marker


def _engine(owner: Ownership, known: head.Head | None, *, read_only: bool) -> Engine:
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
        files.check_listed(path)  # a reader would leave out what it does not find
    try:
        return Engine(path, secondary=read_only, owner=owner)
    except OpenError as error:  # an older everlog, which knows no other lock than RocksDB's
        if not error.facts.get("locked"):
            raise
        raise taken(path, head.read(owner.at / head.OWNER, head.Owner)) from error


def _created(database: uuid.UUID, clock: Clock) -> bytes:
    created = log_pb2.Created(database=database.bytes, format=head.FORMAT, software=software())
    return record.frame(log_pb2.Commit(seq=1, time_ns=clock.now(), created=created))


def _check_first(path: Path, log: Log, marker: head.Marker) -> None:
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
            f"{path} is said to be database {marker.database} by its file {head.MARKER}, and its log is of"
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
