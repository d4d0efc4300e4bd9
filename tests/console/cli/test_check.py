import sys
from pathlib import Path

import pytest

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.database import Database
from tests.console.conftest import Run
from tests.migrations.project import Project


def test_check_finds_nothing_in_a_sound_database(everlog: Run, books: Path) -> None:
    assert everlog("check").out == "OK: no problems found\n"
    assert everlog("check", "--deep").out == "OK: no problems found\n"
    assert everlog("check", "--json").json == [
        {"url": f"file:{books}", "seq": 3, "tables": ["books"], "problems": 0}
    ]


def test_rebuild_proves_that_the_tables_are_what_the_log_says(everlog: Run, books: Path) -> None:
    everlog("testdata")
    (found,) = everlog("rebuild", "--json").json
    with Database(books) as db:
        hashed = db.admin.hashes()["books"]
    assert found == {"table": "books", "rows": 11, "hash": hashed.hash.hex()}
    assert everlog("rebuild").out.startswith("Equal: books, 11 rows, ")


def test_rebuild_into_a_new_directory_leaves_the_live_tables(everlog: Run, books: Path, here: Path) -> None:
    live = everlog("rebuild", "--json").json
    assert everlog("rebuild", "--into", "proof.db", "--json").json == live
    assert everlog("-u", "file:proof.db", "status", "--json").json[0]["seq"] == 3
    ended = everlog("rebuild", "--into", "proof.db")
    assert ended.code == 1
    assert "is not empty" in ended.err


def test_a_rebuild_that_was_killed_half_way_is_told_and_gone_on_with(
    everlog: Run, books: Path, here: Path
) -> None:
    (here / "proof.db" / "db").mkdir(parents=True)
    (here / "proof.db" / "REBUILDING").touch()
    assert "a rebuild into it is running or was killed" in everlog("-u", "file:proof.db", "status").err
    ended = everlog("rebuild", "--into", "proof.db")
    assert (ended.code, ended.err) == (
        0,
        "Found: proof.db has an interrupted rebuild; resuming it\n",
    )
    assert everlog("-u", "file:proof.db", "check").code == 0


def test_rebuild_makes_the_database_as_it_was(everlog: Run, books: Path, here: Path) -> None:
    everlog("testdata")
    head = everlog("status", "--json").json[0]["seq"]
    found = everlog("rebuild", "--into", "then.db", "--at", "3", "--json").json
    assert [one["rows"] for one in found] == [1]
    assert everlog("-u", "file:then.db", "status", "--json").json[0]["seq"] == 3
    assert everlog("rebuild", "--into", "now.db", "--at", "2999-01-01").code == 1
    ended = everlog("rebuild", "--at", "3")
    assert (ended.code, "--at creates another database" in ended.err) == (2, True)
    assert head > 3


def test_check_finds_mistakes_in_folders_before_anything_runs(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(here)
    code = project.add() / "__init__.py"
    monkeypatch.setenv("EVERLOG_MIGRATIONS_DIR", str(project.build().path))
    assert everlog("check").out.startswith("OK: no problems found in the folders")
    code.write_text(code.read_text().replace('"faa", 1', '"faa", 7'))
    project.build()
    for name in [name for name in sys.modules if name.startswith(project.app)]:
        del sys.modules[name]
    ended = everlog("check")
    assert ended.code == 1
    file, line, said = ended.out.split(":", 2)
    assert Path(file).resolve() == code.resolve()
    assert '"faa", 7' in code.read_text().splitlines()[int(line) - 1]
    assert "[load/" in said
    (found, summary) = everlog("check", "--json").json
    assert found["problem"] == ended.out.strip()
    assert summary["problems"] == 1


def test_rebuild_makes_the_database_of_a_server(everlog: Run, books: Path, here: Path) -> None:
    everlog("testdata")
    live = everlog("rebuild", "--json").json
    with EmbeddedDatabase(books) as db, Server({"books": db}, "127.0.0.1:0") as server:
        url = f"everlog+insecure://127.0.0.1:{server.port}/books"
        assert everlog("rebuild", "--into", "copy.db", "--from", url, "--json").json == live
        (then,) = everlog("rebuild", "--into", "then.db", "--from", url, "--at", "3", "--json").json
        assert then["rows"] == 1
        assert everlog("rebuild", "--from", url).code == 2
    assert everlog("-u", "file:copy.db", "check").code == 0
