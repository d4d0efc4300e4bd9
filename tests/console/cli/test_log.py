from pathlib import Path

from tests.console import shop
from tests.console.conftest import Run


def test_the_log_tells_who_did_what_and_why(everlog: Run, books: Path, here: Path) -> None:
    (here / "one.csv").write_text("isbn,volume,title\n978-0,1,Dune Messiah\n")
    everlog("import", "books", "one.csv", "--actor", "ann", "--reason", "typo")
    lines = everlog("log", "--after", "3").out.splitlines()
    assert lines[0].split()[0] == "4"
    assert "ann  typo  load of books, 1 row so far, finished" in lines[0]
    assert lines[1].strip() == "put    books/978-0/1  (before: commit 2)"


def test_as_json_rows_and_keys_are_readable(everlog: Run, books: Path) -> None:
    created, first, second = everlog("log", "--json").json
    assert created["created"]["format"] == 1
    assert first["migration"]["version"] == str(shop.FIRST)
    (change,) = first["changes"]
    assert (change["op"], change["table"], change["key"]) == ("put", "books", ["978-0", 1])
    assert change["row"]["title"] == "Dune"
    assert second["changes"] == []


def test_the_log_is_filtered_by_position_table_and_actor(everlog: Run, books: Path) -> None:
    everlog("testdata", "--actor", "tester")
    assert [commit["seq"] for commit in everlog("log", "--json", "--after", "1", "--until", "2").json] == [2]
    assert [commit["seq"] for commit in everlog("log", "--json", "--actor", "tester").json] == [4]
    assert [commit["seq"] for commit in everlog("log", "--json", "--table", "books").json] == [2, 3, 4]
    assert [commit["seq"] for commit in everlog("log", "--json", "--limit", "2").json] == [1, 2]


def test_many_changes_are_cut_short_for_people(everlog: Run, books: Path) -> None:
    everlog("testdata", "--scale", "2")
    assert everlog("log", "--after", "3").out.splitlines()[-1].strip() == "and 10 more"
    assert len(everlog("log", "--after", "3", "--verbose").out.splitlines()) == 41


def test_a_position_that_is_none_is_refused(everlog: Run, books: Path) -> None:
    assert "expected a cursor as uuid:seq:checksum" in everlog("log", "--after", "yesterday").err
    assert "ahead of the log" in everlog("log", "--after", "99").err
    assert "there is no table" in everlog("log", "--table", "nothing").err
