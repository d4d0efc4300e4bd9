"""Handles: groups of calls that an embedded and a remote database both offer, one protocol each.

    db.access       Access       roles, grants and tokens; why a call is allowed or denied
    db.migrations   Migrations   plan, apply, roll back, approve
    db.consumers    Consumers    durable names of followers, and their positions
    db.past         Past         earlier states of the database: at, history, diff, log
    db.people       People       forget, export, readable, rotate_key
    db.admin        Admin        status, check, hashes, rebuild, expire, correct_clock, set_production,
                                 testdata, samples, calls, kill
    db.proofs       Prover       checkpoints and proofs of the log's content (everlog.audit.prover)
    db.archive      Archive      backup, archive and holds

Each handle is an object of its own: `EmbeddedDatabase` and `RemoteDatabase` are composed of them. The
everyday calls (get, scan, put, transaction, run, feed, load, at, history) are on the database itself.
tests/rpc/test_handles.py compares both implementations with these protocols.

Invariants
  (1) a call takes the same arguments, returns the same and raises the same on both; on a remote database
      every call can raise UnavailableError as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from everlog import migrations
    from everlog.audit.archive import Archival
    from everlog.audit.backup import Backup
    from everlog.migrations import Finding, MigrationInfo, PlannedMigration, PlannedRollback
    from everlog.migrations.details import Details
    from everlog.migrations.folder import Source
    from everlog.migrations.prepared import Decision
    from everlog.migrations.proposal import Proposal, Rules
    from everlog.proto import log_pb2
    from everlog.rpc.calls import Now, RunningCall
    from everlog.store.crypto.master_key import MasterKey
    from everlog.store.history.diff import Difference
    from everlog.store.history.past import Positions
    from everlog.store.history.query import Entry
    from everlog.store.history.row_history import Version
    from everlog.store.progress import OnProgress
    from everlog.store.schema.arguments import Position, Time
    from everlog.store.schema.table import Table
    from everlog.store.tables.hashing import TableHash
    from everlog.store.tx.reader import Snapshot
    from everlog.store.upkeep.access import Caller, NewToken, Shown
    from everlog.store.upkeep.consumers import Cap, Consumer
    from everlog.store.upkeep.explanation import Explanation
    from everlog.store.upkeep.people import Forgotten
    from everlog.store.upkeep.personal_data import Remaining
    from everlog.store.upkeep.read_audit import RecordedRead
    from everlog.store.upkeep.roles import Role
    from everlog.store.upkeep.samples import Sample
    from everlog.store.upkeep.status import Health, Status
    from everlog.store.upkeep.testdata import LoadedTestdata

__all__ = ["Access", "Admin", "Archive", "Consumers", "Migrations", "Past", "People"]

M = TypeVar("M", bound=Message)
K = TypeVar("K")


class Access(Protocol):
    """Who may do what in one database, as its log says; see docs/access.md. A server enforces it.

    Calls that write take `actor` and `reason` for the log, and return the seq of the commit; 0: nothing had
    to change.
    """

    def whoami(self) -> Caller:
        """Return the caller, with its roles and rights in this database. Read-only."""

    def show(self, at: Position | None = None) -> Shown:
        """Return all roles, grants and tokens with the commits that made them, now or as of a record (a seq)
        or a time, and what an operator should repair. Read-only. Raises CursorError."""

    def explain(
        self,
        who: str,
        verb: str,
        table: str = "",
        *,
        key: Any = None,
        field: str = "",
        at: Position | None = None,
    ) -> Explanation:
        """Return whether `who` (empty: the caller) may do `verb` (a right, `put` or `delete`) on a table
        (empty: any), and why, now or as of a record or a time; with `key` and `field`, also whether that row
        and field are visible, and which condition hides them. Read-only. Raises RowError, CursorError,
        SchemaError."""

    def define(self, role: Role, *, actor: str = "", reason: str = "") -> int:
        """Define a role, or replace the one of that name. Writes. Raises RowError, also for a limit on rows
        or fields that the schema does not have."""

    def remove_role(self, name: str, *, actor: str = "", reason: str = "") -> int:
        """Remove an unused role. Writes. Raises RowError."""

    def grant(
        self, identity: str, role: str, tables: tuple[str, ...] = (), *, actor: str = "", reason: str = ""
    ) -> int:
        """Give an identity a role, on some tables only if `tables` has names or patterns such as `book*`.
        Writes. Raises RowError for a role that does not exist."""

    def revoke(
        self,
        identity: str,
        role: str,
        tables: tuple[str, ...] | None = None,
        *,
        actor: str = "",
        reason: str = "",
    ) -> int:
        """Take a role from an identity: with `tables` only the grant on exactly these. Writes. Raises
        RowError if it was not granted."""

    def audit(self, table: str, share: float = 1.0, *, actor: str = "", reason: str = "") -> int:
        """Set the share of the reads of a table that servers record: 1 all, 0 none. Writes. Raises RowError,
        SchemaError."""

    def reads(
        self,
        *,
        who: str = "",
        table: str = "",
        since: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[RecordedRead]:
        """Yield the reads that servers have recorded, oldest first: only those by an identity, of a table,
        at or after `since` and before `before`. Read-only. Raises RowError, DiskError."""

    def create_token(
        self,
        name: str,
        roles: tuple[str, ...] = (),
        *,
        expires_ns: int = 0,
        actor: str = "",
        reason: str = "",
    ) -> NewToken:
        """Create a token of an identity and return it, with its text, which is stored nowhere. `roles`: those
        of its calls; none: those granted to the name. `expires_ns`: its end, nanoseconds since the Unix
        epoch; 0: never. Writes. Raises RowError."""

    def rotate_token(self, which: str, *, keep_s: float = 0, actor: str = "", reason: str = "") -> NewToken:
        """Replace a token, named by its id or by its identity, with a new one of the same name, roles
        and length of life. The old one ends after `keep_s` seconds. Writes. Raises RowError."""

    def revoke_token(self, which: str, *, actor: str = "", reason: str = "") -> int:
        """End a token, named by its id, or all of an identity. Writes. Raises RowError if there is none."""


class Migrations(Protocol):
    """The migrations of one database.

    Embedded, their folders are those that `everlog.open(migrations=…)` named, by default `migrations` in the
    working directory; the environment variable EVERLOG_APPROVERS names the approvers. A server uses the
    folders and the approvers in its configuration.

    Calls that write take `actor` and `reason`, which the log records. Long calls take `progress`, which is
    called with each step. Versions are numbers such as 20260105093000.
    """

    def status(self) -> list[MigrationInfo]:
        """Return all migrations in the folders or in the log, oldest first, each with its state. Read-only.
        Raises SchemaError for an invalid folder."""

    def differences(self) -> dict[int, str]:
        """Return the diff of each migration whose folder was edited after it was applied, by version.
        Read-only."""

    def problem(self) -> str:
        """Return why a server can neither propose nor apply the pending migrations; empty if it can, and
        always empty for an embedded database. Read-only."""

    def rules(self) -> Rules | None:
        """Return who may decide about proposals; None: the server's migrations need no approval.
        Read-only."""

    def show(self, version: int, *, digest: bytes = b"") -> Details:
        """Return one migration: its files, tables, first bootstrap rows and events.

        `digest`: of the folder to show; empty: as it was applied, else as it is on disk. Content of rows of
        sealed tables is never returned. Read-only; runs the folders' code. Raises MigrationError for an
        unknown version.
        """

    def lint(
        self,
        source: Source | None = None,
        *,
        since: int = 0,
        ignored: bool = False,
        progress: OnProgress | None = None,
    ) -> list[Finding]:
        """Return the findings in the folders of this machine, checked against the rows of the database.

        `source`: the package or directory of the folders; None: those of this database. `since`: check only
        migrations newer than this version. `ignored`: include findings that comments ignore. See
        `everlog.migrations.lint`. Read-only; runs the folders' code. Raises SchemaError if there are no
        folders.
        """

    def plan(
        self,
        *,
        to: int | None = None,
        out_of_order: bool = False,
        try_rows: bool = False,
        hold: bool = False,
        prepare: bool = False,
    ) -> list[PlannedMigration]:
        """Return what `apply` would do with the same arguments, or with `prepare` what `prepare` would do.

        `try_rows`: also run `up` and the checks on the rows, which reads whole tables. The plan of a server
        omits the effects of `hold`. Read-only. Raises MigrationError and SchemaError as the call would.
        """

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
        """Apply the pending migrations, oldest first, up to and including version `to` (None: all), and
        return them. Writes.

        `out_of_order`: also apply migrations older than an applied one. `hold`: where rows are rewritten,
        keep serving the previous version until `complete`. `rate`: build at most this many rows per second;
        None: unlimited. `applied` is called with each migration once it is in the log.

            db.migrations.apply(actor="ann", reason="release 12")

        Raises MigrationError, SchemaError or LoadError. A migration that failed has no effect; earlier ones
        stay applied.
        """

    def complete(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        """Stop serving the previous schema version, and return the migration that kept it. Writes. Raises
        MigrationError if only one version is served."""

    def prepare(
        self,
        decision_id: bytes,
        *,
        fence: int = 0,
        to: int | None = None,
        hold: bool = False,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> Decision:
        """Build the pending migration beside the live tables, and let it wait for a decision from outside.
        Return that decision. Writes. When it returns, the vote is on disk.

        `decision_id`: a UUID, 16 bytes (`everlog.new_commit_id()`). `fence`: the fencing number of the
        caller, such as the epoch of a coordinator; 0: none. `to`: the version, if several migrations are
        pending. `hold`, `rate` as of `apply`; `hold` is about the time after the switch.

            decision_id = everlog.new_commit_id()
            db.migrations.prepare(decision_id, actor="fleet", reason="release 12")
            db.migrations.commit_prepared(decision_id, actor="fleet")

        Until then clients read and write the previous version, and no other call ends the migration. A
        repeated call resumes, or returns the decision. Raises MigrationError if the migration cannot be
        prepared, if it does not fit the rows (the decision is then aborted here), if the decision was
        aborted, or if the call is from a caller with a lower fence than a recorded one.
        """

    def commit_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision:
        """Put the migration that waits for this decision in force, and return the decision with its commit.
        Needs no folder. Writes; a repeated call returns the same. Raises MigrationError if it was aborted or
        is not prepared, and for a lower fence than a recorded one."""

    def abort_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision:
        """Give up the migration that waits for this decision, or is being prepared for it, without effect;
        return the decision. Writes; a repeated call returns the same. A `prepare` with the same id that comes
        later is refused. Raises MigrationError if it was committed, and for a lower fence than a recorded
        one."""

    def cancel(self, *, actor: str = "", reason: str = "") -> MigrationInfo:
        """Stop the migration or rollback in progress and give it up; return the migration. The database is
        unchanged afterwards. Writes. Raises MigrationError if none is in progress, or if migrations need
        approval and `actor` is not an approver."""

    def plan_rollback(self, count: int | None = None, *, to: int | None = None) -> list[PlannedRollback]:
        """Return the steps of `rollback` with the same arguments, and the data that it would lose. Read-only.
        Raises MigrationError as `rollback` would."""

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
        first, and return them. Writes.

        `rate`: convert at most this many rows per second; None: unlimited. `rolled_back` is called with each
        migration once its rollback is in the log. Raises MigrationError, and UniqueError if a restored index
        finds duplicates; migrations that were rolled back before the error stay so.
        """

    def dump(self) -> str:
        """Return the schema as text, with the migrations that made it. Read-only. Raises MigrationError while
        a migration is in progress."""

    def load(self, text: str, *, where: str = "the text", actor: str = "", reason: str = "") -> int:
        """Give an empty database the schema of a text from `dump`, and return its version. Writes.

        `where` names the text in errors. Raises SchemaError for an invalid text, MigrationError if the
        database has a schema; nothing is written then.
        """

    def baseline(self, version: int, *, actor: str = "", reason: str = "") -> list[MigrationInfo]:
        """Record the pending migrations up to and including `version` as applied, without running them, and
        return them. Writes. Raises MigrationError, and writes nothing, if they do not make the schema of the
        database."""

    def accept(
        self, versions: Sequence[int] = (), *, actor: str = "", reason: str = ""
    ) -> list[MigrationInfo]:
        """Accept the edited folders of these applied migrations (default: all edited ones) as those that ran,
        and return them. Writes. Raises MigrationError, and writes nothing, if the folders would make another
        schema."""

    def restore_folders(
        self, versions: Sequence[int] = (), *, source: Source | None = None, force: bool = False
    ) -> list[migrations.Restored]:
        """Write the folders of these migrations (default: all missing ones) on this machine, as the log has
        them.

        `source`: where to write; None: the folders of this database. `force`: replace edited folders. Returns
        each folder that was written, with the files that the log does not hold. Does not write to the
        database. Raises MigrationError.
        """

    def proposals(self) -> list[Proposal]:
        """Return all proposals with their events and outcome, oldest first. Read-only."""

    def propose(self, *, actor: str = "", reason: str = "") -> Proposal | None:
        """Propose the pending migrations, even if they were rejected or failed before. Return the proposal;
        None if nothing is pending. Writes. Raises MigrationError and SchemaError for migrations that could
        not be applied."""

    def approve(
        self,
        digest: str,
        *,
        actor: str = "",
        reason: str = "",
        despite_errors: bool = False,
        approved: Callable[[Proposal], None] | None = None,
        progress: OnProgress | None = None,
        applied: Callable[[MigrationInfo], None] | None = None,
    ) -> Proposal:
        """Approve a proposal, apply it, and return its outcome. Writes.

        `digest`: the digest of the reviewed plan in hexadecimal, or at least its first six digits.
        `despite_errors`: approve a plan with errors. `approved` is called with the proposal once the approval
        is in the log, `applied` with each migration once it is in the log. Raises MigrationError, and applies
        nothing, if `actor` may not approve, if the proposal is already decided, or if anything in the plan
        has changed since it was reviewed.
        """

    def reject(self, digest: str, *, actor: str = "", reason: str = "") -> Proposal:
        """Reject a proposal (`digest` as in `approve`), so that it is not applied, and return it. Writes.
        Raises MigrationError if `actor` may not reject, or if it is already decided."""


