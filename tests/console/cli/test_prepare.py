"""Migrations that wait for a decision, from the command line, on files and on a server."""

from __future__ import annotations

from pathlib import Path

from everlog import migrations
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console.conftest import Run
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

ONE, TWO = (f"01980f3e-0000-7000-8000-00000000000{number}" for number in (1, 2))
ROWS = 20


def test_here(project: Project, tmp_path: Path, everlog: Run) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        Airports(project, db, ROWS)
    here = ("-u", f"file:{tmp_path / 'db'}")
    at = (*here, "-d", str(project.path))
    assert "Invalid value for '[ID]': 'seven' is not a valid UUID" in everlog(*at, "prepare", "seven").err
    tried = everlog(*at, "prepare", "--dry-run")
    assert tried.out.startswith("Would prepare: 20260101000001_two\n  rewrite 20 rows of airports with `up`")
    done = everlog(*at, "prepare", ONE, "--fence", "3", "--reason", "release 9")
    assert done.out.startswith("Prepared: 20260101000001_two in ")
    assert done.out.endswith(f"; it waits for decision {ONE}\n")
    [again] = everlog(*at, "prepare", ONE, "--json").json
    assert (again["state"], again["decision_id"], again["fence"]) == ("prepared", ONE, 3)
    told = everlog(*at, "status")
    assert (
        f"20260101000001_two  (prepared, waits for decision {ONE})\n    `everlog commit-prepared" in told.out
    )
    assert "Prepared: 1" in told.out
    assert "prepared, commit" in told.out
    one = everlog(*at, "status", "--json").json[0]["migrations"][1]
    assert (one["prepared"], one["decision_id"], one["fence"]) == (True, ONE, 3)
    health = everlog(*here, "health")
    assert health.code == 0
    assert f"(prepared: migration 20260101000001_two waits for decision {ONE})" in health.out
    for verb in ("up", "plan", "complete", "rollback"):
        refused = everlog(*at, verb)
        assert refused.code == 1
        assert f"waits for decision {ONE}, which alone ends it" in refused.err, verb
    assert everlog(*at, "prepare", "--dry-run").code == 1
    told = everlog(*here, "log")
    assert f"migration 20260101000001_two prepared, decision {ONE}" in told.out
    assert "has fence 2, but commit" in everlog(*here, "abort-prepared", ONE, "--fence", "2").err
    ended = everlog(*here, "abort-prepared", ONE, "--fence", "3")
    assert ended.out.startswith("Aborted: 20260101000001_two (commit ")
    assert "it cannot be prepared any more; take another id" in everlog(*at, "prepare", ONE).err
    assert everlog(*here, "abort-prepared", TWO).out.startswith(f"Aborted: decision {TWO} (commit ")
    [made] = everlog(*at, "prepare", "--json").json
    ended = everlog(*here, "commit-prepared", made["decision_id"])
    assert ended.out.startswith("Committed: 20260101000001_two (commit ")
    assert everlog(*here, "commit-prepared", made["decision_id"]).out == ended.out
    assert everlog(*at, "status", "--exit-code").code == 0


def test_on_a_server(project: Project, tmp_path: Path, everlog: Run) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db, ROWS)
        with Server({"x": db}, migrations={"x": str(airports.path)}) as server:
            at = ("-u", f"everlog+insecure://127.0.0.1:{server.port}/x")
            assert "Prepared: 20260101000001_two in " in everlog(*at, "prepare", ONE).out
            assert f"prepared, waits for decision {ONE}" in everlog(*at, "status").out
            assert "Committed: " in everlog(*at, "commit-prepared", ONE).out
        assert db.count(airports.new) == ROWS
        assert migrations.commit_prepared(db, bytes.fromhex(ONE.replace("-", ""))).state == "committed"
