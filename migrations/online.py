"""Online: apply one migration while the database stays in use.

    STARTED ─▶ BACKFILL … ─▶ FINISHED                      reads and writes continue meanwhile
                    │   └──▶ SWITCHED ─▶ … ─▶ FINISHED     both versions are served until `complete`
                    ├──────▶ PREPARED                      instead of the switch, with `order` (`prepared`)
                    └──────▶ FAILED, ROLLED_BACK           nothing has changed

Each step is a record, and the migration in progress is read from the log (`in_progress`), so interrupted work
resumes where it stopped. Tables that `up=Remake(…)` rebuilds are the exception: writers wait, and an
interrupted rebuild starts again. `reverse` rolls back a finished migration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from everlog.migrations import checks, people
from everlog.migrations.bootstrap import Bootstrap, loaded
from everlog.migrations.folder import recorded_files
from everlog.migrations.in_progress import (
    FINISHED,
    PREPARED,
    STARTED,
    SWITCHED,
    Order,
    attach,
    base,
    check_undecided,
    current_migration,
    give_up,
    given_up_if_refused,
    start_seq,
    transforms_of,
)
from everlog.migrations.loader import after
from everlog.migrations.lock import check_going
from everlog.migrations.migration import Migration, Remake
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.online import rewrite
from everlog.store.online.apply import Recorded
from everlog.store.online.backfill import built_rows, marked_as_builder
from everlog.store.progress import OnProgress
from everlog.store.schema import evolve
from everlog.store.tx.transaction import CommitResult, Metadata

AT_ONCE_ROWS = 1000  # indexing this many rows takes about 10 ms


def run(  # noqa: C901, PLR0912  the order of the steps is the subject
    db: Database,
    migration: Migration,
    rows: Bootstrap,
    by: Metadata,
    *,
    hold: bool = False,
    rate: float | None = None,
    progress: OnProgress | None = None,
    order: Order | None = None,
) -> CommitResult:
    """Apply one migration, or resume it. Return the commit that ends it, or with `hold` the one that starts
    serving both versions. With `order` build everything, do not switch, and return the commit of the vote.

    `rate`: rows a second at most. Raises MigrationError, UniqueError, PreconditionError, RowError or
    SchemaError: then the migration was given up, and nothing of it remains.
    """
    begun = attach(db, [migration])
    if order is None:
        check_undecided(begun)
    elif begun is not None and begun.migration.step == PREPARED:
        return CommitResult(begun.seq, begun.time_ns, db.log.checksum_at(begun.seq))
    if begun is not None and migration.up is not None:
        give_up(db, by, error=MigrationError("it was interrupted while it remade rows, and starts again"))
        begun = None
    before = base(db)
    following = after(before, migration)
    if begun is None:
        if hold:
            _check_sealed(migration, before, following)
        checks.before(db, migration)
    seeds = _seeds(db, migration, rows, before, begun, order=order)
    following = evolve.reseeded(before, following, seeds)
    remade = _remade(migration, before, following, seeds)
    building = evolve.online(before, following, remade=remade, early=order is None)
    if order is not None:
        building = building or evolve.aborted(before, following)
        _check_held(migration, before, following, seeds, hold=hold)
    elif building is None:
        return _append(db, migration, FINISHED, following, rows, by, progress)
    elif begun is None and not seeds and _at_once(db, building, hold=hold):
        with db.committer.exclusive():  # or a row written between the check and the record would be lost
            if _at_once(db, building, hold=hold):
                return _append(db, migration, FINISHED, following, rows, by, progress)
    if begun is not None:
        since = start_seq(db, begun)
    else:
        since = _start(db, migration, building, seeds, rows, by, progress, order=order)
    total = sum(rows.counts[name] for name in seeds)
    with given_up_if_refused(db, by), marked_as_builder(db.core, total):
        work = log_pb2.Migration(version=migration.version, name=migration.name)
        if seeds:
            _load(db, work, rows, seeds, rate=rate, progress=progress)
            rows = rows.without(seeds)
        deleted = {
            (table.name, db.schema.building[table.name].encode_key(key))
            for table, key in rows.deleted
            if table.name in seeds
        }
        db.backfill(work, since=since, rate=rate, progress=progress, deleted=deleted)
        step, schema = FINISHED, following
        if hold and building.building and not seeds:
            step, schema = SWITCHED, evolve.with_previous(before, following)
            _check_both(migration, before, following)
        if order is not None:
            return _vote(db, migration, schema, order, by, progress)
        was = db.schema.proto
        with remade_rows(db, migration.up, work, progress):
            result = _append(db, migration, step, schema, rows, by, progress)
    if step == FINISHED:
        db.core.code.pop(migration.version, None)
        db.reclaim(was)
    return result


def _seeds(
    db: Database,
    migration: Migration,
    rows: Bootstrap,
    before: log_pb2.Schema,
    begun: Recorded | None,
    *,
    order: Order | None,
) -> set[str]:
    """Return the tables whose bootstrap rows are loaded before the record that ends the migration.

    With `order` these are all tables that have some, and tables that are copied for their indexes.
    """
    if begun is None and order is not None:
        return {*rows.counts, *evolve.to_copy(before, after(before, migration))}
    if begun is None or migration.up is not None:
        return loaded(migration, rows, before)
    return {table.name for table in db.schema.proto.building if table.remade or table.seeded}


def _remade(
    migration: Migration, before: log_pb2.Schema, following: log_pb2.Schema, seeds: set[str]
) -> Collection[str]:
    """Return the tables that are filled before they can be read, and that receive no other writes."""
    if migration.up is not None:
        return migration.up.names
    there = {table.id for table in before.tables}
    return {table.name for table in following.tables if table.name in seeds and table.id not in there}


def _start(  # noqa: PLR0917  all are named at the call
    db: Database,
    migration: Migration,
    building: log_pb2.Schema,
    seeds: set[str],
    rows: Bootstrap,
    by: Metadata,
    progress: OnProgress | None,
    *,
    order: Order | None,
) -> int:
    """Append the record after which writers also write to what is being built. Return its seq."""
    db.core.code[migration.version] = transforms_of(migration)  # first: writes after that record need it
    none = Bootstrap()
    none.withheld = rows.withheld
    with db.committer.exclusive() if seeds else nullcontext():
        for table in building.building:
            if table.name in seeds and not table.remade:
                table.seeded = db.log.written + 1  # the seq of the record that is appended here
        return _append(db, migration, STARTED, building, none, by, progress, order=order).seq


def _vote(  # noqa: PLR0917  all are named at the call
    db: Database,
    migration: Migration,
    following: log_pb2.Schema,
    order: Order,
    by: Metadata,
    progress: OnProgress | None,
) -> CommitResult:
    """Append the record after which only a decision ends the migration, and sync it.

    It has the schema that the switch puts in force, so that the switch needs no folder and runs no code.
    """
    begun = current_migration(db)
    assert begun is not None
    record = log_pb2.Migration(
        step=PREPARED,
        version=migration.version,
        name=migration.name,
        digest=begun.migration.digest,
        rows=built_rows(db.core),
        decision_id=order.decision_id,
        fence=max(order.fence, begun.migration.fence),
        following=following,
    )
    return db.apply_migration(
        record,
        actor=by.actor,
        reason=by.reason,
        expect_schema=db.schema.version,
        expect=lambda: check_going(db.uuid),
        progress=progress,
    )


def _check_held(
    migration: Migration,
    before: log_pb2.Schema,
    following: log_pb2.Schema,
    seeds: set[str],
    *,
    hold: bool,
) -> None:
    """Raise MigrationError if the switch of a prepared migration could not serve both versions."""
    was = {table.id: table for table in before.tables}
    rewritten = any(evolve.is_rewritten(was.get(table.id, table), table) for table in following.tables)
    if hold and seeds and rewritten:
        raise MigrationError(
            f"migration {migration.title} copies the rows of {', '.join(sorted(seeds))}, for bootstrap rows"
            " or for an index over a new field, so two versions cannot be served after its switch; prepare"
            " it without --hold",
            version=migration.version,
        )
    if hold:
        _check_both(migration, before, following)


def _load(
    db: Database,
    work: log_pb2.Migration,
    rows: Bootstrap,
    seeds: set[str],
    *,
    rate: float | None,
    progress: OnProgress | None,
) -> None:
    total = sum(rows.counts[name] for name in seeds)

    def going() -> None:
        check_going(db.uuid)

    rewrite.fill(db.core, work, rows.of(seeds), progress, total=total, rate=rate, going=going)


def remade_rows(
    db: Database, remake: Remake | None, work: log_pb2.Migration, progress: OnProgress | None
) -> AbstractContextManager[None]:
    """Run a Remake, and keep writers out for the block."""
    if remake is None:
        return nullcontext()
    return _remade_rows(db, remake, work, progress)


@contextmanager
def _remade_rows(
    db: Database, remake: Remake, work: log_pb2.Migration, progress: OnProgress | None
) -> Iterator[None]:
    with db.committer.exclusive():
        rewrite.recompute(db.core, work, remake.rows, progress)
        yield


def _append(  # noqa: PLR0917  all are named at each call
    db: Database,
    migration: Migration,
    step: log_pb2.Migration.Step.ValueType,
    schema: log_pb2.Schema,
    rows: Bootstrap,
    by: Metadata,
    progress: OnProgress | None,
    *,
    order: Order | None = None,
) -> CommitResult:
    record = log_pb2.Migration(
        step=step,
        version=migration.version,
        name=migration.name,
        digest=migration.folder.digest,
        schema=schema,
        sources=recorded_files(migration.folder, rows.withheld, db.tables.vault),
        decision_id=order.decision_id if order is not None else b"",
        fence=order.fence if order is not None else 0,
    )
    return db.apply_migration(
        record,
        rows,
        delete=rows.deleted,
        actor=by.actor,
        reason=by.reason,
        expect_schema=db.schema.version,
        expect=lambda: check_going(db.uuid),
        check=None if step == STARTED else checks.after(migration),
        progress=progress,
    )


def _at_once(db: Database, building: log_pb2.Schema, *, hold: bool) -> bool:
    """Whether the work is so small that writers can wait for it: then one record is simpler."""
    counts = {table.name: table.rows for table in db.admin.status().tables}
    if any(table.remade for table in building.building):
        return False
    if building.building:
        rewritten = {table.id for table in building.building}
        return not hold and not sum(counts[table.name] for table in building.tables if table.id in rewritten)
    indexed = (table for table in building.tables if any(index.building for index in table.indexes))
    return sum(counts[table.name] for table in indexed) <= AT_ONCE_ROWS


def _check_sealed(migration: Migration, before: log_pb2.Schema, following: log_pb2.Schema) -> None:
    """Raise MigrationError for a migration that seals: the previous version would be written in clear."""
    for name in people.sealed(before, following):
        raise MigrationError(
            f"migration {migration.title} seals the rows of table {name}, so two versions cannot be served"
            " at once: each row would be written to the previous version in clear, and the log would keep"
            " it permanently; apply the migration without --hold",
            version=migration.version,
            table=name,
        )


def _check_both(migration: Migration, before: log_pb2.Schema, following: log_pb2.Schema) -> None:
    _check_sealed(migration, before, following)
    if migration.up is not None:
        raise MigrationError(
            f"{migration.up.where}: two versions cannot be served at once, because `up` remakes the rows"
            f" of {', '.join(migration.up.names)} from the whole database; apply the migration without"
            " --hold",
            version=migration.version,
        )
    for one in migration.transforms.values():
        if one.down is None:
            raise MigrationError(
                f"{one.where}: two versions of table {one.table.name} cannot be served at once, because"
                " its transform has no `down`; write one, or apply the migration without --hold",
                version=migration.version,
            )
