"""Plan: what applying the pending migrations would do, told before it is done.

    status ─▶ may they be applied at all? ─▶ for each: the schema before, the schema after ─▶ steps

A step is instant if it takes no longer on a large table than on a small one.

Order: migrations that come late, after others with newer timestamps were applied.

    folders        1  2  3        2 was merged after 3 had been applied: refused, unless `out_of_order`
    applied        1     3
    then           1     3  2     tables that 3 declares stay as 3 has them; the rest of 2 is done

Folders were checked as a chain, in the order of their timestamps: whatever 2 made of a table that 3
declares as well, 3 goes on from. So the database ends where it would have ended in order.

Left over: values of fields that a rollback took away, which are in the rows still.

    migration 2 adds city = 3     rows get it     2 is rolled back     rows have a 3 that nobody reads
    migration 2 again             city is there again
    another, with zip = 3         would read every city as a zip: refused, where a row has one

Only a number that comes back as another field is looked for, so this costs nothing mostly.
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
from everlog.migrations.bootstrap import bootstrap, loaded
from everlog.migrations.checks import has_checks, tried
from everlog.migrations.dry_run import Remaking, Trial, remaking, trials
from everlog.migrations.folder import SOURCE, Source, find, folders
from everlog.migrations.in_progress import base, under_way
from everlog.migrations.lint.lint import data_errors
from everlog.migrations.loader import after, load
from everlog.migrations.migration import Migration
from everlog.migrations.status import MigrationInfo, State, compare
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError
from everlog.store.online.backfill import built_rows
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments, evolve
from everlog.store.schema.codec import kind_of
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo


def check_order(infos: Iterable[MigrationInfo], *, out_of_order: bool) -> None:
    """Raises MigrationError if a migration is pending that is older than an applied one, unless
    that is allowed."""
    newest = max((info.version for info in infos if info.state is not State.PENDING), default=0)
    for info in infos:
        if info.state is State.PENDING and info.version < newest and not out_of_order:
            raise MigrationError(
                f"migration {info.title} is pending, but the newer {newest} is applied already; give the"
                " folder and its model.proto a timestamp after it, or say --out-of-order if that is meant",
                version=info.version,
            )


def settle(migrations: Sequence[Migration], infos: Iterable[MigrationInfo]) -> None:
    """Tells each late migration which tables it no longer decides on.

    Raises MigrationError if it would rename one of those, or rewrite its rows.
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
                f" {newer[-1].title} is applied already, and clients of it know the table as it is; give the"
                " folder and its model.proto a timestamp after it",
                version=migration.version,
                table=table,
            )


def check_left_over(db: Database, migrations: list[Migration]) -> None:
    """Read-only. Raises MigrationError if a migration gives the number of a field that was rolled
    back to another field, and rows have values of the former."""
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
                            f"migration {migration.title} gives {table.name} {new.name} = {new.number}, but"
                            f" {rows:,} rows have a value of {old.name} = {old.number} there, which commit"
                            f" {commit} rolled back; take the next number that was never used",
                            version=migration.version,
                            table=table.name,
                            field=new.name,
                        )


def _rolled_back(db: Database) -> Iterator[tuple[int, Schema]]:
    for record in db.migration_records():
        if record.migration.step == log_pb2.Migration.ROLLED_BACK:
            yield record.seq, Schema(db.schema_at(record.seq - 1))


