"""A backup of a database on a server, through its feed."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.audit import backup, restore, verify_backup
from everlog.rpc.client.audit import RemoteLog
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import OpenError
from tests.conformance.database_case import AIRPORTS, Airport


def test_the_backup_of_a_server_is_that_of_its_log(db: EmbeddedDatabase, tmp_path: Path) -> None:
    to = tmp_path / "backup"
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        for number in range(300):
            db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number} " * 2000))
        done = backup(RemoteLog(remote), to)
        assert done.last == db.head
        db.put(AIRPORTS, Airport(faa="NEW", name="new"))
        more = backup(RemoteLog(remote), to)
        assert (more.first, more.last) == (done.last + 1, db.head)
        assert backup(RemoteLog(remote), to).records == 0
    assert list(verify_backup(to, deep=True)) == []
    assert restore(to, tmp_path / "copy").tables == db.admin.hashes()
    local = tmp_path / "local"
    backup(db, local)
    assert backup(db, to).records == 0  # one backup, written from both sides


def test_a_server_whose_database_diverged_is_refused(db: EmbeddedDatabase, tmp_path: Path) -> None:
    to = tmp_path / "backup"
    head = db.head
    db.put(AIRPORTS, Airport(faa="JFK", name="John"))
    backup(db, to)
    restore(to, tmp_path / "back", at=head)
    with (
        EmbeddedDatabase(tmp_path / "back") as back,
        Server({"x": back}) as server,
        RemoteDatabase(server.url("x")) as remote,
    ):
        with pytest.raises(OpenError, match=f"goes up to record {head + 1}, the database only to {head}"):
            backup(RemoteLog(remote), to)
        back.put(AIRPORTS, Airport(faa="LAX", name="Los"))
        with pytest.raises(OpenError, match="differs from the one in the database: they diverged"):
            backup(RemoteLog(remote), to)
