"""Sealed tables over the network: the server has the keys, its clients read and write open rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.feed.embedded import EmbeddedDatabase
from everlog.rpc.remote import RemoteDatabase
from everlog.rpc.server import Server
from everlog.store.errors import ClosedError, ConflictError, RowError, SealedError
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, patient


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        declare(db, PATIENTS)
        yield db
        with contextlib.suppress(ClosedError):
            assert list(db.check()) == []


@pytest.fixture
def remote(embedded: EmbeddedDatabase) -> Iterator[RemoteDatabase]:
    with Server({"clinic": embedded}) as server, RemoteDatabase(server.url("clinic")) as db:
        yield db


def test_a_client_reads_and_writes_what_the_server_seals(
    embedded: EmbeddedDatabase, remote: RemoteDatabase
) -> None:
    ann, bob = patient(1, "s-1", email="ann@x", name="Ann"), patient(2, "s-2", email="bob@x", name="Bob")
    remote.put(PATIENTS, ann)
    remote.load(PATIENTS, [bob])
    assert embedded.log.commit(embedded.head).changes[0].key_id
    assert remote.get(PATIENTS, 1) == ann
    assert remote.get_many(PATIENTS, [2, 1]) == [bob, ann]
    assert list(remote.scan(PATIENTS)) == [ann, bob]
    assert remote.hashes() == embedded.hashes()


def test_a_client_looks_up_a_hashed_index_without_having_keys(remote: RemoteDatabase) -> None:
    rows = [patient(n, f"s-{n}", email=f"{n}@x", name="Ann", born=1970 + n % 2) for n in range(1, 10)]
    remote.load(PATIENTS, rows)
    assert list(remote.scan(PATIENTS.by_email, "3@x")) == [rows[2]]
    assert remote.count(PATIENTS.by_name_and_born, "Ann") == 9
    assert remote.count(PATIENTS.by_name_and_born, ("Ann", 1971)) == 5
    assert [row.id for row in remote.scan(PATIENTS.by_name_and_born, ("Ann", 1971))] == [1, 3, 5, 7, 9]
    assert [
        row.id for row in remote.scan(PATIENTS.by_name_and_born, ("Ann", 1971), reverse=True, limit=2)
    ] == [
        9,
        7,
    ]
    seen, resume = list[int](), None
    while True:
        page = remote.scan(PATIENTS.by_name_and_born, "Ann", limit=2, resume=resume)
        seen += [row.id for row in page]
        resume = page.resume
        if resume is None:
            break
    assert sorted(seen) == list(range(1, 10))
    assert len(seen) == 9
    with pytest.raises(RowError, match="have no order"):
        remote.scan(PATIENTS.by_email)


def test_a_transaction_conflicts_over_what_it_looked_up_in_a_hashed_index(remote: RemoteDatabase) -> None:
    with remote.transaction() as tx:
        assert list(tx.scan(PATIENTS.by_email, "ann@x")) == []
        remote.put(PATIENTS, patient(1, "s-1", email="ann@x"))
        tx.put(PATIENTS, patient(2, "s-2", name="first"))
        with pytest.raises(ConflictError):
            tx.commit()


def test_a_server_without_the_master_key_says_so(tmp_path: Path, embedded: EmbeddedDatabase) -> None:
    embedded.put(PATIENTS, patient(1, "s-1"))
    embedded.close()
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"clinic": db}) as server,
        RemoteDatabase(server.url("clinic")) as remote,
    ):
        with pytest.raises(SealedError, match="no master key was given"):
            remote.get(PATIENTS, 1)
        with pytest.raises(SealedError, match="no master key was given"):
            remote.put(PATIENTS, patient(2, "s-2"))


@pytest.fixture(autouse=True)
def no_master_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERLOG_MASTER_KEY", raising=False)
    monkeypatch.delenv("EVERLOG_MASTER_KEY_FILE", raising=False)
