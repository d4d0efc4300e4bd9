"""Plan: what applying the pending migrations would do. Read-only.

    status ─▶ may they be applied? ─▶ for each: previous schema, new schema ─▶ steps

A step is instant if its duration does not depend on the size of a table.

Out of order: a migration that is older than an applied one is refused, unless `out_of_order`.

    folders        1  2  3        2 was merged after 3 had been applied
    applied        1     3
    then           1     3  2     tables that 3 declares stay as 3 has them; the rest of 2 is done

Folders are checked as a chain, in order of timestamps: 3 starts from whatever 2 made of a table that both
declare. So the database ends up as if they had been applied in order.

Left-over values: rows may still have values of fields that a rollback removed.

    migration 2 adds city = 3     rows get it     2 is rolled back     rows have a field 3 that nobody reads
    migration 2 again             city is there again
    another, with zip = 3         would read every city as a zip: refused if any row has one

Rows are searched only for a number that returns as a different field, so this is usually free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.unknown_fields import UnknownFieldSet

from everlog.migrations import people
from everlog.migrations.bootstrap import Bootstrap, bootstrap, known_bootstrap, loaded
from everlog.migrations.checks import has_checks, try_checks
from everlog.migrations.dry_run import RemakeTrial, Trial, trials, try_remake
from everlog.migrations.estimate import REWRITTEN_PER_S, Estimate, Estimates, beside
from everlog.migrations.folder import SOURCE, Source, find, folders
from everlog.migrations.in_progress import base, check_undecided, current_migration
from everlog.migrations.lint.lint import data_errors
from everlog.migrations.loader import after, load
from everlog.migrations.migration import Migration
from everlog.migrations.status import MigrationInfo, State, compare
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError, quantity
from everlog.store.online.backfill import built_rows
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments
from everlog.store.schema.codec import kind_of
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo

BESIDE = ", beside the live table"


class PlannedStep(msgspec.Struct, frozen=True):
    """One step of a planned migration.

    `rows`: how many it reads or writes. `problem`: the migration would fail here. `private`: the failing row,
    for a terminal only; it is neither stored nor sent.
    """

    text: str
    instant: bool = True
    rows: int = 0
    problem: bool = False
    private: str = ""


class PlannedMigration(msgspec.Struct, frozen=True):
    """The steps of one planned migration, and what it costs; None: unknown, of an older server."""

    version: int
    name: str
    steps: list[PlannedStep]
    estimate: Estimate | None = None

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"


def plan(
    db: Database,
    source: Source = SOURCE,
    *,
    to: int | None = None,
    out_of_order: bool = False,
    try_rows: bool = False,
    hold: bool = False,
    linted: bool = False,
    prepare: bool = False,
    progress: OnProgress | None = None,
) -> list[PlannedMigration]:
    """Return what `apply` would do with the same arguments, or `prepare`. Read-only; runs the folders' code.

    `try_rows` also runs it on every row that would be rewritten or enter a unique index, and runs checks.py.
    `linted`: the caller lints the rows itself. Raises MigrationError and SchemaError as `apply` would before
    it writes.
    """
    check_target(to, None)
    check_undecided(current_migration(db))
    schema = base(db)
    counts = Counter({table.name: table.rows for table in db.admin.status().tables})
    planned = list(_given_up(db))
    known = load_for(db, source)
    todo = pending(db, known, to, out_of_order=out_of_order)
    first = bootstrap(only_one(todo)) if prepare else None
    if first is not None:
        check_holdable(todo[0], first)
    through = trials(db, todo, progress) if try_rows else []
    late = {migration.version for migration in todo}
    applied = {migration.version for migration in known} - late
    lints = (
        try_rows and not linted and not any(one.overruled for one in todo)
    )  # lint assumes the order of the folders
    errors = data_errors(known, db, applied, progress) if todo and lints else []
    old = Schema(schema)
    costs = Estimates(db, old)
    for migration in todo:
        following = after(schema, migration)
        new = Schema(following)
        steps = [*_people_steps(db, schema, following, migration, hold=hold)]
        data = first if first is not None else (bootstrap if try_rows else known_bootstrap)(migration)
        online = beside(old, new, migration)
        steps += _steps(old, new, migration, counts, data, online=online)
        steps += [_trial_step(one) for one in through if one.version == migration.version]
        steps += [
            PlannedStep(f"FAILS: {one.text}", problem=True)
            for one in errors
            if Path(one.file).is_relative_to(migration.folder.path.resolve())
        ]
        if try_rows and migration is todo[0] and migration.up is not None:
            steps.append(remake_step(try_remake(db, migration, migration.up), "up"))
        if try_rows and migration is todo[0] and has_checks(migration):
            steps.append(_checks_step(db, migration))
        cost = costs.of(old, new, migration, data, online)
        planned.append(PlannedMigration(migration.version, migration.name, steps, cost))
        schema, old = following, new
    return planned


def load_for(db: Database, source: Source = SOURCE) -> list[Migration]:
    """Return the migrations of a package or directory, for this database. Read-only; runs the folders' code.

    Raises as `load` does. If they do not load and the folder of an applied migration is missing, raises
    MigrationError about that folder, because it is the cause.
    """
    try:
        return load(source)
    except SchemaError as error:
        for info in _compared(db, source):
            if info.state is State.MISSING:
                _refuse_edited_or_missing(info)
        raise error from None


def _compared(db: Database, source: Source) -> list[MigrationInfo]:
    try:
        return compare(db.migration_records(), folders(find(source)))
    except SchemaError:
        return []


def check_target(to: int | None, rate: float | None, *, least: int = 1) -> None:
    """Raise MigrationError for an invalid version, RowError for an invalid number of rows a second.

    `least`: the smallest version; 0 where that means "before the first migration".
    """
    if to is not None and arguments.counted(to, "a version", error=MigrationError) < least:
        raise MigrationError(f"expected a version such as 20260105093000, found {to}", version=to)
    arguments.rate(rate)


def pending(
    db: Database, migrations: Sequence[Migration], to: int | None = None, *, out_of_order: bool = False
) -> list[Migration]:
    """Return the migrations to apply, in order, up to version `to`. Read-only.

    Raises MigrationError if an applied migration differs from its folder, or if a pending one is older than
    an applied one, unless `out_of_order`.
    """
    if not migrations:
        raise MigrationError(
            "no migration found; pass the directory that contains the migrations with -d, or create the"
            " first one with `everlog new NAME`",
            missing="migrations",
        )
    infos = compare(db.migration_records(), [migration.folder for migration in migrations], db.tables.vault)
    for info in infos:
        _refuse_edited_or_missing(info)
    check_order(infos, out_of_order=out_of_order)
    mark_overruled(migrations, infos)
    if to is not None and to not in {info.version for info in infos}:
        known = ", ".join(str(info.version) for info in infos) or "none"
        raise MigrationError(f"no migration {to}; the versions are: {known}", version=to)
    todo = {
        info.version
        for info in infos
        if info.state in {State.PENDING, State.BUILDING} and (to is None or info.version <= to)
    }
    found = [migration for migration in migrations if migration.version in todo]
    check_left_over(db, found)
    return found


def only_one(found: Sequence[Migration]) -> Migration:
    """Return the only one of the pending migrations, for a decision. Raises MigrationError."""
    if not found:
        raise MigrationError("no migration is pending, so there is none to prepare")
    if len(found) > 1:
        first = found[0]
        raise MigrationError(
            f"{len(found)} migrations are pending, and each needs its own decision: prepare {first.title}"
            f" first (`--to-version {first.version}`), and the next after its decision",
            version=first.version,
        )
    return found[0]


def check_holdable(migration: Migration, rows: Bootstrap) -> None:
    """Raise MigrationError if the switch of a migration would run code or write rows, and so might fail.
    Read-only."""
    why = ""
    if migration.up is not None:
        why = (
            f"`up` remakes the rows of {', '.join(migration.up.names)} from the whole database at the switch"
        )
    elif has_checks(migration):
        why = "checks.py is run at the switch, on rows that may still change"
    elif rows.deleted:
        why = "bootstrap.py deletes rows at the switch"
    if why:
        raise MigrationError(
            f"migration {migration.title} cannot be prepared, because {why}; apply it with `everlog up`",
            version=migration.version,
        )


def _refuse_edited_or_missing(info: MigrationInfo) -> None:
    if info.state is State.EDITED:
        was, now = info.digest.hex()[:12], info.folder_digest.hex()[:12]
        raise MigrationError(
            f"migration {info.title} was edited after commit {info.seq} applied it: its folder has digest"
            f" {now} instead of {was}; restore it (`everlog restore-folders {info.version} --force`) and"
            " put the change into a new migration, or, if it does the same, accept it: `everlog accept"
            f" {info.version} --reason …`",
            version=info.version,
        )
    if info.state is State.MISSING:
        raise MigrationError(
            f"migration {info.title} was applied by commit {info.seq}, but its folder is missing while"
            f" newer ones exist; restore it: `everlog restore-folders {info.version}`",
            version=info.version,
            missing=f"v{info.title}",
        )


def check_order(infos: Iterable[MigrationInfo], *, out_of_order: bool) -> None:
    """Raise MigrationError if a pending migration is older than an applied one, unless that is allowed."""
    newest = max((info.version for info in infos if info.state is not State.PENDING), default=0)
    for info in infos:
        if info.state is State.PENDING and info.version < newest and not out_of_order:
            raise MigrationError(
                f"migration {info.title} is pending, but the newer {newest} is already applied; give the"
                " folder and its model.proto a newer timestamp, or pass --out-of-order if this is"
                " intended",
                version=info.version,
            )


def mark_overruled(migrations: Sequence[Migration], infos: Iterable[MigrationInfo]) -> None:
    """Set `overruled` of each out-of-order migration: the tables that newer, applied migrations define.

    Raises MigrationError if it would rename such a table, or rewrite its rows.
    """
    there = {info.version for info in infos if info.state is not State.PENDING}
    for migration in migrations:
        newer = [one for one in migrations if one.version in there and one.version > migration.version]
        decided = {table.name for one in newer for table in one.tables} | {
            name for one in newer for name in (*one.drop, *one.rename, *one.rename.values())
        }
        late = bool(newer) and migration.version not in there
        migration.overruled = frozenset(decided) if late else frozenset()
        names = {*migration.rename, *migration.rename.values(), *migration.transforms}
        for remake in filter(None, (migration.up, migration.down)):
            names.update(remake.names)
        changed = decided & names
        if late and changed:
            table = min(changed)
            raise MigrationError(
                f"migration {migration.title} rewrites or renames table {table}, but the newer"
                f" {newer[-1].title} is already applied, and its clients use the table as it is; give the"
                " folder and its model.proto a newer timestamp",
                version=migration.version,
                table=table,
            )


def check_left_over(db: Database, migrations: list[Migration]) -> None:
    """Raise MigrationError if a migration reuses the number of a field that was rolled back, and rows still
    have values of that field. Read-only.
    """
    if not migrations:
        return
    for commit, schema in _rolled_back(db):
        gone = {info.proto.id: info for info in schema.tables.values()}
        for migration in migrations:
            rewritten = {*migration.transforms, *(migration.up.names if migration.up else ())}
            for table in migration.tables:
                now = db.schema.tables.get(table.name)
                was = gone.get(now.proto.id) if now is not None else None
                if now is None or was is None or table.name in rewritten:
                    continue
                for old, new in _reused(was.model.DESCRIPTOR, now.model.DESCRIPTOR, table.model.DESCRIPTOR):
                    if rows := _rows_with(db, now, old.number):
                        raise MigrationError(
                            f"migration {migration.title} gives {table.name} {new.name} = {new.number},"
                            f" but {old.name} = {old.number}, which commit {commit} rolled back, still has"
                            f" a value in {quantity(rows, 'row')}; take the next number that was never used",
                            version=migration.version,
                            table=table.name,
                            field=new.name,
                        )


def _rolled_back(db: Database) -> Iterator[tuple[int, Schema]]:
    for record in db.migration_records():
        if record.migration.step == log_pb2.Migration.ROLLED_BACK:
            yield record.seq, Schema(db.schema_at(record.seq - 1))


def _reused(gone: Any, now: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Yield fields of a rolled-back model whose number now belongs to another field."""
    for old in gone.fields:
        field = new.fields_by_number.get(old.number)
        if field is None or old.number in now.fields_by_number:
            continue
        same = field.name == old.name and field.is_repeated == old.is_repeated
        if not same or kind_of(field) is not kind_of(old):
            yield old, field


