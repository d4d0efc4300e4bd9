"""Expiry as migrations declare it: planned, dumped, and loaded from the dump."""

from __future__ import annotations

from everlog import migrations
from everlog.migrations.schema_text import from_text, to_text
from everlog.store.database import Database
from tests.migrations.project import Project

WITH_TTL = 'Table("airports", Airport, key=FAA, ttl=__import__("datetime").timedelta(days=1))'
WITHOUT_TTL = 'Table("airports", Airport, key=FAA)'


def test_a_time_to_live_that_comes_or_goes_is_planned_and_is_instant(project: Project, db: Database) -> None:
    project.add("one", table=WITH_TTL)
    project.add("two", table=WITHOUT_TTL, drop=', drop=["airports.ttl"]')
    path = project.build().path
    planned = [step for one in migrations.plan(db, path) for step in one.steps]
    assert [step.text for step in planned if "expire" in step.text] == [
        "rows of airports written from then on expire after 1 day, 0:00:00",
        "rows of airports written from then on never expire",
    ]
    assert all(step.instant for step in planned)
    migrations.apply(db, path, to=project.load()[0].version)
    assert db.schema.table("airports").ttl_ns == 86_400 * 10**9
    migrations.apply(db, path)
    assert db.schema.table("airports").ttl_ns == 0


def test_a_time_to_live_is_in_the_schema_as_text(project: Project, db: Database) -> None:
    project.add("one", table=WITH_TTL)
    migrations.apply(db, project.build().path)
    text = to_text(db.schema)
    assert "\n  ttl 86400s\n" in text
    assert from_text(text).schema.tables[0].life_ns == 86_400 * 10**9
    assert from_text(text.replace("86400s", "7ns")).schema.tables[0].life_ns == 7
    assert from_text(text.replace("ttl", "life")) == from_text(text)  # files of earlier versions
