"""Records that are archived while a snapshot reads them are freed when the snapshot is closed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlog.audit.archive import archive
from everlog.store import log
from everlog.store.database import Database
from tests.audit.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, Item, declare

ROWS, BYTES = 120, 20_000
LITTLE = ROWS * BYTES // 4


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "HELD_S"):
        monkeypatch.setattr(log, name, 0.01)


def fill(db: Database) -> None:
    for number in range(ROWS):
        last = number == ROWS - 1  # records that are not durable are not archived
        text = os.urandom(BYTES).hex()
        db.put(ITEMS, Item(id=number, text=text), durability="sync" if last else "os")
    db.tables.flush()
    db.engine.flush()


def snapshot(db: Database) -> Any:
    return db.snapshot()


def transaction(db: Database) -> Any:
    tx = db.transaction()
    tx.get(ITEMS, 1)
    return tx


def scan(db: Database) -> Any:
    rows = db.scan(ITEMS)
    next(rows)
    return rows


HELD = [snapshot, transaction, scan]


def smaller(size: Callable[[], int], than: int) -> None:
    until = time.monotonic() + 60
    while size() >= than:
        assert time.monotonic() < until, f"{size():,} bytes are left"
        threading.Event().wait(0.01)


@pytest.mark.parametrize("hold", HELD)
def test_what_was_archived_is_freed_once_it_is_released(
    opening: Opener, tmp_path: Path, hold: Callable[[Database], Any]
) -> None:
    db = opening()
    fill(db)
    held = [hold(db)]
    done = archive(db, tmp_path / "old")
    assert done.removed > ROWS
    assert db.engine.log_bytes() > LITTLE, "it is held"
    held.clear()
    smaller(db.engine.log_bytes, LITTLE)


@pytest.mark.parametrize("hold", HELD)
def test_a_table_that_was_dropped_is_freed_once_it_is_released(
    opening: Opener, hold: Callable[[Database], Any]
) -> None:
    db = opening()
    fill(db)
    held = [hold(db)]
    before = db.schema.proto
    declare(db, AIRPORTS, drop=("items",))
    db.reclaim(before)
    assert db.engine.data_bytes() > LITTLE
    held.clear()
    smaller(db.engine.data_bytes, LITTLE)


def test_rows_that_were_deleted_are_freed_with_the_next_look(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening()
    fill(db)
    held = [snapshot(db)]
    with db.transaction() as tx:
        for number in range(ROWS):
            tx.delete(ITEMS, number)
    db.tables.flush()
    db.engine.flush()
    assert db.engine.data_bytes() > LITTLE
    held.clear()
    monkeypatch.setattr(log, "EVERY_S", 0)
    monkeypatch.setattr("everlog.store.log.HEAD_FILE_EVERY_S", 0)
    db.put(ITEMS, Item(id=1))
    smaller(db.engine.data_bytes, LITTLE)


def test_it_is_freed_when_it_is_closed_and_when_a_killed_one_is_opened_again(
    opening: Opener, tmp_path: Path, path: Path
) -> None:
    db = opening()
    fill(db)
    held = snapshot(db)
    archive(db, tmp_path / "old")
    shutil.copytree(path, tmp_path / "killed")
    db.close()
    db = opening()
    assert db.engine.log_bytes() < LITTLE
    again = opening(at=tmp_path / "killed")
    smaller(again.engine.log_bytes, LITTLE)
    held.close()
