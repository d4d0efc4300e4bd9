"""Rollback: the return to the schema before the migrations that came last.

    log: … FINISHED 7, FINISHED 8      rollback ─▶  ROLLED_BACK 8 with the schema before 8

Mostly it is instant, needs no folder and runs no code: rows stay where they are, and the log has every
schema that ever was. Rows that a migration rewrote go back through its `down` (`returning`). What
is rolled back is pending again, and `apply` brings it in again. One that is under way is given up.

Invariants
  (1) one record puts the schema before in force, or it is not rolled back; the one that came last
      goes first;
  (2) numbers go on: what is made anew gets new ones (`restored`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from everlog.migrations import people, returning
from everlog.migrations.folder import Source
from everlog.migrations.history import Life, latest
from everlog.migrations.lock import WAIT_S, check_going, lock
from everlog.migrations.losses import Losses
from everlog.migrations.plan import PlannedStep, check_target
from everlog.migrations.returning import Folders, Return, way_back
from everlog.migrations.status import MigrationInfo, State
from everlog.migrations.under_way import give_up
from everlog.store import given
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.evolve import given_up
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import Schema
from everlog.store.transaction import Metadata


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
        returning.begin_anew(db, folders, by)
        for way in list(_returns(db, count, to, folders)):
            life = way.life
            holder.at = life.version, life.began.migration.name
            if progress is not None:
                progress(Progress(f"{life.title}: roll back", 0))
            finished = life.finished
            result = returning.run(db, way, by, rate=rate, progress=tell) if finished else give_up(db, by)
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
    for life in _chosen(latest(db.migrations()), count, to):
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
    if count is not None and given.counted(count, "a number of migrations", error=MigrationError) < 1:
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
