"""Rollback: the return to the schema before the migrations that came last.

    log: … FINISHED 7, FINISHED 8      rollback ─▶  ROLLED_BACK 8 with the schema before 8

Mostly it is instant, needs no folder and runs no code: rows stay where they are, and the log has every
schema that ever was. Rows that a migration rewrote go back through its `down` (`returning`). What
is rolled back is pending again, and `apply` brings it in again. One that is under way is given up.

Invariants
  (1) one record puts the schema before in force, or it is not rolled back; the one that came last
      goes first;
  (2) numbers go on: what is made anew gets new ones (`restored`).

Losses: what the return from one migration does, and what would be lost by it, in words.

table, in both       its model, indexes and rows stay or return
only now             dropped with its rows
only before          made anew, empty: the log keeps what was in it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from everlog.migrations import people, reverse
from everlog.migrations.dry_run import remaking_between
from everlog.migrations.folder import Source
from everlog.migrations.in_progress import base, give_up
from everlog.migrations.lock import WAIT_S, check_going, lock
from everlog.migrations.migration import Transform
from everlog.migrations.plan import BESIDE, PlannedStep, check_target, remade_step
from everlog.migrations.reverse import Folders, Return, changed_by_return, way_back
from everlog.migrations.status import Life, MigrationInfo, State, latest
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.evolve import given_up
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tx.transaction import Metadata


class Left(msgspec.Struct):
    """A table that stays, by its name after and before the return."""

    name: str
    was: str


class Losses:
    """What one return does and loses, in words."""

    def __init__(self, db: Database, now: Schema, after: Schema, rows: Counter[str]) -> None:
        self.db, self.now, self.after, self.rows = db, now, after, rows
        self.steps: list[PlannedStep] = []
        self.lost: list[str] = []
        self.left: list[Left] = []

    def under_way(self, life: Life) -> None:
        what = "serve the version before alone" if life.held else "give up what was built so far"
        self.steps.append(PlannedStep(f"{what}; no row is lost"))
        self.left = [Left(name, name) for name in self.after.tables]

    def tables(self, way: Return) -> None:
        by_down = {one.table.name: one for one in way.ways}
        names = {info.proto.id: name for name, info in self.after.tables.items()}
        for name, info in self.now.tables.items():
            if info.proto.id not in names:
                rows = self.rows[name]
                self.steps.append(PlannedStep(f"drop table {name} with its {rows:,} rows"))
                if rows:
                    but = ", but for what `down` takes from them" if way.remake is not None else ""
                    self.lost.append(
                        f"{rows:,} rows of table {name}, which is dropped{but}; the log keeps them"
                    )
        were = {info.proto.id: info for info in self.now.tables.values()}
        for name, info in self.after.tables.items():
            was = were.get(info.proto.id)
            if name in way.remade:
                self.steps.append(
                    PlannedStep(
                        f"make the rows of {name} anew with `down`, while writers wait", instant=False
                    )
                )
                if was is not None:
                    self.left.append(Left(name, was.name))
                continue
            if was is None:
                self.steps.append(PlannedStep(f"create table {name} anew, empty; the log keeps its old rows"))
                continue
            self.left.append(Left(name, was.name))
            if was.name != name:
                self.steps.append(PlannedStep(f"rename table {was.name} to {name}"))
            if was.name in by_down:
                self._by_down(was, by_down[was.name])
                continue
            self._fields(was, info)
            self._indexes(was, info)
        if way.remake is not None and self.now.proto == base(self.db):
            tried = remaking_between(self.db, way.now, way.after, way.remake)
            self.steps.append(remade_step(tried, "down"))

    def bootstrap(self, life: Life) -> None:
        """The rows that came with the migration: they stay where their table stays."""
        ids = {info.proto.id for info in self.after.tables.values()}
        recorded = Schema(self.db.schema_at(life.last.seq))
        changes = Counter(change.space for change in self.db.log.commit(life.last.seq).changes)
        for space, number in changes.items():
            name = recorded.spaces[space].name
            mine = self.now.tables.get(name)
            if mine is not None and mine.proto.id in ids:
                self.steps.append(
                    PlannedStep(f"keep {number:,} rows of {name} as the migration's bootstrap wrote them")
                )

    def _by_down(self, was: TableInfo, way: Transform[Any, Any]) -> None:
        """Rows that go back: what `up` would not make of them again is lost."""
        rows = self.rows[was.name]
        text = f"rewrite {rows:,} rows of {was.name} with `down`, and switch to them{BESIDE if rows else ''}"
        self.steps.append(PlannedStep(text, not rows, rows))
        live = self.db.schema.tables.get(was.name)
        if live is None or live.space != was.space:
            return  # a table that is not there before others are rolled back
        changed, fields = changed_by_return(self.db, way)
        if changed:
            self.lost.append(
                f"{was.name}: {changed:,} of its {rows:,} rows would not come back as they are by `up` after"
                f" `down`: they differ in {', '.join(sorted(fields))}; the log keeps them"
            )

    def _fields(self, was: TableInfo, info: TableInfo) -> None:
        old = {field.number: field.name for field in was.model.DESCRIPTOR.fields}
        new = {field.number: field.name for field in info.model.DESCRIPTOR.fields}
        gone = {number: name for number, name in old.items() if number not in new}
        words = [f"remove {name}" for name in gone.values()]
        words += [f"bring back {name}" for number, name in new.items() if number not in old]
        words += [f"rename {old[n]} to {new[n]}" for n in old.keys() & new.keys() if old[n] != new[n]]
        if words:
            self.steps.append(PlannedStep(f"return the model of {info.name}: {', '.join(words)}"))
        for number, rows in self._with_values(was, gone).items():
            self.lost.append(
                f"{was.name}.{gone[number]}, which {rows:,} rows have a value of: it is no longer read, and"
                " is gone from a row once that row is written again"
            )

    def _with_values(self, was: TableInfo, gone: dict[int, str]) -> Counter[int]:
        """How many rows have a value of each of these fields."""
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
                text = f"build {kind} {info.name}.{name} again over {rows:,} rows{waiting}"
                self.steps.append(PlannedStep(text, not rows, rows))


class PlannedRollback(msgspec.Struct, frozen=True):
    """What rolling back one migration would do, and what would be `lost` by it, a sentence each."""

    version: int
    name: str
    steps: list[PlannedStep]
    lost: list[str]

    @property
    def title(self) -> str:
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
    """Rolls back the last `count` migrations (1), or all after version `to` (0: all), newest first.

    `source` has the folders, which is needed where rows go back through `down`, at most `rate` a
    second. `rolled_back` is told of each as soon as it is in the log. Waits up to `wait_s` seconds
    while somebody else migrates. Raises MigrationError, before anything is done, if there is no way
    back from one of them; MigrationError, too, for a row that `down` does not take, and UniqueError
    if an index that was dropped cannot be built again: then those before it are rolled back.
    """
    done = []
    by = Metadata(actor, reason).check()
    check_target(to, rate, least=0)

    def tell(at: Progress) -> None:
        check_going(db.uuid)
        if progress is not None:
            progress(at)

    with lock(db.uuid, actor, wait_s=wait_s, progress=progress, reenter=True) as holder:
        folders = Folders(source)
        reverse.begin_anew(db, folders, by)
        for way in list(_returns(db, count, to, folders)):
            life = way.life
            holder.at = life.version, life.began.migration.name
            if progress is not None:
                progress(Progress(f"{life.title}: roll back", 0))
            finished = life.finished
            result = reverse.run(db, way, by, rate=rate, progress=tell) if finished else give_up(db, by)
            name = life.began.migration.name
            info = MigrationInfo(
                life.version, name, State.PENDING, result.time_ns, result.seq, actor, life.digest
            )
            done.append(info)
            if rolled_back is not None:
                rolled_back(info)
    return done


def plan_rollback(
    db: Database, count: int | None = None, *, to: int | None = None, source: Source | None = None
) -> list[PlannedRollback]:
    """What `rollback` would do with the same arguments. Read-only; reads the rows of tables that
    lose a field, and takes those that go back through `down` there and up again. Raises
    MigrationError as `rollback` would before it writes."""
    rows = Counter({table.name: table.rows for table in db.status().tables})
    planned = []
    for way in _returns(db, count, to, Folders(source)):
        told = Losses(db, Schema(way.now), Schema(way.after), rows)
        if way.life.finished:
            told.tables(way)
            told.bootstrap(way.life)
        else:
            told.under_way(way.life)
        planned.append(
            PlannedRollback(way.life.version, way.life.began.migration.name, told.steps, told.lost)
        )
        rows = Counter({table.name: rows[table.was] for table in told.left})
    return planned


def _returns(db: Database, count: int | None, to: int | None, folders: Folders) -> Iterator[Return]:
    """Each migration to roll back, newest first, with the schema in force until then, and from then on."""
    now = db.schema.proto
    for life in _chosen(latest(db.migration_records()), count, to):
        if life.adopted:
            raise MigrationError(
                f"migration {life.title} was adopted by commit {life.last.seq}, not run (`load`, `baseline`),"
                " so the log does not know what was before it; write a new migration instead",
                version=life.version,
            )
        if life.finished:
            way = way_back(db, life, now, folders)
        else:
            after = given_up(db.schema_at(life.began.seq - 1), now)
            for name in people.sealed(after, now) if life.held else ():
                raise MigrationError(
                    f"migration {life.title} sealed the rows of table {name}, and still serves the version"
                    " before, whose rows are open: to roll it back would go on writing them in clear;"
                    " `everlog complete` ends that",
                    version=life.version,
                    table=name,
                )
            way = Return(life, now, after, [], None, None)
        yield way
        now = way.after


def check_which(count: int | None, to: int | None) -> None:
    """Raises MigrationError for what does not say which migrations to roll back."""
    check_target(to, None, least=0)
    if count is not None and to is not None:
        raise MigrationError("expected a number of migrations to roll back, or a version, found both")
    if count is not None and arguments.counted(count, "a number of migrations", error=MigrationError) < 1:
        raise MigrationError(f"expected to roll back one migration or more, found {count}")


def _chosen(lives: list[Life], count: int | None, to: int | None) -> list[Life]:
    check_which(count, to)
    if to is None:
        wanted = 1 if count is None else count
        if len(lives) < wanted:
            there = f"only {len(lives)} are" if lives else "none is"
            raise MigrationError(f"expected {wanted} applied migrations to roll back, but {there} applied")
        return lives[:wanted]
    if to == 0:
        return lives
    versions = [life.version for life in lives]
    if to not in versions:
        known = ", ".join(map(str, sorted(versions))) or "none"
        raise MigrationError(
            f"migration {to} is not applied, so there is no way back to it; applied are: {known}", version=to
        )
    return lives[: versions.index(to)]
