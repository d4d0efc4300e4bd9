"""Archive: old records are moved to another place, and their disk space is freed."""

from __future__ import annotations

import random
import threading
import uuid
from itertools import count
from pathlib import Path

import pytest

from everlog.audit import archive, backup, holds, restore, verify_backup
from everlog.audit.archived import attach
from everlog.audit.tree import Tree
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import Error, OpenError, ReadOnlyError, RowError
from everlog.store.tx.transaction import new_commit_id
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill
from tests.audit.test_restore import grown
from tests.store.models import AIRPORTS, ITEMS, Item, airport, items


def test_what_was_archived_is_gone_from_the_log_and_read_from_the_archive(db: Database, to: Path) -> None:
    grown(db)
    fill(db, 5000, 5040)
    before, head, tables = db.log.read(0, 1 << 30)[0], db.head, db.admin.hashes()
    done = archive(db, to, keep_records=10)
    assert (done.last, done.base, done.removed) == (head - 10, head - 10, head - 10)
    assert db.engine.log.get((1).to_bytes(8, "big")) is None
    assert list(verify_backup(to, deep=True)) == []
    assert db.log.oldest == 1
    assert b"".join(framed for _, framed in db.log.scan()) == before
    assert [db.log.get(seq) for seq in range(1, head + 1)] == [framed for _, framed in db.log.scan()]
    assert (db.head, db.admin.hashes()) == (head, tables)
    assert list(db.admin.check()) == []
    assert db.admin.rebuild() == tables
    db.put(AIRPORTS, airport("SFO", "San Francisco"))


