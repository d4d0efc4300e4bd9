"""`check` finds what is not as it must be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.projection import Batch
from everlog.store.source import LocalSource
from everlog.store.span import Span
from everlog.store.view import Item as Stored
from everlog.store.view import View
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, Airport, Item, airport, declare

Plant = Callable[[Database, Batch], None]


def row_key(db: Database, faa: str) -> bytes:
    info = db.schema.table("airports")
    return info.row_prefix + info.encode_key(faa)


def no_entry(db: Database, batch: Batch) -> None:
    index = db.schema.table("airports").index("by_city")
    del batch[index.prefix + index.encode("Rome") + row_key(db, "A")[6:]]


def stray_entry(db: Database, batch: Batch) -> None:
    index = db.schema.table("airports").index("by_city")
    batch[index.prefix + index.encode("Rome") + row_key(db, "Z")[6:]] = b""


def moved_entry(db: Database, batch: Batch) -> None:
    no_entry(db, batch)
    stray_entry(db, batch)


def lost_row(db: Database, batch: Batch) -> None:
    del batch[row_key(db, "A")]


def no_row(db: Database, batch: Batch) -> None:
    batch[row_key(db, "A")] = keys.pack_value(3, b"\xff\xff\xff")


def other_key(db: Database, batch: Batch) -> None:
    batch[row_key(db, "A")] = keys.pack_value(3, Airport(faa="B", city="Rome").SerializeToString())


def future(db: Database, batch: Batch) -> None:
    batch[row_key(db, "A")] = keys.pack_value(99, airport("A", "Rome").SerializeToString())


def bad_key(db: Database, batch: Batch) -> None:
    batch[row_key(db, "A") + b"x"] = keys.pack_value(3, airport("A", "Rome").SerializeToString())


def bad_count(db: Database, batch: Batch) -> None:
    batch[keys.rows_note(1)] = keys.SEQ.pack(77)


def stray_space(_: Database, batch: Batch) -> None:
    batch[keys.prefix(9) + b"x"] = b"y"


def stray_last_space(_: Database, batch: Batch) -> None:
    batch[keys.prefix(2**32 - 1) + b"x"] = b"y"


def stray_index(_: Database, batch: Batch) -> None:
    batch[keys.prefix(1, 9) + b"x"] = b""


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (no_entry, "row airports/A has no entry in index by_city"),
        (moved_entry, "row airports/A has no entry in index by_city"),
        (stray_entry, "index airports.by_city has an entry for airports/Z, which is no row"),
        (lost_row, "index airports.by_city has an entry for airports/A, which is no row"),
        (no_row, "a row of table airports is not a flights.Airport"),
        (other_key, "row airports/A has another key in it: airports/B"),
        (future, "row airports/A says that commit 99 wrote it; the log ends at 3"),
        (bad_key, "a key of table airports does not decode"),
        (bad_count, "table airports has 1 rows, and is said to have 77"),
        (stray_space, "something lies in space 9, which no table has"),
        (stray_last_space, "something lies in space 4294967295, which no table has"),
        (stray_index, "something lies in index 9 of table airports, which has no such"),
    ],
)
def test_planted_damage_is_found_and_named(opening: Opener, plant: Plant, words: str) -> None:
    db = opening()
    db.put(AIRPORTS, airport("A", "Rome"))
    assert list(db.check()) == []
    batch = db.tables.target.batch()
    plant(db, batch)
    db.tables.target.write(batch)
    db.close()
    db = opening()
    found = list(db.check())
    assert any(words in problem for problem in found), found
    db.close()


def altered(db: Database, batch: Batch) -> None:
    batch[row_key(db, "B")] = keys.pack_value(4, airport("B", "Rome", name="x").SerializeToString())


def renumbered(db: Database, batch: Batch) -> None:
    batch[row_key(db, "B")] = keys.pack_value(3, airport("B", "Rome").SerializeToString())


def planted_row(db: Database, batch: Batch) -> None:
    batch[row_key(db, "Z")] = keys.pack_value(3, airport("Z", "Rome").SerializeToString())


def lost_last(db: Database, batch: Batch) -> None:
    del batch[row_key(db, "C")]


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (altered, "row airports/B is not what commit 4 of the log wrote"),
        (renumbered, "row airports/B is not what commit 4 of the log wrote"),
        (planted_row, "row airports/Z is in the table, and by the log there is no such row"),
        (lost_last, "row airports/C is missing: commit 5 of the log wrote it"),
    ],
)
def test_deep_names_each_row_that_is_not_what_the_log_says_and_a_rebuild_agrees(
    opening: Opener, plant: Plant, words: str
) -> None:
    db = opening()
    for faa in "ABC":
        db.put(AIRPORTS, airport(faa, "Rome"))
    assert list(db.check(deep=True)) == []
    batch = db.tables.target.batch()
    plant(db, batch)
    db.tables.target.write(batch)
    found = list(db.check(deep=True))
    assert [problem for problem in found if problem.startswith("row airports/") and "log" in problem] == [
        words
    ]
    with pytest.raises(
        CorruptionError, match=r"airports; nothing was switched.*`everlog check --deep` names"
    ):
        db.rebuild()
    db.close()


def test_deep_finds_nothing_where_rows_were_loaded_rewritten_and_deleted(opening: Opener) -> None:
    db = opening()
    db.load(ITEMS, (Item(id=number, text="x") for number in range(2000)))
    for number in range(50):
        db.put(ITEMS, Item(id=number, text="y"), durability="os")
        db.delete(ITEMS, number + 100, durability="os")
    declare(db, ITEMS, drop=("airports",))
    assert list(db.check(deep=True)) == []


def test_a_log_with_a_hole_is_found(opening: Opener) -> None:
    db = opening()
    for number in range(5):
        db.put(ITEMS, Item(id=number))
    db.close()
    db = opening()
    db.engine.log.delete(keys.SEQ.pack(5))
    assert [problem for problem in db.check() if "record 5 of the log is missing" in problem]
    db.close()


def test_writers_do_not_make_it_see_things(db: Database) -> None:
    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            db.put(AIRPORTS, airport(f"A{number % 50}", str(number)), durability="os")
            db.delete(AIRPORTS, f"A{number % 7}", durability="os")
            started.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(10)
        for _ in range(40):
            assert list(db.check()) == []
    finally:
        stop.set()
        writer.join()


def test_the_count_of_a_whole_table_reads_its_note_alone(db: Database) -> None:
    db.load(ITEMS, [Item(id=number) for number in range(1, 500)])
    read: list[bytes] = []
    view, _ = db.tables.snapshot()
    source = LocalSource(_Watched(view, read))
    info = db.schema.table("items")
    assert source.count(info, None, Span()) == 499
    assert read == [keys.rows_note(info.space)]
    assert db.count(ITEMS, start=400) == 100
    with db.transaction() as tx:
        tx.delete(ITEMS, 7)
        assert tx.count(ITEMS) == 498
    assert db.count(ITEMS) == 498
    with db.at(seq=db.head - 1) as then:
        assert then.count(ITEMS) == 499


class _Watched(View):
    """A view that notes which keys are read of it, and of which no range may be."""

    def __init__(self, view: View, read: list[bytes]) -> None:
        self._view, self._read = view, read

    def get(self, key: bytes) -> bytes | None:
        self._read.append(key)
        return self._view.get(key)

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Stored]:
        raise AssertionError("a range is read")

    def close(self) -> None:
        self._view.close()