def _rows_with(db: Database, info: TableInfo, number: int) -> int:
    """Count the rows that have a field of this number that is not in their model."""
    found = 0
    for row in db.scan(table_of(info)):
        left = UnknownFieldSet(row)
        found += any(left[at].field_number == number for at in range(len(left)))
    return found


def _given_up(db: Database) -> Iterator[PlannedMigration]:
    """Yield the step that gives up an interrupted rollback: its migration stays in force."""
    begun = current_migration(db)
    if begun is not None and begun.migration.back:
        text = (
            f"give up its rollback, which has reversed {quantity(built_rows(db.core), 'row')}; no row is lost"
        )
        yield PlannedMigration(begun.migration.version, begun.migration.name, [PlannedStep(text)])


def _steps(
    old: Schema,
    new: Schema,
    migration: Migration,
    counts: Counter[str],
    data: Bootstrap,
    *,
    online: set[tuple[int, int]],
) -> Iterator[PlannedStep]:
    before = old.proto
    if before.version > migration.version:
        decided = sorted(migration.overruled & {table.name for table in migration.tables})
        kept = f"; {', '.join(decided)} stay as newer migrations define them" if decided else ""
        yield PlannedStep(f"apply out of order, after version {before.version}{kept}")
    for name in sorted(old.tables.keys() - new.tables.keys()):
        yield PlannedStep(f"drop table {name} with its {quantity(counts[name], 'row')}")
    remade = migration.up.names if migration.up is not None else ()
    if remade:
        rows = sum(counts.values())
        took = (
            f"; reading {quantity(rows, 'row')} takes about {rows / REWRITTEN_PER_S:,.1f} s" if rows else ""
        )
        text = f"remake the rows of {', '.join(remade)} with `up`, while writers wait{took}"
        yield PlannedStep(text, instant=False, rows=rows)
    both = [(name, old.tables.get(name), table) for name, table in new.tables.items()]
    for name, known, table in (one for one in both if one[1] is None or one[1].proto != one[2].proto):
        yield from _ttl_steps(known, table)
        if known is None:
            yield PlannedStep(f"create table {name}")
        elif name in remade:
            continue
        elif known.space != table.space:
            took = (
                f", about {counts[name] / REWRITTEN_PER_S:,.0f} s" if counts[name] > REWRITTEN_PER_S else ""
            )
            text = f"rewrite {quantity(counts[name], 'row')} of {name} with `up`{took}, and switch to them"
            text += BESIDE if counts[name] else ""
            yield PlannedStep(text, instant=not counts[name], rows=counts[name])
            continue
        elif changed := _model_changes(known.model.DESCRIPTOR, table.model.DESCRIPTOR):
            yield PlannedStep(f"change the model of {name}: {changed}")
        yield from _index_steps(known, table, counts[name], online)
    yield from _row_steps(before, new, migration, counts, data)
    if has_checks(migration):
        yield PlannedStep("run checks.py before and after; writers wait while it reads", instant=False)