def size(directory: Path) -> int:
    """Return the total size of the files of a closed database, in bytes."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_the_disk_shrinks_by_what_was_removed(opening: Opener, to: Path) -> None:
    db, chance = opening(), random.Random(7)
    for number in range(2000):  # two versions of every row: one of them is only in the log
        db.put(ITEMS, Item(id=number % 1000, text=chance.randbytes(2000).hex()))
    db.close()
    before = size(db.path)
    db = opening()
    log_bytes = len(db.log.read(0, 1 << 40)[0])
    done = archive(db, to)
    assert log_bytes > 8_000_000
    assert done.bytes_before >= before - 1_000_000
    assert sum(file.stat().st_size for file in to.iterdir()) < 0.6 * log_bytes
    assert archive(db, to).removed == 0
    db.close()  # RocksDB deletes compacted files a moment later, in another thread; once closed, it has
    after = size(db.path)
    assert before - after > 0.8 * log_bytes  # text of random digits, which LZ4 cannot compress
    assert done.bytes_after >= after - 1_000_000


def test_what_is_in_the_base_says_what_the_records_before_it_were(db: Database, to: Path) -> None:
    fill(db, 1, 20)
    tree = Tree(db)
    tree.catch_up()
    end = db.log.checksum_at(db.head - 4)
    archive(db, to, keep_records=4)
    base = db.log.trimmed.base
    framed = db.engine.log.get(base.to_bytes(8, "big"))
    db.log.trimmed.older = None
    found = db.log.commit(base).base
    assert framed == db.log.get(base)
    assert (found.database, found.tree_size, found.checksum) == (db.uuid, base, end)
    assert found.schema == db.schema.proto
    assert len(found.tree_frontier) == base.bit_count()
    from everlog.audit import merkle

    root = found.tree_frontier[-1]
    for left in reversed(found.tree_frontier[:-1]):
        root = merkle.node_hash(left, root)
    attach(db)
    assert root == tree.root(base)


def test_what_a_hold_names_stays(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    holds.hold(db.path, "auditor", 20)
    done = archive(db, to, keep_records=3)
    assert (done.base, done.held) == (19, "hold 'auditor'")
    with pytest.raises(RowError, match="there is no hold 'nobody'; there are: auditor"):
        holds.release(db.path, "nobody")
    holds.release(db.path, "auditor")
    assert archive(db, to, keep_records=3).base == db.head - 3


def test_a_commit_that_may_be_repeated_stays(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 10)
    commit_id = new_commit_id()
    with db.transaction(commit_id=commit_id) as tx:
        tx.put(ITEMS, *items(11, 11))
    seq = db.head
    fill(db, 12, 30)
    done = archive(db, to)
    assert (done.base, done.held) == (seq - 1, "commits of the last 24 hours may be repeated under their ids")
    db.log.trimmed.older = None
    again = db.transaction(commit_id=commit_id)
    again.put(ITEMS, *items(11, 11))
    assert again.commit().seq == seq


def test_nothing_is_removed_where_the_target_refuses(db: Database, opening: Opener, to: Path) -> None:
    fill(db, 1, 30)
    to.mkdir()
    (to / "letter.txt").write_text("dear")
    with pytest.raises(OpenError, match="is not a backup"):
        archive(db, to)
    backup(opening(at=to.with_name("another")), to.with_name("its backup"))
    with pytest.raises(OpenError, match="this is a backup of database"):
        archive(db, to.with_name("its backup"))
    with pytest.raises(RowError, match="expected to keep 0 records or more"):
        archive(db, to, keep_records=-1)
    with Database(db.path, read_only=True) as beside, pytest.raises(ReadOnlyError):
        archive(beside, to)
    assert db.log.trimmed.base == 0
    assert db.engine.log.get((1).to_bytes(8, "big")) is not None


def test_what_is_in_the_log_and_not_yet_in_the_tables_stays(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    applied = db.tables.applied
    with db.committer.exclusive():
        for seq in range(applied + 1, applied + 4):
            commit = record.decode(db.log.get(applied), applied)
            commit.seq = seq
            commit.ClearField("checksum")
            commit.ClearField("changes")
            db.committer.append_exclusive(record.frame(commit))
        assert archive(db, to).base < applied
    assert db.tables.applied == applied + 3
    assert db.put(ITEMS, Item(id=1)).seq == applied + 4


def test_records_of_some_time_are_kept(db: Database, to: Path) -> None:
    fill(db, 1, 30)
    assert archive(db, to, keep_ns=10**15).removed == 0
    assert not to.exists()
    assert archive(db, to, keep_ns=1).removed == db.head - 1


def test_an_object_store_is_a_target(db: Database) -> None:
    url = f"memory://archive-{uuid.uuid4().hex}"
    tables = db.admin.hashes
    fill(db, 1, 30)
    archive(db, url, keep_records=5)
    fill(db, 31, 50)
    archive(db, url, keep_records=5)
    assert db.admin.rebuild() == tables()
    assert list(verify_backup(url, deep=True)) == []


def test_an_archive_can_be_restored(opening: Opener, to: Path) -> None:
    db = opening()
    at = grown(db)
    last = max(seq for seq in at if seq < db.head)
    archive(db, to, keep_records=db.head - last)
    done = restore(to, to.with_name("copy"))
    assert (done.seq, done.tables) == (last, at[last])
    assert opening(at=to.with_name("copy")).admin.rebuild() == at[last]


@pytest.mark.long
def test_readers_and_writers_go_on_while_old_log_is_archived_again_and_again(db: Database, to: Path) -> None:
    fill(db, 1, 200)
    attach(db)
    stop, seen, failed = threading.Event(), [0, 0], list[BaseException]()

    def read(number: int) -> None:
        try:
            while not stop.is_set():
                if number:
                    at = 0
                    while at < db.head:
                        data, last = db.log.read(at, 5000)
                        assert record.seq_of(data) == at + 1
                        at = last
                else:
                    head = db.log.written
                    assert [seq for seq, _ in db.log.scan(0, head)] == list(range(1, head + 1))
                seen[number] += 1
        except (AssertionError, Error) as error:
            failed.append(error)

    def write() -> None:
        for number in count(1000):
            if stop.is_set():
                return
            db.put(ITEMS, *items(number, number))

    threads = [threading.Thread(target=read, args=(0,)), threading.Thread(target=read, args=(1,))]
    threads.append(threading.Thread(target=write))
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            archive(db, to, keep_records=5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert all(seen)
    assert db.admin.rebuild() == db.admin.hashes()


def test_one_archives_a_database_at_a_time(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    seen, go_on = threading.Event(), threading.Event()

    def progress(_: object) -> None:
        seen.set()
        assert go_on.wait(60)

    first = threading.Thread(target=archive, args=(db, to), kwargs={"progress": progress})
    first.start()
    try:
        assert seen.wait(60)
        with pytest.raises(OpenError, match="is being archived now; wait for it"):
            archive(db, to)
        holds.hold(db.path, "late", 20)  # it counts, although it was written while archiving ran
    finally:
        go_on.set()
        first.join()
    assert db.log.trimmed.base == 19
    holds.release(db.path, "late")
    assert archive(db, to).base == db.head - 1
