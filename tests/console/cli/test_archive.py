"""The command `archive`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console.cli.test_follow import until
from tests.console.conftest import Run
from tests.console.served import serving


def test_old_log_is_archived_and_the_database_goes_on(everlog: Run, books: Path) -> None:
    everlog("testdata")
    rows = everlog("scan", "books").out
    (done,) = everlog("archive", "old", "--keep-records", "1", "--json").json
    assert done["removed"] == done["base"] == done["last"]
    assert everlog("archive", "old", "--keep-records", "1").out.startswith("Nothing to archive: ")
    assert everlog("scan", "books").out == rows
    assert everlog("check").code == 0
    assert everlog("rebuild").code == 0
    assert everlog("status").code == 0
    assert len(everlog("log", "--json").json) == done["base"] + 1
    assert everlog("verify-backup", "old", "--deep").out == "OK: no problems found\n"
    Path("old").rename("away")
    assert everlog("scan", "books").out == rows
    assert everlog("status").code == 0
    ended = everlog("log")
    assert ended.code == 1
    assert "record 1 was archived and cannot be read back: there is no directory" in ended.err
    Path("away").rename("old")


def test_a_second_target_gets_what_went_to_the_first(everlog: Run, books: Path) -> None:
    everlog("testdata")
    (done,) = everlog("archive", "old", "--keep-records", "1", "--json").json
    Path("old").rename("away")
    for target in ("old", "second"):
        ended = everlog("archive", target, "--keep-records", "1")
        assert ended.code == 1
        assert "record 1 was archived and cannot be read back" in ended.err
        assert not Path(target).exists(), "or what was moved away would be moved into it"
    Path("away").rename("old")
    said = f"Copied: second also has the records up to {done['base']:,}; later ones stay: "
    assert everlog("archive", "second", "--keep-records", "1").out.startswith(said)
    assert everlog("archive", "second", "--keep-records", "1").out.startswith("Nothing to archive: ")
    Path("old").rename("away")
    assert len(everlog("log", "--json").json) == done["base"] + 1
    assert everlog("verify-backup", "second", "--deep").code == 0


def test_a_hold_keeps_records_until_it_is_released(everlog: Run, books: Path) -> None:
    assert everlog("archive", "--hold", "audit=3").out == "Held: from record 3 on, by audit\n"
    (done,) = everlog("archive", "old", "--keep-records", "0", "--json").json
    assert (done["base"], done["held"]) == (2, "hold 'audit'")
    assert everlog("archive", "--release", "audit").out == "No holds\n"
    assert everlog("archive", "--release", "audit").code == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("archive",), "expected TARGET"),
        (("archive", "old"), "expected --keep-records or --keep-days"),
        (("archive", "--hold", "x"), "expected NAME=SEQ, found 'x'"),
    ],
)
def test_what_is_not_clear_is_a_mistake_of_the_command_line(
    everlog: Run, books: Path, words: tuple[str, ...], why: str
) -> None:
    ended = everlog(*words)
    assert ended.code == 2
    assert why in ended.err


def test_a_dry_run_at_a_server_says_what_would_be_archived(everlog: Run, books: Path) -> None:
    everlog("testdata")
    with serving("--archive-to", "old") as served:
        at = ("-u", served.url, "archive", "--keep-records", "1")
        (would,) = everlog(*at, "--dry-run", "--json").json
        said = f"Would archive: {would['records']:,} records, up to {would['base']:,}; later ones stay: "
        assert everlog(*at, "--dry-run").out.startswith(said)
        assert would["records"] > 1
        assert not Path("old").exists()
        (done,) = everlog(*at, "--json").json
        assert (done["removed"], done["base"]) == (would["records"], would["base"])
        assert everlog(*at, "--dry-run").out.startswith("Nothing to archive: ")


@pytest.mark.long
def test_a_server_is_asked_to_archive_and_says_where_it_does(everlog: Run, books: Path) -> None:
    everlog("testdata")
    with serving("--archive-to", "old") as served:
        at = ("-u", served.url)
        assert everlog(*at, "archive", "--hold", "audit=3").out == "Held: from record 3 on, by audit\n"
        (done,) = everlog(*at, "archive", "--keep-records", "0", "--json").json
        assert (done["base"], done["held"]) == (2, "hold 'audit'")
        assert everlog(*at, "archive", "--release", "audit").out == "No holds\n"
        out = everlog(*at, "archive", "old", "--keep-records", "1").out
        assert out.startswith("Archived: ")
        ended = everlog(*at, "archive", "new", "--keep-records", "1")
        assert (ended.code, "a client does not choose where a server writes" in ended.err) == (1, True)
        assert not Path("new").exists()
        assert "  Records up to " in everlog(*at, "status").out
        assert everlog(*at, "status", "--json").json[0]["archive"]["base"] > 2
        ended = everlog(*at, "archive")
        assert (ended.code, "expected TARGET" in ended.err) == (2, True)
    assert everlog("verify-backup", "old", "--deep").out == "OK: no problems found\n"
    with serving() as served:
        ended = everlog("-u", served.url, "archive", "--keep-records", "1")
        assert (ended.code, "start it with --archive-to books=DIR or URL" in ended.err) == (1, True)


@pytest.mark.long
def test_a_server_archives_by_itself_and_says_what_goes_wrong(everlog: Run, books: Path) -> None:
    everlog("testdata")
    Path("old").write_text("a file")
    how = ("--archive-to", "books=old", "--keep-records", "1")
    with serving(*how) as served:
        until(lambda: everlog("-u", served.url, "status", "--json").json[0]["archive"]["error_ns"] > 0)
        out = everlog("-u", served.url, "status").out
        assert "Records could not be archived to old since " in out
        assert "found a file: old; it is tried again" in out
    Path("old").unlink()
    with serving(*how) as served:
        until(lambda: everlog("-u", served.url, "status", "--json").json[0]["archive"]["base"] > 0)
        assert everlog("-u", served.url, "status", "--json").json[0]["archive"]["target"] == "old"
    assert everlog("verify-backup", "old", "--deep").out == "OK: no problems found\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--archive-to", "other=old"), "this server has no database 'other'; it has: books"),
        (("--archive-to", "books="), "expected NAME=DIR or NAME=URL, found no target"),
        (
            ("--archive-to", "old", "--archive-to", "books=new"),
            "found two; leave one out",
        ),
        (("--keep-days", "3"), "need --archive-to DIR or URL"),
    ],
)
def test_a_server_is_told_a_place_for_each_database(
    everlog: Run, books: Path, words: tuple[str, ...], why: str
) -> None:
    assert why in everlog("serve", "--listen", "127.0.0.1:0", *words).err


def test_several_databases_have_a_place_each(everlog: Run, books: Path) -> None:
    everlog("-u", "file:more.db", "create")
    both = ("serve", "--listen", "127.0.0.1:0", f"books=file:{books}", "more=file:more.db")
    assert "name the database, as in --archive-to books=old" in everlog(*both, "--archive-to", "old").err
