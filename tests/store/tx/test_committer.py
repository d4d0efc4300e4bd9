"""Group commit, durability, and failures of the disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import DiskError, Error
from everlog.store.tx.group_commit import CommitQueue, Ticket
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, items


def together(db: Database, *calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in separate threads, as one group of commits. Errors are results."""
    answers: list[Any] = [None] * len(calls)

    def run(at: int, call: Callable[[], Any]) -> None:
        try:
            answers[at] = call()
        except Error as error:
            answers[at] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    with db.committer.exclusive():
        for number, thread in enumerate(threads, 1):
            thread.start()
            while db.committer.waiting < number:
                pass
    for thread in threads:
        thread.join()
    return answers


def test_a_group_is_validated_in_order_and_each_is_answered_alone(db: Database) -> None:
    db.put(AIRPORTS, airport("A", icao="1"))
    first, second, third, fourth, fifth = together(
        db,
        lambda: db.put(AIRPORTS, airport("A", icao="2")),  # frees 1
        lambda: db.put(AIRPORTS, airport("B", icao="1")),  # takes it
        lambda: db.put(AIRPORTS, airport("C", icao="1")),  # comes too late
        lambda: db.insert(AIRPORTS, airport("B")),  # sees B
        lambda: db.put(AIRPORTS, airport("D", icao="3")),
    )
    assert (second.seq, fifth.seq) == (first.seq + 1, first.seq + 2)
    assert "as row airports/B has already" in str(third)
    assert f"found one of version {second.seq}" in str(fourth)
    assert [(row.faa, row.icao) for row in db.scan(AIRPORTS)] == [("A", "2"), ("B", "1"), ("D", "3")]
    changes = db.log.commit(second.seq).changes
    assert changes[0].prior == 0


def test_commits_of_a_group_see_each_other(db: Database) -> None:
    def add_one() -> Any:
        def add(tx: Any) -> int:
            row = tx.get(ITEMS, 1) or Item(id=1)
            row.n += 1
            tx.put(ITEMS, row)
            return int(row.n)

        return db.run(add)

    assert sorted(together(db, *[add_one] * 4)) == [1, 2, 3, 4]


def test_what_changes_nothing_takes_no_seq_in_its_group(db: Database) -> None:
    head = db.head
    first, second, third, fourth = together(
        db,
        lambda: db.delete(ITEMS, 1, actor="ann"),
        lambda: db.put(ITEMS, Item(id=1)),
        lambda: db.delete(ITEMS, 1),
        lambda: db.delete(ITEMS, 1),
    )
    assert [one.seq for one in (first, second, third, fourth)] == [0, head + 1, head + 2, 0]
    assert [one.missing for one in (first, second, third, fourth)] == [1, 0, 0, 1]
    assert db.head == head + 2
    assert [one.seq for one in together(db, *[lambda: db.delete(ITEMS, 9)] * 3)] == [0, 0, 0]
    assert db.head == head + 2


def test_a_conflict_within_a_group_is_found(db: Database) -> None:
    transactions = [db.transaction() for _ in range(2)]
    for number, tx in enumerate(transactions):
        assert tx.count(ITEMS) == 0
        tx.put(ITEMS, Item(id=number))
    one, other = together(db, *(tx.commit for tx in transactions))
    assert one.seq
    assert f"was changed by commit {one.seq} after this transaction read it" in str(other)


