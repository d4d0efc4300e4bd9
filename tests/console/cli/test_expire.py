import time
from pathlib import Path
from typing import Any

from everlog.rpc.connect import open as open_url
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.clock import Clock
from everlog.store.database import Database
from tests.console.conftest import Run


def put(path: Path, expires: int) -> None:
    with open_url(f"file:{path}") as db:
        from everlog.store.schema.reflect import table_of

        table: Any = table_of(db.schema.table("books"))
        row = next(iter(db.scan(table)))
        assert isinstance(db, EmbeddedDatabase)
        db.sweeper.close()
        db.put(table, row, expires=expires)


def test_rows_whose_life_is_over_are_deleted_now(everlog: Run, books: Path) -> None:
    everlog("testdata")
    rows = everlog("status", "--json").json[0]["tables"][0]["rows"]
    assert "with an expiry" not in everlog("status").out
    put(books, time.time_ns())
    found = everlog("status", "--json").json[0]["expiry"]
    assert (found["rows"], found["due"], found["jumped_s"]) == (1, 1, 0.0)
    assert "1 row with an expiry, 1 of them due; the next is due at" in everlog("status").out
    everlog("expire")
    assert everlog("status", "--json").json[0]["tables"][0]["rows"] == rows - 1
    assert everlog("expire", "--yes").out == "Expired: 0 rows\n"
    assert everlog("expire", "--json").json == [{"rows": 0}]


def test_a_log_that_is_ahead_of_the_clock_is_shown_and_corrected(everlog: Run, books: Path) -> None:
    assert "The newest commit is not ahead of it" in everlog("clock").out
    assert "Nothing to correct in the log" in everlog("clock", "--correct").out
    with Database(books, clock=Clock(wall=lambda: time.time_ns() + 3 * 86_400 * 10**9)) as db:
        db.consumers.register("mirror")
        head = db.head
    assert "The newest commit is 259," in everlog("status").out
    assert "if the clock is correct, run `everlog clock --correct`" in everlog("clock").out
    corrected = everlog("clock", "--correct", "--actor", "ann", "--reason", "NTP was down")
    assert f"commit {head + 1} records that" in corrected.out
    assert everlog("clock", "--json").json[0]["corrected"] == head + 1
    assert f"commit {head + 1} records that" in everlog("status").out
    assert everlog("status", "--json").json[0]["clock"]["corrected"] == head + 1
    out = everlog("log").out
    assert "NTP was down" in out
    assert out.count("(clock 20") == 1, "what it read is shown where that is not the time of the commit"
    newest = everlog("log", "--json").json[-1]
    assert newest["time_ns"] - newest["reading_ns"] > 2 * 86_400 * 10**9
