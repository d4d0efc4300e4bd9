"""A disk that fills while a migration builds: the migration reports it, and resumes when there is space."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from everlog import migrations
from everlog.migrations import status
from everlog.store.database import Database
from everlog.store.errors import DiskError
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import ROWS, Airports


def test_how_far_it_is_and_why_nobody_works_on_it_are_told(project: Project, db: Database) -> None:
    airports = Airports(project, db)
    seen = []

    def look(step: Progress) -> None:
        if "rewrite airports" in step.step:
            [_, info] = status(db, airports.path)
            seen.append((info.rows, info.total, info.stopped, info.left_s > 0))
            if len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrations.apply(db, airports.path, progress=look)
    assert [one[1:] for one in seen] == [(ROWS, "", True)] * 2
    assert 0 < seen[0][0] < seen[1][0] < ROWS
    [_, info] = status(db, airports.path)
    assert (info.rows, info.total, info.stopped, info.left_s) == (
        seen[1][0],
        ROWS,
        "no process is working on it",
        0,
    )
    migrations.apply(db, airports.path)
    assert [info.stopped for info in status(db, airports.path)] == ["", ""]


@pytest.mark.long
def test_it_stops_while_the_disk_is_full_and_goes_on_when_there_is_room(
    project: Project, small_disk: Path
) -> None:
    with Database(small_disk / "db") as db:
        airports = Airports(project, db)
        said: list[str] = []

        def fill(step: Progress) -> None:
            if "rewrite airports" in step.step and not said:
                said.append("full")
                with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
                    file.write(bytes(64 << 20))
                with contextlib.suppress(DiskError):
                    while True:
                        name = f"John {os.urandom(50_000).hex()}"
                        db.put(airports.old, airports.old.model(faa="A00001", name=name))
            elif "stopped: the disk is full" in step.step:
                said.append(step.step)
                [_, info] = status(db, airports.path)
                assert (info.stopped, info.total) == ("disk full", ROWS)
                (small_disk / "ballast").unlink(missing_ok=True)

        migrations.apply(db, airports.path, progress=fill)
        assert len(said) > 1
        assert airports.steps() == ["FINISHED", "STARTED", "FINISHED"]
        assert db.count(airports.new) == ROWS
        assert list(db.admin.check()) == []
