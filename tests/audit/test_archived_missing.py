"""A missing segment of the archive: reads that need it name it, and everything else continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlog.audit import archive, backup
from everlog.audit import manifest as manifests
from everlog.audit.archived import attach
from everlog.audit.place import place
from everlog.audit.prover import LocalProver
from everlog.audit.tree import Tree
from everlog.feed.subscription import Subscription
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import CorruptionError, Error
from everlog.store.rocks.engine import Engine
from everlog.store.tx.transaction import new_commit_id
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill
from tests.conformance import database_case as case
from tests.store.models import AIRPORTS, ITEMS, airport, items

NEEDS: dict[str, Callable[[Any, Path], object]] = {
    "rebuild": lambda db, _: db.admin.rebuild(),
    "a record": lambda db, _: db.log.get(25),
    "the log": lambda db, _: list(db.log.scan()),
    "a row as it was": lambda db, _: db.at(seq=30).get(AIRPORTS, "JFK"),
    "all rows as they were": lambda db, _: list(db.at(seq=30).scan(ITEMS)),
    "history": lambda db, _: list(db.history(AIRPORTS, "JFK")),
    "diff": lambda db, _: list(db.past.diff(ITEMS, 22, 30)),
    "a proof": lambda db, _: LocalProver(db).prove(25, LocalProver(db).head()[0]),
    "an audit": lambda db, _: list(LocalProver(db).entries(0, db.head)),
    "a follower": lambda db, _: _followed(db, 21),
    "a backup": lambda db, at: backup(db, at / "new"),
    "a check": lambda db, _: _raised(db.admin.check()),
}


def _followed(db: Any, after: int) -> list[bytes]:
    found, subscription = [], Subscription(db, after=after, bounded=True)
    while (raw := subscription.poll()) is not None:
        found.append(raw)
    return found


def _raised(problems: Any) -> None:
    for problem in problems:
        raise CorruptionError(problem)


def archived(db: Any, to: Path) -> Path:
    """Return the path of the second of three archived segments, with records 21 to 40."""
    fill(db, 1, 18)
    db.put(AIRPORTS, airport("JFK", "one"))
    fill(db, 20, 30)
    db.put(AIRPORTS, airport("JFK", "two"))
    fill(db, 40, 80)
    for last in (20, 40, 60):
        archive(db, to, keep_records=db.head - last)
    (second,) = [one.name for one in manifests.needed(place(to)).segments if one.first == 21]
    return to / second


@pytest.mark.parametrize("what", NEEDS)
def test_what_needs_a_segment_that_is_gone_says_which(db: Any, to: Path, what: str) -> None:
    gone = archived(db, to)
    gone.rename(gone.with_suffix(".away"))
    attach(db)
    with pytest.raises(Error, match=gone.name):
        NEEDS[what](db, to.parent)
    assert db.log.get(5)
    assert db.log.get(50)
    assert db.get(AIRPORTS, "JFK").city == "two"
    db.put(ITEMS, *items(900, 900))
    assert len(_followed(db, 41)) > 0
    gone.with_suffix(".away").rename(gone)
    NEEDS[what](db, to.with_name("now"))


def test_who_asks_a_server_is_told_which_segment_is_gone(tmp_path: Path) -> None:
    with case.open_case("file", tmp_path) as opened:
        db, to = opened.embedded, tmp_path / "archive"
        assert isinstance(db, EmbeddedDatabase)
        for number in range(60):
            db.put(case.AIRPORTS, case.airport("JFK", city=f"{number}", name="Kennedy"))
        for last in (20, 40):
            archive(db, to, keep_records=db.head - last)
        (name,) = [one.name for one in manifests.needed(place(to)).segments if one.first == 21]
        with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
            with remote.feed(15) as feed:  # a slow follower at this position
                commits = iter(feed)
                assert next(commits).seq == 16
            (to / name).rename(to / "away")
            attach(db)
            calls: list[Callable[[], object]] = [
                lambda: list(remote.feed(20, bounded=True)),
                lambda: list(remote.history(case.AIRPORTS, "JFK")),
                lambda: remote.at(seq=30).get(case.AIRPORTS, "JFK"),
                remote.admin.rebuild,
            ]
            for call in calls:
                with pytest.raises(Error, match=name):
                    call()
            assert len(list(remote.feed(41, bounded=True))) == db.head - 41
            assert [row.city for row in remote.scan(case.AIRPORTS)] == ["59"]
            (to / "away").rename(to / name)
            for call in calls:
                call()


def test_projections_have_taken_in_what_goes_before_it_goes(
    opening: Opener, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, seen, commit_id = opening(), list[tuple[int, int, int]](), new_commit_id()
    fill(db, 1, 30)
    with db.transaction(commit_id=commit_id) as tx:
        tx.put(ITEMS, *items(31, 31))
    repeatable = db.head
    fill(db, 32, 50)
    trim = Engine.trim

    def trimmed(engine: Engine, key: bytes, base: bytes, kept: list[tuple[bytes, bytes]]) -> None:
        seen.append((int.from_bytes(key, "big"), Tree(db).size, db.past.versions.applied))
        trim(engine, key, base, kept)

    monkeypatch.setattr(Engine, "trim", trimmed)
    archive(db, to)
    ((last, tree, versions),) = seen
    assert last == repeatable - 1
    assert tree == versions == db.head
    root = Tree(db).root(last)
    db.close()
    to.rename(to.with_name("away"))
    db = opening()
    attach(db)
    fill(db, 60, 70)
    assert Tree(db).catch_up() == db.head  # without the archive
    assert Tree(db).root(last) == root
    again = db.transaction(commit_id=commit_id)
    again.put(ITEMS, *items(31, 31))
    assert again.commit().seq == repeatable
    to.with_name("away").rename(to)
