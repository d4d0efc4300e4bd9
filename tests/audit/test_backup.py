"""Backup: the log as segments, incremental, and complete at every moment."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from everlog.audit import backup, restore, verify_backup
from everlog.audit import manifest as manifests
from everlog.audit.backup import to_merge
from everlog.audit.place import place
from everlog.audit.reader import Reader
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, OpenError
from everlog.store.progress import Progress
from tests.audit.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, airport, items


def fill(db: Database, first: int, last: int) -> None:
    for row in items(first, last):
        db.put(ITEMS, row)


def test_a_backup_has_every_record_of_the_log_byte_for_byte(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    done = backup(db, to)
    assert (done.first, done.last, done.records, done.segments) == (1, db.head, db.head, 1)
    assert list(verify_backup(to, deep=True)) == []
    reader = Reader(place(to), manifests.needed(place(to)))
    assert b"".join(block.data for block in reader.blocks(0, db.head)) == db.log.read(0, 1 << 30)[0]
    assert [reader.get(seq) for seq in (1, 7, db.head)] == [db.log.get(seq) for seq in (1, 7, db.head)]
    assert b"".join(block.data for block in reader.blocks(4, 9)) == db.log.read(4, 1 << 30, 9)[0]


def test_the_next_backup_writes_what_is_new_and_no_more(db: Database, to: Path) -> None:
    db.load(ITEMS, items(1, 20_000))
    first = backup(db, to)
    before = {file.name: file.stat().st_mtime_ns for file in to.glob("*.zst")}
    db.put(ITEMS, *items(20_001, 20_001))
    second = backup(db, to)
    assert (second.first, second.last) == (first.last + 1, db.head)
    assert second.written_bytes < first.written_bytes / 10
    assert {name: (to / name).stat().st_mtime_ns for name in before} == before
    nothing = backup(db, to)
    assert (nothing.records, nothing.written_bytes) == (0, 0)
    assert list(verify_backup(to, deep=True)) == []


def test_many_small_backups_become_few_segments(db: Database, to: Path) -> None:
    written = 0
    for number in range(1, 60):
        db.put(ITEMS, *items(number, number))
        written += backup(db, to).written_bytes
        assert len(list(to.glob("*.zst"))) < 16
    assert list(verify_backup(to, deep=True)) == []
    assert restore(to, to.with_name("copy")).seq == db.head


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([], 0),
        ([1] * 7, 0),
        ([1] * 8, 8),
        ([50 << 20, *[1] * 8], 8),
        ([400 << 10] * 7 + [1] * 8, 15),
        ([400 << 10] * 6 + [100 << 10], 0),
        ([40 << 20] * 20, 0),
    ],
)
def test_segments_are_merged_when_eight_are_of_a_size(sizes: list[int], merged: int) -> None:
    assert to_merge(sizes) == merged


def test_writers_go_on_while_a_backup_is_made(db: Database, to: Path) -> None:
    stop = threading.Event()
    fill(db, 1, 100)

    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            db.put(ITEMS, *items(number, number))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        heads = [backup(db, to).last for _ in range(5)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert heads == sorted(heads)
    assert list(verify_backup(to, deep=True)) == []
    restored = restore(to, to.with_name("copy"))
    assert restored.seq == heads[-1]
    assert restored.proven


def test_a_backup_is_made_by_a_second_process_that_reads(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 20)
    with Database(db.path, read_only=True) as beside:
        assert backup(beside, to).last == db.head
    assert restore(to, to.with_name("copy")).tables == db.admin.hashes()


class Stopped(BaseException):
    """Stands for Ctrl-C."""


def test_an_interrupted_backup_leaves_what_was_there_and_the_next_goes_on(db: Database, to: Path) -> None:
    fill(db, 1, 20)
    before = backup(db, to).last
    fill(db, 21, 40)

    def stop(progress: Progress) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        backup(db, to, progress=stop)
    assert manifests.needed(place(to)).head.seq == before
    assert list(verify_backup(to, deep=True)) == []
    assert backup(db, to).last == db.head


def test_what_a_killed_backup_left_is_removed_by_the_next(db: Database, to: Path) -> None:
    fill(db, 1, 20)
    backup(db, to)
    left = [
        "0000000000000900-0000000000000999.zst",
        "BACKUP.new",
        "0000000000000900-0000000000000999.zst.new",
    ]
    for name in left:
        (to / name).write_bytes(b"half")
    backup(db, to)
    assert not [name for name in left if (to / name).exists()]


def test_the_backup_of_another_database_is_refused(opening: Opener, to: Path) -> None:
    backup(opening(), to)
    other = opening(at=to.with_name("other"))
    with pytest.raises(OpenError, match=r"this is a backup of database .*, not of"):
        backup(other, to)


def test_a_backup_that_is_newer_than_the_database_or_has_diverged_is_refused(
    opening: Opener, to: Path
) -> None:
    db = opening()
    fill(db, 1, 20)
    early = db.head
    fill(db, 21, 40)
    backup(db, to)
    restore(to, to.with_name("back"), at=early)
    back = opening(at=to.with_name("back"))
    with pytest.raises(OpenError, match=f"goes up to record {db.head}, the database only to {early}"):
        backup(back, to)
    fill(back, 100, 130)
    with pytest.raises(
        OpenError, match=f"record {db.head}, the last of the backup, differs from .* diverged"
    ):
        backup(back, to)
    assert list(verify_backup(to)) == []


def test_a_directory_of_something_else_is_no_backup(db: Database, to: Path) -> None:
    to.mkdir()
    (to / "letter.txt").write_text("dear")
    with pytest.raises(OpenError, match=r"is not a backup: it has no file BACKUP, but letter\.txt"):
        backup(db, to)
    with pytest.raises(OpenError, match="there is no directory"):
        restore(to.with_name("nowhere"), to.with_name("copy"))
    with pytest.raises(OpenError, match="expected the directory of a backup, found a file"):
        backup(db, to / "letter.txt")


def test_one_backup_into_a_directory_at_a_time(db: Database, to: Path) -> None:
    refused = []

    def second(progress: Progress) -> None:
        with pytest.raises(OpenError, match="another process writes to"):
            backup(db, to)
        refused.append(progress)

    backup(db, to, progress=second)
    assert refused


@pytest.mark.parametrize("at", range(0, 1000, 97))
def test_a_bit_that_flips_in_a_backup_is_found_and_the_file_named(db: Database, to: Path, at: int) -> None:
    fill(db, 1, 20)
    backup(db, to)
    (file,) = to.glob("*.zst")
    data = bytearray(file.read_bytes())
    data[at * len(data) // 1000] ^= 0x10
    file.write_bytes(data)
    found = list(verify_backup(to, deep=True))
    assert found
    assert all(file.name in problem for problem in found)
    with pytest.raises(CorruptionError, match=file.name):
        restore(to, to.with_name("copy"))
    assert not to.with_name("copy").exists()


def test_a_damaged_record_in_the_log_is_not_taken_into_a_backup(db: Database, to: Path) -> None:
    fill(db, 1, 20)
    framed = bytearray(db.log.get(9))
    framed[-8] ^= 1
    db.engine.append_records([((9).to_bytes(8, "big"), bytes(framed))])
    db.log._recent.clear()  # noqa: SLF001  as after opening
    with pytest.raises(CorruptionError, match="record 9 is damaged: its checksum does not match"):
        backup(db, to)
    framed[-8] ^= 1
    db.engine.append_records([((9).to_bytes(8, "big"), bytes(framed))])


def test_a_segment_that_is_gone_is_named(db: Database, to: Path) -> None:
    fill(db, 1, 20)
    backup(db, to)
    (file,) = to.glob("*.zst")
    file.unlink()
    assert [file.name in problem for problem in verify_backup(to)] == [True]


def test_rows_of_every_table_are_hashed_with_a_small_backup(db: Database, to: Path) -> None:
    db.put(AIRPORTS, airport("JFK", "New York"))
    backup(db, to)
    found = manifests.needed(place(to)).hashes
    assert found is not None
    assert found.seq == db.head
    assert found.tables == {name: (one.rows, one.hash.hex()) for name, one in db.admin.hashes().items()}
    db.put(AIRPORTS, airport("LAX", "Los Angeles"))
    backup(db, to, hashes=False)
    assert manifests.needed(place(to)).hashes is None
