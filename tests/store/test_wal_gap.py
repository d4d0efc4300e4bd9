"""A gap at the end of the log: a power failure lost records that were not on disk, but not later ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.keys import SEQ
from everlog.store.rocks.engine import Engine
from tests.store.models import ITEMS, Item, open_flights

BEFORE, HOLE, AFTER = (
    5,
    3,
    6,
)  # number of rows before; the first later row is missing; number of later rows


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    """Return a database whose last writes reached the disk in part: one of the first is missing."""
    path, whole = tmp_path / "db", tmp_path / "whole"
    with open_flights(path, ITEMS) as db:
        for number in range(BEFORE):
            db.put(ITEMS, Item(id=number))
    shutil.copytree(path, whole)
    with Database(whole) as db:
        for number in range(BEFORE, BEFORE + AFTER):
            db.put(ITEMS, Item(id=number))
        more = [(seq, framed) for seq, framed in db.log.scan(db.head - AFTER)]
    del more[HOLE]
    engine = Engine(path)
    for seq, framed in more:
        engine.append_record(SEQ.pack(seq), framed)
    engine.sync_log()
    engine.close()
    return path


def test_what_is_behind_it_goes_when_it_is_opened_and_is_told(
    holed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Database(holed) as db:
        assert "was lost in a power failure before it was on disk" in caplog.text
        assert db.count(ITEMS) == BEFORE + HOLE
        assert list(db.admin.check()) == []
        again = db.put(ITEMS, Item(id=100)).seq
    with Database(holed) as db:
        assert (db.head, db.count(ITEMS)) == (again, BEFORE + HOLE + 1)
        assert list(db.admin.check()) == []
        db.admin.rebuild()
        db.log.merger.start()
        assert [seq for seq, _ in db.log.scan()] == list(range(1, again + 1))


def test_a_reader_ends_before_it(holed: Path) -> None:
    with Database(holed, read_only=True) as reader:
        assert reader.count(ITEMS) == BEFORE + HOLE
        assert list(reader.admin.check()) == []


def test_one_in_what_was_known_to_be_on_disk_is_damage(holed: Path) -> None:
    with Database(holed) as db:
        for number in range(200, 210):
            db.put(ITEMS, Item(id=number))
        last = db.head
    engine = Engine(holed)
    engine.log.delete(SEQ.pack(last - 2))
    engine.close()
    with Database(holed) as db:
        assert db.head == last
        assert [one for one in db.admin.check() if f"record {last - 2} of the log is missing" in one]
        with pytest.raises(CorruptionError):
            db.admin.rebuild()
