"""A second process reads while one writes. Here it is a second opening, with its own RocksDB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from everlog.store.database import Database
from everlog.store.errors import CorruptionError, OpenError
from everlog.store.process import Held
from everlog.store.rocks import engine
from everlog.store.rocks import files as rocks_files
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, TABLES, Item, airport, declare, items, open_flights


@pytest.fixture
def writer(opening: Opener) -> Database:
    db = opening()
    db.load(ITEMS, items(1, 1500))
    db.put(AIRPORTS, airport("JFK", "New York"))
    return db


@pytest.fixture
def reader(writer: Database, path: Path) -> Iterator[Database]:
    with Database(path, read_only=True) as db:
        yield db
        assert list(db.admin.check()) == []


def same(one: Database, other: Database) -> None:
    assert one.admin.hashes() == other.admin.hashes()
    counted = [
        [(table.name, table.rows, table.indexes) for table in db.admin.status().tables] for db in (one, other)
    ]
    assert counted[0] == counted[1]  # sizes on disk differ until the next flush
    assert [row.faa for row in one.scan(AIRPORTS.by_city)] == [
        row.faa for row in other.scan(AIRPORTS.by_city)
    ]
    assert list(one.scan(ITEMS, reverse=True, limit=20)) == list(other.scan(ITEMS, reverse=True, limit=20))


def test_it_sees_what_was_written_before_though_it_is_not_in_the_tables_files(
    writer: Database, reader: Database
) -> None:
    assert (reader.head, reader.uuid, reader.read_only) == (writer.head, writer.uuid, True)
    same(writer, reader)
    assert reader.log.read(0) == writer.log.read(0)


def test_refreshed_it_sees_what_was_written_since(writer: Database, reader: Database) -> None:
    before = reader.head
    writer.put(AIRPORTS, airport("JFK", "Idlewild"))
    writer.delete(ITEMS, 7)
    assert reader.get(ITEMS, 7) is not None
    assert reader.refresh() == writer.head == before + 2
    same(writer, reader)
    declare(writer, ITEMS, rows=[(ITEMS, Item(id=1, text="migrated"))])
    assert reader.refresh() == writer.head
    assert reader.schema.version == 2
    same(writer, reader)


def test_a_moment_stays_what_it_is_when_the_reader_is_refreshed(writer: Database, reader: Database) -> None:
    with reader.snapshot() as moment:
        before = list(reader.scan(ITEMS))
        writer.load(ITEMS, items(1, 1600, text="new"))
        writer.tables.flush()
        writer.engine.flush()
        assert reader.refresh() == writer.head
        assert list(reader.scan(ITEMS)) == items(1, 1600, text="new")
        assert list(moment.scan(ITEMS)) == before == items(1, 1500)
        assert list(moment.scan(ITEMS, reverse=True)) == before[::-1]


def test_it_goes_on_reading_though_the_files_under_it_are_replaced(
    writer: Database, reader: Database
) -> None:
    expected = reader.admin.hashes()
    for _ in range(3):
        writer.load(ITEMS, items(1, 1500, text="new"))
        writer.tables.flush()
        writer.engine.flush()
    writer.engine.data.compact_range(None, None)
    assert reader.admin.hashes() == expected
    assert reader.log.read(0) == writer.log.read(0, until=reader.head)
    reader.refresh()
    same(writer, reader)


def by_another(path: Path, other: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    other.rename(path)
    return "another directory is in this place now, and its own was moved to .*elsewhere"


def by_another_after_a_removal(path: Path, other: Path) -> str:
    shutil.rmtree(path)
    other.rename(path)
    return "another directory is in this place now, and its own was removed"


def by_the_files_of_another(path: Path, other: Path) -> str:
    for name in ("EVERLOG", "HEAD", "db"):
        here = path / name
        shutil.rmtree(here) if here.is_dir() else here.unlink()
        (other / name).rename(here)
    return "EVERLOG was replaced by another"


def by_other_rocksdb_files(path: Path, other: Path) -> str:
    shutil.rmtree(path / "db")
    (other / "db").rename(path / "db")
    return "db was replaced by another"


def by_nothing(path: Path, _: Path) -> str:
    shutil.rmtree(path)
    return "the directory was removed"


@pytest.mark.parametrize(
    "replaced",
    [by_another, by_another_after_a_removal, by_the_files_of_another, by_other_rocksdb_files, by_nothing],
)
@pytest.mark.parametrize("commits", [3, 30])  # fewer than the database has, and more
def test_it_reports_that_its_directory_was_replaced_and_shows_what_it_had_read(
    opening: Opener, path: Path, tmp_path: Path, replaced: Callable[[Path, Path], str], commits: int
) -> None:
    db = opening()
    for number in range(10):
        db.put(ITEMS, Item(id=number, text="own"))
    db.close()
    with open_flights(tmp_path / "other") as other:
        for number in range(commits):
            other.put(ITEMS, Item(id=100 + number, text="other"))
    reader = Database(path, read_only=True)
    words = replaced(path, tmp_path / "other")
    for _ in range(2):
        with pytest.raises(OpenError, match=f"{path}: {words}"):
            reader.refresh()
        assert [row.id for row in reader.scan(ITEMS)] == list(range(10))
        assert reader.get(ITEMS, 100) is None
        assert len(list(reader.past.log())) == reader.head
        assert reader.admin.status().head == reader.head
    reader.close()


def test_a_rebuild_of_the_writer_does_not_end_it(writer: Database, reader: Database) -> None:
    writer.admin.rebuild()
    writer.put(AIRPORTS, airport("LGA", "New York"))
    reader.refresh()
    same(writer, reader)


def test_a_snapshot_of_it_stays_what_it_was(writer: Database, reader: Database) -> None:
    with reader.snapshot() as snapshot:
        writer.load(ITEMS, items(1001, 3000, text="new"))
        reader.refresh()
        assert snapshot.count(ITEMS) == 1500
        assert reader.count(ITEMS) == 3000
        assert [row.text for row in snapshot.scan(ITEMS, start=1001, end=1002)] == ["text 1001"]


def test_readers_in_threads_never_see_it_go_back(writer: Database, reader: Database) -> None:
    stop = threading.Event()
    failed: list[Exception] = []

    def read() -> None:
        most = 0
        try:
            while not stop.is_set():
                found = reader.count(ITEMS, start=2000)
                assert found >= most
                assert sum(1 for _ in reader.scan(ITEMS, start=2000)) >= found
                most = found
        except Exception as error:  # noqa: BLE001  it would end the thread silently
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(2000, 2060):
        writer.put(ITEMS, Item(id=number), durability="os")
        reader.refresh()
    stop.set()
    thread.join()
    assert not failed


SCRIPT = """
import sys
from everlog.store.database import Database
from tests.store.models import *
with Database(sys.argv[1], read_only=True) as db:
    cities, problems = list(db.scan(AIRPORTS.by_city, "New York")), list(db.admin.check())
    print(db.head, db.count(ITEMS), len(cities), len(problems))
