"""The log has few files, however often a database is opened for one commit, or flushed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.log import LARGEST, LEAST, to_merge
from everlog.store.rocks.engine import LOG_FILE_BYTES
from tests.store.models import ITEMS, Item, open_flights


@pytest.mark.long
def test_a_database_that_is_opened_for_one_commit_at_a_time_has_few_files(tmp_path: Path) -> None:
    open_flights(tmp_path, ITEMS).close()
    most = 0
    for number in range(60):
        with Database(tmp_path) as db:
            db.put(ITEMS, Item(id=number, text="x" * 100))
            most = max(most, len(db.engine.log_files()))
    assert most <= 2 * LEAST
    with Database(tmp_path) as db:
        assert db.count(ITEMS) == 60
        assert [seq for seq, _ in db.log.scan()] == list(range(1, db.head + 1))
        assert list(db.admin.check()) == []
        db.admin.rebuild()


def test_one_that_stays_open_merges_beside_its_writers(tmp_path: Path) -> None:
    with open_flights(tmp_path, ITEMS) as db:
        for number in range(20):
            db.put(ITEMS, Item(id=number))
            db.engine.flush()
        db.put(ITEMS, Item(id=20))
        # If this took half a minute, a commit may have merged some already.
        while (thread := db.log.merger.start()) is not None and thread.is_alive():
            thread.join()
        assert thread is not None
        assert len(db.engine.log_files()) < LEAST
        assert not to_merge([size for size, _, _ in db.engine.log_files()])
        assert [seq for seq, _ in db.log.scan()] == list(range(1, db.head + 1))


def test_a_reader_beside_sees_the_same_log_before_and_after(tmp_path: Path) -> None:
    with open_flights(tmp_path, ITEMS) as db:
        for number in range(20):
            db.put(ITEMS, Item(id=number))
            db.engine.flush()
        with Database(tmp_path, read_only=True) as reader:
            before = list(reader.log.scan())
            files = db.engine.log_files()
            db.engine.merge_log(files[0][1], files[-1][2])
            assert list(reader.log.scan()) == before
            db.put(ITEMS, Item(id=20))
            reader.refresh()
            assert len(list(reader.log.scan())) == len(before) + 1


def test_each_record_is_copied_some_few_times_at_most() -> None:
    chance, sizes = random.Random(1), list[int]()
    written = copied = 0
    for _ in range(5000):
        size = chance.choice((1_200, 1_200, 1_200, 40_000, 9 << 20))
        sizes.append(size)
        written += size
        while run := to_merge(sizes):
            whole = sum(sizes[run.start : run.stop])
            assert len(run) >= LEAST
            assert max(sizes[run.start : run.stop]) * LARGEST <= whole <= LOG_FILE_BYTES
            copied += whole
            sizes[run.start : run.stop] = [whole]
    assert copied < 2 * written
    assert len(sizes) < 2 * LEAST + written // (LOG_FILE_BYTES // 2)
