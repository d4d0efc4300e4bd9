"""A server whose old log was archived: followers, backups and clients find nothing missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.audit import archive, backup, restore
from everlog.audit.archived import attach
from everlog.feed.embedded import EmbeddedDatabase
from everlog.rpc.remote import RemoteDatabase
from everlog.rpc.remote_backup import RemoteLog
from everlog.rpc.server import Server
from everlog.store.errors import Error
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
        assert remote.status().head == db.head
    assert restore(tmp_path / "backup", tmp_path / "copy").tables == db.hashes()


def test_a_follower_is_told_where_the_archive_is_not_there(db: EmbeddedDatabase, tmp_path: Path) -> None:
    attach(db)
    for number in range(100):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}"))
    archive(db, tmp_path / "archive", keep_records=10)
    (tmp_path / "archive").rename(tmp_path / "away")
    assert db.log.trimmed.older is not None
    attach(db)
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        with pytest.raises(Error, match="was archived, and cannot be read from there"):
            list(remote.feed(0, bounded=True))
        assert len(list(remote.feed(db.head - 10, bounded=True))) == 10
        assert remote.get(AIRPORTS, "A7") is not None
    (tmp_path / "away").rename(tmp_path / "archive")
