import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.console import shop
from tests.console.conftest import Run


@pytest.fixture
def source(here: Path) -> Path:
    file = here / "books.jsonl"
    file.write_text("".join(f"{json.dumps(book)}\n" for book in shop.BOOKS))
    return file


def test_a_file_is_imported_once(everlog: Run, books: Path, source: Path) -> None:
    (first,) = everlog("import", "books", source, "--json").json
    assert (first["table"], first["rows"], first["skipped"], first["commits"]) == ("books", 40, 0, 1)
    (again,) = everlog("import", "books", source, "--json").json
    assert (again["id"], again["skipped"], again["commits"]) == (first["id"], 40, 0)
    source.write_text(json.dumps({**shop.BOOKS[0], "title": "Another"}) + "\n")
    (other,) = everlog("import", "books", source, "--json").json
    assert other["id"] != first["id"]
    assert other["commits"] == 1


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_what_is_exported_is_imported_as_the_same_rows(
    everlog: Run, books: Path, source: Path, here: Path, name: str
) -> None:
    everlog("import", "books", source)
    assert everlog("export", "books", here / name).out == f"Exported: books to {here / name}\n"
    other = ("-u", "file:other.db")
    everlog(*other, "up")
    assert everlog(*other, "import", "books", here / name).code == 0
    assert everlog(*other, "rebuild", "--json").json == everlog("rebuild", "--json").json


def test_export_to_standard_output_is_json_lines(everlog: Run, books: Path) -> None:
    ended = everlog("export", "books")
    assert [row["isbn"] for row in ended.json] == ["978-0"]
    assert ended.err == ""
    words = ("export", "books", "--format", "csv", "--column", "volume", "--column", "isbn")
    assert everlog(*words).out == "volume,isbn\n1,978-0\n"
    assert "there is no field 'x'; the fields are: isbn" in everlog(*words, "--column", "x").err


def test_a_cell_that_would_be_read_back_as_another_stops_the_export(
    everlog: Run, books: Path, here: Path
) -> None:
    (here / "one.jsonl").write_text('{"isbn": "1", "volume": 1, "subtitle": ""}\n')
    everlog("import", "books", "one.jsonl")
    ended = everlog("export", "books", "out.csv")
    assert ended.code == 1
    assert "subtitle is '' in a row" in ended.err
    assert "choose another --null" in ended.err
    assert sorted(path.name for path in here.glob("out*")) == []
    assert everlog("export", "books", "out.csv", "--null", "NULL").code == 0


def test_parquet_is_imported(everlog: Run, books: Path, here: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"isbn": ["1", "2"], "volume": [1, 2], "title": ["One", None]})
    parquet.write_table(table, here / "books.parquet")
    assert "Imported: 2 rows of books" in everlog("import", "books", here / "books.parquet").out
    assert json.loads(everlog("get", "books", "2", "2").out)["title"] == ""


def test_a_row_that_does_not_fit_names_file_line_and_column(everlog: Run, books: Path, here: Path) -> None:
    (here / "bad.csv").write_text("isbn,volume,price\na,1,1.5\nb,two,2.5\n")
    ended = everlog("import", "books", "bad.csv")
    assert ended.code == 1
    assert "bad.csv:3: column 2 (volume): expected an int32, found text of length 3" in ended.err
    assert "two" not in ended.err
    assert "found: 'two': " in everlog("import", "books", "bad.csv", "--show-rows").err
    assert everlog("scan", "books", "--count").out == "1\n"


def test_a_file_of_an_unknown_kind_wants_a_format(everlog: Run, books: Path, here: Path) -> None:
    (here / "books.txt").write_text("isbn,volume\na,1\n")
    assert "expected --format, or a name that ends in" in everlog("import", "books", "books.txt").err
    assert everlog("import", "books", "books.txt", "--format", "csv").code == 0


def test_rows_come_from_standard_input(everlog: Run, books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"isbn,volume\na,1\nb,2\n")))
    ended = everlog("import", "books", "-", "--format", "csv", "--id", "mine", "--json")
    assert (ended.json[0]["id"], ended.json[0]["rows"]) == ("mine", 2)


def test_a_file_that_cannot_be_written_is_a_sentence(everlog: Run, books: Path) -> None:
    ended = everlog("export", "books", "nowhere/out.csv")
    assert ended.code == 1
    assert ended.err == "error: nowhere/out.csv: No such file or directory\n"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_exported_is_utf_8_whatever_the_terminal_speaks(
    everlog: Run, books: Path, here: Path, form: str
) -> None:
    (here / "one.csv").write_text("isbn,volume,title\nü,1,€\n", encoding="utf-8")
    assert everlog("import", "books", "one.csv").code == 0
    words = [sys.executable, "-m", "everlog.console", "export", "books", "--format", form]
    done = subprocess.run(
        words, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert "€" in done.stdout.decode()
    assert "ü" in done.stdout.decode()


def test_what_comes_through_a_pipe_is_read_once(everlog: Run, books: Path, source: Path, here: Path) -> None:
    pipe = here / "pipe.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(source.read_bytes()))
    writer.start()
    (done,) = everlog("import", "books", pipe, "--json").json
    writer.join()
    assert done["rows"] == 40


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "error: empty.csv:1: expected a header of field names, found nothing"),
        (b"\xef\xbb\xbf\r\n", "error: empty.csv:1: expected a header of field names, found nothing"),
        (b"\xff\xfei\0", "error: empty.csv:1: not UTF-8"),
        (b"isbn,volume", "Imported: 0 rows of books"),
    ],
)
def test_a_file_without_rows_is_told_apart_from_one_without_a_header(
    everlog: Run, books: Path, here: Path, content: bytes, said: str
) -> None:
    (here / "empty.csv").write_bytes(content)
    ended = everlog("import", "books", "empty.csv")
    assert said in ended.out + ended.err
    assert ended.code == said.startswith("error")
