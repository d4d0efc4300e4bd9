"""Online: a migration that has rows to rewrite or indexes to build, beside the live tables.

    STARTED ─▶ BACKFILL … ─▶ FINISHED                      nothing stops meanwhile
                    │   └──▶ SWITCHED ─▶ … ─▶ FINISHED     both versions are served until `complete`
                    └──────▶ FAILED, ROLLED_BACK           as it was before

Each is a record, and what is under way is read from the log: whoever was killed goes on from there.

Invariants
  (1) one migration is under way at most, and it ends, or is given up, before the next begins;
  (2) until FINISHED it can be given up: what it built goes, and nothing else has changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from everlog.migrations import checks
from everlog.migrations.bootstrap import Bootstrap
from everlog.migrations.loader import after
from everlog.migrations.migration import Migration
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store import evolve
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, PreconditionError, RowError, SchemaError
from everlog.store.migrate import Recorded
from everlog.store.progress import OnProgress
from everlog.store.transaction import CommitResult, Metadata

STARTED, SWITCHED = log_pb2.Migration.STARTED, log_pb2.Migration.SWITCHED
FINISHED, FAILED = log_pb2.Migration.FINISHED, log_pb2.Migration.FAILED
ROLLED_BACK = log_pb2.Migration.ROLLED_BACK

AT_ONCE_ROWS = 1000  # of an index: some 10 ms

# What says that a migration does not fit the rows; after anything else it can go on.
REFUSALS = (MigrationError, PreconditionError, RowError, SchemaError)


def under_way(db: Database) -> Recorded | None:
    """The newest record of the migration that was begun and has not ended. Read-only."""
    begun = None
    for record in db.migrations():
        if record.migration.step in (STARTED, SWITCHED):
            begun = record
        elif record.migration.step in (FINISHED, FAILED, ROLLED_BACK):
            begun = None
    return begun


def attach(db: Database, migrations: Iterable[Migration]) -> Recorded | None:
    """Gives the database the code of the migration that is under way, which its writes need, and
    returns where it is. Raises MigrationError if its folder was edited since it began."""
    begun = under_way(db)
    if begun is None:
        db.transforms = {}
        return None
    for migration in migrations:
        if migration.version == begun.migration.version:
            if migration.folder.digest != begun.migration.digest:
                raise MigrationError(
                    f"migration {migration.title} was edited after commit {begun.seq} began with it; restore"
                    " it and go on, or give it up with `everlog rollback`",
                    version=migration.version,
                )
            _attach(db, migration)
    return begun


def run(
    db: Database,
    migration: Migration,
    rows: Bootstrap,
    by: Metadata,
    *,
    hold: bool = False,
    rate: float | None = None,
    progress: OnProgress | None = None,
) -> CommitResult:
    """Applies one migration, from where it is: the record that ends it, or with `hold` the one from
    which on both versions are served.

    `rate`: rows a second at most. Raises MigrationError, UniqueError, PreconditionError, RowError
    or SchemaError: then it was given up, and nothing of it is left.
    """
    begun = attach(db, [migration])
    before = db.schema.proto if begun is None else db.schema_at(_first(db, begun) - 1)
    following = after(before, migration)
    if begun is None:
        checks.before(db, migration)
    building = evolve.online(before, following)
    if begun is None and (building is None or _at_once(db, building, hold=hold)):
        return _append(db, migration, FINISHED, following, rows, by, progress)
    assert building is not None
    if begun is None:
        since = _append(db, migration, STARTED, building, Bootstrap(), by, progress).seq
        _attach(db, migration)
    else:
        since = _first(db, begun)
    try:
        work = log_pb2.Migration(version=migration.version, name=migration.name)
        db.backfill(work, since=since, rate=rate, progress=progress)
        step, schema = FINISHED, following
        if hold and building.building:
            step, schema = SWITCHED, evolve.both(before, following)
            _check_both(migration)
        was = db.schema.proto
        result = _append(db, migration, step, schema, rows, by, progress)
    except REFUSALS as error:
        if under_way(db) is not None:
            give_up(db, by, error=error)
        raise
    if step == FINISHED:
        db.transforms = {}
        db.reclaim(was)
    return result


def complete(db: Database, *, actor: str = "", reason: str = "") -> MigrationInfo:
    """Ends the time of two versions: that of before is served no longer, and the disk of its rows
    is freed. Raises MigrationError if there are no two.
    """
    begun = under_way(db)
    if begun is None or begun.migration.step != SWITCHED:
        raise MigrationError("there are no two versions of which one could end: no migration is held")
    record = log_pb2.Migration()
    record.CopyFrom(begun.migration)
    record.step = FINISHED
    record.schema.CopyFrom(evolve.alone(db.schema.proto))
    was = db.schema.proto
    result = db.apply_migration(record, actor=actor, reason=reason, expect_schema=db.schema.version)
    db.transforms = {}
    db.reclaim(was)
    done = begun.migration
    return MigrationInfo(
        done.version, done.name, State.APPLIED, result.time_ns, result.seq, actor, done.digest, done.digest
    )


def give_up(db: Database, by: Metadata, *, error: Error | None = None) -> CommitResult:
    """Ends the migration that is under way as if it had never begun: what was written through the
    version before it stays, as does what was written through the new one, in the old shape.

    `error` is why it failed. Raises MigrationError if none is under way.
    """
    begun = under_way(db)
    if begun is None:
        raise MigrationError("no migration is under way that could be given up")
    before = db.schema_at(_first(db, begun) - 1)
    record = log_pb2.Migration(
        step=ROLLED_BACK if error is None else FAILED,
        version=begun.migration.version,
        name=begun.migration.name,
        digest=begun.migration.digest,
        schema=evolve.given_up(before, db.schema.proto),
        error=str(error or ""),
    )
    was = db.schema.proto
    result = db.apply_migration(record, actor=by.actor, reason=by.reason)
    db.transforms = {}
    db.reclaim(was)
    return result


def _append(  # noqa: PLR0917  each is said at each call
    db: Database,
    migration: Migration,
    step: log_pb2.Migration.Step.ValueType,
    schema: log_pb2.Schema,
    rows: Bootstrap,
    by: Metadata,
    progress: OnProgress | None,
) -> CommitResult:
    record = log_pb2.Migration(
        step=step,
        version=migration.version,
        name=migration.name,
        digest=migration.folder.digest,
        schema=schema,
        sources=migration.folder.sources,
    )
    return db.apply_migration(
        record,
        rows,
        delete=rows.deleted,
        actor=by.actor,
        reason=by.reason,
        expect_schema=db.schema.version,
        check=None if step == STARTED else checks.after(migration),
        progress=progress,
    )


def _attach(db: Database, migration: Migration) -> None:
    db.transforms = {name: one.directions() for name, one in migration.transforms.items()}


def _first(db: Database, begun: Recorded) -> int:
    """Seq of the record with which a migration that is under way began."""
    version = begun.migration.version
    return max(
        r.seq for r in db.migrations() if r.migration.version == version and r.migration.step == STARTED
    )


def _at_once(db: Database, building: log_pb2.Schema, *, hold: bool) -> bool:
    """Whether what is to be built is so little that writers wait for it: one record is simpler."""
    counts = {table.name: table.rows for table in db.status().tables}
    if building.building:
        rewritten = {table.id for table in building.building}
        return not hold and not sum(counts[table.name] for table in building.tables if table.id in rewritten)
    indexed = (table for table in building.tables if any(index.building for index in table.indexes))
    return sum(counts[table.name] for table in indexed) <= AT_ONCE_ROWS


def _check_both(migration: Migration) -> None:
    for one in migration.transforms.values():
        if one.down is None:
            raise MigrationError(
                f"{one.where}: two versions of table {one.table.name} cannot be served at once: its transform"
                " has no `down`; write it, or apply the migration without holding it",
                version=migration.version,
            )
