"""Handles: groups of calls that an embedded and a remote database both offer, one protocol each.

    db.migrations   Migrations   plan, apply, roll back, approve
    db.consumers    Consumers    durable names of followers, and how far each is
    db.past         Past         the database as it was: at, history, diff, log
    db.people       People       forget, export, readable, rotate_key
    db.admin        Admin        expire, correct_clock, production, set_production
    db.proofs       Prover       checkpoints and proofs of what the log holds (everlog.audit.prover)
    db.archive      Archive      backup, archive and holds

Each handle is an object of its own: `EmbeddedDatabase` and `RemoteDatabase` are composed of them. The
everyday calls (get, scan, put, transaction, run, feed, load, at, history) are on the database itself.
tests/rpc/test_handles.py compares both implementations with these protocols.

Invariants
  (1) a call takes the same arguments, returns the same and raises the same on both; on a remote database
      every call can raise UnavailableError as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from everlog import migrations
    from everlog.audit.archive import Archival
    from everlog.audit.backup import Backup
    from everlog.migrations import Finding, MigrationInfo, PlannedMigration, PlannedRollback
    from everlog.migrations.folder import Source
    from everlog.migrations.proposal import Proposal
    from everlog.proto import log_pb2
    from everlog.store.crypto.master_key import MasterKey
    from everlog.store.history.diff import Difference
    from everlog.store.history.query import Entry
    from everlog.store.history.row_history import Version
    from everlog.store.history.timestamps import Position, Time
    from everlog.store.progress import OnProgress
    from everlog.store.schema.table import Table
    from everlog.store.tx.reader import Snapshot
    from everlog.store.upkeep.consumers import Cap, Consumer
    from everlog.store.upkeep.erase import Forgotten
    from everlog.store.upkeep.personal_data import Remaining

__all__ = ["Admin", "Archive", "Consumers", "Migrations", "Past", "People"]

M = TypeVar("M", bound=Message)
K = TypeVar("K")


class Migrations(Protocol):
    """Migrations of one database.

    Embedded, their folders are those that `everlog.open(migrations=…)` named, by default `migrations` in the
    working directory; the environment variable EVERLOG_APPROVERS names those who may approve. A server works
    with the folders and the approvers that it was started with.

    Calls that write take `actor` and `reason` for the log. Calls that take long take `progress`.
    """

    def status(self) -> list[MigrationInfo]:
        """Return all migrations that the folders or the log know, oldest first. Read-only."""

    def differences(self) -> dict[int, str]:
        """Return the diff of each migration whose folder was edited after it ran, by version. Read-only."""

    def problem(self) -> str:
        """Return why a server can neither propose nor apply the pending migrations; empty if it can, and
        embedded. Read-only."""

    def lint(
        self,
        source: Source | None = None,
        *,
        since: int = 0,
        ignored: bool = False,
        progress: OnProgress | None = None,
    ) -> list[Finding]:
        """Return the findings in the folders of this machine, checked against the rows of the database;
        see `everlog.migrations.lint`. Read-only."""

    def plan(
        self,
        *,
        to: int | None = None,
        out_of_order: bool = False,
        try_rows: bool = False,
        hold: bool = False,
    ) -> list[PlannedMigration]:
        """Return what `apply` would do with the same arguments; with `try_rows` tried on the rows. The plan
        of a server leaves out the effects of `hold`. Read-only. Raises MigrationError and SchemaError."""

    def apply(
        self,
        *,
        to: int | None = None,
        out_of_order: bool = False,
        hold: bool = False,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> list[MigrationInfo]:
        """Apply the pending migrations, up to version `to` and with it, and return them.

        `hold`: keep serving the previous version where rows are rewritten, until `complete`. `rate`: build at
        most so many rows a second. `applied` is called with each as soon as it is in the log. Writes. Raises
        MigrationError, SchemaError or LoadError; a migration that failed leaves no trace.
        """

    def complete(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        """Stop serving the previous schema version. Writes. Raises MigrationError if none is held."""

    def cancel(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        """Stop the running migration and give it up; where migrations need approval, for approvers only.
        Writes. Raises MigrationError."""

    def plan_rollback(self, count: int | None = None, *, to: int | None = None) -> list[PlannedRollback]:
        """Return what `rollback` would do and lose with the same arguments. Read-only."""

    def rollback(
        self,
        count: int | None = None,
        *,
        to: int | None = None,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
        rolled_back: Callable[[MigrationInfo], None] | None = None,
    ) -> list[MigrationInfo]:
        """Roll back the last `count` migrations (default 1), or all after version `to` (0: all), newest
        first, and return them. `rolled_back` is called with each. Writes. Raises MigrationError."""

    def dump(self) -> str:
        """Return the schema as text, with the migrations that made it. Read-only. Raises MigrationError
        while one is in progress."""

    def load(self, text: str, *, where: str = "the text", actor: str = "", reason: str = "") -> int:
        """Give an empty database the schema of a text that `dump` returned, and return its version.
        `where` names the text in errors. Writes. Raises SchemaError and MigrationError."""

    def baseline(self, version: int, *, actor: str = "", reason: str = "") -> list[MigrationInfo]:
        """Record the migrations up to `version` as applied without running them, and return them. Writes.
        Raises MigrationError if they do not make the schema that the database has."""

    def accept(
        self, versions: Sequence[int] = (), *, actor: str = "", reason: str = ""
    ) -> list[MigrationInfo]:
        """Accept the edited folders of applied migrations, of all by default, and return these. Writes.
        Raises MigrationError for folders that would make another schema."""

    def restore_folders(
        self, versions: Sequence[int] = (), *, source: Source | None = None, force: bool = False
    ) -> list[migrations.Restored]:
        """Write folders on this machine as the log has them, all missing ones by default. `force`: replace
        edited folders. Does not write to the database. Raises MigrationError."""

    def proposals(self) -> list[Proposal]:
        """Return all proposals and their outcome, oldest first. Read-only."""

    def propose(self, *, actor: str = "", reason: str = "") -> Proposal | None:
        """Propose the pending migrations, also if they were rejected or have failed before; return the
        proposal, None if nothing is pending. Writes. Raises MigrationError and SchemaError."""

    def approve(
        self,
        digest: str,
        *,
        actor: str = "",
        reason: str = "",
        despite_errors: bool = False,
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> Proposal:
        """Approve the proposal whose digest starts with `digest`, apply it, and return its outcome. A plan
        with errors is approved only with `despite_errors`. Writes. Raises MigrationError if the caller may
        not, if it is decided, or if anything that was shown has changed."""

    def reject(self, digest: str, *, actor: str = "", reason: str = "") -> Proposal:
        """Reject a proposal, and return it. Writes. Raises MigrationError."""


class Consumers(Protocol):
    """The durable consumers of one database."""

    def register(
        self,
        name: str,
        *,
        after: int | log_pb2.Cursor | None = None,
        cap: Cap | None = None,
        take: bool = True,
        actor: str = "",
        reason: str = "",
    ) -> Consumer:
        """Register a durable name and return it; a known name keeps its position. `after`: where a new one
        begins. `take`: end the turn of whoever has the name. Writes. Raises RowError, CursorError."""

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """Record that the consumer has everything up to `position`, durably. Writes."""

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Remove a name: no log is held for it. Writes. Raises RowError if there is none."""

    def __getitem__(self, name: str) -> Consumer:
        """Return one of them. Read-only. Raises RowError if there is none."""

    def __iter__(self) -> Iterator[Consumer]:
        """All, by name, as they are now. Read-only."""