def _reused(gone: Any, now: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Fields of a model that was rolled back whose number is another field's now."""
    for old in gone.fields:
        field = new.fields_by_number.get(old.number)
        if field is None or old.number in now.fields_by_number:
            continue
        same = field.name == old.name and field.is_repeated == old.is_repeated
        if not same or kind_of(field) is not kind_of(old):
            yield old, field


def _rows_with(db: Database, info: TableInfo, number: int) -> int:
    """How many rows have a field of this number that their model does not know."""
    found = 0
    for row in db.scan(table_of(info)):
        left = UnknownFieldSet(row)
        found += any(left[at].field_number == number for at in range(len(left)))
    return found


REWRITTEN_PER_S = 50_000  # for the time that is told
BESIDE = ", beside the live table"


class PlannedStep(msgspec.Struct, frozen=True):
    """One thing that a migration would do; `rows` it reads or writes. `problem`: it would stop there.
    `private`: the row that it would stop at, which is for a terminal, and is neither kept nor sent."""

    text: str
    instant: bool = True
    rows: int = 0
    problem: bool = False
    private: str = ""


class PlannedMigration(msgspec.Struct, frozen=True):
    """What one migration would do."""

    version: int
    name: str
    steps: list[PlannedStep]

    @property
    def title(self) -> str:
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
    progress: OnProgress | None = None,
) -> list[PlannedMigration]:
    """What `apply` would do with the same arguments. Read-only; runs the folders' code, with
    `try_rows` on every row that would be rewritten or come into a unique index; `linted`: the caller
    lints the rows itself.

    Raises MigrationError and SchemaError as `apply` would before it writes.
    """
    check_target(to, None)
    schema = base(db)
    counts = Counter({table.name: table.rows for table in db.status().tables})
    planned = list(_given_up(db))
    known = load_for(db, source)
    todo = pending(db, known, to, out_of_order=out_of_order)
    through = trials(db, todo, progress) if try_rows else []
    late = {migration.version for migration in todo}
    applied = {migration.version for migration in known} - late
    lints = try_rows and not linted and not any(one.overruled for one in todo)  # in the order of the folders
    errors = data_errors(known, db, applied, progress) if todo and lints else []
    old = Schema(schema)
    for migration in todo:
        following = after(schema, migration)
        new = Schema(following)
        steps = [*_people_steps(db, schema, following, migration, hold=hold)]
        steps += _steps(old, new, migration, counts)
        old = new
        steps += [_tried(one) for one in through if one.version == migration.version]
        steps += [
            PlannedStep(f"FAILS: {one.text}", problem=True)
            for one in errors
            if Path(one.file).is_relative_to(migration.folder.path.resolve())
        ]
        if try_rows and migration is todo[0] and migration.up is not None:
            steps.append(remade_step(remaking(db, migration, migration.up), "up"))
        if try_rows and migration is todo[0] and has_checks(migration):
            steps.append(_checked(db, migration))
        planned.append(PlannedMigration(migration.version, migration.name, steps))
        schema = following
    return planned


def load_for(db: Database, source: Source = SOURCE) -> list[Migration]:
    """The migrations of a package or directory, for this database. Read-only; runs the folders' code.

    Raises as `load` does. Where they do not load and a folder is missing that the database has applied,
    that is said, for it is why another one does not load.
    """
    try:
        return load(source)
    except SchemaError as error:
        for info in _compared(db, source):
            if info.state is State.MISSING:
                _refuse(info)
        raise error from None


def _compared(db: Database, source: Source) -> list[MigrationInfo]:
    try:
        return compare(db.migration_records(), folders(find(source)))
    except SchemaError:
        return []


def check_target(to: int | None, rate: float | None, *, least: int = 1) -> None:
    """Raises MigrationError for what is no version, RowError for what is no number of rows a second. `least`:
    0 where that means before the first migration."""
    if to is not None and arguments.counted(to, "a version", error=MigrationError) < least:
        raise MigrationError(f"expected a version such as 20260105093000, found {to}", version=to)
    arguments.rate(rate)


def pending(
    db: Database, migrations: Sequence[Migration], to: int | None = None, *, out_of_order: bool = False
) -> list[Migration]:
    """The migrations to apply, in order, up to version `to`. Read-only.

    Raises MigrationError if what was applied is not what the folders say, or if one is older
    than another that was applied already, unless `out_of_order`.
    """
    if not migrations:
        raise MigrationError(
            "there is no folder of a migration where they were looked for; give the directory that holds"
            " them with -d, or make the first one with `everlog new NAME`",
            missing="migrations",
        )
    infos = compare(db.migration_records(), [migration.folder for migration in migrations], db.tables.vault)
    for info in infos:
        _refuse(info)
    check_order(infos, out_of_order=out_of_order)
    settle(migrations, infos)
    if to is not None and to not in {info.version for info in infos}:
        known = ", ".join(str(info.version) for info in infos) or "none"
        raise MigrationError(f"there is no migration {to}; the versions are: {known}", version=to)
    todo = {
        info.version
        for info in infos
        if info.state in {State.PENDING, State.BUILDING} and (to is None or info.version <= to)
    }
    found = [migration for migration in migrations if migration.version in todo]
    check_left_over(db, found)
    return found


