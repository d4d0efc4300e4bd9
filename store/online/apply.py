"""Apply: append one schema migration, with its rows, as one record.

    alone ─▶ unique indexes hold? rows valid? checks hold? ─▶ append, sync ─▶ project, as on opening

Nothing is written before everything was validated. If the process dies after the append, the record is
projected again from the log.

A `preview` shows the tables after a record that is not in the log yet:

    live tables ◀── Overlay ◀── in memory: the effect of the record    (nothing is written)

The regular code projects it, and it is read like any snapshot.

Invariants
  (1) nobody writes while a preview is read: it belongs to the caller that has the committer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.core import Core
from everlog.store.errors import MigrationError
from everlog.store.log import Log
from everlog.store.program_log import about, quiet
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema.evolve import is_online
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tables.projection import Edits, MemoryTarget, Pending, Staged
from everlog.store.tables.projector import Projector, index_entries, new_indexes
from everlog.store.tables.tables import Tables
from everlog.store.tx.committer import commit_of
from everlog.store.tx.dual_write import DualWrite
from everlog.store.tx.reader import Snapshot
from everlog.store.tx.source import LocalSource, Source
from everlog.store.tx.transaction import CommitResult, Metadata, Transaction
from everlog.store.tx.validator import claim
from everlog.store.tx.write import encode


class _Scratch(MemoryTarget):
    """Projects in memory. Deleted ranges may stay: the new schema does not reach them."""

    def delete(self, start: bytes, end: bytes) -> None:
        pass


def preview(core: Core, framed: bytes, following: Schema) -> Snapshot:
    """Return the tables as a framed record would leave them, under the schema `following`. Read-only.

    The caller has the committer alone, and has flushed pending edits.
    """
    tables = core.tables
    target = _Scratch(tables.target.view)
    counts, checksum = dict(tables.counts), core.log.checksum_at(tables.applied)
    projector = Projector(Pending(target, counts), tables.schema, tables.applied, checksum, following)
    projector.add(framed)
    projector.flush()
    return Snapshot(LocalSource(target.view), projector.applied, projector.schema, lambda: None)


# Steps that with a `decision_id` must not be overlooked: a program that does would end the migration itself.
WAITING_STEPS = (log_pb2.Migration.STARTED, log_pb2.Migration.PREPARED, log_pb2.Migration.ABORTED)

KEPT_BYTES_MAX = 4 << 20  # of decoded records; 10 to 50 kB each


class Recorded(NamedTuple):
    """A Migration record of the log."""

    seq: int
    time_ns: int
    actor: str
    migration: log_pb2.Migration


def append_migration(
    core: Core,
    migration: log_pb2.Migration,
    rows: Iterable[tuple[Table[Any, Any], Message]],
    *,
    delete: Iterable[tuple[Table[Any, Any], Any]],
    metadata: Metadata,
    expect_schema: int | None,
    expect: Callable[[], None] | None,
    check: Callable[[Snapshot], None] | None,
    progress: OnProgress | None,
) -> CommitResult:
    """See `Database.apply_migration`."""
    committer, tables, log = core.committer, core.tables, core.log
    with committer.exclusive():
        if expect is not None:
            expect()
        before = tables.schema
        if expect_schema is not None and before.version != expect_schema:
            raise MigrationError(
                f"migration {migration.version} was planned for schema version {expect_schema}, found"
                f" {before.version}: another migration ran meanwhile; plan again"
            )
        after = Schema(migration.schema, before.vault) if migration.HasField("schema") else before
        tables.flush()
        seq = log.written + 1
        transaction = Transaction(_Under(core, after), metadata)
        for table, row in rows:
            transaction.put(table, row)
        for table, key in delete:
            transaction.delete(table, key)
        if after.paired:
            DualWrite(after, core.code).add(transaction.writes)
        commit = commit_of(metadata, seq, core.clock.now(), after.version, core.clock.reading_ns)
        commit.migration.CopyFrom(migration)
        if is_online(after.proto):
            commit.requires.append(log_pb2.ONLINE)
        if migration.decision_id and migration.step in WAITING_STEPS:
            commit.requires.append(log_pb2.PREPARED)
        taken = Staged({}, _new_uniques(core, before, after, progress), {})
        written, _, _ = committer.validator.validate(transaction, taken, after)
        framed, checksum = record.frame_parts(encode(commit.SerializeToString(), written))
        if check is not None:
            check(preview(core, framed, after))
        committer.append_exclusive(framed)
        projector = tables.projector(after)
        projector.add(framed)
        tables.take_over(projector)
        result = CommitResult(seq, commit.time_ns, checksum)
    log.notify()
    _tell(core, migration, metadata.actor, seq)
    return result


_EVENTS = {
    log_pb2.Migration.PROPOSED: ("proposal.proposed", "waits for approval"),
    log_pb2.Migration.APPROVED: ("proposal.approved", "is approved"),
    log_pb2.Migration.REJECTED: ("proposal.rejected", "is rejected"),
    log_pb2.Migration.STARTED: ("migration.building", "builds rows beside the live tables"),
    log_pb2.Migration.PREPARED: ("migration.prepared", "is prepared, and waits for a decision"),
    log_pb2.Migration.ABORTED: ("migration.aborted", "was aborted before it was prepared"),
    log_pb2.Migration.SWITCHED: ("migration.switched", "is in force, and the previous version is served too"),
    log_pb2.Migration.FINISHED: ("migration.finished", "is in force"),
    log_pb2.Migration.FAILED: ("migration.failed", "failed after its approval"),
    log_pb2.Migration.ROLLED_BACK: ("migration.rolled_back", "is rolled back"),
    log_pb2.Migration.ACCEPTED: ("migration.accepted", "has an edited folder, which is accepted"),
}


def _tell(core: Core, migration: log_pb2.Migration, actor: str, seq: int) -> None:
    """Write a step of a migration to the program's log."""
    event, words = _EVENTS.get(migration.step, ("migration.recorded", "has a new record"))
    title = f"{migration.version}_{migration.name}" if migration.version else "of an unknown decision"
    extra = about(event, database=str(core.path), identity=actor, migration=title, seq=seq)
    quiet.info("migration %s %s", title, words, extra=extra)


