"""The behaviour of rocksdict and RocksDB on which the store relies. A new version must keep it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rocksdict import AccessType, DbClosedError, DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions

Maker = Callable[..., Rdict]
TAIL = DBRecoveryMode.tolerate_corrupted_tail_records


def options(mode: DBRecoveryMode | None = None) -> Options:
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.create_missing_column_families(True)
    made.set_wal_recovery_mode(mode or TAIL())
    return made


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    opened: list[Rdict] = []

    def open_it(name: str = "db", *families: str, mode: DBRecoveryMode | None = None) -> Rdict:
        every = {one: options() for one in ("default", *families)}
        db = Rdict(str(tmp_path / name), options(mode), every)
        opened.append(db)
        return db

    yield open_it
    for db in opened:
        with contextlib.suppress(DbClosedError):
            db.close()


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def filled(db: Rdict, count: int = 5000) -> Rdict:
    for value in range(count):
        db[number(value)] = b"value %d" % value * 8
    return db


def flip(file: Path, at: float) -> None:
    raw = bytearray(file.read_bytes())
    raw[int(len(raw) * at)] ^= 0x10
    file.write_bytes(raw)


def test_items_end_silently_at_a_damaged_block_where_get_and_status_raise(
    make: Maker, tmp_path: Path
) -> None:
    db = filled(make())
    db.flush()
    db.close()
    (table,) = (tmp_path / "db").glob("*.sst")
    flip(table, 0.5)
    db = make()
    for found in (list(db.items()), list(db.keys()), list(db.values())):
        assert 0 < len(found) < 5000
    cursor = db.iter()
    cursor.seek_to_first()
    read = 0
    while cursor.valid():
        read += 1
        cursor.next()
    with pytest.raises(Exception, match="Corruption"):
        cursor.status()
    with pytest.raises(Exception, match="Corruption"):
        db.get(number(read))


def test_a_snapshot_finds_keys_of_its_moment_and_iterates_over_the_newest(make: Maker) -> None:
    db = make()
    db[b"a"], db[b"b"] = b"1", b"1"
    snapshot, cursor = db.snapshot(), db.iter()
    db[b"a"] = b"2"
    db[b"c"] = b"2"
    assert snapshot[b"a"] == b"1"
    with pytest.raises(Exception, match=r"^key not found$") as caught:
        snapshot[b"c"]
    assert type(caught.value) is Exception
    assert list(snapshot.items()) == list(db.items()) == [(b"a", b"2"), (b"b", b"1"), (b"c", b"2")]
    del caught

    cursor.seek(b"a")
    assert (cursor.key(), cursor.value()) == (b"a", b"1")
    cursor.seek(b"c")
    assert cursor.key() is None
    assert not cursor.valid()


def test_an_iterator_is_of_the_moment_when_it_was_made(make: Maker) -> None:
    db = filled(make(), 100)
    rows = iter(db.items())
    for value in range(100):
        del db[number(value)]
    assert len(list(rows)) == 100


def test_backwards_starts_at_or_before_its_key(make: Maker) -> None:
    db = make()
    for key in (b"a", b"c", b"e"):
        db[key] = b""
    assert [key for key, _ in db.items(backwards=True, from_key=b"d")] == [b"c", b"a"]
    assert [key for key, _ in db.items(backwards=True, from_key=b"c")] == [b"c", b"a"]
    assert [key for key, _ in db.items(from_key=b"b")] == [b"c", b"e"]


def test_the_lock_is_held_for_as_long_as_an_iterator_or_a_snapshot_lives(make: Maker) -> None:
    for hold in ("iter", "items", "snapshot"):
        db = filled(make(), 10)
        held: Any = getattr(db, hold)()
        db.close()
        with pytest.raises(Exception, match="lock hold by current process"):
            make()
        del held
        make().close()


def test_a_family_that_is_closed_and_dropped_serves_its_iterators_and_snapshots(
    make: Maker, tmp_path: Path
) -> None:
    """As long as its handle is kept: without it, a seek reads freed memory."""
    db = make("db", "old")
    handle = db.get_column_family_handle("old")
    old = filled(db.get_column_family("old"), 20_000)
    old.flush()
    snapshot, cursor = old.snapshot(), old.iter()

    def disk() -> int:
        return sum(file.stat().st_size for file in (tmp_path / "db").glob("*.sst"))

    before = disk()
    old.close()
    db.drop_column_family("old")
    assert snapshot[number(7)].startswith(b"value 7")
    cursor.seek(number(9))
    assert cursor.key() == number(9)
    assert disk() == before
    del snapshot, cursor, handle
    assert disk() < before / 10


@pytest.mark.parametrize("at", [0.5, 0.999])
def test_damage_in_a_write_ahead_log_is_told(make: Maker, tmp_path: Path, at: float) -> None:
    db = filled(make())
    db.flush_wal(True)
    shutil.copytree(tmp_path / "db", tmp_path / "killed")
    (log,) = (tmp_path / "killed").glob("*.log")
    flip(log, at)
    with pytest.raises(Exception, match="Corruption"):
        make("killed")
    skipping = make("killed", mode=DBRecoveryMode.skip_any_corrupted_record())
    assert 2000 < len(list(skipping.items())) < 5000


def test_a_write_ahead_log_that_is_cut_or_gone_is_not_missed(make: Maker, tmp_path: Path) -> None:
    """This is the purpose of the file HEAD."""
    db = filled(make())
    db.flush_wal(True)
    for name, size in (("cut", 0.5), ("gone", 0)):
        shutil.copytree(tmp_path / "db", tmp_path / name)
        (log,) = (tmp_path / name).glob("*.log")
        raw = log.read_bytes()
        log.unlink()
        if size:
            log.write_bytes(raw[: int(len(raw) * size)])
        found = len(list(make(name).items()))
        assert 0 < found < 4000 if size else not found


def test_a_write_without_the_log_is_lost_with_the_process_and_kept_by_a_flush(
    make: Maker, tmp_path: Path
) -> None:
    db = make()
    without = WriteOptions()
    without.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; its stub is wrong
    batch = WriteBatch(raw_mode=True)
    batch[b"a"] = b"1"
    db.write(batch, without)
    shutil.copytree(tmp_path / "db", tmp_path / "killed")
    assert list(make("killed").keys()) == []
    db.flush()
    shutil.copytree(tmp_path / "db", tmp_path / "flushed")
    assert list(make("flushed").keys()) == [b"a"]


def test_a_secondary_cannot_catch_up_past_a_family_that_it_does_not_know(make: Maker, tmp_path: Path) -> None:
    db = make("db", "old")
    secondary = Rdict(
        str(tmp_path / "db"),
        options(),
        {"default": options(), "old": options()},
        AccessType.secondary(str(tmp_path / "secondary")),
    )
    db[b"a"] = b"1"
    secondary.try_catch_up_with_primary()
    assert secondary[b"a"] == b"1"
    new = db.create_column_family("new", options())
    new[b"x"] = b"1"
    new.flush()
    db.drop_column_family("old")
    with pytest.raises(Exception, match="unknown column family"):
        secondary.try_catch_up_with_primary()
    secondary.close()
    new.close()


def test_opening_writes_a_file_and_makes_directories(make: Maker, tmp_path: Path) -> None:
    make("new/deep").close()
    config: Any = json.loads((tmp_path / "new/deep/rocksdict-config.json").read_text())
    assert config["raw_mode"] is True