def _refuse(info: MigrationInfo) -> None:
    if info.state is State.EDITED:
        was, now = info.digest.hex()[:12], info.folder_digest.hex()[:12]
        raise MigrationError(
            f"migration {info.title} was edited after commit {info.seq} applied it: expected its folder to"
            f" have digest {was}, found {now}; restore it (`everlog restore-folder {info.version} --force`)"
            " and put the change into a new migration, or, if it does the same, accept it: `everlog accept"
            f" {info.version} --reason …`",
            version=info.version,
        )
    if info.state is State.MISSING:
        raise MigrationError(
            f"migration {info.title} was applied by commit {info.seq}, but its folder is missing, though"
            f" newer ones are there; restore it: `everlog restore-folder {info.version}`",
            version=info.version,
            missing=f"v{info.title}",
        )


def _given_up(db: Database) -> Iterator[PlannedMigration]:
    """What is half rolled back stays in force."""
    begun = under_way(db)
    if begun is not None and begun.migration.back:
        text = f"give up its way back, of which {built_rows(db.core):,} rows are done; no row is lost"
        yield PlannedMigration(begun.migration.version, begun.migration.name, [PlannedStep(text)])


def _steps(old: Schema, new: Schema, migration: Migration, counts: Counter[str]) -> Iterator[PlannedStep]:
    before, following = old.proto, new.proto
    if before.version > migration.version:
        decided = sorted(migration.overruled & {table.name for table in migration.tables})
        kept = f"; {', '.join(decided)} stay as newer migrations have them" if decided else ""
        yield PlannedStep(f"come out of order, after version {before.version}{kept}")
    for name in sorted(old.tables.keys() - new.tables.keys()):
        yield PlannedStep(f"drop table {name} with its {counts[name]:,} rows")
    remade = migration.up.names if migration.up is not None else ()
    online = evolve.online(before, following, remade=remade) or log_pb2.Schema()
    beside = {(one.id, index.id) for one in online.tables for index in one.indexes if index.building}
    if remade:
        rows = sum(counts.values())
        took = f"; to read all {rows:,} rows takes some {rows / REWRITTEN_PER_S:,.1f} s" if rows else ""
        text = f"make the rows of {', '.join(remade)} anew with `up`, while writers wait{took}"
        yield PlannedStep(text, instant=False, rows=rows)
    both = [(name, old.tables.get(name), table) for name, table in new.tables.items()]
    for name, known, table in (one for one in both if one[1] is None or one[1].proto != one[2].proto):
        yield from _life_steps(known, table)
        if known is None:
            yield PlannedStep(f"create table {name}")
        elif name in remade:
            continue
        elif known.space != table.space:
            took = f", some {counts[name] / REWRITTEN_PER_S:,.0f} s" if counts[name] > REWRITTEN_PER_S else ""
            text = f"rewrite {counts[name]:,} rows of {name} with `up`{took}, and switch to them"
            text += BESIDE if counts[name] else ""
            yield PlannedStep(text, instant=not counts[name], rows=counts[name])
            continue
        elif changed := _changed(known.model.DESCRIPTOR, table.model.DESCRIPTOR):
            yield PlannedStep(f"change the model of {name}: {changed}")
        yield from _index_steps(known, table, counts[name], beside)
    yield from _row_steps(before, new, migration, counts)
    if has_checks(migration):
        yield PlannedStep(
            "hold what checks.py says, before and after; writers wait while it is read", instant=False
        )


def _row_steps(
    before: log_pb2.Schema, new: Schema, migration: Migration, counts: Counter[str]
) -> Iterator[PlannedStep]:
    """What bootstrap data does."""
    data = bootstrap(migration)
    seeds = loaded(migration, data, before)
    ids = {table.id for table in before.tables}
    for name, rows in data.counts.items():
        text, there, instant = f"put {rows:,} bootstrap rows into {name}", counts[name], name not in seeds
        if name in seeds:
            text += ", in many records, before anybody can read it"
        if name in seeds and new.tables[name].proto.id in ids and name not in migration.transforms:
            text += f"; copy its {there:,} rows to them{BESIDE}, and switch to both"
            rows += there  # noqa: PLW2901
        yield PlannedStep(text, instant, rows)
    counts.update(data.counts)
    for name, rows in Counter(table.name for table, _ in data.deleted).items():
        yield PlannedStep(f"delete {rows:,} rows of {name}", True, rows)