class MigrationRecords:
    """The Migration records of one log, each decoded once. Safe to use from many threads.

    Records never change, so those that were read are kept, up to `KEPT_BYTES_MAX` as they are framed; the
    rest is decoded at each call. Callers must not change what they get.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._kept: dict[int, Recorded] = {}
        self._bytes = 0

    def all(self, tables: Tables) -> list[Recorded]:
        """Return the records that `tables` know, oldest first. Read-only."""
        return [self._get(seq) for seq in tables.migrations()]

    def newest_first(self, tables: Tables) -> Iterator[Recorded]:
        """Yield every Migration record, newest first, each read on demand, because each has a whole schema.
        Read-only."""
        return (self._get(seq) for seq in reversed(tables.migrations()))

    def _get(self, seq: int) -> Recorded:
        if (found := self._kept.get(seq)) is None:
            framed = self._log.get(seq)
            found = _recorded(record.decode(framed, seq))
            if self._bytes + len(framed) <= KEPT_BYTES_MAX:
                self._bytes += len(framed)  # two threads at one record count it twice, which does no harm
                self._kept[seq] = found
        return found


def recorded(log: Log, tables: Tables) -> list[Recorded]:
    """Return every Migration record, oldest first. Read-only."""
    return [_recorded(log.commit(seq)) for seq in tables.migrations()]


def _recorded(commit: log_pb2.Commit) -> Recorded:
    return Recorded(commit.seq, commit.time_ns, commit.actor, commit.migration)


def schema_at(log: Log, tables: Tables, seq: int) -> log_pb2.Schema:
    """Return the schema in force after the record at `seq`. Read-only."""
    for at in reversed(tables.migrations()):
        if at <= seq:
            commit = log.commit(at)
            if commit.migration.HasField("schema"):
                return commit.migration.schema
    first = log.commit(log.oldest)
    return first.base.schema if first.HasField("base") else log_pb2.Schema()


class _Under:
    """A database under a schema that is not in force yet, for a transaction's writes."""

    def __init__(self, core: Core, schema: Schema) -> None:
        self._core = core
        self._after = schema

    @property
    def schema(self) -> Schema:
        return self._after

    def begin(self) -> tuple[Source, int]:
        return self._core.begin()

    def commit(self, transaction: Transaction) -> CommitResult:
        raise AssertionError("a migration commits its rows itself")


def _new_uniques(core: Core, before: Schema, after: Schema, progress: OnProgress | None) -> Edits:
    """Return the holder of each value of each new unique index. Raises UniqueError for duplicates."""
    taken: Edits = {}
    for info, index in new_indexes(core.tables.target.view, before, after):
        if not index.unique:
            continue
        total = core.tables.counts.get(info.space, 0)

        def report(done: int, name: str = f"check {info.name}.{index.name}", total: int = total) -> None:
            if progress is not None:
                progress(Progress(name, done, total))

        for values, key in index_entries(core.tables.target.view, info, index, report):
            claim(taken, index, values, key)
    return taken
