"""What a migration costs: disk, time and the waits of writers, from a sample of the rows."""

from __future__ import annotations

import pytest

from everlog import migrations
from everlog.migrations import Estimate
from everlog.migrations import estimate as measured
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_plan import INDEXED

ROWS = 2000
UP = """
    from ..v20260101000000_one.model_pb2 import Airport as Old

    def up(old: Old) -> Airport:
        return Airport(faa=old.faa, name=old.name * 2)
    """
TRANSFORMS = ", transforms=[Transform(AIRPORTS, Old, up)]"


@pytest.fixture
def filled(project: Project, db: Database) -> Project:
    """A project whose first migration is applied, with rows of some 120 bytes."""
    project.add("one")
    table = project.build().load()[0].tables[0]
    migrations.apply(db, project.path)
    name = "n" * 100
    db.load(table, (table.model(faa=f"{number:08}", name=name) for number in range(ROWS)))
    return project


def estimate(db: Database, project: Project) -> Estimate:
    (planned,) = migrations.plan(db, project.build().path)
    assert planned.estimate is not None
    return planned.estimate


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine has fewer rows in a sample of a short time."""
    monkeypatch.setattr(measured, "SAMPLE_S", 60.0)


def test_an_index_needs_the_bytes_of_its_entries(filled: Project, db: Database) -> None:
    filled.add("two", table=INDEXED)
    found = estimate(db, filled)
    assert (found.rows, found.sampled, found.twice, found.unknown) == (ROWS, 500, [], [])
    assert 115 * ROWS < found.bytes < 130 * ROWS  # prefix, name and key
    assert found.seconds == ROWS / 100_000
    assert (found.waits_s, found.freed_bytes, found.fits, found.small) == (0.0, 0, True, False)


def test_rows_that_are_rewritten_are_in_the_tables_and_in_the_log(filled: Project, db: Database) -> None:
    filled.add("two", code=UP, drop=TRANSFORMS)
    found = estimate(db, filled)
    assert (found.rows, found.twice) == (ROWS, ["airports"])
    assert 2 * 210 * ROWS < found.bytes < 2 * 240 * ROWS
    assert found.seconds >= ROWS / 50_000
    assert found.waits_s == 0.0


def test_a_new_field_costs_nothing_that_anybody_notices(filled: Project, db: Database) -> None:
    filled.add("two", fields="string faa = 1; string name = 2; int32 alt = 3;")
    found = estimate(db, filled)
    assert found.small
    assert (found.rows, found.seconds, found.bytes, found.sampled) == (0, 0.0, 0, 0)


def test_what_cannot_be_known_is_named(filled: Project, db: Database) -> None:
    filled.add(
        "two",
        table=INDEXED,
        files={"checks.py": "def before(db):\n    pass\n"},
    )
    assert estimate(db, filled).unknown == ["the time of checks.py, for which writers wait"]


def test_a_disk_that_is_too_small_is_told() -> None:
    assert Estimate(bytes=10, free_bytes=11).fits
    assert not Estimate(bytes=11, free_bytes=11).fits
    assert Estimate(bytes=11).fits  # unknown
