"""Large bootstrap data for an existing table: loaded while others write, all or nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlog import MigrationError, UniqueError, migrations
from everlog.consumers.follower.follower import Follower
from everlog.consumers.follower.verify import verify
from everlog.consumers.sqlite.sink import SqliteSink
from everlog.migrations import State
from everlog.proto import log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.progress import Progress
from everlog.store.tx.transaction import new_commit_id
from tests.migrations import seed_and_be_killed
from tests.migrations.project import Project

ROWS, WIDE = 240, 31_000  # more than one record can contain
THERE = 1500
FIRST, LAST = THERE - ROWS // 2, THERE + ROWS // 2 - 1  # of the seeds: those up to THERE replace rows
FIELDS = "string faa = 1; string name = 2; string more = 3;"
INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'


def name(number: int, word: str = "seed") -> str:
    return f"{word}{number:06}"


def csv(rows: int = ROWS, *, first: int = FIRST) -> str:
    lines = (f"A{at:05},{name(at)},{'x' * WIDE}" for at in range(first, first + rows))
    return "faa,name,more\n" + "\n".join(lines) + "\n"


class Beside:
    """A database with rows at the first of two migrations; half of the rows of the second exist already."""

    def __init__(self, project: Project, db: Database, files: dict[str, str] | None = None) -> None:
        project.add("one", fields=FIELDS, table=INDEXED)
        project.add(
            "two", fields=FIELDS, table=INDEXED, files={"bootstrap_airports.csv": csv(), **(files or {})}
        )
        self.path, self.db, self.project = project.build().path, db, project
        self.old, self.new = (one.tables[0] for one in project.load())
        migrations.apply(db, self.path, to=project.load()[0].version)
        db.load(self.old, [self.row(at) for at in range(THERE)])

    def row(self, at: int, word: str = "there") -> Any:
        return self.old.model(faa=f"A{at:05}", name=name(at, word))

    def apply(self, during: dict[str, list[Callable[[], Any]]] | None = None) -> list[Progress]:
        """Apply it; call each function of a step once, at one of its progress reports."""
        steps, left = list[Progress](), {step: list(calls) for step, calls in (during or {}).items()}

        def tell(step: Progress) -> None:
            steps.append(step)
            for word, calls in left.items():
                if word in step.step and step.done and calls:
                    calls.pop(0)()

        migrations.apply(self.db, self.path, progress=tell)
        assert not any(left.values())
        return steps

    def word(self, at: int) -> str:
        """Return which writer wrote the existing row, or none."""
        found = self.db.get(self.new, f"A{at:05}")
        return found.name[:-6] if found is not None else "none"


@pytest.fixture
def beside(project: Project, db: Database) -> Beside:
    return Beside(project, db)


def test_they_replace_the_rows_that_are_there_and_those_that_are_written_meanwhile(beside: Beside) -> None:
    db, put = beside.db, beside.db.put
    version = db.version(beside.old, "A00001")
    steps = beside.apply(
        {
            "load airports": [
                lambda: [put(beside.old, beside.row(at, "mine")) for at in (1, FIRST, LAST, LAST + 1)],
                lambda: [db.delete(beside.old, f"A{at:05}") for at in (2, FIRST + 1, LAST)],
            ],
            "copy airports": [
                lambda: [
                    put(beside.old, beside.row(at, "mine")) for at in (3, THERE - 1, FIRST + 1, LAST + 2)
                ],
                lambda: [db.delete(beside.old, f"A{at:05}") for at in (4, FIRST + 2, LAST + 2)],
            ],
        }
    )
    assert {at: beside.word(at) for at in (0, 1, 2, 3, 4, LAST + 1, LAST + 2)} == {
        0: "there", 1: "mine", 2: "none", 3: "mine", 4: "none", LAST + 1: "mine", LAST + 2: "none"
    }  # fmt: skip
    assert {beside.word(at) for at in range(FIRST, LAST + 1)} == {"seed"}
    assert db.count(beside.new) == FIRST - 2 + ROWS + 1
    assert db.version(beside.new, "A00000") == version
    loads = [step for step in steps if "load airports" in step.step]
    assert [step.done for step in loads] == sorted(step.done for step in loads)
    assert loads[-1].done == loads[-1].total == ROWS
    assert [row.faa for row in db.scan(beside.new.by_name, starts_with=name(LAST))] == [f"A{LAST:05}"]
    assert db.get(beside.old, "A00000") == beside.row(0)  # clients of the previous version are served
    db.put(beside.old, beside.row(FIRST, "later"))
    assert beside.word(FIRST) == "later"
    hashes = db.admin.hashes()
    db.admin.rebuild()
    assert db.admin.hashes() == hashes


@pytest.mark.long
def test_a_plan_says_what_it_copies_and_a_rollback_keeps_the_rows(beside: Beside) -> None:
    db = beside.db
    texts = [step.text for step in migrations.plan(db, beside.path, try_rows=True)[-1].steps]
    assert texts[-1] == (
        f"put {ROWS:,} bootstrap rows into airports, in several records, before the table becomes"
        f" readable; copy its {THERE:,} existing rows, beside the live table, and switch to both"
    )
    assert [one.text for one in migrations.lint(beside.path, db) if str(one.severity) == "error"] == []
    beside.apply()
    assert [one.lost for one in migrations.plan_rollback(db, source=beside.path)] == [[]]
    migrations.rollback(db)
    assert db.count(beside.old) == FIRST + ROWS
    assert [one.state for one in migrations.status(db, beside.path)] == [State.APPLIED, State.PENDING]
    beside.apply()
    assert db.count(beside.new) == FIRST + ROWS
    migrations.rollback(db, to=0)
    assert not db.schema.tables


@pytest.mark.parametrize("step", [pytest.param("load airports", marks=pytest.mark.long), "copy airports"])
def test_cancelled_it_leaves_no_trace(beside: Beside, step: str) -> None:
    db, before = beside.db, beside.db.admin.hashes()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        beside.apply({step: [stop]})
    shown = migrations.status(db, beside.path)[-1]
    assert shown.state is State.BUILDING
    assert shown.rows > 0
    migrations.cancel(db, actor="ann")
    assert db.admin.hashes() == before
    assert not db.schema.building
    db.admin.rebuild()
    beside.apply()
    assert db.count(beside.new) == FIRST + ROWS


@pytest.mark.long
def test_killed_half_way_it_goes_on(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    with Database(path) as db:
        beside = Beside(project, db)
    command = [sys.executable, seed_and_be_killed.__file__, str(path), str(beside.path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdin is not None
        first = int(child.stdout.readline())
        child.stdin.write("\n")
        child.stdin.flush()
        assert int(child.stdout.readline()) > first
        child.kill()
    with Database(path) as db:
        beside.db = db
        assert db.get(beside.old, f"A{FIRST:05}") == beside.row(FIRST)
        db.put(beside.old, beside.row(FIRST, "mine"))  # the code of the migration is not needed
        steps = beside.apply()
        assert next(step.done for step in steps if "load airports" in step.step) > first
        assert {beside.word(at) for at in range(FIRST, LAST + 1)} == {"seed"}
        assert db.count(beside.new) == FIRST + ROWS
        assert list(db.admin.check()) == []


def test_a_value_that_another_row_has_stops_it_and_the_plan_says_so(project: Project, db: Database) -> None:
    beside = Beside(project, db)
    db.put(beside.old, beside.old.model(faa="B", name=name(LAST)))
    before = db.admin.hashes()
    assert any(step.problem for step in migrations.plan(db, beside.path, try_rows=True)[-1].steps)
    with pytest.raises(MigrationError, match="unique index"):
        beside.apply()
    assert db.admin.hashes() == before
    assert not db.schema.building


@pytest.mark.long
def test_rows_take_values_from_rows_that_they_replace_or_delete(project: Project, db: Database) -> None:
    delete = "from . import *\ndef deleted():\n    yield AIRPORTS, 'B'\n    yield AIRPORTS, 'A00003'\n"
    beside = Beside(project, db, {"bootstrap.py": delete})
    with db.transaction() as tx:
        tx.put(beside.old, beside.old.model(faa="B", name=name(LAST)))
        tx.put(beside.old, beside.old.model(faa=f"A{LAST - 1:05}", name=name(FIRST)))
    assert not any(step.problem for step in migrations.plan(db, beside.path, try_rows=True)[-1].steps)
    beside.apply()
    assert db.get(beside.new, "B") is None
    assert beside.word(3) == "none"
    assert {beside.word(at) for at in range(FIRST, LAST + 1)} == {"seed"}


def test_a_writer_cannot_take_a_value_that_they_have(beside: Beside) -> None:
    taken = beside.old.model(faa="B", name=f"{name(FIRST)}")

    def put() -> None:
        with pytest.raises(UniqueError):
            beside.db.put(beside.old, taken)

    beside.apply({"copy airports": [put]})


@pytest.mark.long
def test_a_commit_that_comes_again_is_known_though_its_row_was_replaced(beside: Beside) -> None:
    id, row = new_commit_id(), beside.row(FIRST, "mine")

    def put() -> None:
        results = [beside.db.put(beside.old, row, commit_id=id) for _ in range(2)]
        assert [result.repeated for result in results] == [False, True]

    beside.apply({"copy airports": [put]})
    assert beside.db.put(beside.old, row, commit_id=id).repeated
    assert beside.word(FIRST) == "seed"


@pytest.mark.long
def test_a_follower_has_the_same_rows(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "followed") as db:
        beside = Beside(project, db)

        def follow() -> None:
            with SqliteSink(tmp_path / "mirror.db") as mirror:
                Follower(db, mirror).run(bounded=True)

        beside.apply({"load airports": [follow], "copy airports": [follow]})
        follow()
        with SqliteSink(tmp_path / "mirror.db") as sink:
            assert verify(db, sink) == []


@pytest.mark.long
def test_rows_that_are_rewritten_as_well_come_under_them(project: Project, db: Database) -> None:
    project.add("one", fields=FIELDS)
    code = """
        from ..v20260101000000_one.model_pb2 import Airport as AirportV1

        def up(old: AirportV1) -> Airport:
            return Airport(faa=old.faa, name=f"up {old.name}")
        """
    more = ", transforms=[Transform(AIRPORTS, AirportV1, up)]"
    project.add("two", fields=FIELDS, code=code, drop=more, files={"bootstrap_airports.csv": csv()})
    old, new = (one.tables[0] for one in project.build().load())
    migrations.apply(db, project.path, to=20260101000000)
    db.load(old, [old.model(faa=f"A{at:05}", name="there") for at in range(THERE)])
    migrations.apply(db, project.path)
    names = [row.name[:8] for row in db.scan(new)]
    assert names[:FIRST] == ["up there"] * FIRST
    assert {one[:4] for one in names[FIRST:]} == {"seed"}
    assert len(names) == FIRST + ROWS
    assert [one.migration.step for one in db.migration_records()][1:] == [
        log_pb2.Migration.STARTED,
        log_pb2.Migration.FINISHED,
    ]