class Consumers(Protocol):
    """The durable consumers of one database. Iterating yields them by name; `[name]` returns one."""

    def register(
        self,
        name: str,
        *,
        after: int | log_pb2.Cursor | None = None,
        cap: Cap | None = None,
        take: bool = True,
        owner: str = "",
        actor: str = "",
        reason: str = "",
    ) -> Consumer:
        """Register a consumer under a durable name, and return it. A known name keeps its position. Writes.

        `after`: the position of a new consumer, a seq or a cursor; None: before the first record. `cap`: the
        maximum that is held for it; None: the current one, or the default. `take`: become the holder of the
        name, which ends the epoch of the previous holder. `owner`: the identity that the name belongs to from
        now on; at a server, a name of nobody becomes that of the caller that takes it. Raises RowError for an
        invalid name or cap, CursorError for a position that is not in this log, AccessError for a name of
        another identity.
        """

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """Record that the consumer durably has everything up to `position`. Writes once a second at most.
        Raises CursorError if another process took the name, RowError if the consumer was removed."""

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Remove a consumer: no records are held for it any more. Writes. Raises RowError for an unknown
        name."""

    def __getitem__(self, name: str) -> Consumer:
        """Return one consumer, as it is now. Read-only. Raises RowError for an unknown name."""

    def __iter__(self) -> Iterator[Consumer]:
        """Yield all consumers by name, as they are now. Read-only."""


class Archive(Protocol):
    """Copies of the log of one database in other places."""

    def backup(
        self, to: str | PathLike[str], *, hashes: bool | None = None, progress: OnProgress | None = None
    ) -> Backup:
        """Update the backup in a directory, or at a URL that fsspec supports, to the newest durable record.

        `hashes`: record content hashes of the tables; None: only for a database of few rows. Returns what was
        copied. Does not write to the database. Raises OpenError if the directory is of another database,
        CorruptionError, DiskError.
        """

    def move(
        self,
        target: str | PathLike[str] = "",
        *,
        keep_records: int = 0,
        keep_ns: int = 0,
        progress: OnProgress | None = None,
    ) -> Archival:
        """Move old records of the log to `target`, a directory or a URL that fsspec supports, and free their
        disk space. Writes.

        Keeps the last `keep_records` records and those of the last `keep_ns` nanoseconds. A server has a
        target in its configuration: pass none, or that one. Raises OpenError, ReadOnlyError, DiskError;
        nothing was removed then.
        """

    def removable(self, *, keep_records: int = 0, keep_ns: int = 0) -> tuple[int, str]:
        """Return the seq of the last record that `move` would remove, 0 if there is none, and why the next
        one stays. Read-only."""

    def holds(self) -> dict[str, int]:
        """Return the holds: each name, and the seq of the first record that it keeps. Read-only."""

    def hold(self, name: str, seq: int) -> None:
        """Keep the record at `seq` and all later ones in the log, under a name. Writes. Raises RowError for
        an invalid name, and for a record that was archived and removed."""

    def release(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Remove a hold; the log records who removed it. Writes. Raises RowError if there is none of that
        name."""