class Archive(Protocol):
    """The log of one database, in other places."""

    def backup(
        self, to: str | PathLike[str], *, hashes: bool | None = None, progress: OnProgress | None = None
    ) -> Backup:
        """Bring the backup in a directory, or behind a URL that fsspec knows, up to what is on disk now.
        `hashes`: record what the tables contain; None: of few rows. Does not write to the database. Raises
        OpenError, CorruptionError, DiskError."""

    def move(
        self,
        target: str | PathLike[str] = "",
        *,
        keep_records: int = 0,
        keep_ns: int = 0,
        progress: OnProgress | None = None,
    ) -> Archival:
        """Move the log to `target`, a directory or a URL, but for the last `keep_records` records and those
        of the last `keep_ns` nanoseconds. A server has a target of its own: name none, or that one. Writes.
        Raises OpenError, ReadOnlyError, DiskError; then nothing was removed."""

    def removable(self, *, keep_records: int = 0, keep_ns: int = 0) -> tuple[int, str]:
        """Return the last record that `move` would remove, and what holds the next. Read-only. Raises Error
        for a database on a server, which does not tell."""

    def holds(self) -> dict[str, int]:
        """Return the holds: names, and the first record that each keeps. Read-only."""

    def hold(self, name: str, seq: int) -> None:
        """Keep the record at `seq` and all after it, under a name. Writes. Raises RowError."""

    def release(self, name: str) -> None:
        """Release a hold. Writes. Raises RowError if there is none of that name."""


