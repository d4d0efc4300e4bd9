from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.feed import message
from everlog.feed.subscription import Subscription
from everlog.feed.tail import tail_of
from everlog.proto import feed_pb2, log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.schema.evolve import evolve
from tests.conformance.database_case import AIRPORTS, FLIGHTS, VERSION, airport, flight, migrate, open_case


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with open_case("file", tmp_path) as case:
        yield case.embedded


def polled(subscription: Subscription) -> list[message.FeedBatch]:
    found = []
    while (raw := subscription.poll()) is not None:
        found.append(message.read(raw))
    return found


def test_it_opens_with_the_schema_and_then_tells_records_until_the_head(db: EmbeddedDatabase) -> None:
    subscription = Subscription(db, after=0)
    opening, rest = polled(subscription)
    assert opening.schema == log_pb2.Schema()
    assert not opening.commits
    assert [commit.seq for commit in rest.commits] == [1, 2]
    assert rest.mark.state == feed_pb2.Mark.LIVE
    assert subscription.poll() is None
    assert not subscription.done
    db.put(FLIGHTS, flight(1))
    (batch,) = polled(subscription)
    assert [commit.seq for commit in batch.commits] == [3]


def test_subscribers_at_one_place_with_one_filter_share_one_message(db: EmbeddedDatabase) -> None:
    everybody = [Subscription(db, now=True) for _ in range(3)]
    filtered = [Subscription(db, now=True, tables=["flights"]) for _ in range(2)]
    for subscription in (*everybody, *filtered):
        polled(subscription)
    with db.transaction() as tx:
        tx.put(FLIGHTS, flight(1))
        tx.put(AIRPORTS, airport("JFK"))
    raws = [subscription.poll() for subscription in everybody]
    assert raws[0] is raws[1] is raws[2] is not None
    mine = [subscription.poll() for subscription in filtered]
    assert mine[0] is mine[1] is not None
    assert mine[0] != raws[0]


def test_who_is_slow_catches_up_in_larger_steps(db: EmbeddedDatabase) -> None:
    subscription = Subscription(db, now=True)
    polled(subscription)
    for number in range(50):
        db.put(FLIGHTS, flight(number))
    (batch,) = polled(subscription)
    assert len(batch.commits) == 50


def test_a_message_is_bounded_in_bytes_but_has_one_record_at_least(db: EmbeddedDatabase) -> None:
    start = db.head
    for size in (200 << 10, 200 << 10, 3 << 20, 1):
        db.put(AIRPORTS, airport("JFK", name="x" * size))
    batches = polled(Subscription(db, after=start))
    assert [len(batch.commits) for batch in batches] == [0, 1, 1, 1, 1]


def test_what_is_not_on_disk_is_not_told(db: EmbeddedDatabase) -> None:
    subscription = Subscription(db, now=True)
    polled(subscription)
    seq = db.put(FLIGHTS, flight(1), durability="os").seq
    while subscription.position < seq:
        subscription.tail.wait(subscription.position, 10, lambda: False)
        raw, head = subscription.poll(), db.log.head
        assert raw is None or message.read(raw).mark.position.seq <= head


def test_it_ends_with_a_mark_at_until_even_if_the_filter_dropped_what_was_there(db: EmbeddedDatabase) -> None:
    for number in range(5):
        db.put(FLIGHTS, flight(number))
    subscription = Subscription(db, after=2, tables=["airports"], bounded=True)
    batches = polled(subscription)
    assert subscription.done
    assert [len(batch.commits) for batch in batches] == [0, 0]
    assert batches[-1].mark.position == db.cursor()


def test_a_filter_follows_a_table_through_its_names(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, airport("JFK"))
    schema = log_pb2.Schema()
    schema.CopyFrom(evolve(db.schema.proto, VERSION + 1, []))
    schema.tables[0].name = "fields"
    db.apply_migration(
        log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=VERSION + 1, name="rename", schema=schema)
    )
    for name in ("airports", "fields"):
        batches = polled(Subscription(db, after=2, tables=[name], bounded=True))
        assert [commit.seq for batch in batches for commit in batch.commits] == [3, 4]


def test_a_database_has_one_tail_whoever_follows_it(db: EmbeddedDatabase) -> None:
    first = Subscription(db, now=True)
    assert Subscription(db, after=0).tail is first.tail is tail_of(db)
    woken = []
    first.tail.add_waker(lambda: woken.append(db.log.head))
    seq = db.put(FLIGHTS, flight(1)).seq
    assert woken == [seq]


def test_a_schema_that_comes_into_force_is_known_to_the_filter(db: EmbeddedDatabase) -> None:
    subscription = Subscription(db, after=0, tables=["flights"])
    polled(subscription)
    migrate(db, VERSION + 1, AIRPORTS)
    db.put(FLIGHTS, flight(1))
    db.put(AIRPORTS, airport("JFK"))
    commits = [commit for batch in polled(subscription) for commit in batch.commits]
    assert [commit.seq for commit in commits] == [3, 4]
