import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.console import shop
from tests.console.conftest import Run


@pytest.fixture
def shelf(everlog: Run, books: Path, here: Path) -> Path:
    """Return the database with forty more books."""
    file = here / "books.jsonl"
    file.write_text("".join(f"{json.dumps(book)}\n" for book in shop.BOOKS))
    assert everlog("import", "books", file).code == 0
    return books


def test_get_prints_the_row(everlog: Run, books: Path) -> None:
    found = json.loads(everlog("get", "books", "978-0", "1").out)
    assert (found["title"], found["price"], found["authors"]) == ("Dune", 9.5, [])
    assert "subtitle" not in found


def test_get_of_a_row_that_is_not_there_fails(everlog: Run, books: Path) -> None:
    ended = everlog("get", "books", "978-0", "9")
    assert (ended.code, ended.err) == (1, "error: there is no row books/978-0/9\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("get", "books", "978-0", "one"), "expected an int32 for volume in the key of books, found 'one'"),
        (("get", "books", "a", "1", "2"), "the key of books has the fields isbn, volume; found 3 values"),
        (("get", "books", "978-0"), "the primary key of books has 2 field(s)"),
        (("get", "nothing", "1"), "there is no table 'nothing'"),
        (("scan", "books", "--index", "by_price"), "has no index 'by_price'"),
        (("scan", "books", "--resume", "!"), "expected --resume with the token of a scan"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    everlog: Run, books: Path, words: tuple[str, ...], says: str
) -> None:
    ended = everlog(*words)
    assert (ended.code, ended.out) == (1, "")
    assert says in ended.err
    assert len(ended.err.splitlines()) == 1


def test_scan_goes_by_key_and_by_index_in_both_directions(everlog: Run, shelf: Path) -> None:
    titles = [
        row["title"] for row in everlog("scan", "books", "--index", "by_title", "--starts-with", "Title").json
    ]
    assert titles == sorted(titles)
    assert len(titles) == 39
    back = [row["title"] for row in everlog("scan", "books", "--index", "by_title", "--reverse").json]
    assert back[:39] == titles[::-1]
    keys = [row["isbn"] for row in everlog("scan", "books", "--start", "978-2", "--end", "978-3").json]
    assert keys == sorted(f"978-{number}" for number in (2, *range(20, 30)))
    assert everlog("scan", "books", "978-40", "--count").out == "1\n"
    assert everlog("scan", "books", "--count", "--json").json == [{"rows": 41}]


def test_a_scan_with_a_limit_goes_on_where_it_stopped(everlog: Run, shelf: Path) -> None:
    keys: list[str] = []
    more: list[str] = []
    while True:
        page = everlog("scan", "books", "--limit", "15", *more)
        keys += [row["isbn"] for row in page.json]
        if not page.err:
            break
        assert page.err.startswith("more rows: --resume=")
        more = [page.err.split(": ")[1].strip()]
    assert len(keys) == 41
    assert keys == sorted(keys)


def test_who_reads_only_the_first_lines_hurts_nobody(everlog: Run, shelf: Path) -> None:
    command = f"{sys.executable} -m everlog.console scan books | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize(
    "words",
    [
        ("log",),
        ("export", "books"),
        *(pytest.param(one, marks=pytest.mark.long) for one in (("status",), ("scan", "books"))),
    ],
)
def test_output_that_nobody_reads_ends_the_command_without_a_word(
    everlog: Run, shelf: Path, words: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "everlog.console", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_count_is_of_all_rows(everlog: Run, shelf: Path) -> None:
    for more in (("--limit", "3"), ("--resume", "AAAA")):
        ended = everlog("scan", "books", "--count", *more)
        assert (ended.code, ended.out) == (2, "")
        assert "--count counts all rows" in ended.err