def test_one_fsync_serves_a_group(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = db.engine.sync_log

    def count_and_sync() -> None:
        synced.append(db.head)
        sync()

    monkeypatch.setattr(db.engine, "sync_log", count_and_sync)
    together(db, *(partial(db.put, ITEMS, Item(id=number)) for number in range(8)))
    assert len(synced) == 1
    assert db.count(ITEMS) == 8


def test_a_group_with_one_that_wants_sync_is_synced(opening: Opener) -> None:
    db = opening(durability="os")
    before = db.head
    results = together(
        db,
        lambda: db.put(ITEMS, Item(id=1)),
        lambda: db.put(ITEMS, Item(id=2), durability="sync"),
    )
    assert [result.seq for result in results] == [before + 1, before + 2]
    assert db.head == before + 2


def test_what_is_with_the_operating_system_is_on_disk_soon_and_told(opening: Opener) -> None:
    db = opening(durability="os")
    told = threading.Event()
    db.log.on_advance(told.set)
    result = db.put(ITEMS, Item(id=1))
    assert db.get(ITEMS, 1) == Item(id=1)
    assert told.wait(60)
    db.log.off_advance(told.set)
    assert db.head == result.seq


def test_under_sync_nobody_reads_what_is_not_on_disk(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    sync = db.engine.sync_log

    def look_then_sync() -> None:
        seen.append((db.get(ITEMS, 1), db.count(ITEMS), db.head, db.log.read(db.head)))
        sync()

    before = db.head
    monkeypatch.setattr(db.engine, "sync_log", look_then_sync)
    db.put(ITEMS, Item(id=1))
    assert seen == [(None, 0, before, (b"", before))]


def failing_sync() -> None:
    raise DiskError("the disk did not confirm a write", outcome="unknown")


def test_after_a_failed_fsync_nothing_is_written_and_the_database_opens_again(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening()
    before = db.put(ITEMS, Item(id=1))
    with monkeypatch.context() as broken:
        broken.setattr(db.engine, "sync_log", failing_sync)
        with pytest.raises(DiskError, match="did not confirm") as caught:
            db.put(ITEMS, Item(id=2))
        assert caught.value.outcome == "unknown"
    with pytest.raises(DiskError, match="did not confirm"):
        db.put(ITEMS, Item(id=3))
    with pytest.raises(DiskError, match="did not confirm"):
        declare(db, ITEMS)
    assert db.get(ITEMS, 1) == Item(id=1)
    assert db.get(ITEMS, 2) is None
    assert db.head == before.seq
    db.close()
    db = opening()
    assert db.head in (before.seq, before.seq + 1)
    assert db.count(ITEMS) == db.head - before.seq + 1
    db.put(ITEMS, Item(id=4))


def put_for_ever(db: Database) -> None:
    while True:
        db.put(ITEMS, Item(id=2))


def test_a_background_flush_that_fails_is_raised_by_the_next_commit(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening(durability="os")
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        failing_sync()

    monkeypatch.setattr(db.engine, "sync_beside", fail)
    db.put(ITEMS, Item(id=1))
    assert failed.wait(60)
    with pytest.raises(DiskError):
        put_for_ever(db)  # until the flusher's thread has reported it
    monkeypatch.undo()
    db.close()
    assert opening().get(ITEMS, 1) == Item(id=1)


def test_tables_that_could_not_be_written_are_projected_before_the_next_commit(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening()

    def fail(*_: Any) -> None:
        raise DiskError("no", outcome="nothing written")

    with monkeypatch.context() as broken:
        broken.setattr(db.tables, "project", fail)
        with pytest.raises(DiskError, match="is in the log, but the tables could not be written"):
            db.put(ITEMS, Item(id=1))
    db.put(ITEMS, Item(id=2))
    assert [row.id for row in db.scan(ITEMS)] == [1, 2]
    db.close()
    assert [row.id for row in opening().scan(ITEMS)] == [1, 2]


@pytest.mark.parametrize("at", ["sync_log", "project"])
def test_a_commit_that_is_interrupted_leaves_no_gap_in_the_tables(
    opening: Opener, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    db = opening()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(db.engine if at == "sync_log" else db.tables, at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            db.put(ITEMS, Item(id=1))
    for _ in range(2):
        db.put(ITEMS, Item(id=2))
        assert [row.id for row in db.scan(ITEMS)] == [1, 2]
        assert list(db.admin.check()) == []
        db.close()
        db = opening()


def test_a_migration_that_is_interrupted_after_its_record_is_whole(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening(ITEMS)
    db.put(ITEMS, Item(id=1))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(db.tables, "take_over", interrupt)
        interrupted.setattr(db.tables, "projector", interrupt)
        with pytest.raises(KeyboardInterrupt):
            declare(db, AIRPORTS, rows=[(AIRPORTS, airport("JFK"))])
    for _ in range(2):
        db.put(ITEMS, Item(id=2))
        assert db.schema.version == 2
        assert db.count(AIRPORTS) == 1
        db.close()
        db = opening()


def test_a_head_file_that_cannot_be_written_fails_no_commit(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlog.store.log.HEAD_FILE_EVERY_S", 0)
    (db.path / "HEAD.new").mkdir()
    assert db.put(ITEMS, Item(id=1)).seq == db.head


def test_one_who_is_interrupted_while_waiting_holds_nobody_up() -> None:
    queue, waiting, caught, first = CommitQueue(), Ticket(), threading.Event(), Ticket()
    assert queue.enter(first)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while not queue.waiting:
            pass
        while not caught.is_set():  # one that comes just before the wait begins is noticed only by the next
            signal.pthread_kill(main, signal.SIGINT)
            caught.wait(2)

    def once(*_: object) -> None:
        if not caught.is_set():
            caught.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, once)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            queue.enter(waiting)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not queue.waiting
    queue.leave(first)
    assert queue.enter(Ticket())


def test_many_threads_commit_all_they_were_told(db: Database) -> None:
    acknowledged: list[int] = []

    def write(first: int) -> None:
        for item in items(first, first + 24):
            result = db.put(ITEMS, item, durability="os" if item.id % 3 else "sync")
            acknowledged.append(result.seq)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(acknowledged) == list(range(3, 203))
    assert db.count(ITEMS) == 200
