"""`check` finds everything that is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.progress import Progress
from everlog.store.rocks.view import Item as Stored
from everlog.store.rocks.view import View
from everlog.store.schema.evolve import evolve, online
from everlog.store.schema.table import Index, Table
from everlog.store.tables.projection import Batch
from everlog.store.tx.source import LocalSource, Span, WriteSetSource
from everlog.store.tx.write import delete, put
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, CITY, FAA, ITEMS, NAME, Airport, Item, airport, declare
from tests.store.people import PATIENTS, open_people, patient

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
        (stray_entry, "index airports.by_city has an entry for airports/Z, which does not exist"),
        (lost_row, "index airports.by_city has an entry for airports/A, which does not exist"),
        (no_row, "a row of table airports is not a flights.Airport"),
        (other_key, "row airports/A contains another key: airports/B"),
        (future, "row airports/A was written by commit 99, but the log ends at 3"),
        (bad_key, "of table airports cannot be decoded"),
        (bad_count, "table airports has 1 row, but its stored count is 77"),
        (stray_space, "found keys in space 9, which belongs to no table"),
        (stray_last_space, "found keys in space 4294967295, which belongs to no table"),
        (stray_index, "found keys in index 9 of table airports, which does not exist"),
    ],
)
def test_planted_damage_is_found_and_named(opening: Opener, plant: Plant, words: str) -> None:
    db = opening()
    db.put(AIRPORTS, airport("A", "Rome"))
    assert list(db.admin.check()) == []
    batch = db.tables.target.batch()
    plant(db, batch)
    db.tables.target.write(batch)
    db.close()
    db = opening()
    found = list(db.admin.check())
    assert any(words in problem for problem in found), found
    db.close()


NEWER = Table(
    "airports",
    Airport,
    key=FAA,
    indexes=(*AIRPORTS.indexes.values(), Index("by_name", NAME), Index("by_name_and_city", NAME, CITY)),
)
SLICE = 1024  # rows of the first slice of a backfill


def backfilling(db: Database, slices: int) -> None:
    """Begin to build two indexes over rows A00000, A00001, …, and stop in the first after some slices."""
    db.load(AIRPORTS, [airport(f"A{at:05}", "Rome", name=f"name {at}") for at in range(SLICE + 500)])
    before = db.schema.proto
    schema = online(before, evolve(before, before.version + 1, [NEWER]))
    assert schema is not None
    started = log_pb2.Migration(
        step=log_pb2.Migration.STARTED, version=schema.version + 1, name="newer", schema=schema
    )
    db.apply_migration(started)
    left = iter([False] * slices)
    db.backfill(started, since=db.head, stopped=lambda: next(left, True))
    db.put(AIRPORTS, airport("A00003", "Rome", name="other"))
    db.put(AIRPORTS, airport("A01400", "Rome", name="other"))
    db.put(AIRPORTS, airport("Z", "Rome", name="new"))


def entry(db: Database, index: str, faa: str, *values: str) -> bytes:
    info = db.schema.table("airports")
    one = info.indexes[index]
    return one.prefix + one.encode(values if len(values) > 1 else values[0]) + info.encode_key(faa)


def building(db: Database, *gone: tuple[str, ...], put: tuple[tuple[str, ...], ...] = ()) -> None:
    batch = db.tables.target.batch()
    for name, faa, *values in gone:
        del batch[entry(db, name, faa, *values)]
    for name, faa, *values in put:
        batch[entry(db, name, faa, *values)] = b""
    db.tables.target.write(batch)


@pytest.mark.parametrize(
    ("slices", "gone", "put", "words"),
    [
        (1, ("by_name", "A00007", "name 7"), (), "row airports/A00007 has no entry in index by_name"),
        (1, ("by_name", "A00003", "other"), (), "row airports/A00003 has no entry in index by_name"),
        (3, ("by_name", "A01500", "name 1500"), (), "row airports/A01500 has no entry in index by_name"),
        (3, ("by_name", "Z", "new"), (), "row airports/Z has no entry in index by_name"),
        (1, (), ("by_name", "A00008x", "name"), "has an entry for airports/A00008x, which does not exist"),
        (1, (), ("by_name", "Y", "name"), "has an entry for airports/Y, which does not exist"),
        (
            1,
            (),
            ("by_name", "A00007", "other"),
            "entry for airports/A00007 with values that differ from the row",
        ),
        (1, (), ("by_name", "Z", "other"), "entry for airports/Z with values that differ from the row"),
        (
            1,
            (),
            ("by_name", "A01500", "other"),
            "entry for airports/A01500 with values that differ from the row",
        ),
        (
            3,
            (),
            ("by_name_and_city", "A00007", "name 7", "Paris"),
            "A00007 with values that differ from the row",
        ),
        (
            1,
            ("by_name", "A00007", "name 7"),
            ("by_name", "A00007", "x"),
            "A00007 has no entry in index by_name",
        ),
        (1, ("by_city", "A00007", "Rome"), (), "row airports/A00007 has no entry in index by_city"),
        (3, (), ("by_name", "A00007", "x"), "by_name has 1,526 entries for 1,525 rows"),
    ],
)
def test_damage_in_a_table_with_an_index_under_construction_is_found(
    opening: Opener, slices: int, gone: tuple[str, ...], put: tuple[str, ...], words: str
) -> None:
    db = opening()
    backfilling(db, slices)
    assert list(db.admin.check()) == []
    building(db, *([gone] if gone else []), put=(put,) if put else ())
    found = list(db.admin.check())
    assert any(words in problem for problem in found), found
    db.close()


@pytest.mark.parametrize("slices", [0, 1, 2, 3, 4, 6])
def test_rows_behind_the_backfill_need_no_entry_and_may_have_one(opening: Opener, slices: int) -> None:
    db = opening()
    backfilling(db, slices)
    assert list(db.admin.check()) == []
    if slices == 1:
        building(db, ("by_name", "A01400", "other"), ("by_name", "Z", "new"))
        building(db, put=(("by_name", "A01300", "name 1300"),))
        assert list(db.admin.check()) == []


def patients(path: Path) -> Database:
    db = open_people(path)
    db.load(
        PATIENTS, [patient(n, f"s-{n % 7}", email=f"{n}@x", name=f"name {n}", born=n) for n in range(1, 700)]
    )
    return db


def of_patient(db: Database, index: str, number: int, *values: object) -> bytes:
    info = db.schema.table("patients")
    one = info.indexes[index]
    return one.prefix + one.encode(values if len(values) > 1 else values[0]) + info.encode_key(number)


def lost_hash(db: Database, batch: Batch) -> None:
    del batch[of_patient(db, "by_email", 5, "5@x")]


def moved_hash(db: Database, batch: Batch) -> None:
    lost_hash(db, batch)
    batch[of_patient(db, "by_email", 5, "6@x")] = b""


def second_hash(db: Database, batch: Batch) -> None:
    batch[of_patient(db, "by_name_and_born", 5, "name 6", 5)] = b""


def hash_of_no_row(db: Database, batch: Batch) -> None:
    batch[of_patient(db, "by_email", 5000, "5@x")] = b""


def lost_patient(db: Database, batch: Batch) -> None:
    info = db.schema.table("patients")
    del batch[info.row_prefix + info.encode_key(5)]


def moved_patient(db: Database, batch: Batch) -> None:
    info = db.schema.table("patients")
    value = db.tables.get(info.row_prefix + info.encode_key(5))
    assert value is not None
    batch[info.row_prefix + info.encode_key(6)] = value


def changed_patient(db: Database, batch: Batch) -> None:
    info = db.schema.table("patients")
    value = db.tables.get(info.row_prefix + info.encode_key(5))
    assert value is not None
    batch[info.row_prefix + info.encode_key(5)] = value[:-1] + bytes((value[-1] ^ 1,))


def patients_note(_: Database, batch: Batch) -> None:
    batch[keys.rows_note(1)] = keys.SEQ.pack(77)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lost_hash, "row patients/5 has no entry in index by_email"),
        (
            moved_hash,
            "index patients.by_email has an entry for patients/5 with values that differ from the",
        ),
        (second_hash, "index patients.by_name_and_born has 700 entries for 699 rows"),
        (hash_of_no_row, "index patients.by_email has an entry for patients/5000, which does not exist"),
        (lost_patient, "index patients.by_id has an entry for patients/5, which does not exist"),
        (moved_patient, "it was changed or moved"),
        (changed_patient, "it was changed or moved"),
        (patients_note, "table patients has 699 rows, but its stored count is 77"),
    ],
)
def test_damage_in_a_sealed_table_is_found_and_named(path: Path, plant: Plant, words: str) -> None:
    with patients(path) as db:
        assert list(db.admin.check()) == []
        batch = db.tables.target.batch()
        plant(db, batch)
        db.tables.target.write(batch)
    with open_people(path) as db:
        found = list(db.admin.check())
        assert any(words in problem for problem in found), found


def test_no_right_table_is_looked_at_row_by_row(
    opening: Opener, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a row is looked at by itself")

    monkeypatch.setattr("everlog.store.upkeep.check._Passes._one_by_one", refuse)
    monkeypatch.setattr("everlog.store.upkeep.check.EVERY", 2)
    db = opening()
    backfilling(db, 1)
    assert list(db.admin.check()) == []
    forgotten: list[Any] = []

    with patients(tmp_path / "people") as people:
        assert list(people.admin.check()) == []

        def forget_once(_: Progress) -> None:
            if not forgotten:
                forgotten.append(people.people.forget(PATIENTS, 1))

        assert list(people.admin.check(forget_once)) == []
        assert forgotten
        assert list(people.admin.check()) == []


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
        (altered, "row airports/B differs from what commit 4 of the log wrote"),
        (renumbered, "row airports/B differs from what commit 4 of the log wrote"),
        (planted_row, "row airports/Z is in the table, but not in the log"),
        (lost_last, "row airports/C is missing: commit 5 of the log wrote it"),
    ],
)
def test_deep_names_each_row_that_is_not_what_the_log_says_and_a_rebuild_agrees(
    opening: Opener, plant: Plant, words: str
) -> None:
    db = opening()
    for faa in "ABC":
        db.put(AIRPORTS, airport(faa, "Rome"))
    assert list(db.admin.check(deep=True)) == []
    batch = db.tables.target.batch()
    plant(db, batch)
    db.tables.target.write(batch)
    found = list(db.admin.check(deep=True))
    assert [problem for problem in found if problem.startswith("row airports/") and "log" in problem] == [
        words
    ]
    with pytest.raises(
        CorruptionError, match=r"airports; nothing was switched.*`everlog check --deep` names"
    ):
        db.admin.rebuild()
    db.close()


def test_deep_finds_nothing_where_rows_were_loaded_rewritten_and_deleted(opening: Opener) -> None:
    db = opening()
    db.load(ITEMS, (Item(id=number, text="x") for number in range(2000)))
    for number in range(50):
        db.put(ITEMS, Item(id=number, text="y"), durability="os")
        db.delete(ITEMS, number + 100, durability="os")
    declare(db, ITEMS, drop=("airports",))
    assert list(db.admin.check(deep=True)) == []


def test_a_log_with_a_hole_is_found(opening: Opener) -> None:
    db = opening()
    for number in range(5):
        db.put(ITEMS, Item(id=number))
    db.close()
    db = opening()
    db.engine.log.delete(keys.SEQ.pack(5))
    assert [problem for problem in db.admin.check() if "record 5 of the log is missing" in problem]
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
        assert started.wait(60)
        for _ in range(40):
            assert list(db.admin.check()) == []
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
    writes = [delete(info, info.encode_key(7)), delete(info, info.encode_key(700))]
    writes += [put(info.bind(Item), Item(id=number)) for number in (8, 800, 900)]
    assert WriteSetSource(source, {write.full: write for write in writes}).count(info, None, Span()) == 500
    assert db.count(ITEMS, start=400) == 100
    with db.transaction() as tx:
        tx.delete(ITEMS, 7)
        assert tx.count(ITEMS) == 498
    assert db.count(ITEMS) == 498
    with db.at(seq=db.head - 1) as then:
        assert then.count(ITEMS) == 499


class _Watched(View):
    """A view that records which keys are read, and that refuses reads of some ranges."""

    def __init__(self, view: View, read: list[bytes]) -> None:
        self._view, self._read = view, read

    def get(self, key: bytes) -> bytes | None:
        self._read.append(key)
        return self._view.get(key)

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Stored]:
        raise AssertionError("a range is read")

    def close(self) -> None:
        self._view.close()
