"""Folders that differ from the log: edited, missing, not built, or searched in the wrong directory."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import everlog as library
from everlog.migrations.build import write_sums
from everlog.migrations.folder import find, folders
from everlog.store.database import Database
from tests.console.conftest import Run
from tests.console.served import serving
from tests.migrations.project import Project, line_of

CITY = "string faa = 1; string name = 2; string city = 3;"
ROWS = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"}


@pytest.fixture
def shop(here: Path, everlog: Run, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return two migrations with their sums, applied to the database that the variables name."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Project(here)
    made.add("one", files=ROWS)
    made.add("two", fields=CITY)
    root = find(made.build().path)
    write_sums(root, folders(root))
    monkeypatch.setenv("DATABASE_URL", "file:shop.db")
    monkeypatch.setenv("EVERLOG_MIGRATIONS_DIR", str(made.path))
    assert everlog("up").code == 0
    return made


def edit(path: Path, was: str, now: str) -> None:
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now))


def test_a_comment_or_a_licence_stops_nothing(shop: Project, everlog: Run, here: Path) -> None:
    first = shop.folders[0]
    code = first / "__init__.py"
    code.write_text(f'# SPDX: MIT\n"""Airports."""\n{code.read_text()}\n# the end\n')
    edit(first / "model.proto", 'syntax = "proto3";', '// SPDX: MIT\nsyntax = "proto3"; /* so */')
    words = (("up",), ("status", "--exit-code"), ("migrate",), ("plan",), ("lint",), ("build",), ("up",))
    for command in words:
        ended = everlog(*command)
        assert ended.code == 0, ended
    library.open(f"file:{here / 'shop.db'}", migrations=str(shop.path)).close()


def test_an_edit_is_accepted_with_a_reason_and_the_log_has_it(
    shop: Project, everlog: Run, here: Path
) -> None:
    code = shop.folders[0] / "__init__.py"
    before = code.read_text()
    code.write_text(before + "\n\ndef helper() -> int:\n    return 1\n")
    assert everlog("build").code == 0
    ended = everlog("up")
    assert (ended.code, "everlog accept 20260101000000 --reason" in ended.err) == (1, True)
    assert everlog("accept").code == 2
    assert everlog("accept", 20260101000001, "--reason", "x").code == 1
    ended = everlog("accept", 20260101000000, "--actor", "ann", "--reason", "a helper")
    assert (ended.code, ended.out) == (0, "Accepted: 20260101000000_one (commit 4)\n")
    assert everlog("up").code == 0
    assert everlog("status", "--exit-code").code == 0
    with Database(here / "shop.db", read_only=True) as db:
        last = db.migration_records()[-1]
        assert (last.actor, last.migration.step, last.seq) == ("ann", last.migration.ACCEPTED, 4)
    code.write_text(before)  # a server with the folder that was applied also continues
    assert everlog("build").code == 0
    assert everlog("status", "--exit-code").code == 0
    assert everlog("accept", "--reason", "x").out == "Nothing to accept: no folder was edited\n"


def test_an_edit_that_makes_another_schema_is_not_accepted(everlog: Run, here: Path) -> None:
    made = Project(here)
    made.add("one")
    made.build()
    words = ("-u", "file:shop.db", "-d", made.path)
    child = "import sys; from everlog.console.cli.main import main; main(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", child, *map(str, words), "up"], check=True, capture_output=True)
    edit(made.folders[0] / "__init__.py", 'Table("airports", ', 'Table("airfields", ')
    ended = everlog(*words, "accept", "--reason", "x")
    assert (ended.code, "do not make the schema of the database" in ended.err) == (1, True)
    assert everlog(*words[:2], "log", "--json").json[-1]["seq"] == 2


def test_a_missing_folder_is_named_and_is_written_as_it_ran(shop: Project, everlog: Run) -> None:
    first = shop.folders[0]
    before = {path.name: path.read_bytes() for path in first.iterdir() if path.suffix != ".pyi"}
    (first / "testdata.py").write_text("")
    shutil.rmtree(first)
    for words in (("up",), ("plan",), ("migrate",)):
        ended = everlog(*words)
        assert ended.code == 2
        assert "restore it: `everlog restore-folders 20260101000000`" in ended.err
    assert f"folder {first.name} is missing; restore it" in everlog("-u", "file:other.db", "up").err
    (shop.path / "everlog.sum").unlink()
    ended = everlog("up")
    assert (ended.code, "restore it: `everlog restore-folders 20260101000000`" in ended.err) == (2, True)
    ended = everlog("restore-folders", 20260101000000)
    assert (ended.code, f"{first.name}\n" in ended.out) == (0, True)
    after = {path.name: path.read_bytes() for path in first.iterdir() if path.suffix != ".pyi"}
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in before if name != "model_pb2.py")
    assert everlog("up").code == 0
    assert everlog("restore-folders").out == "Nothing to restore: every folder is there\n"


def test_an_edited_folder_is_replaced_when_that_is_meant(shop: Project, everlog: Run) -> None:
    first = shop.folders[0]
    edit(first / "bootstrap_airports.csv", "Kennedy", "Idlewild")
    (first / "more.txt").write_text("more")
    (first / "testdata.py").write_text("# mine\n")
    assert everlog("restore-folders", 20260101000000).code == 1
    assert everlog("restore-folders", 20260101000000, "--force").code == 0
    assert "Kennedy" in (first / "bootstrap_airports.csv").read_text()
    assert not (first / "more.txt").exists()
    assert (first / "testdata.py").read_text() == "# mine\n"
    assert everlog("status", "--exit-code").code == 0
    assert everlog("restore-folders", 20270101000000).code == 1


@pytest.mark.long
def test_files_that_the_log_does_not_have_are_named_and_nothing_is_built(here: Path, everlog: Run) -> None:
    made = Project(here)
    rows = "faa,name\n" + "".join(f"A{at:05},{'x' * 300}\n" for at in range(9000))
    folder = made.add("one", files={"bootstrap_airports.csv": rows})
    made.build()
    words = ("-u", "file:shop.db", "-d", made.path)
    child = "import sys; from everlog.console.cli.main import main; main(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", child, *map(str, words), "up"], check=True, capture_output=True)
    shutil.copy(folder / "bootstrap_airports.csv", here / "kept.csv")
    shutil.rmtree(folder)
    sha, size = hashlib.sha256(rows.encode()).hexdigest(), f"{len(rows):,}"
    ended = everlog(*words, "restore-folders")
    assert (ended.code, "put in those that are named above" in ended.err) == (1, True)
    named = f"bootstrap_airports.csv is missing (expected: {size} bytes, SHA-256 {sha});"
    assert named in " ".join(ended.out.split())
    assert "Restored from the log" in (folder / "model_pb2.py").read_text()
    shutil.copy(here / "kept.csv", folder / "bootstrap_airports.csv")
    assert everlog(*words, "build").code == 0
    assert everlog(*words, "status", "--exit-code").code == 0
    edit(folder / "__init__.py", "AIRPORTS = ", "MORE = 1\nAIRPORTS = ")
    assert everlog(*words, "restore-folders", 20260101000000, "--force").code == 0  # existing files stay
    assert (folder / "bootstrap_airports.csv").read_text() == rows
    edit(folder / "bootstrap_airports.csv", "A00001", "B00001")
    ended = everlog(*words, "--json", "restore-folders", "--force", 20260101000000)
    assert ended.code == 1
    (missing,) = ended.json[0]["missing"]
    assert (missing["sha256"], missing["size"], missing["is_other"]) == (sha, len(rows), True)
    assert "B00001" in (folder / "bootstrap_airports.csv").read_text()


def test_a_folder_that_another_one_needs_is_named_where_it_is_missing(
    shop: Project, everlog: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = shop.add("three", fields=CITY, code=f"from ..{shop.folders[1].name} import AIRPORTS as BEFORE")
    assert everlog("build").code == 0
    second = shop.folders[1]
    second.rename(shop.path / f"_{second.name}")
    (shop.path / "everlog.sum").unlink()
    for name in [name for name in sys.modules if name.endswith(second.name)]:
        monkeypatch.delitem(sys.modules, name)
    ended = everlog("up")
    assert ended.code == 2
    assert "migration 20260101000001_two was applied by commit 3, but its folder is missing" in ended.err
    ended = everlog("-u", "file:other.db", "up")
    assert ended.code == 2
    said = (
        f"{third.name}/__init__.py:{line_of(third / '__init__.py', second.name)}: the code needs the folder"
    )
    assert f"{said} {second.name}, which is missing" in ended.err


def test_what_was_not_built_is_named(shop: Project, everlog: Run) -> None:
    shop.add("three", fields=CITY)
    ended = everlog("up")
    assert ended.code == 2
    assert (
        "v20260101000002_three/model.proto:1: model_pb2.py is not generated yet; run `everlog build`"
        in ended.err
    )


def test_a_directory_one_level_off_is_told_with_the_right_one(
    shop: Project, everlog: Run, here: Path
) -> None:
    inner, app = shop.folders[0].relative_to(here), shop.path.parent.relative_to(here)
    (shop.folders[0] / "tests").mkdir()
    (here / "empty").mkdir()
    for given in (inner, inner / "tests", app, here):
        for command in ("up", "plan", "lint", "build", "status"):
            ended = everlog("-d", given, command)
            assert (ended.code, f"-d {shop.path.relative_to(here)}" in ended.err) == (2, True), (given, ended)
    for command in ("up", "plan"):
        ended = everlog("-d", "empty", command)
        assert (ended.code, "no migration found" in ended.err) == (2, True)
        assert everlog("-d", "nowhere", command).code == 2


def test_what_fails_on_a_new_path_leaves_nothing(everlog: Run, here: Path) -> None:
    made = Project(here)
    made.add("one")
    (here / "there").mkdir()
    for path in ("new.db", "some/where/new.db", "there"):
        assert everlog("-u", f"file:{path}", "-d", made.path, "up").code == 2
        assert everlog("-u", f"file:{path}", "--schema-file", code_of(made), "load").code == 1
        with pytest.raises(library.SchemaError):
            library.open(f"file:{path}", migrations=str(made.path))
    assert sorted(one.name for one in here.iterdir()) == [made.app, "there"]
    assert not list((here / "there").iterdir())
    assert everlog("-u", "file:kept.db", "create").code == 0
    assert everlog("-u", "file:kept.db", "-d", made.path, "up").code == 2
    assert everlog("-u", "file:kept.db", "status").code == 0
    twins = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Kennedy\n"}
    unique = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
    made.add("two", table=unique, files=twins)
    made.build()
    assert everlog("-u", "file:half.db", "-d", made.path, "up").code == 1
    assert (here / "half.db").exists()  # the first of two is applied


def code_of(made: Project) -> Path:
    return made.folders[0] / "__init__.py"


@pytest.mark.long
def test_at_a_server_its_folders_are_accepted_and_written_here(
    shop: Project, everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = shop.folders[1] / "__init__.py"
    with serving() as served:
        at = ("-u", served.url)
        edit(code, "AIRPORTS = ", "EDITED = 1\nAIRPORTS = ")
        assert everlog("build").code == 0
        assert everlog(*at, "accept").code == 2
        done = everlog(*at, "accept", "--reason", "why not", "--actor", "ann")
        assert (done.code, done.out.startswith("Accepted: 20260101000001_two")) == (0, True), done.err
        assert everlog(*at, "status").out.count("(edited") == 0
        elsewhere = here / "mine" / "migrations"
        monkeypatch.setenv("EVERLOG_MIGRATIONS_DIR", str(elsewhere))
        elsewhere.mkdir(parents=True)
        done = everlog(*at, "restore-folders", "--json")
        assert [one["missing"] for one in done.json] == [[], []], done.err
        names = ["__init__.py", "bootstrap_airports.csv", "model.proto"]
        kept = {name: (elsewhere / shop.folders[0].name / name).read_bytes() for name in names}
        assert kept == {name: (shop.folders[0] / name).read_bytes() for name in names}
        assert "EDITED" not in (elsewhere / code.parent.name / "__init__.py").read_text()
        assert everlog(*at, "restore-folders").out.startswith("Nothing to restore")
        again = everlog(*at, "restore-folders", "20260101000002")
        assert (again.code, "the log has no files of migration 20260101000002" in again.err) == (1, True)


@pytest.mark.long
def test_accept_on_the_files_goes_by_the_approvers_and_leaves_a_proposal_as_it_is(
    shop: Project, everlog: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = shop.folders[0] / "__init__.py"
    shop.add("three", fields=CITY)
    assert everlog("build").code == 0
    how = ("--migrate", "checked", "--approver", "bob")
    words = ("accept", "--reason", "why not", "--actor")
    with serving(*how) as served:
        (found,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
        edit(code, "AIRPORTS = ", "EDITED = 1\nAIRPORTS = ")
        assert everlog("build").code == 0
        ended = everlog(*words, "bob")
        assert (ended.code, "open" in ended.err) == (1, True), ended.err  # its files are those of the server
        assert "ann may not accept folders" in everlog("-u", served.url, *words, "ann").err
    monkeypatch.setenv("EVERLOG_APPROVERS", "bob")
    assert "ann may not accept folders of shop" in everlog(*words, "ann").err
    assert everlog(*words, "bob").code == 0
    commit = everlog("log", "--json").json[-1]
    assert (commit["actor"], commit["proof"], commit["migration"]["step"]) == ("bob", "claimed", "ACCEPTED")
    with serving(*how) as served:
        (same,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
        assert (same["digest"], same["state"]) == (found["digest"], "waiting")
        done = everlog("-u", served.url, "approve", same["digest"], "--actor", "bob", "--reason", "yes")
        assert done.out.startswith("Finished: "), done.err


def test_a_migration_is_shown_with_its_files_tables_rows_and_events(shop: Project, everlog: Run) -> None:
    version, other = (int(one.name[1:15]) for one in shop.folders)
    shown = everlog("migrations", "show", version).out
    for words in (
        f"{version}_one, as the log has it",
        "  table airports: Airport, key faa",
        "  1 bootstrap row in airports",
        "  model.proto",
        "finished",
    ):
        assert words in shown
    assert "string faa = 1" not in shown
    assert "string faa = 1" in everlog("migrations", "show", version, "--verbose").out
    (found,) = everlog("migrations", "show", version, "--json").json
    assert found["bootstrap"][0]["first"][0]["faa"] == "JFK"
    assert found["files"]["bootstrap_airports.csv"] == "faa,name\nJFK,Kennedy\n"
    assert [one["step"] for one in found["events"]] == ["finished"]
    shutil.rmtree(shop.folders[1])
    ended = everlog("migrations", "show", other)
    assert "tables and bootstrap rows are not shown: the folder is missing" in ended.out
    ended = everlog("migrations", "show", 7)
    assert (ended.code, "there is no migration 7" in ended.err) == (1, True)