"""


def test_another_process_reads_while_this_one_writes(writer: Database, path: Path) -> None:
    for item in items(5000, 5050):
        writer.put(ITEMS, item)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split() == [str(writer.head), "1551", "1", "0"]
    assert len(TABLES) == len(writer.admin.status().tables)


@pytest.mark.long
def test_whoever_opens_while_a_writer_flushes_finds_a_whole_log(
    writer: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlog.store.log.HEAD_FILE_EVERY_S", 0)
    stop, flushes = threading.Event(), threading.Semaphore(0)  # some for each look: each makes a file

    def write() -> None:
        for number in count():
            writer.put(
                ITEMS, Item(id=number % 50, text=f"{number}"), durability="os" if number % 3 else "sync"
            )
            if not number % 7 and flushes.acquire(blocking=False):
                writer.engine.flush()
            if stop.is_set():
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(60):
            flushes.release(5)
            before = writer.head
            with Database(path, read_only=True) as reader:
                assert reader.head >= before
                assert [seq for seq, _ in reader.log.scan()] == list(range(1, reader.head + 1))
                reader.refresh()
                assert [seq for seq, _ in reader.log.scan()] == list(range(1, reader.head + 1))
    finally:
        stop.set()
        thread.join()


def test_whoever_opens_while_a_writer_rebuilds_finds_the_tables(
    writer: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live tables are replaced and dropped after the reader learned which ones they are: the writer does
    not wait for it, as where there are no locks."""
    monkeypatch.setattr(rocks_files, "FAMILIES_S", 0)
    attempts = count(1)

    def replaced(directory: str, options: Options, families: dict[str, Options], *how: Any) -> Rdict:
        if engine.LOG in families and next(attempts) <= 2:
            writer.admin.rebuild()
        return Rdict(directory, options, families, *how)

    monkeypatch.setattr(replaced, "list_cf", Rdict.list_cf, raising=False)
    monkeypatch.setattr(engine, "Rdict", replaced)
    with Database(path, read_only=True) as reader:
        same(writer, reader)
    assert next(attempts) == 4


