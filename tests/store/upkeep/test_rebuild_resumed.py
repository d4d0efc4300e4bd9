"""Killed rebuilds resume where they stopped, if the remaining tables are of the same log."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import Error, OpenError
from everlog.store.progress import Progress
from everlog.store.tables.projection import CODE
from everlog.store.upkeep.rebuild import is_half
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item, items
from tests.store.upkeep.test_rebuild import families

ROWS = 12_000
SCRIPT = """
import os, signal, sys
from everlog.store.progress import Progress
from everlog.store.tables.projection import CODE
from tests.store.models import *
db = open_flights(Path(sys.argv[1]))
step, share, into = sys.argv[2], float(sys.argv[3]), sys.argv[4:]
def die(at: Progress) -> None:
    if at.step.startswith(step) and at.done >= share * (at.total or 0):
        if not into:  # as RocksDB does by itself, at some time earlier
            db.engine._db.get_column_family(db.engine.next_name).flush()
        os.kill(os.getpid(), signal.SIGKILL)
db.admin.rebuild_into(into[0], die) if into else db.admin.rebuild(die)
"""


@pytest.fixture
def filled(opening: Opener) -> Database:
    db = opening()
    for start in range(1, ROWS, 200):
        db.load(ITEMS, items(start, start + 199, "x" * 300))
    db.put(ITEMS, Item(id=1, text="again"), expires=4 * 10**18)
    return db


def killed(db: Database, *words: str) -> None:
    db.close()
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(db.path), *words], check=False, timeout=100)
    assert run.returncode == -signal.SIGKILL


def told(steps: list[Progress]) -> int:
    """Return the first record in a rebuild's progress."""
    return next(at.done for at in steps if at.step == "rebuild")


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize(("step", "share"), [("rebuild", "0.8"), ("compare tables", "0")])
def test_a_rebuild_that_is_killed_goes_on_where_it_was(
    opening: Opener, filled: Database, step: str, share: str
) -> None:
    before = filled.admin.hashes()
    killed(filled, step, share)
    db, steps = opening(), list[Progress]()
    assert db.admin.hashes() == before
    assert families(db) == ["data-1", "data-2", "default", "log"]
    db.put(ITEMS, Item(id=7, text="since"))
    now = db.admin.hashes()
    assert db.admin.rebuild(steps.append) == now
    assert told(steps) > 0.5 * db.head
    assert families(db) == ["data-2", "default", "log"]
    assert list(db.admin.check()) == []


@pytest.mark.long
def test_what_was_begun_by_other_code_or_of_another_log_is_begun_anew(
    opening: Opener, filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(filled, "rebuild", "0.8")
    db, steps = opening(), list[Progress]()
    monkeypatch.setattr("everlog.store.upkeep.rebuild.CODE", b"0")
    assert db.admin.rebuild(steps.append) == db.admin.hashes()
    assert told(steps) < 0.2 * db.head
    monkeypatch.undo()
    killed(db, "rebuild", "0.8")
    db, steps = opening(), []
    left, handle = db.engine.next_family(CODE)
    left[keys.NOTE_APPLIED] = keys.APPLIED.pack(9, 123)
    del left, handle
    assert db.admin.rebuild(steps.append) == db.admin.hashes()
    assert told(steps) < 0.2 * db.head
    assert list(db.admin.check()) == []


def test_what_a_killed_rebuild_left_costs_no_more_than_it_had_written(
    opening: Opener, filled: Database
) -> None:
    filled.close()
    before = size(filled.path)
    for _ in range(2):
        killed(filled, "rebuild", "0.5")
    assert size(filled.path) < before * 2
    opening()


def test_one_rebuild_at_a_time(opening: Opener) -> None:
    db, refused = opening(), list[str]()
    db.load(ITEMS, items(1, 100))

    def second(progress: Progress) -> None:
        def rebuild() -> None:
            with pytest.raises(Error, match="are being rebuilt already") as caught:
                db.admin.rebuild()
            refused.append(str(caught.value))

        thread = threading.Thread(target=rebuild)
        thread.start()
        thread.join()

    db.admin.rebuild(second)
    assert refused


def test_a_rebuild_into_a_directory_that_is_killed_goes_on_where_it_was(
    opening: Opener, filled: Database, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for number in range(1100):
        filled.put(ITEMS, Item(id=100_000 + number), durability="os")
    killed(filled, "rebuild", "0.6", str(copy))
    with pytest.raises(OpenError, match="a rebuild into it is running or was killed"):
        Database(copy)
    assert is_half(copy)
    db, steps = opening(), list[Progress]()
    db.put(ITEMS, Item(id=7, text="since"))
    assert db.admin.rebuild_into(copy, steps.append) == db.admin.hashes()
    assert told(steps) > 0.6 * db.head
    other = opening(at=copy)
    assert other.log.read(0, 1 << 30) == db.log.read(0, 1 << 30)


def test_a_directory_that_was_begun_for_later_or_for_another_database_is_begun_anew(
    opening: Opener, filled: Database, tmp_path: Path
) -> None:
    copy, third = tmp_path / "copy", opening(at=tmp_path / "third")
    for number in range(1100):
        filled.put(ITEMS, Item(id=100_000 + number), durability="os")
    killed(filled, "rebuild", "0.6", str(copy))
    assert third.admin.rebuild_into(copy) == third.admin.hashes()
    again: Any = tmp_path / "again"
    killed(filled, "rebuild", "0.6", str(again))
    db = opening()
    db.admin.rebuild_into(again, seq=40)
    assert opening(at=again).head == 40


@pytest.mark.parametrize("seq", [3, 40])
def test_a_database_is_rebuilt_as_it_was(opening: Opener, filled: Database, tmp_path: Path, seq: int) -> None:
    was = filled.at(seq=seq)
    time_ns = filled.log.commit(seq).time_ns
    found = filled.admin.rebuild_into(tmp_path / "then", seq=seq)
    assert found == was.hashes()
    assert filled.admin.rebuild_into(tmp_path / "time", time=time_ns) == found
    with opening(at=tmp_path / "then") as other:
        assert (other.uuid, other.head) == (filled.uuid, seq)
        assert other.log.checksum_at(seq) == filled.log.checksum_at(seq)
        assert list(other.admin.check()) == []
