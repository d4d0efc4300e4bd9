"""The commands `backup`, `verify-backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console.conftest import Run


def test_a_database_is_backed_up_verified_and_restored(everlog: Run, books: Path) -> None:
    everlog("testdata")
    (first,) = everlog("backup", "kept", "--json").json
    assert (first["first"], first["records"], first["segments"]) == (1, first["last"], 1)
    assert (
        everlog("backup", "kept").out
        == f"Nothing new: kept is at record {first['last']}, and so is the database\n"
    )
    assert everlog("verify-backup", "kept", "--deep").out == "OK: no problems found\n"
    ended = everlog("restore", "kept", "again.db")
    assert f"Restored: again.db, as of record {first['last']}, " in ended.out
    assert "proven by the hashes in the backup" in ended.out
    assert everlog("-u", "file:again.db", "check").out == "OK: no problems found\n"
    assert everlog("-u", "file:again.db", "status", "--json").json[0]["seq"] == first["last"]


def test_a_database_is_restored_to_a_moment_and_forked(everlog: Run, books: Path) -> None:
    everlog("testdata")
    everlog("backup", "kept")
    (back,) = everlog("restore", "kept", "back.db", "--at", "3", "--json").json
    (fork,) = everlog("restore", "kept", "fork.db", "--fork", "--json").json
    assert back["seq"] == 3
    assert back["database"] != fork["database"]
    assert everlog("-u", "file:fork.db", "check").code == 0
    (now,) = everlog("restore", "kept", "now.db", "--at", "2999-01-05T09:30:00Z", "--json").json
    assert now["seq"] == fork["seq"]


def test_a_new_database_is_named_as_others_are(everlog: Run, books: Path) -> None:
    everlog("backup", "kept")
    assert everlog("restore", "kept", "file:again.db").out.startswith("Restored: again.db, as of record ")
    assert everlog("rebuild", "--into", "file:made.db").code == 0
    for made in ("again.db", "made.db"):
        assert everlog("-u", f"file:{made}", "check").code == 0
    for words in (("restore", "kept", "s3://bucket/x"), ("rebuild", "--into", "everlog://db.example.com/x")):
        ended = everlog(*words)
        assert ended.code == 1
        assert "a database on this machine, file:PATH" in ended.err
    assert not Path("s3:").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("restore", "kept", "x.db", "--at", "900"), "has records 1 to"),
        (("restore", "kept", "x.db", "--at", "some day"), "expected a seq, or a time like"),
        (("restore", "kept", "x.db", "--at", "\N{SUPERSCRIPT TWO}"), "expected a seq, or a time like"),
        (("restore", "kept", "x.db", "--at", "1999-01-01"), "the database was created after that time"),
        (("restore", "kept", "books.db"), "is not empty"),
        (("restore", "nowhere", "x.db"), "there is no directory nowhere"),
        (("verify-backup", "books.db"), "is not a backup: it has no file BACKUP"),
        (("backup", "books.db"), "is not a backup: it has no file BACKUP"),
    ],
)
def test_what_cannot_be_restored_is_one_sentence(
    everlog: Run, books: Path, words: tuple[str, ...], why: str
) -> None:
    everlog("backup", "kept")
    ended = everlog(*words)
    assert ended.code == 1
    assert why in ended.err
    assert not Path("x.db").exists()


def test_verify_backup_exits_with_1_and_names_the_file(everlog: Run, books: Path) -> None:
    everlog("backup", "kept")
    (segment,) = Path("kept").glob("*.zst")
    segment.write_bytes(segment.read_bytes()[:-1])
    ended = everlog("verify-backup", "kept")
    assert ended.code == 1
    assert segment.name in ended.out


def test_a_backup_goes_to_whatever_fsspec_has_a_url_for(everlog: Run, books: Path, here: Path) -> None:
    url = f"local://{here}/bucket/kept"
    (first,) = everlog("backup", url, "--json").json
    assert first["records"] == first["last"] > 0
    everlog("testdata")
    assert everlog("backup", url).out.startswith(f"Backed up: records {first['last'] + 1} to ")
    assert everlog("verify-backup", url, "--deep").out == "OK: no problems found\n"
    assert everlog("restore", url, "again.db").code == 0
