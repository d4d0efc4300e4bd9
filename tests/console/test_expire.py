import time
from pathlib import Path
from typing import Any

from everlog.feed.embedded import EmbeddedDatabase
from everlog.rpc.connect import open as open_url
from tests.console.conftest import Run


def put(path: Path, expires: int) -> None:
    with open_url(f"file:{path}") as db:
        from everlog.store.reflect import table_of

        table: Any = table_of(db.schema.table("books"))
        row = next(iter(db.scan(table)))
        assert isinstance(db, EmbeddedDatabase)
        db.sweeper.close()
        db.put(table, row, expires=expires)


def test_rows_whose_life_is_over_are_deleted_now(everlog: Run, books: Path) -> None:
    everlog("testdata")
    rows = everlog("status", "--json").json[0]["tables"][0]["rows"]
    assert "have a life" not in everlog("status").out
    put(books, time.time_ns())
    found = everlog("status", "--json").json[0]["expiry"]
    assert (found["rows"], found["due"], found["jumped_s"]) == (1, 1, 0.0)
    assert "1 rows have a life, 1 of them over; the next ends" in everlog("status").out
    everlog("expire")
    assert everlog("status", "--json").json[0]["tables"][0]["rows"] == rows - 1
    assert everlog("expire", "--yes").out == "Expired: 0 rows\n"
    assert everlog("expire", "--json").json == [{"rows": 0}]