def _row_steps(
    before: log_pb2.Schema, new: Schema, migration: Migration, counts: Counter[str], data: Bootstrap
) -> Iterator[PlannedStep]:
    """Yield the steps of bootstrap data."""
    seeds = loaded(migration, data, before)
    ids = {table.id for table in before.tables}
    for name, rows in data.counts.items():
        text, there, instant = (
            f"put {quantity(rows, 'bootstrap row')} into {name}",
            counts[name],
            name not in seeds,
        )
        if name in seeds:
            text += ", in several records, before the table becomes readable"
        if name in seeds and new.tables[name].proto.id in ids and name not in migration.transforms:
            text += f"; copy its {quantity(there, 'existing row')}{BESIDE}, and switch to both"
            rows += there  # noqa: PLW2901
        yield PlannedStep(text, instant, rows)
    counts.update(data.counts)
    for name, rows in Counter(table.name for table, _ in data.deleted).items():
        yield PlannedStep(f"delete {quantity(rows, 'row')} of {name}", True, rows)


def _people_steps(
    db: Database,
    before: log_pb2.Schema,
    following: log_pb2.Schema,
    migration: Migration,
    *,
    hold: bool,
) -> Iterator[PlannedStep]:
    """Yield the steps that affect the privacy of people."""
    for name in people.sealed(before, following):
        yield PlannedStep(f"seal the rows of {name}: earlier versions of them stay readable in the log")
        if hold:
            text = f"two versions of {name} CANNOT be served: the previous one would be written in clear"
            yield PlannedStep(text, problem=True)
    remade = migration.up.names if migration.up is not None else ()
    for name, tables in people.opened(before, following, remade):
        many = people.count(db.tables, {table.space for table in tables})
        yield PlannedStep(
            f"OPEN the rows of {quantity(many, 'person', 'people')}: {name} names no person, so sealed"
            " rows become readable in the files, and the log keeps them permanently; forgetting does not"
            " reach them"
        )