OPENS = """
import sys
from everlog.store.database import Database
from everlog.store.rocks import engine
from tests.store.models import ITEMS
opened = engine.Rdict
def opening(directory, options, families, *how):
    if engine.LOG in families:  # it knows by now which tables are live
        print("opening", flush=True)
        sys.stdin.readline()
    return opened(directory, options, families, *how)
opening.list_cf = opened.list_cf
engine.Rdict = opening
with Database(sys.argv[1], read_only=True) as reader:
    print(reader.count(ITEMS), flush=True)
"""


def test_tables_are_not_dropped_while_a_reader_opens_them(
    writer: Database, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB crashes if it opens dropped tables of which some files are deleted, and others not yet."""
    for number in (1, 2):  # two files
        writer.put(ITEMS, Item(id=number, text="again"))
        writer.tables.flush()
        writer.engine.flush()
    for file in (path / "db").glob("*.sst"):
        (tmp_path / file.name).hardlink_to(file)
    waits = threading.Event()
    locks = rocks_files.locks

    def locked(held: Held, kind: int) -> bool:
        found = locks(held, kind)
        if not found:
            waits.set()
        return found

    monkeypatch.setattr(rocks_files, "locks", locked)
    monkeypatch.setattr(rocks_files, "FAMILIES_S", 600)
    words = [sys.executable, "-c", OPENS, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        rebuild = threading.Thread(target=writer.admin.rebuild)
        rebuild.start()
        while rebuild.is_alive() and not waits.wait(0.01):
            pass
        deleted = [file for file in sorted(tmp_path.glob("*.sst")) if not (path / "db" / file.name).exists()]
        for file in deleted[:-1]:  # as while they are being deleted
            (path / "db" / file.name).hardlink_to(file)
        output, _ = process.communicate("continue\n", timeout=60)
        assert process.returncode == 0
        assert output.split()[-1] == "1500"
    rebuild.join()
    with Database(path, read_only=True) as reader:
        same(writer, reader)


def test_a_writer_that_drops_tables_comes_before_later_readers(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    order = list[str]()

    def enter(name: str, alone: bool) -> None:
        with rocks_files.hold_families(tmp_path, alone=alone):
            order.append(name)

    drops = threading.Thread(target=enter, args=("writer", True))
    opens = threading.Thread(target=enter, args=("later reader", False))
    with rocks_files.hold_families(tmp_path, alone=False):
        drops.start()
        with suppress(BlockingIOError):
            while True:  # until the writer keeps readers out
                os.close(rocks_files.lock_directory(tmp_path))
        opens.start()
        assert not order
    drops.join()
    opens.join()
    assert order == ["writer", "later reader"]


def test_a_file_that_it_missed_hides_no_record_once_it_can_be_read(writer: Database, path: Path) -> None:
    """As when the writer merges a file into another one and deletes it, while a reader looks."""
    with Database(path, read_only=True) as reader:
        for turn in (1, 2, 3):
            writer.put(ITEMS, Item(id=turn, text="before"))
            before = set((path / "db").glob("*.sst"))
            writer.tables.flush()
            writer.engine.flush()
            writer.put(ITEMS, Item(id=1, text=f"turn {turn}"))
            missed = set((path / "db").glob("*.sst")) - before
            assert missed
            for file in missed:
                file.rename(path.parent / file.name)
            with suppress(CorruptionError):
                assert reader.refresh() < writer.head
            for file in missed:
                (path.parent / file.name).rename(file)
            assert reader.refresh() == writer.head
            assert reader.get(ITEMS, 1) == Item(id=1, text=f"turn {turn}")
            same(writer, reader)


REFRESHES = """
import sys
from everlog.store.database import Database
from tests.store.models import ITEMS
with Database(sys.argv[1], read_only=True) as reader:
    print("opened", flush=True)
    for line in sys.stdin:
        assert reader.refresh() >= int(line)
        assert reader.count(ITEMS) == sum(1 for _ in reader.scan(ITEMS))
        print("refreshed", flush=True)
"""


@pytest.mark.parametrize("times", [8, pytest.param(300, marks=pytest.mark.long)])
def test_tables_that_are_replaced_while_it_looks_are_found(writer: Database, path: Path, times: int) -> None:
    words = [sys.executable, "-c", REFRESHES, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        for turn in range(times):
            writer.put(ITEMS, Item(id=turn, text="before"))
            process.stdin.write(f"{writer.head}\n")
            process.stdin.flush()
            writer.admin.rebuild()  # while the reader looks
            assert process.stdout.readline() == "refreshed\n"
        process.stdin.close()
        assert process.wait(60) == 0
