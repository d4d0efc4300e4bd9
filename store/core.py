"""Core: the parts of one open database, and the calls that its other modules need.

    Database ─▶ history, online, upkeep ─▶ Core ─▶ log, tables, committer, vault, clock ─▶ engine
       └────────────────────────────────────▶

`opening` creates it. The modules of history, online and upkeep work on it; `Database` adds the public
calls.

Invariants
  (1) it knows nothing of history, online migrations or upkeep;
  (2) after `closed`, and in a forked child, every call raises ClosedError.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from everlog.proto import log_pb2
from everlog.store.clock import Clock
from everlog.store.errors import ClosedError, Error, MigrationError, ReadOnlyError
from everlog.store.keys import NOTE_LOAD, NOTE_PRODUCTION
from everlog.store.log import Log
from everlog.store.rocks import files
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.ownership import Ownership
from everlog.store.rocks.view import View
from everlog.store.schema.schema import Schema
from everlog.store.tables.tables import Tables
from everlog.store.tx.committer import Committer
from everlog.store.tx.dual_write import DualWrite, Transforms
from everlog.store.tx.reader import Snapshot
from everlog.store.tx.source import LiveSource, LocalSource, Source
from everlog.store.tx.transaction import ANONYMOUS, About, CommitResult, Metadata, Transaction


class Options(NamedTuple):
    """How a database is opened: see `Database`."""

    url: str
    read_only: bool
    durability: str
    idempotency_s: float


class Work(NamedTuple):
    """What this process builds: its start (`time.monotonic`), the rows done before, and the total number of
    rows of bootstrap data."""

    since_s: float
    rows: int
    seeds: int


class Core:
    """The parts of an open database. Safe to use from many threads; not after a fork."""

    def __init__(  # noqa: PLR0917  one of each part
        self, owner: Ownership, engine: Engine, log: Log, tables: Tables, clock: Clock, options: Options
    ) -> None:
        first = log.beginning()
        self.uuid = first.base.database if first.HasField("base") else first.created.database
        self.path = owner.path
        self.url, self.read_only, self.durability, idempotency_s = options
        self.owner, self.engine, self.log, self.tables, self.clock = owner, engine, log, tables, clock
        assert tables.vault is not None
        self.vault = tables.vault
        self.committer = Committer(log, tables, clock, idempotency_s)
        self.live = LiveSource(tables)  # reads the tables as they are at each call
        self.code: dict[int, Transforms] = {}  # of migrations that rewrite tables, by version, while they do
        self.backfilling: Work | None = None  # what a thread of this process builds now
        self.closed = False
        self._pid = os.getpid()

    @property
    def schema(self) -> Schema:
        """The schema in force."""
        return self.tables.schema

    @property
    def head(self) -> int:
        """Seq of the newest record that is on disk."""
        return self.log.head

    @property
    def directory(self) -> Path:
        """The directory, reached through its descriptor, wherever it was moved to. Raises ClosedError."""
        self.check_open()
        return self.engine.at

    @property
    def production(self) -> bool:
        """Whether the log marks the database as production."""
        return self.tables.get(NOTE_PRODUCTION) is not None

    def archived_ns(self) -> int:
        """When old log was last archived, in nanoseconds since the Unix epoch; 0: never. Read-only."""
        try:
            return (self.directory / files.ARCHIVE).stat().st_mtime_ns
        except OSError:
            return 0

    # reading

    def view(self) -> tuple[Source, int, View]:
        """Return a source of the current rows, its seq, and the view, which the caller closes. Read-only."""
        self.check_open()
        view, seq = self.tables.snapshot()
        return LocalSource(view), seq, view

    def snapshot(self) -> Snapshot:
        """Return the database at its current seq, for consistent reads. Read-only."""
        source, seq, view = self.view()
        return Snapshot(source, seq, self.tables.schema, view.close)

    def load_state(self, id: str) -> tuple[log_pb2.Load, int]:
        """Return the progress of a load, and the seq as of which it is. Read-only."""
        _, seq, view = self.view()
        value = view.get(NOTE_LOAD + id.encode())
        view.close()
        return (log_pb2.Load.FromString(value) if value else log_pb2.Load()), seq

    # writing

    def transaction(self, metadata: Metadata = ANONYMOUS) -> Transaction:
        """Begin a transaction. Raises ClosedError, ReadOnlyError."""
        if self.closed or self.read_only:
            self.check_writable()
        return Transaction(self, metadata)

    def begin(self) -> tuple[Source, int]:
        """Return a source of the current rows, for a transaction, and its seq."""
        source, seq, _ = self.view()
        return source, seq

    def commit(self, transaction: Transaction, about: About | None = None) -> CommitResult:
        """Commit. Writes. While a migration rewrites tables, includes the writes to their other
        generations.

        `about` fills in the fields of the commit that are not changes. Raises as `Transaction.commit`.
        """
        if self.closed or self.read_only:
            self.check_writable()
        schema = self.tables.schema
        if schema.paired:
            try:
                DualWrite(schema, self.code).add(transaction.writes)
            except MigrationError:
                if self.tables.schema is schema:
                    raise
                # The migration ended just now: the validator reports a conflict, and the caller tries again.
        sync = (transaction.metadata.durability or self.durability) == "sync"
        return self.committer.commit(transaction, sync=sync, about=about)

    # its end

    def check_open(self) -> None:
        """Raise ClosedError after `close`, and in a forked child."""
        if os.getpid() != self._pid:
            raise ClosedError(
                f"{self.url} was opened before this process was forked; open it in the child, after"
            )
        if self.closed:
            raise ClosedError(f"{self.url} is closed; open it again")

    def check_writable(self) -> None:
        """Raise ClosedError, and ReadOnlyError if the database is open for reading."""
        self.check_open()
        if self.read_only:
            raise ReadOnlyError(f"{self.url} was opened for reading; open it without read_only to write")

    def release(self) -> None:
        """Write everything to files, and release the directory. No call is allowed afterwards."""
        if not self.engine.secondary and self.engine.stopped is None:
            try:
                self.tables.flush()
                self.engine.flush()
                self.log.write_head_file(sync=True)
                (self.owner.at / files.OWNER).unlink(missing_ok=True)
            except (Error, OSError):
                pass  # the next opening replays the rest from the log
            with contextlib.suppress(Error):
                self.log.merger.close()
        self.vault.close()
        self.engine.close()
        self.owner.release()
