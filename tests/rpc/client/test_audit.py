"""A server with an archive: followers, backups and clients do not notice that old records were removed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from everlog.audit import archive, backup, holds, restore, verify_backup
from everlog.audit.archived import attach
from everlog.rpc.client.audit import RemoteLog
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import Error, OpenError, RowError
from tests.conformance.database_case import AIRPORTS, Airport


def test_a_follower_of_a_server_reads_through_its_archive(db: EmbeddedDatabase, tmp_path: Path) -> None:
    attach(db)
    for number in range(100):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        with remote.feed(5, until=db.head) as feed:
            commits = iter(feed)
            assert next(commits).seq == 6
            archive(db, tmp_path / "archive", keep_records=10)
            assert [commit.seq for commit in commits] == list(range(7, db.head + 1))
        assert [commit.seq for commit in remote.feed(0, bounded=True)] == list(range(1, db.head + 1))
        assert backup(RemoteLog(remote), tmp_path / "backup").records == db.head
        assert remote.admin.status().head == db.head
    assert restore(tmp_path / "backup", tmp_path / "copy").tables == db.admin.hashes()


def test_a_follower_is_told_where_the_archive_is_not_there(db: EmbeddedDatabase, tmp_path: Path) -> None:
    attach(db)
    for number in range(100):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    archive(db, tmp_path / "archive", keep_records=10)
    (tmp_path / "archive").rename(tmp_path / "away")
    assert db.log.trimmed.older is not None
    attach(db)
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        with pytest.raises(Error, match="was archived and cannot be read back"):
            list(remote.feed(0, bounded=True))
        assert len(list(remote.feed(db.head - 10, bounded=True))) == 10
        assert remote.get(AIRPORTS, "A7") is not None
    (tmp_path / "away").rename(tmp_path / "archive")


def test_a_server_tells_what_would_be_archived_as_the_embedded_database_does(
    db: EmbeddedDatabase, tmp_path: Path
) -> None:
    for number in range(100):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    with (
        Server({"x": db}, archives={"x": str(tmp_path / "archive")}) as server,
        RemoteDatabase(server.url("x")) as remote,
    ):
        assert remote.archive.removable() == (db.head - 1, "the newest record stays")
        for keeps in ({"keep_records": 40}, {"keep_records": 10**6}, {"keep_ns": 10**18}, {}):
            assert remote.archive.removable(**keeps) == db.archive.removable(**keeps)
        assert remote.archive.removable(keep_records=10**6) == (0, "1,000,000 are kept")
        db.archive.hold("audit", 31)
        assert remote.archive.removable(keep_records=40) == (30, "hold 'audit'")
        assert remote.archive.move(keep_records=40).base == 30


def test_a_server_archives_to_where_it_was_told_and_nowhere_else(
    db: EmbeddedDatabase, tmp_path: Path
) -> None:
    attach(db)
    for number in range(100):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    steps: list[str] = []
    target = str(tmp_path / "archive")
    with (
        Server({"x": db, "y": db}, archives={"x": target}) as server,
        RemoteDatabase(server.url("x")) as remote,
        RemoteDatabase(server.url("y")) as nowhere,
    ):
        with pytest.raises(OpenError, match=r"archives x to .*/archive, not to .*/elsewhere"):
            remote.archive.move(str(tmp_path / "elsewhere"))
        assert not (tmp_path / "elsewhere").exists()
        with pytest.raises(OpenError, match="this server has no archive target for y: start it with"):
            nowhere.archive.move()
        done = remote.archive.move(keep_records=40, progress=lambda at: steps.append(at.step))
        assert (done.base, done.removed) == (db.head - 40, db.head - 40)
        assert {"back up", "compact"} <= set(steps)
        done = remote.archive.move(target, keep_ns=10**18)
        assert (done.removed, done.held) == (0, "those of some time are kept")
        assert remote.admin.status().archive.base == db.head - 40
        assert [commit.seq for commit in remote.feed(0, bounded=True)] == list(range(1, db.head + 1))
    assert list(verify_backup(target, deep=True)) == []


def test_holds_of_a_server_are_those_of_its_database(db: EmbeddedDatabase, tmp_path: Path) -> None:
    for number in range(50):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    with (
        Server({"x": db}, archives={"x": str(tmp_path / "archive")}) as server,
        RemoteDatabase(server.url("x")) as remote,
    ):
        there = remote.archive
        there.hold("audit", 20)
        holds.hold(db.path, "more", 30)
        assert there.holds() == holds.read(db.path) == {"audit": 20, "more": 30}
        assert remote.archive.move().held == "hold 'audit'"
        there.release("audit")
        with pytest.raises(RowError, match="there is no hold 'audit'; there are: more"):
            there.release("audit")
        with pytest.raises(RowError, match="expected the name of a hold of 1 to 200 bytes"):
            there.hold("", 1)
        assert remote.archive.move().base == 29
        with pytest.raises(RowError, match="record 29 cannot be held: it was archived"):
            there.hold("audit", 29)
        assert there.holds() == {"more": 30}


def test_a_server_that_stops_ends_its_archiving_and_nothing_is_lost(
    db: EmbeddedDatabase, tmp_path: Path
) -> None:
    for number in range(100):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    attach(db)
    target, head = str(tmp_path / "archive"), db.head
    with (
        Server({"x": db}, archives={"x": target}) as server,
        RemoteDatabase(server.url("x"), retry_s=0) as remote,
    ):

        def stop(_: object) -> None:
            server.stop(0.1)

        with contextlib.suppress(Error):  # or it was complete already
            remote.archive.move(keep_records=1, progress=stop)
    assert [seq for seq, _ in db.log.scan()] == list(range(1, head + 1))
    assert db.admin.rebuild() == db.admin.hashes()
    archive(db, target, keep_records=1)
    assert db.log.trimmed.base == head - 1
