"""The mirror as its readers see it: tables, columns, types, indexes; and the errors of the sink."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlog.consumers import Follower, SqliteSink, open_sink, verify
from everlog.store.errors import ClosedError, Error, SinkError
from tests.conformance.sink_case import MODEL, VISITS, shop
from tests.conformance.sink_log import HandMadeLog, table

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.db"


@pytest.fixture
def query(path: Path) -> Query:
    def ask(sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(sql, values).fetchall()

    return ask


def follow(log: HandMadeLog, path: Path, until: int | None = None) -> None:
    with SqliteSink(path) as sink:
        Follower(log, sink).run(until=until, bounded=until is None)


def test_a_row_is_one_row_of_typed_columns(path: Path, query: Query) -> None:
    log = shop()
    sold = {"seconds": 1_767_605_400, "nanos": 5}
    log.write(
        log.put("items", name="duck", price=3, place={"city": "Łódź"}, tags=["a", "b"], sold=sold),
        log.put("items", name="swan", note=""),
    )
    follow(log, path)
    assert query("SELECT name, price, note, place, tags, sold, [place.city] FROM items ORDER BY name") == [
        ("duck", 3, None, '{"city":"Łódź"}', '["a","b"]', "2026-01-05T09:30:00.000000005Z", "Łódź"),
        ("swan", 0, "", None, "[]", None, None),
    ]
    assert query("SELECT unixepoch(sold) FROM items WHERE name = 'duck'") == [(1_767_605_400,)]


def test_big_unsigned_integers_sort_after_small_ones(path: Path, query: Query) -> None:
    log = shop()
    numbers = [2**64 - 1, 5, 2**63, 2**63 - 1, 0]
    log.write(*(log.put("visits", id=number) for number in numbers))
    follow(log, path)
    assert query("SELECT id FROM visits ORDER BY id") == [
        (0,),
        (5,),
        (2**63 - 1,),
        ((2**63).to_bytes(8, "big"),),
        ((2**64 - 1).to_bytes(8, "big"),),
    ]


def test_keys_and_indexes_are_those_of_the_source(path: Path, query: Query) -> None:
    follow(shop(), path)
    assert query("SELECT name FROM pragma_table_info('items') WHERE pk") == [("name",)]
    assert query("SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL ORDER BY name") == [
        ("items.by_city",),
        ("items.by_price",),
    ]
    assert query("SELECT name FROM pragma_index_info('items.by_city')") == [("place.city",)]


def test_indexes_wait_until_the_follower_has_caught_up(path: Path, query: Query) -> None:
    log = shop()
    for number in range(9):
        log.write(log.put("visits", id=number))
    with SqliteSink(path) as sink:
        counted = []

        def count(_: object) -> None:
            counted.append(query("SELECT count(*) FROM sqlite_master WHERE name = 'items.by_city'"))

        Follower(log, sink, progress=count, changes_max=1).run(bounded=True)
    assert counted[0] == [(0,)]
    assert counted[-1] == [(1,)]


def test_enums_are_numbers_whose_names_can_be_looked_up(path: Path, query: Query) -> None:
    log = HandMadeLog()
    model = """
      syntax = "proto3"; package paint; enum Color { RED = 0; BLUE = 1; }
      message Pot { int32 id = 1; Color color = 2; Lid lid = 3;
                    message Lid { enum Shape { ROUND = 0; FLAT = 4; } Shape shape = 1; } }"""
    log.migrate(model, table("pots", 1, "paint.Pot", 1))
    log.write(log.put("pots", id=1, color=1, lid={"shape": 4}))
    follow(log, path)
    names = "SELECT e.name FROM pots JOIN _everlog_enums e ON e.enum = 'paint.Color' AND e.number = color"
    assert query(names) == [("BLUE",)]
    assert query("SELECT name FROM _everlog_enums WHERE enum = 'paint.Pot.Lid.Shape' AND number = 4") == [
        ("FLAT",)
    ]


def test_a_table_that_is_all_there_is_renamed_in_place(path: Path, query: Query) -> None:
    """A change of names alone rewrites nothing, so that indexes and views of users stay on the table."""
    log = shop()
    log.write(log.put("items", name="duck", price=3))
    follow(log, path)
    query("CREATE VIEW cheap AS SELECT name FROM items WHERE price < 5")
    log.migrate(MODEL.replace("price = 2", "cost = 2"), table("things", 1, "shop.Item", 1), VISITS)
    follow(log, path)
    assert query("SELECT * FROM cheap") == [("duck",)]
    assert query("SELECT name, cost FROM things") == [("duck", 3)]


def test_a_mirror_can_live_beside_tables_of_the_user(path: Path, query: Query) -> None:
    query("CREATE TABLE mine (x)")
    query("INSERT INTO mine VALUES (1)")
    follow(shop(), path)
    assert query("SELECT x FROM mine") == [(1,)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("place.city", "'Berlin'"),
        ("name", "CAST(name AS BLOB)"),
        ("tags", "' [ ]'"),
        ("price", "x'0000000000000003'"),
        ("sold", "'2026-01-05 09:30:00.000000005Z'"),
    ],
)
def test_what_only_looks_the_same_is_a_difference(path: Path, query: Query, column: str, value: str) -> None:
    """A row decoded from it would be equal, but readers of the mirror see a difference."""
    log = shop()
    sold = {"seconds": 1_767_605_400, "nanos": 5}
    log.write(log.put("items", name="duck", price=3, place={"city": "Rome"}, sold=sold))
    follow(log, path)
    query(f'UPDATE items SET "{column}" = {value}')
    with SqliteSink(path) as sink:
        (difference,) = verify(log, sink)
    assert "is not what this follower wrote" in str(difference)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────


def test_a_table_of_the_user_with_the_same_name_is_left_alone(path: Path, query: Query) -> None:
    query("CREATE TABLE items (x)")
    with pytest.raises(SinkError, match='table "items" already exists'):
        follow(shop(), path)
    assert query("SELECT name FROM sqlite_master") == [("items",)]


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("my notes, of more than a hundred characters, so that they could be a header" * 4)
    before = path.read_bytes()
    with pytest.raises(SinkError, match="expected an SQLite file"):
        follow(shop(), path)
    assert path.read_bytes() == before


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"there is no directory .*nowhere"):
        follow(shop(), tmp_path / "nowhere" / "mirror.db")


def test_a_mirror_of_a_newer_format_is_refused(path: Path, query: Query) -> None:
    follow(shop(), path)
    query("UPDATE _everlog SET format = 2")
    with pytest.raises(SinkError, match="has format 2, this version of everlog supports up to 1"):
        follow(shop(), path)


def test_fields_that_differ_only_in_case_are_refused(path: Path) -> None:
    log = HandMadeLog()
    model = 'syntax = "proto2"; package p; message M { required int32 Id = 1; optional int32 id = 2; }'
    log.migrate(model, table("rows", 1, "p.M", 1))
    with pytest.raises(SinkError, match="differ only in case"):
        follow(log, path)


def test_a_locked_mirror_is_refused_with_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = shop()
    follow(log, path)
    log.write(log.put("visits", id=1))
    monkeypatch.setattr("everlog.consumers.sqlite.sink._BUSY_S", 0.01)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkError, match="another process is writing to it"):
            follow(log, path)
    follow(log, path)


def test_a_locked_mirror_is_waited_for_where_the_follower_may(
    path: Path, monkeypatch: pytest.MonkeyPatch, query: Query
) -> None:
    log = shop()
    follow(log, path)
    log.write(log.put("visits", id=1))
    monkeypatch.setattr("everlog.consumers.sqlite.sink._BUSY_S", 0.01)
    waits: list[float] = []
    with closing(sqlite3.connect(path, check_same_thread=False)) as other, closing(SqliteSink(path)) as sink:
        other.execute("BEGIN IMMEDIATE")

        def retrying(error: Error, seconds: float) -> None:
            assert "another process is writing to it" in str(error)
            waits.append(seconds)
            if len(waits) == 3:
                other.rollback()

        done = Follower(log, sink, retrying=retrying).run(bounded=True)
    assert waits == [0.1, 0.2, 0.4]
    assert (done.commits, done.changes, done.transactions) == (1, 1, 1)
    assert query("SELECT count(*) FROM visits WHERE id = 1") == [(1,)]


def test_a_follower_that_waits_for_its_target_can_be_stopped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, stop = shop(), threading.Event()
    monkeypatch.setattr("everlog.consumers.sqlite.sink._BUSY_S", 0.01)
    with closing(sqlite3.connect(path)) as other, closing(SqliteSink(path)) as sink:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        done = Follower(log, sink, retrying=lambda *_: stop.set()).run(stop=stop)
    assert (done.position.seq, done.commits) == (0, 0)


def test_a_sink_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(ClosedError, match="is not open"):
        SqliteSink(path).begin(())


@pytest.mark.parametrize("url", ["mirror.db", "sqlite:", "postgres://x/y"])
def test_a_target_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SinkError, match="expected a target such as sqlite:PATH"):
        open_sink(url)


def test_proto2_defaults_and_unset_fields_are_told_apart(path: Path, query: Query) -> None:
    log = HandMadeLog()
    model = """
      syntax = "proto2"; package p;
      message M {
        required int32 id = 1; optional int32 n = 2 [default = 7]; optional string s = 3 [default = "x"];
      }"""
    log.migrate(model, table("rows", 1, "p.M", 1))
    log.write(log.put("rows", id=1), log.put("rows", id=2, n=7, s="x"), log.put("rows", id=3, n=0, s=""))
    follow(log, path)
    assert query("SELECT id, n, s FROM rows") == [(1, None, None), (2, 7, "x"), (3, 0, "")]