def _people_steps(
    db: Database,
    before: log_pb2.Schema,
    following: log_pb2.Schema,
    migration: Migration,
    *,
    hold: bool,
) -> Iterator[PlannedStep]:
    """What becomes of the privacy of people."""
    for name in people.sealed(before, following):
        yield PlannedStep(f"seal the rows of {name}: what the log has of them until then stays readable")
        if hold:
            text = f"two versions of {name} CANNOT be served: the one before would be written in clear"
            yield PlannedStep(text, problem=True)
    remade = migration.up.names if migration.up is not None else ()
    for name, tables in people.opened(before, following, remade):
        many = people.count(db.tables, {table.space for table in tables})
        yield PlannedStep(
            f"OPEN the rows of {many:,} people: {name} names no person, so rows that were sealed become"
            " readable in the files, and the log keeps them"
            " so for ever; forgetting does not reach them"
        )


def _life_steps(known: TableInfo | None, table: TableInfo) -> Iterator[PlannedStep]:
    if (known.life_ns if known else 0) != table.life_ns:
        how_long = str(timedelta(microseconds=table.life_ns // 1000)) if table.life_ns else "ever"
        yield PlannedStep(f"rows of {table.name} that are written from then on live for {how_long}")


def _tried(trial: Trial) -> PlannedStep:
    if not trial.failed:
        return PlannedStep(f"`up` of {trial.table} was tried on {trial.rows:,} rows, and holds for all")
    which = f"{trial.failed:,} of {trial.rows:,} rows, the first {trial.problem}"
    text = f"`up` of {trial.table} FAILS for {which}"
    return PlannedStep(text, True, trial.failed, problem=True, private=trial.private)


def remade_step(tried: Remaking, name: str) -> PlannedStep:
    """What came of trying the function of this name that makes rows anew."""
    if tried.problem:
        text = f"`{name}` FAILS on the rows as they are: {tried.problem}"
        return PlannedStep(text, problem=True, private=tried.private)
    return PlannedStep(
        f"`{name}` was tried: it makes {tried.rows:,} rows in {tried.seconds:,.1f} s; writers will wait some"
        f" {tried.seconds + tried.rows / REWRITTEN_PER_S:,.1f} s"
    )


def _checked(db: Database, migration: Migration) -> PlannedStep:
    problems, private, seconds = tried(db, migration)
    if problems:
        text = f"checks.py FAILS on the rows as they are: {'; '.join(problems)}"
        return PlannedStep(text, problem=True, private=private)
    return PlannedStep(f"checks.py was tried on the rows as they are in {seconds * 1000:,.0f} ms, and holds")


def _index_steps(
    known: TableInfo | None, table: TableInfo, rows: int, beside: set[tuple[int, int]]
) -> Iterator[PlannedStep]:
    was = {index.name: index.id for index in known.indexes.values()} if known else {}
    for gone in sorted(was.keys() - table.indexes.keys()):
        yield PlannedStep(f"drop index {table.name}.{gone}")
    for index in table.indexes.values():
        if was.get(index.name) != index.id:
            verb = "rebuild" if index.name in was else "build"
            kind = "unique index" if index.unique else "index"
            how = BESIDE if (table.proto.id, index.id) in beside else ", while writers wait"
            text = f"{verb} {kind} {table.name}.{index.name} over {rows:,} rows{how if rows else ''}"
            yield PlannedStep(text, instant=not rows, rows=rows)


def _changed(old: Any, new: Any) -> str:
    """The fields that a model gains, loses and renames, in words; empty: none."""
    was = {field.number: field.name for field in old.fields}
    now = {field.number: field.name for field in new.fields}
    words = [f"add {name}" for number, name in now.items() if number not in was]
    words += [f"remove {name}" for number, name in was.items() if number not in now]
    words += [f"rename {was[n]} to {now[n]}" for n in sorted(was.keys() & now.keys()) if was[n] != now[n]]
    return ", ".join(words)
