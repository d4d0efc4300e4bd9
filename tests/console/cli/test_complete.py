"""Two versions at once, from the command line, on files and on a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog import migrations
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.progress import Progress
from tests.console.conftest import Run
from tests.console.served import serving
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import ROWS, Airports

__all__ = ["project"]


def test_here(project: Project, tmp_path: Path, everlog: Run) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db, 50)
        db.put(airports.old, airports.old.model(faa="A00007", name="Prince"))
    at = ("-u", f"file:{tmp_path / 'db'}", "-d", str(project.path))
    ended = everlog(*at, "up", "--dry-run")
    assert ended.code == 1
    assert "FAILS for 1 of 50 rows, the first airports/A00007" in ended.out
    assert "this migration would fail; nothing was changed" in ended.err
    ended = everlog(*at, "up")
    assert ended.code == 1
    assert "`up` of table airports fails for row airports/A00007" in ended.err
    with EmbeddedDatabase(tmp_path / "db") as db:
        db.put(airports.old, airports.old_row(7))
    assert everlog(*at, "up", "--dry-run").code == 0
    assert "Applied: 20260101000001_two" in everlog(*at, "up", "--hold").out
    assert everlog(*at, "up").out == "Nothing to apply: the database is up to date\n"
    tried = everlog(*at, "complete", "--dry-run").out
    assert tried.startswith("Would complete: 20260101000001_two; clients of the previous version")
    assert everlog(*at, "complete", "--reason", "all are new").out.startswith("Completed: 20260101000001_two")
    ended = everlog(*at, "complete")
    assert (ended.code, "no migration is held" in ended.err) == (1, True)
    assert everlog(*at, "complete", "--dry-run").err == ended.err


class _StoppedError(Exception):
    pass


def test_what_is_half_rolled_back_is_said_here_and_on_a_server(
    project: Project, tmp_path: Path, everlog: Run
) -> None:
    def stop(at: Progress) -> None:
        if at.done and "rewrite" in at.step:
            raise _StoppedError

    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db)
        migrations.apply(db, airports.path)
        with pytest.raises(_StoppedError):
            migrations.rollback(db, source=airports.path, rate=100_000, progress=stop)
        with Server({"x": db}, migrations={"x": str(airports.path)}) as server:
            there = ("-u", f"everlog+insecure://127.0.0.1:{server.port}/x", "status")
            at_server = everlog(*there, "--json").json[0]["migrations"][1]
            assert everlog(*there, "--exit-code").code == 1
    at = ("-u", f"file:{tmp_path / 'db'}", "-d", str(project.path))
    told = everlog(*at, "status")
    assert "[X] 20260101000001_two  (being rolled back since " in told.out
    assert everlog(*at, "status", "--quiet").code == 1
    (one,) = [one for one in everlog(*at, "status", "--json").json[0]["migrations"] if one["rolling_back"]]
    assert at_server.pop("stopped") == "no process is working on it"
    assert one.pop("stopped") == ""  # a read-only process does not know
    assert one == at_server
    assert (one["state"], 0 < one["rows"] < ROWS) == ("applied", True)
    assert (
        f"give up its rollback, which has reversed {one['rows']:,} rows"
        in everlog(*at, "up", "--dry-run").out
    )
    assert everlog(*at, "rollback", "--rate", "100000").code == 0
    assert everlog(*at, "status", "--json").json[0]["pending"] == 1


@pytest.mark.parametrize("back", [False, True])
def test_on_a_server(project: Project, tmp_path: Path, everlog: Run, back: bool) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db, 50)
        with Server({"x": db}, migrations={"x": str(airports.path)}) as server:
            at = ("-u", f"everlog+insecure://127.0.0.1:{server.port}/x")
            assert "`up` of airports was tried on 50 rows" in everlog(*at, "up", "--dry-run").out
            assert "Applied: 20260101000001_two" in everlog(*at, "up", "--hold", "--rate", "10000").out
            assert db.get(airports.old, "A00001") == airports.old_row(1)
            if back:
                assert everlog(*at, "rollback", "--yes").code == 0
                assert db.get(airports.old, "A00001") == airports.old_row(1)
            else:
                assert everlog(*at, "complete").out.startswith("Completed: 20260101000001_two")
                assert db.get(airports.new, "A00001") == airports.new_row(1)
            assert migrations.status(db, project.path)[1].state == ("pending" if back else "applied")


def test_a_server_that_starts_while_two_versions_are_served_takes_writes_of_both(
    project: Project, tmp_path: Path, everlog: Run
) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db, 50)
    at = ("-u", f"file:{tmp_path / 'db'}", "-d", str(project.path))
    assert everlog(*at, "up", "--hold").code == 0
    with serving(*at) as served, RemoteDatabase(served.url) as remote:
        remote.put(airports.old, airports.old_row(1, "Jane"))
        assert remote.get(airports.new, "A00001") == airports.new_row(1, "Jane")
        remote.put(airports.new, airports.new_row(2, "Jane"))
        assert remote.get(airports.old, "A00002") == airports.old_row(2, "Jane")
