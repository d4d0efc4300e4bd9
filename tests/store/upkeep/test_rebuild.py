"""Rebuilding the tables from the log: equal, switched at once, and without a trace if it fails."""

from __future__ import annotations

import os
import threading

import pytest

from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.progress import Progress
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, Item, airport, items


def fill(db: Database) -> None:
    db.load(ITEMS, items(1, 3000))
    for number in range(50):
        db.put(AIRPORTS, airport(f"A{number}", city=f"c{number % 7}", icao=f"i{number}"), durability="os")
    for number in range(0, 50, 3):
        db.delete(AIRPORTS, f"A{number}", durability="os")
    db.put(AIRPORTS, airport("A1", city="moved", icao="i0"))


def families(db: Database) -> list[str]:
    from rocksdict import Options, Rdict

    return sorted(Rdict.list_cf(str(db.path / "db"), Options(raw_mode=True)))


def test_rebuilt_tables_are_equal_and_take_the_place_of_the_old(opening: Opener) -> None:
    db = opening()
    fill(db)
    before, told = db.admin.hashes(), list[Progress]()
    with db.snapshot() as held:
        assert db.admin.rebuild(told.append) == before == db.admin.hashes()
        assert held.count(ITEMS) == 3000
        assert held.get(AIRPORTS, "A1") is not None
    assert {one.step for one in told} >= {"rebuild"}
    assert list(db.admin.check()) == []
    db.put(AIRPORTS, airport("NEW", city="moved"))
    assert [row.faa for row in db.scan(AIRPORTS.by_city, "moved")] == ["A1", "NEW"]
    after = db.admin.hashes()
    assert families(db) == ["data-2", "default", "log"]
    db.close()
    db = opening()
    assert db.admin.hashes() == after
    assert db.admin.rebuild() == after
    assert families(db) == ["data-3", "default", "log"]


def test_a_snapshot_of_before_reads_on_after_its_tables_were_dropped(opening: Opener) -> None:
    db = opening()
    fill(db)
    with db.snapshot() as held:
        before = list(held.scan(ITEMS))
        for _ in range(4):  # reads of tables whose memory was freed crash, or not, by chance
            db.admin.rebuild()
            db.put(ITEMS, Item(id=1, n=1))
            assert list(held.scan(ITEMS)) == before
            assert list(held.scan(ITEMS, reverse=True)) == before[::-1]


def test_the_disk_of_the_old_tables_is_freed(opening: Opener) -> None:
    db = opening()
    for _ in range(3):
        db.load(ITEMS, [Item(id=n, text=os.urandom(500).hex()) for n in range(2000)])
    db.close()
    db = opening()
    before = db.disk_bytes()
    for _ in range(3):
        db.admin.rebuild()
    db.close()
    db = opening()
    if (freeing := db.log.merger.start()) is not None:  # memory that closing did not free
        freeing.join()
    assert db.disk_bytes() < before * 1.2


def test_writers_go_on_meanwhile(opening: Opener) -> None:
    db = opening()
    fill(db)
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        number = 10_000
        while not stop.is_set():
            number += 1
            with db.transaction(durability="os") as tx:
                tx.put(ITEMS, Item(id=number))
                tx.put(AIRPORTS, airport("W", city=str(number)))
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 10:
            pass
        for _ in range(3):
            db.admin.rebuild()
    finally:
        stop.set()
        writer.join()
    assert db.count(ITEMS, start=10_001) == len(written)
    found = db.get(AIRPORTS, "W")
    assert found is not None
    assert found.city == str(written[-1])
    db.close()
    db = opening()
    assert db.count(ITEMS, start=10_001) == len(written)


def test_tables_that_differ_from_the_log_are_not_switched(opening: Opener) -> None:
    db = opening()
    fill(db)
    info = db.schema.table("items")
    full = info.row_prefix + info.encode_key(7)
    db.tables.flush()
    batch = db.tables.target.batch()
    batch[full] = keys.pack_value(3, Item(id=7, text="planted").SerializeToString())
    db.tables.target.write(batch)
    with pytest.raises(
        CorruptionError, match="these tables differ from the log: items; nothing was switched"
    ):
        db.admin.rebuild()
    assert families(db) == ["data-1", "default", "log"]
    found = db.get(ITEMS, 7)
    assert found is not None
    assert found.text == "planted"


def test_a_damaged_record_stops_a_rebuild_and_is_named(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening()
    for number in range(5):
        db.put(ITEMS, Item(id=number))
    db.close()
    db = opening()
    framed = bytearray(db.log.get(4))
    framed[-7] ^= 1
    db.engine.append_record(keys.SEQ.pack(4), bytes(framed))
    with pytest.raises(
        CorruptionError, match="record 4 of the log is damaged: its checksum does not"
    ) as caught:
        db.admin.rebuild()
    assert caught.value.seq == 4
    assert db.count(ITEMS) == 5
    assert families(db) == ["data-1", "default", "log"]
    assert [problem for problem in db.admin.check() if "record 4" in problem]
    db.close()
