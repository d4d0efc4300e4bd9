"""Sealed tables over the network: the server has the keys, its clients read and write open rows."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import AccessError, ClosedError, ConflictError, RowError, SealedError
from everlog.store.upkeep.people import Forgotten
from tests.ports import reserved_port
from tests.store.models import ITEMS, declare
from tests.store.people import MASTER, PATIENTS, VISITS, patient, visit

ROOT = Path(__file__).parents[3]


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        declare(db, PATIENTS)
        yield db
        with contextlib.suppress(ClosedError):
            assert list(db.admin.check()) == []


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
    assert remote.admin.hashes() == embedded.admin.hashes()


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
    with pytest.raises(RowError, match="but no order"):
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
        with pytest.raises(SealedError, match="no master key was given"):
            remote.people.forget(PATIENTS, 1)


def test_who_forgets_is_whose_token_it_is(embedded: EmbeddedDatabase) -> None:
    embedded.put(PATIENTS, patient(1, "s-1"))
    with (
        Server({"clinic": embedded}, tokens={"dpo": "sesame"}, roles={"dpo": ("owner",)}) as server,
        RemoteDatabase(f"{server.url('clinic')}?token=sesame") as remote,
    ):
        with pytest.raises(AccessError, match="names ann as actor, its token is that of dpo"):
            remote.people.forget(PATIENTS, 1, actor="ann", reason="asked")
        done = remote.people.forget(PATIENTS, 1, reason="asked")
    commit = embedded.log.commit(done.seq)
    assert (commit.actor, commit.reason, commit.commit_id[6] >> 4) == ("dpo", "asked", 7)


def test_a_client_that_knows_an_older_schema_forgets_all_the_same(
    embedded: EmbeddedDatabase, remote: RemoteDatabase
) -> None:
    declare(embedded, VISITS)
    embedded.put(VISITS, visit(7, "s-1", "cough"))
    assert "visits" not in remote.schema.tables
    assert remote.people.forget(VISITS, 7).rows == 1
    declare(embedded, ITEMS)
    embedded.put(PATIENTS, patient(1, "s-1"))
    assert remote.people.forget(PATIENTS, 1).rows == 1


DIES = """
import os, signal, sys
from pathlib import Path
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.people import People
from tests.store.people import MASTER

forget = People.forget_person

def and_die(*given):
    forget(*given)
    os.kill(os.getpid(), signal.SIGKILL)

path, port, dies = sys.argv[1:]
if dies == "dies":
    People.forget_person = and_die
with EmbeddedDatabase(Path(path), master_key=MASTER) as db:
    with Server({"clinic": db}, f"127.0.0.1:{port}") as server:
        print(server.port, flush=True)
        server.wait()
"""


@contextlib.contextmanager
def process(path: Path, port: int, dies: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", DIES, str(path), str(port), dies]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == f"{port}\n"
            yield server
        finally:
            server.kill()


@pytest.mark.parametrize("who", [{"key": 1}, pytest.param({"person": "s-1"}, marks=pytest.mark.long)])
def test_one_whose_answer_was_lost_is_forgotten_once_and_answered(
    tmp_path: Path, who: dict[str, Any]
) -> None:
    path = tmp_path / "clinic"
    with EmbeddedDatabase(path, master_key=MASTER) as db:
        declare(db, PATIENTS)
        db.put(PATIENTS, patient(1, "s-1"))
        head = db.head
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        server = stack.enter_context(process(path, port, "dies"))
        remote = stack.enter_context(RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/clinic"))
        done = list[Forgotten]()
        asking = threading.Thread(target=lambda: done.append(remote.people.forget(PATIENTS, **who)))
        asking.start()
        assert server.wait(60) == -signal.SIGKILL
        stack.enter_context(process(path, port, "lives"))
        asking.join(60)
        assert [(one.seq, one.rows) for one in done] == [(head + 1, 1)]
        assert remote.head == head + 1


@pytest.fixture(autouse=True)
def no_master_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERLOG_MASTER_KEY", raising=False)
    monkeypatch.delenv("EVERLOG_MASTER_KEY_FILE", raising=False)