class Past(Protocol):
    """The history of one database. `at` and `history` are calls of the database itself as well."""

    def at(
        self, *, seq: int | None = None, time: Time | None = None, progress: OnProgress | None = None
    ) -> Snapshot:
        """Return the database as it was after the record at `seq`, or at a time: a snapshot for reading.

        `time` is a datetime, its text in ISO 8601 (UTC unless it names a zone), or nanoseconds since the Unix
        epoch. `progress` is called while versions are indexed. Read-only. Raises CursorError before the first
        record, in the future, and where the log was removed; RowError for an invalid time.
        """

    def history(
        self, table: Table[M, K], key: K, *, newest_first: bool = True, limit: int | None = None
    ) -> Iterator[Version[M]]:
        """Yield every version of a row with the commit that made it; `limit` at most. Read-only. Raises
        SchemaError if the table never existed."""

    def diff(self, table: Table[M, Any], start: Position, end: Position) -> Iterator[Difference[M]]:
        """Yield the rows of a table that differ between two positions, each a seq or a time as in `at`, in
        key order. Read-only. Raises CursorError as `at` does, SchemaError if the table never existed."""

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
        """Yield the commits that match all filters, oldest first; `limit` at most. Read-only.

        `actor`, `correlation_id`, `kind`: as recorded; the kind `migration` is found without reading the log,
        and includes archived records. `table`: with a change to this table; `key`: with a change to this row
        of it. `after` (exclusive) and `until` (inclusive) are seqs; `since` (inclusive) and `before`
        (exclusive) are times as in `at`.

            for entry in db.past.log(table=AIRPORTS, since="2026-01-05"):
                print(entry.seq, entry.actor, entry.reason)

        Raises RowError for an invalid filter, SchemaError for a table that never existed.
        """

    def positions(self, times: Iterable[Time]) -> Positions:
        """Return the positions of the log at these times, at most 1000, each as in `at`: of each the seq of
        the newest record at or before it, and the ends of the log. Read-only. Raises RowError for an invalid
        time, and for too many."""


