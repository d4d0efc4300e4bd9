import subprocess
import sys
import time
from pathlib import Path

import pytest

import everlog as library
from tests.console import shop
from tests.console.conftest import Run


def test_up_creates_the_database_and_applies_what_is_pending(everlog: Run, project: Path) -> None:
    ended = everlog("-u", "file:new.db", "-d", project, "up", "--actor", "ann", "--reason", "release")
    assert ended.code == 0
    assert [line.split(" in ")[0] for line in ended.out.splitlines()] == [
        f"Applied: {shop.FIRST}_create_books",
        f"Applied: {shop.SECOND}_index_books",
    ]
    told = everlog("-u", "file:new.db", "log", "--json").json
    assert [(commit["actor"], commit["reason"]) for commit in told[1:]] == [("ann", "release")] * 2


def test_up_a_second_time_does_nothing(everlog: Run, books: Path) -> None:
    assert everlog("up").out == "Nothing to apply: the database is up to date\n"


def test_up_goes_to_a_version(everlog: Run, project: Path) -> None:
    applied = everlog("-u", "file:new.db", "-d", project, "--json", "up", "--to", shop.FIRST).json
    assert [one["version"] for one in applied] == [shop.FIRST]


def test_a_dry_run_prints_the_steps_and_makes_nothing(everlog: Run, project: Path, here: Path) -> None:
    ended = everlog("-u", "file:new.db", "-d", project, "up", "--dry-run")
    assert ended.out.splitlines() == [
        f"Pending: {shop.FIRST}_create_books",
        "  create table books",
        "  put 1 bootstrap row into books",
        f"Pending: {shop.SECOND}_index_books",
        "  build index books.by_title over 1 row, beside the live table",
    ]
    assert not (here / "new.db").exists()
    assert everlog("-u", "file:new.db", "-d", project, "plan") == ended
    assert not (here / "new.db").exists()


def test_migrate_wants_a_database_that_is_there(everlog: Run, project: Path, here: Path) -> None:
    ended = everlog("-u", "file:new.db", "-d", project, "migrate")
    assert (ended.code, ended.out) == (1, "")
    assert f"there is no database at {here / 'new.db'}" in ended.err
    assert not (here / "new.db").exists()


def test_strict_is_taken_for_those_who_are_used_to_it(everlog: Run, books: Path) -> None:
    assert everlog("migrate", "--strict").code == 0


def test_a_wait_ends_with_what_was_wrong(everlog: Run, project: Path) -> None:
    ended = everlog("-u", "file:new.db", "-d", project, "migrate", "--wait", "--wait-timeout", "0.1s")
    assert ended.code == 1
    assert "(waited 0.1 s)" in ended.err


@pytest.mark.long
def test_new_and_build_make_a_project_that_up_takes(here: Path) -> None:
    def everlog(*words: str) -> str:
        command = [sys.executable, "-m", "everlog.console", "-u", "file:new.db", *words]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout

    assert everlog("new", "create_readers").startswith("Creating migration: ")
    assert everlog("build").count("Built: ") == 2
    assert everlog("build") == "Nothing to build: all is up to date\n"
    assert "_create_readers in " in everlog("up")
    assert everlog("scan", "readers", "--count") == "0\n"


def test_a_missing_directory_of_migrations_is_a_sentence(everlog: Run) -> None:
    ended = everlog("-u", "file:new.db", "-d", "nowhere", "up")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert "nowhere" in ended.err


def test_testdata_loads_once(everlog: Run, books: Path) -> None:
    assert everlog("testdata", "--scale", "3").out == "Loaded: 30 rows of books\n"
    before = everlog("status", "--json").json[0]["seq"]
    everlog("testdata", "--scale", "3")
    assert everlog("status", "--json").json[0]["seq"] == before
    assert everlog("scan", "books", "--count").out == "31\n"


def test_a_late_migration_is_taken_only_if_that_is_said(everlog: Run, here: Path) -> None:
    mine = shop.write(here / "late_shop")
    aside = here / "aside"
    first = mine / f"v{shop.FIRST}_create_books"
    common = ("-u", "file:new.db", "-d", mine)
    first.rename(aside)
    everlog(*common, "build")
    assert everlog(*common, "up").code == 0
    aside.rename(first)
    everlog(*common, "build")
    assert f"[ ] {shop.FIRST}_create_books  (out of order" in everlog(*common, "status").out
    for words in (("up",), ("up", "--strict")):
        assert "or pass --out-of-order if this is intended" in everlog(*common, *words).err
    assert everlog(*common, "up", "--strict", "--out-of-order").code == 2
    assert (
        f"apply out of order, after version {shop.SECOND}"
        in everlog(*common, "up", "--out-of-order", "--dry-run").out
    )
    assert everlog(*common, "up", "--out-of-order").code == 0
    assert f"[X] {shop.FIRST}_create_books  (applied out of order)" in everlog(*common, "status").out


def in_another_process(path: Path) -> subprocess.Popen[str]:
    """Run a process that has the database open for writing until its standard input is closed."""
    code = (
        f"import everlog, sys; db = everlog.open({str(path)!r})\n"
        "print('open', flush=True); sys.stdin.read(); db.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("verb", ["up", pytest.param("migrate", marks=pytest.mark.long)])
def test_a_file_that_another_process_has_open_is_waited_for(one: Path, verb: str) -> None:
    words = [sys.executable, "-m", "everlog.console", verb, "--wait", "--wait-timeout"]
    with in_another_process(one) as writer:
        late = subprocess.run([*words, "0.3s"], capture_output=True, text=True, check=False)
        assert (late.returncode, "(waited 0.3 s)" in late.stderr) == (1, True)
        with subprocess.Popen([*words, "60s"], stdout=subprocess.PIPE, text=True) as waiting:
            assert writer.stdin is not None
            writer.stdin.close()
            assert waiting.wait(60) == 0
            assert waiting.stdout is not None
            assert "Applied" in waiting.stdout.read()


def test_a_program_waits_for_a_file_as_long_as_it_says(one: Path) -> None:
    with in_another_process(one) as writer:
        with pytest.raises(library.OpenError):
            library.open(one, timeout=0.2)
        assert writer.stdin is not None
        writer.stdin.close()
        library.open(one, timeout=60).close()


def test_what_can_never_be_opened_is_not_waited_for(everlog: Run, here: Path) -> None:
    (here / "file.db").touch()
    began = time.monotonic()
    assert everlog("-u", "file:file.db", "up", "--wait", "--wait-timeout", "100s").code == 1
    assert everlog("-u", "file:file.db", "migrate", "--wait", "--wait-timeout", "100s").code == 1
    assert time.monotonic() - began < 90