def _ttl_steps(known: TableInfo | None, table: TableInfo) -> Iterator[PlannedStep]:
    if (known.ttl_ns if known else 0) != table.ttl_ns:
        ttl = (
            f"expire after {timedelta(microseconds=table.ttl_ns // 1000)}" if table.ttl_ns else "never expire"
        )
        yield PlannedStep(f"rows of {table.name} written from then on {ttl}")


def _trial_step(trial: Trial) -> PlannedStep:
    if not trial.failed:
        return PlannedStep(
            f"`up` of {trial.table} was tried on {quantity(trial.rows, 'row')} and succeeds for all"
        )
    which = f"{trial.failed:,} of {quantity(trial.rows, 'row')}, the first {trial.problem}"
    text = f"`up` of {trial.table} FAILS for {which}"
    return PlannedStep(text, True, trial.failed, problem=True, private=trial.private)


def remake_step(tried: RemakeTrial, name: str) -> PlannedStep:
    """Return the step that reports a trial of the Remake with this name (`up` or `down`)."""
    if tried.problem:
        text = f"`{name}` FAILS on the current rows: {tried.problem}"
        return PlannedStep(text, problem=True, private=tried.private)
    return PlannedStep(
        f"`{name}` was tried: it makes {quantity(tried.rows, 'row')} in {tried.seconds:,.1f} s; writers"
        f" will wait about {tried.seconds + tried.rows / REWRITTEN_PER_S:,.1f} s"
    )


