"""Following by name: the source knows the follower's position, and holds the records that it lacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import everlog
from everlog.audit import archive
from everlog.consumers import Follower, SqliteSink, verify
from everlog.store.upkeep.consumers import Cap
from tests.conformance.database_case import AIRPORTS, Case, airport, open_case
from tests.conformance.sink_log import HandMadeLog


@pytest.fixture(params=["file", "remote"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with open_case(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SqliteSink]:
    with SqliteSink(tmp_path / "mirror.db") as opened:
        yield opened


def write_some(case: Case, start: int = 0, count: int = 20) -> None:
    for number in range(start, start + count):
        case.embedded.put(AIRPORTS, airport(f"A{number}"))


def test_the_source_knows_how_far_a_follower_is(case: Case, sink: SqliteSink) -> None:
    write_some(case)
    follower = Follower(case.db, sink, consumer="mirror", cap=Cap(records=5000))
    follower.run(until=10)
    found = case.embedded.consumers["mirror"]
    assert (found.position.seq, found.cap.records) == (10, 5000)
    done = follower.run(bounded=True)
    assert case.embedded.consumers["mirror"].position == done.position == case.embedded.cursor()
    assert sum(commit.HasField("notice") for commit in case.db.feed(bounded=True)) == 1
    assert verify(case.db, sink) == []


def test_what_a_follower_lacks_stays_while_it_is_away(case: Case, sink: SqliteSink, tmp_path: Path) -> None:
    write_some(case)
    Follower(case.db, sink, consumer="mirror").run(until=10)
    done = archive(case.embedded, tmp_path / "archive", keep_records=1)
    assert (done.base, done.held) == (10, "consumer 'mirror'")
    Follower(case.db, sink, consumer="mirror").run(bounded=True)
    assert archive(case.embedded, tmp_path / "archive", keep_records=1).base == case.embedded.head - 1


def test_two_followers_under_one_name_are_told(case: Case, tmp_path: Path) -> None:
    write_some(case)
    with SqliteSink(tmp_path / "one.db") as one, SqliteSink(tmp_path / "two.db") as two:
        first, began, go_on = Follower(case.db, one, consumer="mirror"), threading.Event(), threading.Event()
        raised: list[BaseException] = []

        def progress(_: everlog.Progress) -> None:
            began.set()
            go_on.wait(60)

        first.progress = progress

        def run() -> None:
            try:
                first.run(bounded=True)
            except everlog.CursorError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert began.wait(60)
        Follower(case.db, two, consumer="mirror").run(until=5)
        go_on.set()
        thread.join()
        assert "two processes run under one name; give each its own" in str(raised[0])
        assert case.embedded.consumers["mirror"].position.seq == 5


def test_a_sink_that_is_behind_its_name_says_where_it_is(case: Case, tmp_path: Path) -> None:
    write_some(case)
    with SqliteSink(tmp_path / "one.db") as one, SqliteSink(tmp_path / "two.db") as two:
        Follower(case.db, one, consumer="mirror").run(bounded=True)
        Follower(case.db, two, consumer="mirror").run(until=3)
    assert case.embedded.consumers["mirror"].position.seq == 3


def test_a_follower_of_another_database_takes_no_name_there(sink: SqliteSink, tmp_path: Path) -> None:
    for name in ("old", "new"):
        with open_case("file", tmp_path / name) as case:
            if name == "old":
                Follower(case.db, sink, consumer="mirror").run(bounded=True)
                continue
            with pytest.raises(everlog.SinkError, match="follow into a new target"):
                Follower(case.db, sink, consumer="mirror").run(bounded=True)
            assert list(case.embedded.consumers) == []


def test_a_source_without_consumers_is_refused(sink: SqliteSink) -> None:
    with pytest.raises(everlog.SinkError, match="the source has no consumers"):
        Follower(HandMadeLog(), sink, consumer="mirror").run(bounded=True)
