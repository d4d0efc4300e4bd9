"""Following real databases: embedded, in memory and over a server, into SQLite."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog.consumers import Follower, SqliteSink, verify
from everlog.store.schema.codec import STRING
from everlog.store.schema.table import Fields, Table
from tests.conformance.database_case import (
    AIRPORTS,
    FLIGHTS,
    KINDS,
    VERSION,
    Case,
    Place,
    airport,
    flight,
    migrate,
    open_case,
)

PLACES: Table[Any, str] = Table("places", Place, key=Fields[str](Place)("country", 1, STRING))


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with open_case(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SqliteSink]:
    with SqliteSink(tmp_path / "mirror.db") as opened:
        yield opened


def write_some(db: Any, *, rounds: int = 30) -> None:
    for number in range(rounds):
        with db.transaction(actor="ann") as tx:
            tx.put(FLIGHTS, flight(number % 17, delay=-number))
            tx.put(AIRPORTS, airport(f"A{number % 5}", city=f"city {number}", name=f"name {number}"))
        if number % 3 == 2:
            db.delete(FLIGHTS, ("UA", number % 17))


@contextmanager
def following(db: Any, sink: SqliteSink, **options: Any) -> Iterator[Follower]:
    """Run a follower in a thread; its exception is raised at the end."""
    stop, raised = threading.Event(), []
    follower = Follower(db, sink, **options)

    def run() -> None:
        try:
            follower.run(stop=stop)
        except BaseException as error:  # noqa: BLE001  raised again where it is looked for
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield follower
    finally:
        stop.set()
        thread.join(60)
    if raised:
        raise raised[0]


def test_the_mirror_equals_the_database(case: Case, sink: SqliteSink) -> None:
    write_some(case.db)
    case.db.load(FLIGHTS, (flight(number, "AA") for number in range(2500)), id="aa")
    done = Follower(case.db, sink).run(bounded=True)
    assert done.position == case.db.cursor()
    assert verify(case.db, sink) == []


def test_one_table_is_followed_alone(case: Case, sink: SqliteSink) -> None:
    write_some(case.db)
    case.db.put(FLIGHTS, flight(1))
    Follower(case.db, sink, tables=["airports"]).run(bounded=True)
    assert verify(case.db, sink) == []
    assert sink.tables() == ["airports"]


def test_the_mirror_follows_a_writer_and_a_migration(case: Case, sink: SqliteSink) -> None:
    reached = threading.Event()
    goal: list[int] = []

    def look(progress: everlog.Progress) -> None:
        if goal and progress.done >= goal[0]:
            reached.set()

    with case.reader() if case.kind == "remote" else _same(case.db) as source:
        with following(source, sink, progress=look):
            write_some(case.db, rounds=10)
            migrate(case.embedded, VERSION + 1, PLACES)
            case.embedded.put(PLACES, Place(country="PL", height=2499))
            write_some(case.db, rounds=10)
            goal.append(case.db.head)
            case.db.put(FLIGHTS, flight(99))
            assert reached.wait(60)
        Follower(source, sink).run(bounded=True)
        assert verify(source, sink) == []
        assert "places" in sink.tables()


def test_a_follower_that_is_behind_is_verified_as_of_where_it_is(case: Case, sink: SqliteSink) -> None:
    write_some(case.db)
    Follower(case.db, sink).run(until=20)
    assert verify(case.db, sink) == []
    write_some(case.db)
    assert verify(case.db, sink) == []


def test_a_follower_is_verified_while_others_write(case: Case, sink: SqliteSink) -> None:
    write_some(case.db)
    Follower(case.db, sink).run(bounded=True)
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            write_some(case.db, rounds=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert verify(case.db, sink) == []
            Follower(case.db, sink).run(bounded=True)
    finally:
        enough.set()
        writer.join(60)


def test_a_database_that_was_set_up_anew_is_another(sink: SqliteSink, tmp_path: Path) -> None:
    for name in ("old", "new"):
        with open_case("file", tmp_path / name) as case:
            if name == "old":
                Follower(case.db, sink).run(bounded=True)
                continue
            with pytest.raises(everlog.SinkError, match="follow into a new target"):
                Follower(case.db, sink).run(bounded=True)


@pytest.mark.long
def test_a_follower_that_is_killed_again_and_again_mirrors_each_commit_once(tmp_path: Path) -> None:
    path = tmp_path / "mirror.db"
    with open_case("remote", tmp_path) as case:
        assert case.server is not None
        enough = threading.Event()

        def write() -> None:
            while not enough.is_set():
                write_some(case.db)

        writer = threading.Thread(target=write)
        writer.start()
        for lines in (1, 3, 9, 27):
            words = [case.server.url("case"), f"sqlite:{path}"]
            command = [sys.executable, "-m", "tests.consumers.following", *words]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for _ in range(lines):
                    assert child.stdout.readline()
                child.kill()
        enough.set()
        writer.join(60)
        with SqliteSink(path) as sink:
            Follower(case.db, sink).run(bounded=True)
            assert verify(case.db, sink) == []


@contextmanager
def _same(db: Any) -> Iterator[Any]:
    yield db