def _checks_step(db: Database, migration: Migration) -> PlannedStep:
    problems, private, seconds = try_checks(db, migration)
    if problems:
        text = f"checks.py FAILS on the current rows: {'; '.join(problems)}"
        return PlannedStep(text, problem=True, private=private)
    return PlannedStep(f"checks.py was tried on the current rows in {seconds * 1000:,.0f} ms and succeeds")


def _index_steps(
    known: TableInfo | None, table: TableInfo, rows: int, online: set[tuple[int, int]]
) -> Iterator[PlannedStep]:
    was = {index.name: index.id for index in known.indexes.values()} if known else {}
    for gone in sorted(was.keys() - table.indexes.keys()):
        yield PlannedStep(f"drop index {table.name}.{gone}")
    for index in table.indexes.values():
        if was.get(index.name) != index.id:
            verb = "rebuild" if index.name in was else "build"
            kind = "unique index" if index.unique else "index"
            how = BESIDE if (table.proto.id, index.id) in online else ", while writers wait"
            text = (
                f"{verb} {kind} {table.name}.{index.name} over {quantity(rows, 'row')}{how if rows else ''}"
            )
            yield PlannedStep(text, instant=not rows, rows=rows)


def _model_changes(old: Any, new: Any) -> str:
    """Return the fields that a model gains, loses and renames, in words; empty if there are none."""
    was = {field.number: field.name for field in old.fields}
    now = {field.number: field.name for field in new.fields}
    words = [f"add {name}" for number, name in now.items() if number not in was]
    words += [f"remove {name}" for number, name in was.items() if number not in now]
    words += [f"rename {was[n]} to {now[n]}" for n in sorted(was.keys() & now.keys()) if was[n] != now[n]]
    return ", ".join(words)
