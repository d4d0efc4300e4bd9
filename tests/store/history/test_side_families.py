"""Column families of projections beside the tables."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rocksdict import WriteBatch

from everlog.store.database import Database


def write(db: Database, key: bytes, value: bytes) -> None:
    found = db.engine.side("past")
    assert found is not None
    writes = WriteBatch(raw_mode=True)
    writes.set_default_column_family(found[1])
    writes[key] = value
    db.engine.write_data(writes)


def read(db: Database, key: bytes) -> bytes | None:
    found = db.engine.side("past")
    return None if found is None else found[0].get(key)


def test_it_is_made_when_it_is_asked_for_and_is_there_again(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        write(db, b"k", b"v")
        with Database(tmp_path / "db", read_only=True) as reader:
            assert read(reader, b"k") is None  # not flushed, and not in the write-ahead log
    with Database(tmp_path / "db", read_only=True) as reader:
        assert read(reader, b"k") == b"v"
    with Database(tmp_path / "db") as db:
        assert read(db, b"k") == b"v"
        db.engine.drop_side("past")
        assert read(db, b"k") is None


def test_a_reader_does_without_one_that_was_never_made(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        with Database(tmp_path / "db", read_only=True) as reader:
            assert reader.engine.side("past") is None
        assert list(db.admin.check()) == []


def test_threads_that_ask_for_it_at_once_get_one(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db, ThreadPoolExecutor(8) as threads:
        for turn in range(20):
            together = threading.Barrier(8)

            def ask(_: int, name: str = f"side-{turn}", together: threading.Barrier = together) -> int:
                together.wait()
                return id(db.engine.side(name))

            assert len(set(threads.map(ask, range(8)))) == 1
