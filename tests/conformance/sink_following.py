"""Following: order, position, restarts, filters, and what a follower must refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from everlog.consumers import Follower, verify
from everlog.proto import log_pb2
from everlog.store.errors import CursorError, SinkError
from tests.conformance.sink_case import Opened, SinkCase, differences, follow, shop
from tests.conformance.sink_log import HandMadeLog


def busy_shop() -> HandMadeLog:
    """Return a log with rows that are written, overwritten, deleted and written again, over many commits."""
    log = shop()
    for number in range(30):
        name = f"item {number % 7}"
        if number % 5 == 4:
            log.write(log.delete("items", name), log.put("visits", id=2**64 - 1 - number))
        else:
            log.write(log.put("items", name=name, price=number), log.put("visits", id=number))
    return log


def _sealed(log: HandMadeLog) -> log_pb2.Commit:
    change = log.put("items", name="secret")
    change.key_id = bytes(16)
    return log_pb2.Commit(changes=[change])


class FollowingConformance(SinkCase):
    def test_the_sink_equals_the_tables(self, opened: Opened) -> None:
        log = busy_shop()
        done = follow(log, opened)
        assert (done.position, done.commits) == (log.cursor(log.head), log.head)
        assert differences(log, opened) == []

    def test_an_empty_log_can_be_followed(self, opened: Opened) -> None:
        log = HandMadeLog()
        follow(log, opened)
        assert differences(log, opened) == []

    def test_the_last_write_of_a_row_counts(self, opened: Opened) -> None:
        log = shop(batch=100)
        log.write(log.put("items", name="a", price=1), log.put("items", name="b", price=1))
        log.write(log.delete("items", "a"))
        log.write(log.put("items", name="b", price=2))
        log.write(log.delete("items", "b"))
        log.write(log.put("items", name="b", price=3))
        log.write(log.delete("items", "never there"))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_a_restart_leaves_no_gap_and_repeats_nothing(self, opened: Opened) -> None:
        log = busy_shop()
        carried = sum(follow(log, opened, until=seq).commits for seq in range(1, log.head + 1))
        assert carried == log.head
        assert follow(log, opened).commits == 0
        assert differences(log, opened) == []

    def test_every_stop_is_at_a_commit_and_equals_the_tables_there(self, opened: Opened) -> None:
        log = busy_shop()
        for seq in range(1, log.head + 1, 4):
            follow(log, opened, until=seq)
            with opened() as sink:
                assert verify(log, sink) == []

    def test_a_follower_that_is_told_to_stop_keeps_what_it_took(self, opened: Opened) -> None:
        log, stop = busy_shop(), threading.Event()
        stop.set()
        with opened() as sink:
            Follower(log, sink).run(stop=stop)
        assert follow(log, opened).position == log.cursor(log.head)
        assert differences(log, opened) == []

    def test_what_is_written_while_it_follows_arrives_at_once(self, opened: Opened) -> None:
        log, stop, arrived = shop(), threading.Event(), threading.Event()
        with opened() as sink:
            follower = Follower(log, sink, progress=lambda p: arrived.set() if p.done == 4 else None)
            thread = threading.Thread(target=follower.run, kwargs={"stop": stop})
            thread.start()
            log.write(log.put("items", name="late"))
            log.write(log.put("items", name="later"))
            assert arrived.wait(60)
            state = sink.open()
            stop.set()
            thread.join(60)
        assert state is not None
        assert state.position == log.cursor(4)

    def test_a_second_run_with_nothing_to_do_changes_nothing(self, opened: Opened) -> None:
        log = busy_shop()
        first = follow(log, opened)
        again = follow(log, opened)
        assert (again.position, again.commits, again.changes) == (first.position, 0, 0)
        assert differences(log, opened) == []

    def test_a_follower_that_looks_again_and_finds_nothing_leaves_the_sink_alone(
        self, opened: Opened
    ) -> None:
        log = busy_shop()
        with opened() as sink:
            follower = Follower(log, sink)
            follower.run(bounded=True)
            assert follower.run(bounded=True).transactions == 0
            log.write(log.put("visits", id=1))
            assert follower.run(bounded=True).transactions == 1

    # ── some tables ───────────────────────────────────────────────────────────────────────────

    def test_a_follower_of_one_table_has_no_other(self, opened: Opened) -> None:
        log = busy_shop()
        log.write(log.put("visits", id=5, who="last"))
        done = follow(log, opened, tables=["items"])
        assert done.position == log.cursor(log.head)
        assert differences(log, opened) == []
        with opened() as sink:
            assert list(sink.tables()) == ["items"]

    def test_another_choice_of_tables_is_refused(self, opened: Opened) -> None:
        log = busy_shop()
        follow(log, opened, tables=["items"])
        with pytest.raises(SinkError, match="follows items, but was asked to follow all tables"):
            follow(log, opened)

    # ── refused ───────────────────────────────────────────────────────────────────────────────

    def test_another_database_is_refused(self, opened: Opened) -> None:
        follow(shop(), opened)
        with pytest.raises(SinkError, match=r"follows database 0001.*this one is 4242"):
            follow(HandMadeLog(uuid=b"\x42" * 16), opened)

    def test_a_log_that_is_behind_the_sink_is_refused(self, opened: Opened) -> None:
        log = busy_shop()
        follow(log, opened)
        with pytest.raises(CursorError, match="ahead of the log"):
            follow(shop(), opened)

    def test_another_history_of_the_same_database_is_refused(self, opened: Opened) -> None:
        log, other = shop(), shop()
        log.write(log.put("visits", id=1))
        other.write(other.put("visits", id=2))
        follow(log, opened)
        with pytest.raises(CursorError, match="of another history"):
            follow(other, opened)

    def test_a_gap_in_the_feed_is_refused_and_leaves_no_trace(self, opened: Opened) -> None:
        log = busy_shop()
        follow(log, opened, until=10)
        before = _position(opened)
        missing = log.commits[12]
        log.commits[12] = log.commits[13]
        with pytest.raises(SinkError, match="expected 13"):
            follow(log, opened)
        assert _position(opened) == before
        log.commits[12] = missing
        follow(log, opened)
        assert differences(log, opened) == []

    @pytest.mark.parametrize(
        ("commit", "message"),
        [
            (lambda _: log_pb2.Commit(requires=[7]), "feature"),
            (lambda _: log_pb2.Commit(changes=[log_pb2.Change(space=99, key=b"x")]), "space 99"),
            (_sealed, "sealed"),
            (lambda _: log_pb2.Commit(changes=[log_pb2.Change(space=1, key=b"x\0\1", row=b"\x08")]), "row"),
        ],
        ids=["unknown feature", "unknown space", "sealed row", "row that does not parse"],
    )
    def test_what_it_cannot_read_is_refused_and_leaves_no_trace(
        self, opened: Opened, commit: Callable[[HandMadeLog], log_pb2.Commit], message: str
    ) -> None:
        log = shop(batch=100)
        log.write(log.put("items", name="a"))
        follow(log, opened)
        before = _position(opened)
        log.write(log.put("items", name="b"))
        log.append(commit(log))
        with pytest.raises(Exception, match=message):
            follow(log, opened)
        assert _position(opened) == before
        with opened() as sink:
            assert len(list(sink.rows("items"))) == 1

    def test_a_second_follower_is_refused(self, opened: Opened) -> None:
        log = busy_shop()
        with opened() as first, opened() as second:
            Follower(log, first).run(until=5)
            with pytest.raises(SinkError, match="another follower writes to it"):
                Follower(log, second).run(until=9)
            Follower(log, first).run(bounded=True)
        assert differences(log, opened) == []

    # ── verify ────────────────────────────────────────────────────────────────────────────────

    def test_verify_finds_a_spoiled_row(self, url: str, opened: Opened) -> None:
        log = shop()
        log.write(log.put("items", name="a", price=3), log.put("visits", id=1))
        follow(log, opened)
        self.spoil(url, "items", "price", 4)
        assert [one.table for one in differences(log, opened)] == ["items"]
        self.spoil(url, "items", "price", 3)
        assert differences(log, opened) == []
        self.spoil(url, "items", "tags", '["x"]')
        assert [one.table for one in differences(log, opened)] == ["items"]

    def test_verify_finds_a_value_that_cannot_have_been_written(self, url: str, opened: Opened) -> None:
        log = shop()
        log.write(log.put("items", name="a", price=3))
        follow(log, opened)
        self.spoil(url, "items", "tags", "no json")
        (difference,) = differences(log, opened)
        assert "tags" in str(difference)

    def test_verify_looks_at_the_database_as_it_was_at_the_position_of_the_sink(
        self, url: str, opened: Opened
    ) -> None:
        log = busy_shop()
        for seq in (9, log.head):
            follow(log, opened, until=seq)
            assert differences(log, opened) == []
        log.write(log.put("items", name="later", price=9))
        assert differences(log, opened) == []

    def test_verify_tells_that_the_sink_was_moved_meanwhile(self, opened: Opened) -> None:
        log = busy_shop()
        follow(log, opened, until=9)
        with opened() as looking:
            looking.open()
            follow(log, opened)
            with pytest.raises(SinkError, match="another follower writes to it"):
                verify(log, looking)


def _position(opened: Opened) -> log_pb2.Cursor:
    with opened() as sink:
        state = sink.open()
        assert state is not None
        return state.position
