"""archive, as a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console.conftest import Run


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
    assert everlog("verify-backup", "old", "--deep").out == "All is as it must be\n"
    Path("old").rename("away")
    assert everlog("scan", "books").out == rows
    assert everlog("status").code == 0
    ended = everlog("log")
    assert ended.code == 1
    assert "record 1 was archived, and cannot be read from there: there is no directory" in ended.err
    Path("away").rename("old")


def test_a_hold_keeps_records_until_it_is_released(everlog: Run, books: Path) -> None:
    assert everlog("archive", "--hold", "audit=3").out == "Held: from record 3 on, by audit\n"
    (done,) = everlog("archive", "old", "--keep-records", "0", "--json").json
    assert (done["base"], done["held"]) == (2, "hold 'audit'")
    assert everlog("archive", "--release", "audit").out == "Nothing is held\n"
    assert everlog("archive", "--release", "audit").code == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("archive",), "Say where to"),
        (("archive", "old"), "Say what is kept"),
        (("archive", "--hold", "x"), "expected NAME=SEQ, found 'x'"),
    ],
)
def test_what_is_not_clear_is_a_mistake_of_the_command_line(
    everlog: Run, books: Path, words: tuple[str, ...], why: str
) -> None:
    ended = everlog(*words)
    assert ended.code == 2
    assert why in ended.err