class People(Protocol):
    """People in one database. Each person has a key that seals their rows."""

    def forget(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None, **metadata: Any
    ) -> Forgotten:
        """Erase one person: delete their rows in all tables in one commit, and shred their key. Writes.

        The person is the owner of the row with the primary key `key`, or has the value `person` in the
        table's person field. `metadata` as in `transaction`; with a `commit_id`, a repeated call returns the
        first result. Returns what was deleted, and what stays readable. Raises RowError for an unknown row or
        person, SealedError without the master key.
        """

    def export(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> dict[str, Any]:
        """Return all data about one person, named as in `forget`, as JSON values. Read-only; reads the whole
        log. Raises RowError if there is no data, SealedError without the master key."""

    def stream(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """Yield the result of `export` as pieces of one JSON object, in bounded memory. Read-only. Raises as
        `export`, before the first piece."""

    def readable(self) -> list[Remaining]:
        """Return data about people that is readable without their keys. Read-only; reads the log."""

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Put all keys under another master key, and return their number; 0 if they are under it already.
        Writes.

        `master_key`: None: the next one that the environment names. A server uses the one in its
        configuration. `metadata`: `actor` and `reason`. Raises SealedError without the current key, OpenError
        without a new one.
        """


class Admin(Protocol):
    """The calls of operators on one database. Commits take `actor` and `reason`, which the log records."""

    def status(self) -> Status:
        """Return the state of the database in numbers: tables, log, disk, clock, archive, consumers.
        Read-only."""

    def health(self) -> Health:
        """Return whether the database takes calls now, and why not. Read-only, and cheaper than `status`.

        A server adds what only it knows: approvals, and that it stops.
        """

    def check(self, progress: OnProgress | None = None, *, deep: bool = False) -> Iterable[str]:
        """Yield a sentence for each problem with tables, indexes, files and log; nothing if there is none.
        Read-only.

        `deep`: also compare every row with the log, for which the tables are built again in a temporary
        directory.
        """

    def hashes(
        self, progress: OnProgress | None = None, *, seq: int | None = None, sealed: bool = False
    ) -> dict[str, TableHash]:
        """Return the number of rows and the content hash of every table, by name. Read-only.

        `seq`: as of this record; None: as of the newest. `sealed`: hash sealed rows as they are stored, as a
        copy without keys has them. Raises CursorError for a position that the log does not have.
        """

    def rebuild(self, progress: OnProgress | None = None) -> dict[str, TableHash]:
        """Build all tables again from the log, prove that they equal the live ones, switch to them, and
        return their hashes. Writes; reads and writes of others continue.

        A killed rebuild resumes. Raises CorruptionError if the tables differ; nothing is switched then.
        """

    def rebuild_into(
        self,
        path: Path | str,
        progress: OnProgress | None = None,
        *,
        seq: int | None = None,
        time: Time | None = None,
    ) -> dict[str, TableHash]:
        """Build this database from its log in a new directory on this machine, and return the hashes of its
        tables.

        `seq`: as of this record; `time`: as of this time, as in `Past.at`; neither: as of the newest record.
        A killed run resumes. Writes to `path` alone. Raises OpenError if the directory has other files,
        CursorError for a position that the log does not have.
        """

    @property
    def production(self) -> bool:
        """Whether the log marks the database as production, which refuses test data. Read-only."""

    def set_production(self, on: bool, *, actor: str = "", reason: str = "") -> int:
        """Mark the database as production, or clear the mark. Return the seq of the Notice; 0 if the mark was
        set this way already. Writes. Raises ReadOnlyError."""

    def expire(self, *, confirm_time: bool = False) -> int:
        """Delete the rows that have expired, and return their number. Writes.

        A process that writes the database does this automatically, within a minute. `confirm_time`: accept
        the clock as correct after it jumped forward. Raises Error after such a jump that was not confirmed,
        and ReadOnlyError.
        """

    def testdata(self) -> list[LoadedTestdata]:
        """Return which test data was loaded, by version, seed, scale and table: what the log's loads say, of
        the tables that the caller sees. Rows may have been changed since. Read-only."""

    def samples(
        self,
        since_ns: int = 0,
        *,
        points: int = 0,
        table: str = "",
        consumers: bool = False,
        latency: bool = False,
    ) -> list[Sample]:
        """Return sizes over time as the server has sampled them since it started, for at most a day, and
        those of this moment, oldest first. Read-only.

        `since_ns`: from this time on, and the last one before; `points`: the maximum number of samples,
        0: that of the server; `table`: with the sizes of this table; `consumers`, `latency`: with their lags,
        and with the latencies of commits. Raises Error on an embedded database.
        """

    def calls(self) -> Now:
        """Return what the server does now: running calls with their callers, ages, rows and progress, and
        what each waits for; connections, threads, and migrations in progress. Read-only.

        A caller sees its own calls, and those of databases in which it has the right `admin`. Raises Error
        on an embedded database, whose calls are those of its program.
        """

    def kill(self, id: int, *, reason: str = "") -> RunningCall:
        """End a running call of the server, which `calls` lists by its id, and return it. Its client gets
        UnavailableError that names the caller; a call that was writing has written all, or nothing.

        Raises RowError for an id of no call, or of one that the caller may not see; Error on an embedded
        database.
        """

    def correct_clock(self, *, actor: str = "", reason: str = "") -> int:
        """Confirm that the clock of the writing machine is correct. Return the seq of the Notice that records
        it; 0 if the log is not ahead of the clock. Writes. Raises ReadOnlyError."""
