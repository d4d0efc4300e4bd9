"""Rollback: return to the schema before the newest migrations.

    log: … FINISHED 7, FINISHED 8      rollback ─▶  ROLLED_BACK 8 with the schema before 8

Usually it is instant, needs no folder and runs no code: rows stay in place, and the log has every earlier
schema. Rows that a migration rewrote are converted back by its `down` (`reverse`). A migration in progress is
given up. A rolled-back migration is pending again, and `apply` applies it again.

    table in both schemas      its model, indexes and rows stay or are restored
    only in the current one    dropped with its rows
    only in the earlier one    created again, empty: the log keeps its old rows

Invariants
  (1) One record puts the earlier schema in force; without that record nothing is rolled back. The newest
      migration is rolled back first.
  (2) Numbers are never reused: what is created again gets new ones (`reverse.restored`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from everlog.migrations import people, reverse
from everlog.migrations.dry_run import try_remake_between
from everlog.migrations.folder import Source
from everlog.migrations.in_progress import base, check_not_prepared, current_migration, give_up
from everlog.migrations.lock import WAIT_S, check_going, lock
from everlog.migrations.migration import Transform
from everlog.migrations.plan import BESIDE, PlannedStep, check_target, remake_step
from everlog.migrations.reverse import Folders, Reversal, count_round_trip_changes, reversal_of
from everlog.migrations.status import LoggedMigration, MigrationInfo, State, newest_first
from everlog.store.database import Database
from everlog.store.errors import MigrationError, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.evolve import aborted
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tx.transaction import Metadata


class PlannedRollback(msgspec.Struct, frozen=True):
    """The steps of rolling back one migration, and the data that would be `lost`, one sentence each."""

    version: int
    name: str
    steps: list[PlannedStep]
    lost: list[str]

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"


def rollback(
    db: Database,
    count: int | None = None,
    *,
    to: int | None = None,
    source: Source | None = None,
    actor: str = "",
    reason: str = "",
    wait_s: float = WAIT_S,
    rate: float | None = None,
    progress: OnProgress | None = None,
    rolled_back: Callable[[MigrationInfo], None] | None = None,
) -> list[MigrationInfo]:
    """Roll back the newest `count` migrations (default 1), or all after version `to` (0: all), newest first.

    `source` has the folders, which are needed if rows must be converted back by `down`; `rate` limits that to
    that many rows a second. `actor` and `reason` go into the log. `rolled_back` is called for each migration
    when it is in the log. Waits up to `wait_s` seconds while another thread migrates. Returns the migrations.

    Raises MigrationError before anything is written if one of them cannot be rolled back. Raises
    MigrationError for a row that `down` rejects, and UniqueError if a dropped index cannot be built again;
    then the newer migrations stay rolled back. Writes one or several records for each migration.
    """
    done = []
    by = Metadata(actor, reason).check()
    check_target(to, rate, least=0)

    def report(at: Progress) -> None:
        check_going(db.uuid)
        if progress is not None:
            progress(at)

    with lock(db.uuid, actor, wait_s=wait_s, progress=progress, reenter=True) as holder:
        folders = Folders(source)
        reverse.give_up_unresumable(db, folders, by)
        for way in list(_reversals(db, count, to, folders)):
            logged = way.logged
            holder.at = logged.version, logged.began.migration.name
            if progress is not None:
                progress(Progress(f"{logged.title}: roll back", 0))
            finished = logged.finished
            result = reverse.run(db, way, by, rate=rate, progress=report) if finished else give_up(db, by)
            name = logged.began.migration.name
            info = MigrationInfo(
                logged.version, name, State.PENDING, result.time_ns, result.seq, actor, logged.digest
            )
            done.append(info)
            if rolled_back is not None:
                rolled_back(info)
    return done


def plan_rollback(
    db: Database, count: int | None = None, *, to: int | None = None, source: Source | None = None
) -> list[PlannedRollback]:
    """Return what `rollback` would do with the same arguments. Read-only.

    Reads the rows of tables that lose a field, and runs `down` and `up` on rows that would be converted back.
    Raises MigrationError as `rollback` would before it writes.
    """
    rows = Counter({table.name: table.rows for table in db.admin.status().tables})
    planned = []
    for way in _reversals(db, count, to, Folders(source)):
        losses = Losses(db, Schema(way.now), Schema(way.after), rows)
        if way.logged.finished:
            losses.tables(way)
            losses.bootstrap(way.logged)
        else:
            losses.unfinished(way.logged)
        planned.append(
            PlannedRollback(way.logged.version, way.logged.began.migration.name, losses.steps, losses.lost)
        )
        rows = Counter({table.name: rows[table.was] for table in losses.kept})
    return planned


def _reversals(db: Database, count: int | None, to: int | None, folders: Folders) -> Iterator[Reversal]:
    """Yield each migration to roll back, newest first, with the schemas before and after the rollback."""
    now = db.schema.proto
    check_not_prepared(current_migration(db))
    for logged in _chosen(newest_first(db.migration_records()), count, to):
        if logged.adopted:
            raise MigrationError(
                f"migration {logged.title} was adopted by commit {logged.last.seq}, not run (`load`,"
                " `baseline`), so the log does not have the earlier schema; write a new migration instead",
                version=logged.version,
            )
        if logged.finished:
            way = reversal_of(db, logged, now, folders)
        else:
            after = aborted(db.schema_at(logged.began.seq - 1), now)
            for name in people.sealed(after, now) if logged.held else ():
                raise MigrationError(
                    f"migration {logged.title} sealed the rows of table {name}, and still serves the"
                    " previous version, whose rows are open: rolling back would continue writing them in"
                    " clear; run `everlog complete` instead",
                    version=logged.version,
                    table=name,
                )
            way = Reversal(logged, now, after, [], None, None)
        yield way
        now = way.after


def check_which(count: int | None, to: int | None) -> None:
    """Raise MigrationError if the arguments do not select migrations to roll back."""
    check_target(to, None, least=0)
    if count is not None and to is not None:
        raise MigrationError("expected either a number of migrations to roll back or a version, found both")
    if count is not None and arguments.counted(count, "a number of migrations", error=MigrationError) < 1:
        raise MigrationError(f"expected to roll back one migration or more, found {count}")


def _chosen(found: list[LoggedMigration], count: int | None, to: int | None) -> list[LoggedMigration]:
    check_which(count, to)
    if to is None:
        wanted = 1 if count is None else count
        if len(found) < wanted:
            there = f"only {len(found)} are" if found else "none is"
            raise MigrationError(
                f"expected {quantity(wanted, 'applied migration')} to roll back, but {there} applied"
            )
        return found[:wanted]
    if to == 0:
        return found
    versions = [logged.version for logged in found]
    if to not in versions:
        known = ", ".join(map(str, sorted(versions))) or "none"
        raise MigrationError(
            f"migration {to} is not applied, so the database cannot return to it; applied are: {known}",
            version=to,
        )
    return found[: versions.index(to)]


class KeptTable(msgspec.Struct):
    """A table that stays: its name after and before the rollback."""

    name: str
    was: str


class Losses:
    """The steps of one rollback, and the data that it would lose, as sentences."""

    def __init__(self, db: Database, now: Schema, after: Schema, rows: Counter[str]) -> None:
        self.db, self.now, self.after, self.rows = db, now, after, rows
        self.steps: list[PlannedStep] = []
        self.lost: list[str] = []
        self.kept: list[KeptTable] = []

    def unfinished(self, logged: LoggedMigration) -> None:
        what = "stop serving the new version" if logged.held else "give up what was built so far"
        self.steps.append(PlannedStep(f"{what}; no row is lost"))
        self.kept = [KeptTable(name, name) for name in self.after.tables]

    def tables(self, way: Reversal) -> None:
        by_down = {one.table.name: one for one in way.ways}
        names = {info.proto.id: name for name, info in self.after.tables.items()}
        for name, info in self.now.tables.items():
            if info.proto.id not in names:
                rows = self.rows[name]
                self.steps.append(PlannedStep(f"drop table {name} with its {quantity(rows, 'row')}"))
                if rows:
                    but = ", except what `down` reads from them" if way.remake is not None else ""
                    self.lost.append(
                        f"{quantity(rows, 'row')} of table {name}, which is dropped{but}; the log keeps them"
                    )
        were = {info.proto.id: info for info in self.now.tables.values()}
        for name, info in self.after.tables.items():
            was = were.get(info.proto.id)
            if name in way.remade:
                self.steps.append(
                    PlannedStep(f"remake the rows of {name} with `down`, while writers wait", instant=False)
                )
                if was is not None:
                    self.kept.append(KeptTable(name, was.name))
                continue
            if was is None:
                self.steps.append(
                    PlannedStep(f"create table {name} again, empty; the log keeps its old rows")
                )
                continue
            self.kept.append(KeptTable(name, was.name))
            if was.name != name:
                self.steps.append(PlannedStep(f"rename table {was.name} to {name}"))
            if was.name in by_down:
                self._by_down(was, by_down[was.name])
                continue
            self._fields(was, info)
            self._indexes(was, info)
        if way.remake is not None and self.now.proto == base(self.db):
            tried = try_remake_between(self.db, way.now, way.after, way.remake)
            self.steps.append(remake_step(tried, "down"))

    def bootstrap(self, logged: LoggedMigration) -> None:
        """Add the rows that came with the migration: they stay if their table stays."""
        ids = {info.proto.id for info in self.after.tables.values()}
        recorded = Schema(self.db.schema_at(logged.last.seq))
        changes = Counter(change.space for change in self.db.log.commit(logged.last.seq).changes)
        for space, number in changes.items():
            name = recorded.spaces[space].name
            mine = self.now.tables.get(name)
            if mine is not None and mine.proto.id in ids:
                self.steps.append(
                    PlannedStep(
                        f"keep {quantity(number, 'row')} of {name} from the migration's bootstrap data"
                    )
                )

    def _by_down(self, was: TableInfo, way: Transform[Any, Any]) -> None:
        """Add rows that `down` converts back: what `up` would not make of them again is lost."""
        rows = self.rows[was.name]
        text = (
            f"rewrite {quantity(rows, 'row')} of {was.name} with `down`, and switch to"
            f" them{BESIDE if rows else ''}"
        )
        self.steps.append(PlannedStep(text, not rows, rows))
        live = self.db.schema.tables.get(was.name)
        if live is None or live.space != was.space:
            return  # the table does not exist until other migrations are rolled back
        changed, fields = count_round_trip_changes(self.db, way)
        if changed:
            self.lost.append(
                f"{was.name}: {changed:,} of its {quantity(rows, 'row')} would change by `down` and then"
                f" `up`, in {', '.join(sorted(fields))}; the log keeps them"
            )

    def _fields(self, was: TableInfo, info: TableInfo) -> None:
        old = {field.number: field.name for field in was.model.DESCRIPTOR.fields}
        new = {field.number: field.name for field in info.model.DESCRIPTOR.fields}
        gone = {number: name for number, name in old.items() if number not in new}
        words = [f"remove {name}" for name in gone.values()]
        words += [f"restore {name}" for number, name in new.items() if number not in old]
        words += [f"rename {old[n]} to {new[n]}" for n in old.keys() & new.keys() if old[n] != new[n]]
        if words:
            self.steps.append(PlannedStep(f"restore the model of {info.name}: {', '.join(words)}"))
        for number, rows in self._with_values(was, gone).items():
            self.lost.append(
                f"{was.name}.{gone[number]}, which has a value in {quantity(rows, 'row')}: it is no longer"
                " read, and each row loses it when it is next written"
            )

    def _with_values(self, was: TableInfo, gone: dict[int, str]) -> Counter[int]:
        """Count the rows that have a value of each of these fields."""
        live = next((one for one in self.db.schema.tables.values() if one.space == was.space), None)
        found: Counter[int] = Counter()
        if live is None or not gone:
            return found
        for row in self.db.scan(table_of(live)):
            fields: Any = row.ListFields()
            found.update(field.number for field, _ in fields if field.number in gone)
        return found

    def _indexes(self, was: TableInfo, info: TableInfo) -> None:
        old = {index.id: name for name, index in was.indexes.items()}
        new = {index.id: name for name, index in info.indexes.items()}
        self.steps += [
            PlannedStep(f"drop index {was.name}.{name}") for id, name in old.items() if id not in new
        ]
        rows = self.rows[was.name]
        for id, name in new.items():
            if id not in old:
                kind = "unique index" if info.indexes[name].unique else "index"
                waiting = ", while writers wait" if rows else ""
                text = f"build {kind} {info.name}.{name} again over {quantity(rows, 'row')}{waiting}"
                self.steps.append(PlannedStep(text, not rows, rows))
