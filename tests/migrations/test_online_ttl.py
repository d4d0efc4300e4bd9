"""Rows that expire while a migration rewrites them: both generations delete them."""

from __future__ import annotations

import pytest

from everlog import migrations
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

FAR = 4_000_000_000 * 10**9
ROWS = 50


@pytest.fixture
def airports(project: Project, db: Database) -> Airports:
    return Airports(project, db, ROWS)


def test_a_row_that_is_rewritten_keeps_the_end_of_its_life(airports: Airports) -> None:
    db = airports.db
    db.put(airports.old, airports.old_row(3), expires=FAR)
    db.put(airports.old, airports.old_row(4), expires=1)
    db.sweeper.close()

    def meanwhile(progress: Progress) -> None:
        if "rewrite" in progress.step and not db.expires_ns(airports.old, "A00005"):
            db.put(airports.old, airports.old_row(5), expires=FAR + 1)

    migrations.apply(db, airports.path, progress=meanwhile)
    assert [db.expires_ns(airports.new, f"A0000{number}") for number in (3, 4, 5, 6)] == [FAR, 1, FAR + 1, 0]
    assert db.admin.status().expiry.rows == 3
    assert db.admin.expire() == 1
    assert db.count(airports.new) == ROWS - 1
    assert list(db.admin.check()) == []
    known = db.admin.hashes()
    assert db.admin.rebuild() == known


def test_a_row_whose_life_ends_while_two_versions_are_served_is_gone_from_both(airports: Airports) -> None:
    db = airports.db
    db.put(airports.old, airports.old_row(3), expires=FAR)
    migrations.apply(db, airports.path, hold=True)
    db.put(airports.new, airports.new_row(4), expires=1)
    assert db.expires_ns(airports.old, "A00003") == FAR
    assert db.admin.expire() == 1 or db.get(airports.new, "A00004") is None
    assert db.get(airports.old, "A00004") is None
    migrations.complete(db)
    assert db.admin.status().expiry.rows == 1
    assert list(db.admin.check()) == []
