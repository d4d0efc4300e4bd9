"""A full disk: a commit fails with an error, nothing is partially written, and everything else continues."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import DiskError, OpenError
from everlog.store.rocks.errors import translate
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item

SCRIPT = """
import json, os, resource, subprocess, sys, time
from everlog.store.database import Database
from everlog.store.errors import DiskError
from tests.store.models import *

path, limit = Path(sys.argv[1]), int(sys.argv[2])
db = open_flights(path / "db")
if limit:  # a larger file cannot be written, so the write-ahead log fills up
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
acknowledged, said, outcome = [], "", ""
text = os.urandom(40_000).hex()
for number in range(1, 20_000):
    try:
        db.put(ITEMS, Item(id=number, text=text), durability=("sync", "os")[number % 2])
        acknowledged.append(number)
    except DiskError as error:
        said, outcome = str(error), error.outcome
        break
refused = number
before = db.head
assert db.admin.status().writes.error or limit
assert db.at(seq=before).get(ITEMS, 1) is not None
reads = [db.get(ITEMS, number) is not None for number in (1, acknowledged[-1], refused)]
counted = db.count(ITEMS)
problems = list(db.admin.check())
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (path / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=72m", path], check=True)  # flushing still takes some
resumed, until = "", time.monotonic() + 60
while not limit and db.admin.status().writes.error and time.monotonic() < until:
    time.sleep(0.05)  # RocksDB looks for space every five seconds
try:
    db.put(ITEMS, Item(id=50_000, text="after"))
    resumed = "here"
    assert db.at(seq=before).get(ITEMS, 1) is not None
    assert not db.admin.status().writes.error
except DiskError as error:
    resumed = str(error)
db.close()
db = open_flights(path / "db")
db.put(ITEMS, Item(id=60_000, text="after"))
print(json.dumps({
    "acknowledged": len(acknowledged), "said": said, "outcome": outcome, "reads": reads, "counted": counted,
    "problems": problems, "resumed": resumed, "count": db.count(ITEMS), "check": list(db.admin.check()),
    "refused": db.get(ITEMS, refused) is not None,
    "all": all(db.get(ITEMS, number) is not None for number in acknowledged),
}))
db.close()
"""


def run(path: Path, limit: int) -> Any:
    command = [sys.executable, "-c", SCRIPT, str(path), str(limit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def right(found: Any) -> None:
    assert found["outcome"] in ("nothing written", "unknown", "written")
    assert found["reads"][:2] == [True, True]
    assert found["counted"] >= found["acknowledged"]
    assert found["problems"] == found["check"] == []
    assert found["all"]
    if found["outcome"] == "nothing written":
        assert found["reads"][2] is False
        assert found["refused"] is False
    more = (found["resumed"] == "here") + 1 + found["refused"]
    assert found["count"] == found["acknowledged"] + more


def test_a_disk_that_is_full_is_told_and_writing_goes_on_when_there_is_space(small_disk: Path) -> None:
    found = run(small_disk, 0)
    right(found)
    assert "the disk is full; nothing was written. Free at least 40 MB" in found["said"]
    assert found["resumed"] == "here"


def test_a_file_that_may_not_grow_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    found = run(tmp_path, 3 << 20)
    right(found)
    assert found["said"]


def test_a_full_disk_can_be_opened_to_be_read(opening: Opener, small_disk: Path) -> None:
    db = opening(at=small_disk / "db")
    db.put(ITEMS, Item(id=1))
    db.close()
    fill(small_disk)
    with contextlib.suppress(DiskError):
        db = opening(at=small_disk / "db")
        assert db.get(ITEMS, 1) is not None
        db.close()
    (small_disk / "ballast").unlink()
    db = opening(at=small_disk / "db")
    assert db.get(ITEMS, 1) is not None
    db.close()


def test_a_database_that_is_made_on_a_full_disk_leaves_nothing_and_is_made_where_there_is_space(
    opening: Opener, small_disk: Path
) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(64 << 20))
    with pytest.raises(DiskError, match=r"small/made"):
        db.admin.rebuild_into(small_disk / "made")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    (small_disk / "ballast").unlink()
    assert db.admin.rebuild_into(small_disk / "made") == db.admin.hashes()


def fill(path: Path) -> None:
    """Fill the disk completely."""
    with (path / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(64 << 20))


def test_every_read_works_while_the_disk_is_full(
    small_disk: Path, opening: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = opening(at=small_disk / "db")
    for number in range(1, 40):
        db.put(ITEMS, Item(id=number, text="x"))
    with db.snapshot() as then:
        db.put(ITEMS, Item(id=1, text="y"))
        kept = db.head
        fill(small_disk)
        refused = 0
        while not db.admin.status().writes.error:
            refused += 1
            with contextlib.suppress(DiskError):
                db.put(ITEMS, Item(id=1000 + refused, text=os.urandom(100_000).hex()), durability="os")
        since = db.admin.status().writes.since_ns
        assert since
        written = db.tables.applied
        for _ in range(2):
            assert db.get(ITEMS, 1) == Item(id=1, text="y")
            assert then.get(ITEMS, 1) == Item(id=1, text="x")
            assert len(list(then.scan(ITEMS))) == 39
            assert len(list(db.scan(ITEMS, end=1000))) == db.count(ITEMS, end=1000) == 39
            assert [one.seq for one in db.history(ITEMS, 1)] == [kept, 3]
            assert db.at(seq=kept - 1).get(ITEMS, 1) == Item(id=1, text="x")
            assert len(list(db.at(seq=written).scan(ITEMS, end=1000))) == 39
            assert [one.key for one in db.past.diff(ITEMS, kept - 1, kept)] == [(1,)]
            assert db.admin.hashes()["items"].rows == db.count(ITEMS)
            assert len(db.migration_records()) == 1
            assert db.schema_at(kept) == db.schema.proto
            assert db.log.read(0)[1] > 1
            assert list(db.admin.check()) == []
            assert list(db.consumers) == []
        with Database(small_disk / "db", read_only=True) as reader:
            assert reader.get(ITEMS, 1) == Item(id=1, text="y")
            assert [one.seq for one in reader.history(ITEMS, 1)] == [kept, 3]
            assert "is full" in reader.admin.status().writes.error
        db.admin.rebuild_into(tmp_path / "copy")
    assert [one.message.split(": ")[1] for one in caplog.records] == [
        "writes are refused from now on, reads continue"
    ]


@pytest.mark.long
def test_a_rebuild_on_a_full_disk_changes_nothing_and_is_made_when_there_is_room(
    small_disk: Path, opening: Opener
) -> None:
    db = opening(at=small_disk / "db")
    for number in range(1, 200):
        db.put(ITEMS, Item(id=number, text=os.urandom(2_000).hex()), durability="os")
    fill(small_disk)
    with pytest.raises(DiskError):
        db.admin.rebuild()
    assert db.count(ITEMS) == 199
    (small_disk / "ballast").unlink()
    until = time.monotonic() + 60
    while db.admin.status().writes.error:
        assert time.monotonic() < until
        threading.Event().wait(0.05)
    db.put(ITEMS, Item(id=1000))
    assert db.admin.rebuild()["items"].rows == 200


def append_until_full(db: Database) -> None:
    """Append to RocksDB's log until RocksDB has noticed the full disk, and everlog has not yet."""
    while True:
        db.engine._db[b"ballast"] = bytes(1 << 20)  # noqa: SLF001  everlog notices every write through its own calls


def test_a_sync_at_the_moment_of_a_refused_append_does_not_end_writing(
    small_disk: Path, opening: Opener
) -> None:
    db = opening(at=small_disk / "db")
    db.put(ITEMS, Item(id=1), durability="os")
    fill(small_disk)
    with pytest.raises(Exception, match="No space left"):
        append_until_full(db)
    db.engine.sync_beside()
    with pytest.raises(DiskError, match="the disk is full") as refused:  # not "Writer has previous error"
        db.put(ITEMS, Item(id=2))
    assert refused.value.outcome == "nothing written"


def test_a_refused_commit_conflicts_with_nothing_when_there_is_room(
    small_disk: Path, opening: Opener
) -> None:
    db = opening(at=small_disk / "db")
    db.put(ITEMS, Item(id=1))
    fill(small_disk)
    large = [Item(id=number, text=os.urandom(400_000).hex()) for number in (1, 2)]
    with pytest.raises(DiskError, match="nothing was written"):
        db.load(ITEMS, large, id="a load")
    (small_disk / "ballast").unlink()
    until = time.monotonic() + 60
    while db.admin.status().writes.error:
        assert time.monotonic() < until
        threading.Event().wait(0.05)
    with db.transaction() as tx:
        assert tx.get(ITEMS, 1) is not None  # the refused commit had this row
        assert tx.count(ITEMS) == 1
        tx.put(ITEMS, Item(id=3))
    assert db.load(ITEMS, large, id="a load").rows == 2
    assert db.count(ITEMS) == 3


def fill_and_make_room(
    db: Database, disk: Path, chance: random.Random, numbers: itertools.count[int]
) -> None:
    """Write from many threads until the disk is full, and some time more; then free space: writing resumes.
    Acknowledged commits are present, refused ones are not. `numbers`: of rows that do not exist yet.
    """
    how = chance.choice((("os",), ("sync",), ("os", "sync")))
    size = chance.choice((2_000, 60_000, 200_000))
    acknowledged: list[int] = []
    refused: list[int] = []
    full, over = threading.Event(), threading.Event()

    def write() -> None:
        while not over.is_set():
            number = next(numbers)
            try:
                text = os.urandom(number * 7919 % size // 2).hex()
                db.put(ITEMS, Item(id=number, text=text), durability=how[number % len(how)])
                acknowledged.append(number)
            except DiskError as error:
                full.set()
                if error.outcome == "nothing written":
                    refused.append(number)

    threads = [threading.Thread(target=write) for _ in range(chance.choice((1, 2, 8, 16)))]
    for thread in threads:
        thread.start()
    assert full.wait(100)
    over.wait(chance.choice((0, 0, 0.05, 1)))
    over.set()
    for thread in threads:
        thread.join()
    (disk / "ballast").unlink()
    size_mb = os.statvfs(disk).f_blocks * os.statvfs(disk).f_frsize >> 20
    subprocess.run(
        ["mount", "-o", f"remount,size={size_mb + 24}m", disk], check=True
    )  # RocksDB still flushes
    until = time.monotonic() + 60
    while db.admin.status().writes.error:
        assert time.monotonic() < until, db.admin.status().writes.error
        threading.Event().wait(0.05)  # RocksDB looks for space every five seconds
    db.put(ITEMS, Item(id=next(numbers)))
    assert [number for number in acknowledged if db.get(ITEMS, number) is None] == []
    assert [number for number in refused if db.get(ITEMS, number) is not None] == []


@pytest.mark.long
@pytest.mark.parametrize("nth", range(int(os.environ.get("EVERLOG_TORTURE_S", "0")) // 10 or 8))
def test_writing_goes_on_when_there_is_room_whenever_it_was_refused(
    small_disk: Path, opening: Opener, nth: int
) -> None:
    seed = int(os.environ.get("EVERLOG_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
    chance = random.Random(f"{seed} {nth}")
    db, numbers = opening(at=small_disk / "db"), itertools.count(1)
    for _ in range(2):
        fill_and_make_room(db, small_disk, chance, numbers)
        with (small_disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            file.write(bytes(24 << 20))  # less, if RocksDB needs some of the space at this moment


def test_a_used_up_quota_promises_nothing() -> None:
    """RocksDB resumes from it only when the database is opened again."""
    found = translate(Exception("IO error: Disk quota exceeded: While appending to file"), "writing")
    assert isinstance(found, DiskError)
    assert found.outcome == "nothing written"
    assert "open the database again" in str(found)
    assert not found.facts.get("full")


def test_files_are_not_worked_on_while_the_disk_is_full(opening: Opener) -> None:
    """RocksDB looks for space when it is idle, so repeated attempts must not keep it busy."""
    db = opening(ITEMS)
    db.put(ITEMS, Item(id=1))
    full = DiskError("the disk is full", outcome="nothing written", full=True)
    with db.committer.exclusive():  # nothing is synced meanwhile
        db.engine.refusal.begin(full)
        for work in (
            db.engine.flush,
            lambda: db.engine.compact_log(b""),
            lambda: db.engine.compact_data(b"", b""),
            lambda: db.engine.merge_log(b"", b""),
        ):
            with pytest.raises(DiskError, match="the disk is full") as told:
                work()
            assert told.value.facts["full"]
    db.engine.refusal.wait(60)
    db.engine.flush()
    assert db.get(ITEMS, 1) is not None


def test_no_tables_are_dropped_while_the_disk_is_full(opening: Opener) -> None:
    """Closing them syncs the log, and after that RocksDB would never resume."""
    db = opening(ITEMS)
    db.put(ITEMS, Item(id=1))
    engine, name = db.engine, db.engine.next_name
    family, _ = engine.next_family(b"tests")
    engine.side("beside")
    with db.committer.exclusive():  # nothing is synced meanwhile
        engine.refusal.begin(DiskError("the disk is full", outcome="nothing written", full=True))
        with pytest.raises(DiskError, match="the disk is full"):
            engine.drop_side("beside")
        assert engine.give_up_data(name, family) is None
    engine.refusal.wait(60)
    engine.drop_side("beside")
    assert db.admin.rebuild() == db.admin.hashes()
    assert db.put(ITEMS, Item(id=2)).seq == db.head


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system for 90 files. Skipped for users who may not mount one."""
    path = tmp_path / "few"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=90", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def use_up(place: Path) -> list[Path]:
    """Create empty files until there is no inode for another."""
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (place / f"empty-{number}").touch()
    return list(place.glob("empty-*"))


NO_INODE = "the disk has no inode left"
REMEDY = "Remove at least 20 files from it, and open the database again"


def test_a_disk_without_inodes_is_told_from_a_full_one_and_nothing_is_lost(
    few_inodes: Path, opening: Opener
) -> None:
    db = opening(at=few_inodes / "db")
    empty, numbers = use_up(few_inodes), itertools.count(1)

    def write() -> None:
        while True:  # until RocksDB begins its next write-ahead log
            db.put(ITEMS, Item(id=next(numbers), text="x" * 100_000), durability="os")

    with pytest.raises(DiskError, match=f"{NO_INODE}.*{REMEDY}") as refused:
        write()
    assert (refused.value.facts["outcome"], refused.value.facts.get("full")) == ("nothing written", None)
    written = next(numbers) - 2
    assert db.count(ITEMS) == written
    assert NO_INODE in db.admin.status().writes.error
    with Database(few_inodes / "db", read_only=True) as reader:
        assert reader.count(ITEMS) == written
    db.close()
    with pytest.raises(DiskError, match=f"opening .*{NO_INODE}.*{REMEDY}"):
        opening(at=few_inodes / "db")
    with pytest.raises(OpenError, match=f"new: the database cannot be created: {NO_INODE}"):
        opening(at=few_inodes / "new")
    for file in empty[:20]:
        file.unlink()
    db = opening(at=few_inodes / "db")
    assert db.count(ITEMS) == written
    db.put(ITEMS, Item(id=0))


def test_a_column_family_is_not_made_without_inodes(few_inodes: Path, opening: Opener) -> None:
    """RocksDB would create one without a handle."""
    db = opening(at=few_inodes / "db")
    db.put(ITEMS, Item(id=1))
    empty = use_up(few_inodes)
    with pytest.raises(DiskError, match=NO_INODE):
        db.admin.rebuild()
    db.put(ITEMS, Item(id=2))
    for file in empty:
        file.unlink()
    db.admin.rebuild()
    assert db.count(ITEMS) == 2
