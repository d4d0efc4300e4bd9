"""A mirror of a table whose rows a migration rewrites, with real databases and real chunks."""

from __future__ import annotations

from pathlib import Path

from everlog import migrations
from everlog.consumers import Follower, SqliteSink, verify
from everlog.migrations.in_progress import give_up
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.progress import Progress
from everlog.store.tx.transaction import Metadata
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.migrations.test_remake import Split

__all__ = ["project"]


def test_it_equals_the_source_before_while_and_after(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, SqliteSink(tmp_path / "mirror.db") as sink:
        airports = Airports(project, db)
        follower = Follower(db, sink)

        def follow(step: Progress | None = None) -> None:
            if step is None or "rewrite" in step.step:
                db.put(airports.old, airports.old_row(db.head % 3000, "Jane"))
                follower.run(bounded=True)
                assert verify(db, sink) == []

        follow()
        migrations.apply(db, project.path, hold=True, progress=follow)
        follow()
        db.put(airports.new, airports.new_row(17, "Joan"))
        give_up(db, Metadata())
        follow()
        migrations.apply(db, project.path, hold=True, progress=follow)
        follow()
        migrations.complete(db)
        db.put(airports.new, airports.new_row(18, "Joan"))
        follower.run(bounded=True)
        assert verify(db, sink) == []
        with SqliteSink(tmp_path / "later.db") as later:
            Follower(db, later).run(bounded=True)
            assert verify(db, later) == []


def test_rows_that_are_made_anew_come_with_the_switch(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, SqliteSink(tmp_path / "mirror.db") as sink:
        split = Split(project, db)
        follower = Follower(db, sink)

        def follow(step: Progress | None = None) -> None:
            follower.run(bounded=True)
            if step is None:
                assert verify(db, sink) == []

        follow()
        migrations.apply(db, split.path, progress=follow)
        follow()
        assert {info.name for info in db.schema.tables.values()} == {"airports", "cities"}
        migrations.rollback(db, source=split.path, progress=follow)
        follow()
        migrations.apply(db, split.path)
        follow()
        with SqliteSink(tmp_path / "cities.db") as only:
            Follower(db, only, tables=["cities"]).run(bounded=True)
            assert verify(db, only) == []
