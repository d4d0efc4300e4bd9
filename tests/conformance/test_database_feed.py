"""Feed: ordered, unique, whole, resumable; the same embedded and over the network."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import everlog
from everlog.proto import feed_pb2, log_pb2
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from tests.conformance.database_case import AIRPORTS, FLIGHTS, VERSION, Case, airport, flight, migrate

LIVE, CATCHING_UP = feed_pb2.Mark.LIVE, feed_pb2.Mark.CATCHING_UP


def fill(db: Any, count: int = 20) -> list[int]:
    """Commit flights and, every third time, airports; return the seqs."""
    return [
        db.put(AIRPORTS, airport(f"A{n:02}")).seq if n % 3 == 2 else db.put(FLIGHTS, flight(n)).seq
        for n in range(count)
    ]


def seqs(commits: Any) -> list[int]:
    return [commit.seq for commit in commits]


def test_the_feed_from_the_start_is_the_whole_log_without_gaps(db: Any) -> None:
    fill(db)
    commits = list(db.feed(bounded=True))
    assert seqs(commits) == list(range(1, db.head + 1))
    assert commits[0].HasField("created")
    assert commits[0].created.database == db.uuid
    assert commits[1].migration.version == VERSION


def test_a_feed_goes_on_after_a_seq_or_a_cursor(db: Any) -> None:
    mine = fill(db)
    assert seqs(db.feed(after=mine[4], bounded=True)) == mine[5:]
    batches = list(db.feed(until=mine[4]).batches())
    cursor = batches[-1].mark.position
    assert cursor.seq == mine[4]
    assert seqs(db.feed(cursor, bounded=True)) == mine[5:]
    assert list(db.feed(db.cursor(), bounded=True)) == []


def test_the_rows_of_a_commit_arrive_with_it(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"))
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("JFK", name="Kennedy"))
        tx.put(FLIGHTS, flight(1))
        tx.delete(AIRPORTS, "LGA")
    commit = list(db.feed(after=db.head - 1, bounded=True))[-1]
    schema = Schema(next(db.feed(after=db.head, bounded=True).batches()).schema)
    rows = {schema.spaces[change.space].name: change for change in commit.changes}
    assert len(commit.changes) == len(rows) == 2  # the delete of a missing row is no change
    assert rows["airports"].prior == commit.seq - 1
    row: Any = schema.tables["airports"].parse(rows["airports"].row)
    assert row.name == "Kennedy"


def test_the_first_batch_tells_the_schema_in_force_where_it_starts(case: Case) -> None:
    fill(case.db, 3)
    start = case.db.head
    migrate(case.embedded, VERSION + 1, FLIGHTS)
    first = next(case.db.feed(after=0, bounded=True).batches())
    assert first.schema is not None
    assert first.schema.version == 0
    first = next(case.db.feed(after=start, bounded=True).batches())
    assert first.schema is not None
    assert first.schema.version == VERSION
    assert first.mark.position.seq == start
    (commit,) = case.db.feed(after=start, bounded=True)
    assert commit.migration.schema.version == VERSION + 1


def test_a_feed_of_some_tables_has_their_changes_and_all_migrations(case: Case) -> None:
    mine = fill(case.db)
    migrate(case.embedded, VERSION + 1, AIRPORTS)
    last = case.db.put(FLIGHTS, flight(99)).seq
    commits = list(case.db.feed(tables=[AIRPORTS], bounded=True))
    assert seqs(commits) == [2, *mine[2::3], last - 1]
    assert all(len(commit.changes) == 1 for commit in commits[1:-1])
    batches = list(case.db.feed(after=mine[-1], tables=["airports"], bounded=True).batches())
    assert batches[-1].mark.position.seq == last  # the mark also covers the commits that the filter dropped


def test_a_cursor_made_of_a_filtered_commit_is_a_cursor_in_the_log(db: Any) -> None:
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("JFK"))
        tx.put(FLIGHTS, flight(1))
    (commit,) = db.feed(after=db.head - 1, tables=["flights"], bounded=True)
    assert len(commit.changes) == 1
    cursor = log_pb2.Cursor(database=db.uuid, seq=commit.seq, checksum=commit.checksum)
    assert list(db.feed(cursor, bounded=True)) == []


def test_a_table_that_there_is_not_is_named(db: Any) -> None:
    with pytest.raises(everlog.SchemaError, match=r"no table nowhere.*airports, flights"):
        db.feed(tables=["nowhere"], bounded=True)


def test_a_renamed_table_is_followed_on(case: Case) -> None:
    fill(case.db, 3)
    schema = log_pb2.Schema()
    schema.CopyFrom(evolve(case.embedded.schema.proto, VERSION + 1, []))
    schema.tables[0].name = "fields"
    case.embedded.apply_migration(
        log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=VERSION + 1, name="rename", schema=schema)
    )
    assert seqs(case.db.feed(tables=["airports"], bounded=True)) == [2, 5, 6]
    assert seqs(case.db.feed(tables=["fields"], bounded=True)) == [2, 5, 6]


def test_a_bounded_feed_ends_at_the_newest_record_there_was(db: Any) -> None:
    mine = fill(db, 3)
    feed = db.feed(bounded=True)
    fill(db, 3)
    assert seqs(feed)[-1] == mine[-1]


def test_until_ends_a_feed_also_where_it_is_not_written_yet(db: Any) -> None:
    start = db.head
    with db.feed(after=start, until=start + 2) as feed:
        commits = iter(feed)
        db.put(FLIGHTS, flight(1))
        assert next(commits).seq == start + 1
        db.put(FLIGHTS, flight(2))
        db.put(FLIGHTS, flight(3))
        assert seqs(commits) == [start + 2]
    assert list(db.feed(until=0)) == []


def test_a_feed_from_now_has_only_what_comes(db: Any) -> None:
    fill(db, 3)
    with db.feed(now=True) as feed:
        seq = db.put(FLIGHTS, flight(9)).seq
        assert next(iter(feed)).seq == seq


def test_a_waiting_feed_is_woken_by_a_commit(db: Any) -> None:
    received: list[int] = []
    with db.feed(now=True, heartbeat_s=60) as feed:
        reader = threading.Thread(
            target=lambda: received.extend(commit.seq for commit, _ in zip(feed, range(50), strict=False))
        )
        reader.start()
        sent = [db.put(FLIGHTS, flight(n)).seq for n in range(51)]
        reader.join(30)
        assert not reader.is_alive()
    assert received == sent[:50]


def test_marks_tell_catching_up_and_live(db: Any) -> None:
    fill(db)
    with db.feed(after=0) as feed:
        batches = iter(feed.batches())
        assert next(batches).mark.state == CATCHING_UP
        for batch in batches:
            assert batch.mark.head == db.head
            if batch.mark.state == LIVE:
                assert batch.mark.position.seq == db.head
                assert batch.mark.head_time_ns == batch.commits[-1].time_ns
                break


def test_heartbeats_come_when_nothing_else_does(db: Any) -> None:
    head = db.head
    with db.feed(now=True, heartbeat_s=0.05) as feed:
        batches = iter(feed.batches())
        for _ in range(3):
            batch = next(batches)
            assert not list(batch.commits)
            assert (batch.mark.state, batch.mark.position.seq) == (LIVE, head)


def test_closing_a_feed_ends_its_iteration_from_another_thread(db: Any) -> None:
    feed = db.feed(now=True, heartbeat_s=60)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(feed))
    reader.start()
    feed.close()
    reader.join(30)
    assert not reader.is_alive()
    assert got == []


def test_a_cursor_ahead_of_the_log_is_refused(db: Any) -> None:
    with pytest.raises(everlog.CursorError, match=r"ahead of the log.*record 999, the newest is") as caught:
        db.feed(after=999)
    assert (caught.value.why, caught.value.seq) == ("ahead", 999)


def test_a_cursor_of_another_database_or_history_is_refused(db: Any) -> None:
    cursor = db.cursor()
    other = log_pb2.Cursor(database=bytes(16), seq=cursor.seq, checksum=cursor.checksum)
    with pytest.raises(everlog.CursorError, match="the cursor is of database 00000000-") as caught:
        db.feed(other)
    assert caught.value.why == "diverged"
    changed = log_pb2.Cursor(database=cursor.database, seq=cursor.seq, checksum=cursor.checksum ^ 1)
    with pytest.raises(everlog.CursorError, match=r"another history.*checksum") as caught:
        db.feed(changed)
    assert caught.value.why == "diverged"


def test_a_cursor_before_the_log_begins_is_refused(db: Any) -> None:
    with pytest.raises(everlog.CursorError, match="0 or more"):
        db.feed(after=-1)


def test_every_follower_sees_every_commit_once_while_writers_go_on(db: Any) -> None:
    start, count = db.head, 200
    feeds = [db.feed(after=start, until=start + count) for _ in range(3)]
    received: list[list[int]] = [[] for _ in feeds]
    readers = [
        threading.Thread(target=lambda into, feed: into.extend(seqs(feed)), args=pair)
        for pair in zip(received, feeds, strict=True)
    ]
    writers = [
        threading.Thread(
            target=lambda at=at: [db.put(FLIGHTS, flight(n, f"C{at}")) for n in range(count // 4)]
        )
        for at in range(4)
    ]
    for thread in (*readers, *writers):
        thread.start()
    for thread in (*readers, *writers):
        thread.join(60)
    assert received == [list(range(start + 1, start + count + 1))] * len(feeds)


@pytest.mark.parametrize(
    "bounds", [{"after": -1}, {"after": 1 << 64}, {"until": -3}, {"until": 1 << 64}, {"heartbeat_s": -1.0}]
)
def test_bounds_that_are_none_are_refused(db: Any, bounds: dict[str, Any]) -> None:
    with pytest.raises(everlog.CursorError, match="expected a"):
        db.feed(**bounds)


def test_a_feed_that_is_to_end_where_it_begins_or_before_gives_nothing(db: Any) -> None:
    assert [seqs(db.feed(after=2, until=until)) for until in (0, 1, 2)] == [[], [], []]
