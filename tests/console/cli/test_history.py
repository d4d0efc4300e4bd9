"""The past on the command line: history, diff, log, and reads as of a commit or a time."""

from __future__ import annotations

import csv
import io
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.console import shop
from tests.console.conftest import Run
from tests.console.served import serving


@pytest.fixture
def edited(everlog: Run, books: Path, here: Path) -> Path:
    """Return a database in which record 4 changes a title and record 5 adds a book."""
    (here / "one.csv").write_text("isbn,volume,title\n978-0,1,Dune Messiah\n")
    (here / "two.csv").write_text("isbn,volume,title\n978-9,1,Children of Dune\n")
    everlog("import", "books", "one.csv", "--actor", "ann", "--reason", "typo")
    everlog("import", "books", "two.csv", "--actor", "bob")
    return books


def test_history_tells_every_version(everlog: Run, edited: Path) -> None:
    lines = everlog("history", "books", "978-0", "1").out.splitlines()
    assert [line.split()[0] for line in lines] == ["4", "2"]
    assert "put     ann  typo  (title, price)" in lines[0]
    assert f"migration {shop.FIRST}" in lines[1]
    assert '"title":"Dune Messiah"' in everlog("history", "books", "978-0", "1", "--verbose").out
    newest, oldest = everlog("history", "books", "978-0", "1", "--json").json
    assert (newest["actor"], newest["reason"], newest["fields"]) == ("ann", "typo", ["title", "price"])
    assert (oldest["row"]["title"], oldest["migration"]) == ("Dune", shop.FIRST)
    assert everlog("history", "books", "978-0", "1", "--json", "--oldest-first", "--limit", "1").json == [
        oldest
    ]


def test_rows_are_read_as_of_a_commit_or_a_time(everlog: Run, edited: Path) -> None:
    then = json.loads(everlog("get", "books", "978-0", "1", "--at", "3").out)
    assert then["title"] == "Dune"
    assert everlog("scan", "books", "--at", "4", "--count").out.strip() == "1"
    assert [row["title"] for row in everlog("scan", "books", "--index", "by_title", "--at", "4").json] == [
        "Dune Messiah"
    ]
    assert "in the future" in everlog("get", "books", "978-0", "1", "--at", "2999-01-01").err
    assert "there is no record 99" in everlog("get", "books", "978-0", "1", "--at", "99").err
    assert (
        "expected a seq, or a time like 2026-01-05T09:30Z, 2026-01-05 09:30, 02:13, yesterday"
        " 14:00, 1h ago, found 'noon'" in everlog("get", "books", "978-0", "1", "--at", "noon").err
    )
    assert "there is no table 'books'" in everlog("scan", "books", "--at", "1").err


def test_diff_tells_what_is_other(everlog: Run, edited: Path) -> None:
    assert everlog("diff", "books", "3").out.splitlines() == [
        "~ books/978-0/1  (title, price)",
        "+ books/978-9/1",
        "1 added, 1 changed, 0 deleted",
    ]
    assert everlog("diff", "books", "4", "5").out.splitlines()[0] == "+ books/978-9/1"
    changed, added = everlog("diff", "books", "3", "--json").json
    assert (changed["kind"], changed["before"]["title"], changed["after"]["title"]) == (
        "changed", "Dune", "Dune Messiah",
    )  # fmt: skip
    assert (added["key"], "before" in added) == (["978-9", 1], False)
    assert '- {"isbn":"978-0"' in everlog("diff", "books", "3", "--verbose").out


def test_the_log_is_asked_for_a_row_a_kind_and_a_time(everlog: Run, edited: Path) -> None:
    def seqs(*words: str) -> list[int]:
        return [entry["seq"] for entry in everlog("log", "--json", *words).json]

    assert seqs("--table", "books", "--key", "978-0", "--key", "1") == [2, 4]
    assert seqs("--kind", "load") == [4, 5]
    assert seqs("--kind", "load", "--actor", "bob") == [5]
    assert seqs("--since", "2001-01-01", "--limit", "2") == [1, 2]
    assert seqs("--before", "2001-01-01") == []
    assert "--row needs --table" in everlog("log", "--key", "1").err
    assert "not with other filters" in everlog("log", "--follow", "--kind", "load").err


def test_the_log_is_written_as_csv_and_parquet(everlog: Run, edited: Path, here: Path) -> None:
    lines: list[Any] = list(csv.DictReader(io.StringIO(everlog("log", "--after", "3", "--csv", "-").out)))
    assert [(line["seq"], line["actor"], line["op"], line["table"], line["key"]) for line in lines] == [
        ("4", "ann", "put", "books", '["978-0",1]'),
        ("5", "bob", "put", "books", '["978-9",1]'),
    ]
    assert json.loads(lines[0]["row"])["title"] == "Dune Messiah"
    assert everlog("log", "--csv", "all.csv").code == everlog("log", "--parquet", "all.parquet").code == 0
    parquet: Any = import_module("pyarrow.parquet")
    table = parquet.read_table(here / "all.parquet").to_pylist()
    with (here / "all.csv").open(encoding="utf-8", newline="") as file:
        assert [{name: str(value) for name, value in line.items()} for line in table] == list(
            csv.DictReader(file)
        )
    assert [line["seq"] for line in table] == [1, 2, 3, 4, 5]


def test_a_log_is_written_to_one_file(everlog: Run, edited: Path, here: Path) -> None:
    ended = everlog("log", "--csv", "log.csv", "--parquet", "log.parquet")
    assert (ended.code, "expected one of --csv and --parquet" in ended.err) == (2, True)
    assert not (here / "log.csv").exists()


@pytest.mark.long
def test_a_table_that_is_gone_has_a_history(everlog: Run, edited: Path) -> None:
    assert everlog("rollback", "--to", "0", "--yes").code == 0
    assert "there is no table 'books'" in everlog("history", "books", "978-9", "1").err
    gone, put = everlog("history", "books", "978-9", "1", "--at", "5", "--json").json
    assert (gone["op"], put["op"], put["row"]["title"]) == ("delete", "put", "Children of Dune")
    assert (
        "there is no table 'books'" in everlog("log", "--table", "books", "--key", "978-9", "--key", "1").err
    )
    log = everlog("log", "--table", "books", "--key", "978-9", "--key", "1", "--at", "5", "--json").json
    assert [entry["seq"] for entry in log] == [put["seq"]], "it went with its table, which no row says"
    with serving(DATABASE_URL=f"file:{edited}") as served:
        there = ("-u", served.url, "log", "--table", "books", "--key", "978-9", "--key", "1", "--at", "5")
        assert everlog(*there, "--json").json == log
    assert everlog("log", "--table", "books", "--at", "5").code == 2