class Past(Protocol):
    """One database as it was. `at` and `history` are calls of the database itself as well."""

    def at(
        self, *, seq: int | None = None, time: Time | None = None, progress: OnProgress | None = None
    ) -> Snapshot:
        """Return the database as it was after the record at `seq`, or at a time. Read-only. Raises
        CursorError before the first record, in the future, and where the log was removed."""

    def history(
        self, table: Table[M, K], key: K, *, newest_first: bool = True, limit: int | None = None
    ) -> Iterator[Version[M]]:
        """Return every version of a row. Read-only. Raises SchemaError if there never was such a table."""

    def diff(self, table: Table[M, Any], start: Position, end: Position) -> Iterator[Difference[M]]:
        """Return the rows of a table that differ between two moments, each a seq or a time, in key order.
        Read-only. Raises CursorError, SchemaError."""

    def log(
        self,
        *,
        actor: str | None = None,
        table: Table[Any, Any] | str | None = None,
        key: Any = None,
        correlation_id: str | None = None,
        kind: str | None = None,
        after: int = 0,
        until: int | None = None,
        since: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """Return the commits that match all filters, oldest first. Read-only. Raises RowError for an invalid
        query, SchemaError if there never was such a table."""


class People(Protocol):
    """People in one database: whose rows are sealed under a key of their own."""

    def forget(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None, **metadata: Any
    ) -> Forgotten:
        """Erase one person: the one of the row with this primary key, or with this value of the table's
        `person` field. Delete their rows in one commit, and shred their key. `metadata` as in `put`; with a
        `commit_id` it is done once. Writes. Raises RowError if there is no such row or person, SealedError
        without the master key."""

    def export(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> dict[str, Any]:
        """Return all data about one person as values of JSON. Reads the whole log, read-only. Raises RowError
        if there is nothing, SealedError without the master key."""

    def stream(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """Return what `export` returns as pieces of one JSON object, in bounded memory. Read-only."""

    def readable(self) -> list[Remaining]:
        """Return the data about people that is readable without keys. Read-only."""

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Put all keys under another master key, by default the next one of the environment; return how many
        were moved. A server takes the one that it was started with. Writes. Raises SealedError, OpenError."""


class Admin(Protocol):
    """What operators do to one database. A commit of an operator takes `actor` and `reason` for the log."""

    @property
    def production(self) -> bool:
        """Whether the log says that this is a database in production: test data is refused."""

    def set_production(self, on: bool, *, actor: str = "", reason: str = "") -> int:
        """Record whether this is a database in production. Return the seq of the Notice, 0 where the log says
        so already. Writes. Raises ReadOnlyError."""

    def expire(self, *, confirm_time: bool = False) -> int:
        """Delete the rows whose life is over, and return their number. `confirm_time`: the clock is right,
        though it jumped forward. Writes. Raises Error after a jump that nobody confirmed."""

    def correct_clock(self, *, actor: str = "", reason: str = "") -> int:
        """Confirm the clock, and record a Notice if the log is ahead of it; return its seq, or 0. Writes.
        Raises ReadOnlyError."""
