"""Database: an open database in this process; the API of the store.

    Database ─▶ Transaction ─▶ Committer ─▶ Log ─▶ Tables
       └──────── reads ───────────────────────────────┘

Opening: look at the directory ─▶ RocksDB ─▶ compare the log with HEAD ─▶ project what the tables lack ─▶
ready. `everlog.open` returns the right kind of database for a URL.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import opening
from everlog.store.clock import Clock
from everlog.store.core import Options
from everlog.store.crypto.master_key import MasterKey
from everlog.store.crypto.vault import Opener, VaultOpener
from everlog.store.errors import DiskError, Error
from everlog.store.history.past import Moment, Past
from everlog.store.history.row_history import Version
from everlog.store.measures import Measures
from everlog.store.online import apply
from everlog.store.online.backfill import Backfill
from everlog.store.opening import open_directory
from everlog.store.process import close_at_end, keep_in_child, notify_in_child
from everlog.store.progress import OnProgress
from everlog.store.rocks.ownership import resolve
from everlog.store.schema import arguments
from everlog.store.schema.arguments import Time
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tables.projector import gone
from everlog.store.tx import load as loads
from everlog.store.tx.reader import Snapshot
from everlog.store.tx.source import Source
from everlog.store.tx.transaction import DURABILITIES, CommitResult, Metadata, Transaction, Writer
from everlog.store.tx.write import Expires
from everlog.store.upkeep import expiry
from everlog.store.upkeep.access import Access
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.consumers import Consumers
from everlog.store.upkeep.people import People
from everlog.store.upkeep.status import ArchiveStatus, Retaining

M = TypeVar("M", bound=Message)
K = TypeVar("K")
R = TypeVar("R")

IDEMPOTENCY_S = 24 * 3600.0


class Database(Writer):
    """An open database. Safe to use from many threads; not after a fork."""

    def __init__(
        self,
        path: Path | str,
        *,
        url: str | None = None,
        create: bool = True,
        read_only: bool = False,
        durability: str = "sync",
        idempotency_s: float = IDEMPOTENCY_S,
        clock: Clock | None = None,
        master_key: MasterKey | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        """Open the database in a directory; create it if it does not exist and `create` is true.

        `read_only`: open it for reading, also while another process writes. `durability`: the default of
        commits, "sync" (on disk on return) or "os" (on disk about 20 ms later). `idempotency_s`: for how many
        seconds archiving leaves commits with a `commit_id` in the log. `clock`: replaces the machine's clock.
        `master_key`: for sealed rows, its 32 bytes, the path of its file, or a `Master`; None: that of the
        environment. `progress`: called while the tables catch up.

        Raises OpenError, and CorruptionError if the log or the files are damaged.
        """
        if durability not in DURABILITIES:
            raise Error(f"expected a durability of {' or '.join(DURABILITIES)}, found {durability!r}")
        resolved = resolve(Path(path))  # once: whatever becomes of the working directory, and of links
        core = self.core = open_directory(
            resolved,
            Options(url or f"file:{path}", read_only, durability, idempotency_s),
            create=create,
            clock=clock or Clock(),
            progress=progress,
            master_key=master_key,
        )
        self.path, self.url, self.read_only, self.durability = resolved, core.url, read_only, durability
        self.uuid, self.log, self.tables, self.clock = core.uuid, core.log, core.tables, core.clock
        self.engine, self.committer = core.engine, core.committer
        self.past = Past(core)
        self._migration_records = apply.MigrationRecords(core.log)
        self.consumers = Consumers(core)
        self.people = People(core, self.transaction)
        self.access = Access(core, self.past)
        self.admin = Admin(core, self.past, self.consumers, self._archiving, self.transaction)
        self.retention: Retaining | None = None  # archives the log automatically, if configured
        keep_in_child(self)
        notify_in_child(self)
        close_at_end(self)
        if not read_only:
            self.log.merger.begin()
            self.sweeper = expiry.Sweeper(core)
            self.committer.validator.on_end = self.sweeper.expect

    # identity and state

    def measure(self) -> Measures:
        """Count and time commits and syncs from now on, and return where. The same object at each call."""
        if self.committer.measures is None:
            self.log.measures = made = Measures(self.log.written)
            self.committer.watch(measures=made)
        assert self.committer.measures is not None
        return self.committer.measures

    @property
    def schema(self) -> Schema:
        """The schema in force."""
        return self.tables.schema

    @property
    def head(self) -> int:
        """Seq of the newest record on disk."""
        return self.log.head

    def cursor(self) -> log_pb2.Cursor:
        """Return the position after the newest record on disk. Read-only."""
        self.core.check_open()
        return self.log.cursor(self.log.head, self.uuid)

    def schema_at(self, seq: int) -> log_pb2.Schema:
        """Return the schema in force after the record at `seq`. Read-only."""
        arguments.whole(seq, "a seq")
        return apply.schema_at(self.log, self.tables, seq)

    def migration_records(self) -> list[apply.Recorded]:
        """Return every Migration record of the log, oldest first. Read-only."""
        self.core.check_open()
        return self._migration_records.all(self.tables)

    def newest_migration_records(self) -> Iterator[apply.Recorded]:
        """Yield every Migration record, newest first, each read on demand. Read-only."""
        self.core.check_open()
        return self._migration_records.newest_first(self.tables)

    @property
    def directory(self) -> Path:
        """The directory of the files, reached through its descriptor, wherever it was moved to. Raises
        ClosedError."""
        return self.core.directory

    @property
    def refused(self) -> DiskError | None:
        """Why writing has ended until the database is opened again; None: writes are accepted."""
        return self.engine.stopped

    def forked(self) -> None:
        """In a forked child: refuse all calls, because the database belongs to the parent."""
        self.core.closed = True
        self.tables.keep()
        self.past.keep()

    def disk_bytes(self) -> int:
        """Return the size of all files of the database, in bytes. Read-only."""
        return self.engine.disk_bytes()

    def archived_ns(self) -> int:
        """Return when the log was last archived, in nanoseconds since the Unix epoch; 0: never. Read-only."""
        return self.core.archived_ns()

    # reading

    def snapshot(self) -> Snapshot:
        """Return the database at its current seq, for consistent reads. Read-only. Close it, or use a `with`
        block.

            with db.snapshot() as now:
                total = now.count(AIRPORTS)

        Raises ClosedError.
        """
        return self.core.snapshot()

    def at(
        self, *, seq: int | None = None, time: Time | None = None, progress: OnProgress | None = None
    ) -> Moment:
        """Return the database as it was after the record at `seq`, or at a time, for reading. Need not be
        closed.

        `time` is a datetime, its text in ISO 8601 (UTC unless it names a zone), or nanoseconds since the Unix
        epoch. The version index is extended as far as needed, which reads the log at the first call
        (`progress`) and writes only that index.

            db.at(time="2026-01-05T09:30:00Z").get(AIRPORTS, "JFK")

        Raises CursorError before the first record, in the future, and where the log was removed; RowError for
        an invalid time.
        """
        self.core.check_open()
        return self.past.at(seq=seq, time=time, progress=progress)

    def history(
        self, table: Table[M, K], key: K, *, newest_first: bool = True, limit: int | None = None
    ) -> Iterator[Version[M]]:
        """Yield every version of a row: who wrote it, when, why, and what changed. Read-only, except for the
        version index.

        It spans migrations, and includes deleted rows and dropped tables. `limit` is the maximum number of
        versions. It follows the links of the log as long as the row existed, then the version index (`at`).
        Raises SchemaError if the table never existed.
        """
        self.core.check_open()
        arguments.table(table)
        return self.past.history(table, key, newest_first=newest_first, limit=limit)

    def refresh(self) -> int:
        """In a database opened for reading, see what the writing process has written since. Return the new
        seq. Read-only.

        Raises OpenError if the directory was moved, removed or replaced. What was read before stays readable.
        """
        self.core.check_open()
        if self.read_only:
            opening.refresh(self.core)
            self.past.refresh()
        return self.tables.applied

    # writing

    def load(
        self,
        table: Table[M, Any],
        rows: Iterable[M],
        *,
        id: str | None = None,
        source: str = "",
        kind: log_pb2.Load.Kind.ValueType = loads.IMPORT,
        total: int | None = None,
        expires: Expires | None = None,
        progress: OnProgress | None = None,
        **metadata: Any,
    ) -> loads.LoadResult:
        """Write many rows in chunks, one commit per chunk, and return the number of rows, skipped rows and
        commits. Writes.

        With an `id`, a repeated load resumes where it stopped, and a finished one does nothing; `rows` must
        be the same at each run. `source`: the name of the data's origin, recorded in the log. `total`: the
        number of rows if known, for `progress`. `expires`: as in `put`, for all rows. `metadata`: as in
        `transaction`, without `commit_id`.

            db.load(AIRPORTS, rows, id="airports-2026-01", actor="ann")

        Raises RowError for an invalid row; earlier chunks stay.
        """
        return loads.load(
            self.core,
            table,
            rows,
            id=id,
            source=source,
            kind=kind,
            metadata=self.transaction(**metadata).metadata,
            total=total,
            expires=expires,
            progress=progress,
        )

    def loader(
        self, table: Table[Any, Any], load: log_pb2.Load, expires: Expires | None = None, **metadata: Any
    ) -> loads.Loader:
        """Return a load that writes chunk by chunk, for a caller that has its own loop. Writes when rows are
        added.

        `load` has its id, kind and source. `expires` and `metadata` as in `load`. Raises RowError,
        SchemaError.
        """
        return loads.Loader(self.core, table, load, self.transaction(**metadata).metadata, expires)

    def apply_migration(
        self,
        migration: log_pb2.Migration,
        rows: Iterable[tuple[Table[Any, Any], Message]] = (),
        *,
        delete: Iterable[tuple[Table[Any, Any], Any]] = (),
        actor: str = "",
        reason: str = "",
        expect_schema: int | None = None,
        expect: Callable[[], None] | None = None,
        check: Callable[[Snapshot], None] | None = None,
        progress: OnProgress | None = None,
    ) -> CommitResult:
        """Append a migration and its rows as one record, and bring the tables to its schema. Writes.

        `expect_schema` is the schema version that it was planned for. `expect` is called first, while no
        other commit can run, and raises if a condition no longer holds. `check` reads the tables as the
        migration would leave them, and may raise as well. Raises MigrationError, UniqueError and RowError;
        nothing was written then.
        """
        self.core.check_writable()
        return apply.append_migration(
            self.core,
            migration,
            rows,
            delete=delete,
            metadata=Metadata(actor, reason).check(),
            expect_schema=expect_schema,
            expect=expect,
            check=check,
            progress=progress,
        )

    def backfill(
        self,
        migration: log_pb2.Migration,
        *,
        since: int,
        rate: float | None = None,
        progress: OnProgress | None = None,
        stopped: Callable[[], bool] = lambda: False,
        deleted: Container[tuple[str, bytes]] = (),
    ) -> bool:
        """Build the rows and indexes that a migration adds, beside the live tables. Writes; resumes where it
        stopped.

        `since`: the seq of the record that started the migration. `rate`: maximum rows per second; None:
        unlimited. `stopped`: called between slices; True stops the work. `deleted`: rows of tables with
        bootstrap data that need not be copied, by table and key. Returns True if it is complete, False if it
        was stopped. Raises MigrationError, and UniqueError or RowError for an invalid row.
        """
        self.core.check_writable()
        return Backfill(
            self.core,
            migration,
            self.core.code,
            since=since,
            rate=rate,
            progress=progress,
            stopped=stopped,
            deleted=deleted,
        ).run()

    def reclaim(self, before: log_pb2.Schema) -> None:
        """Free the disk space of tables, indexes and previous generations that the schema `before` has and
        the schema in force has not. Writes.

        Takes long for large tables; reads and writes continue meanwhile.
        """
        self.core.check_writable()
        self.tables.flush()
        for start, end in gone(Schema(before), self.tables.schema):
            self.engine.compact_data(start, end)
        self.log.merger.start()  # what a snapshot holds is freed once that is released

    # followers

    def opener(self, tables: Sequence[str] = ()) -> Opener:
        """Return an opener of sealed rows for followers of these tables, or of all. Read-only."""
        return VaultOpener(self.core.vault)

    def close(self) -> None:
        """Write everything to files and release the directory. May be called twice."""
        core = self.core
        if core.closed:
            return
        if self.retention is not None:
            self.retention.close()  # first: it archives while the database is open
        core.closed = True
        self.tables.close()
        self.past.close()
        try:
            if not self.read_only:
                self.sweeper.close()
                self.committer.close()
        finally:
            self.consumers.bookmarks.flush()
            core.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.core.closed else f"at {self.log.head}"
        return f"<{type(self).__name__} {self.url} {state}>"

    def _archiving(self) -> ArchiveStatus:
        return self.retention.status() if self.retention is not None else ArchiveStatus()

    # for readers and writers

    def _schema(self) -> Schema:
        return self.tables.schema

    def _source(self) -> Source:
        core = self.core
        if core.closed:
            core.check_open()
        return core.live

    def _transaction(self, metadata: Metadata) -> Transaction:
        return self.core.transaction(metadata)
