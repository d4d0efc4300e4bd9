"""Following sealed tables over the network: the log names the followers that may open rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlog.audit import backup, restore
from everlog.consumers import Follower, SqliteSink, verify
from everlog.rpc.client import people as remote_keys
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import people
from everlog.rpc.server.server import Server
from everlog.store.errors import AccessError, OpenError, ReadOnlyError, SealedError
from tests.rpc.conftest import TLS
from tests.store.models import ITEMS, Item, declare
from tests.store.people import MASTER, PATIENTS, VISITS, patient, visit

TOKENS = {"mirror": "sesame", "web": "thyme"}
ROLES = dict.fromkeys(TOKENS, ("follower", "reader"))


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "clinic", master_key=MASTER) as db:
        declare(db, PATIENTS, VISITS, ITEMS)
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        db.put(VISITS, visit(7, "s-1", "cough"))
        db.put(ITEMS, Item(id=1))
        yield db
        assert list(db.admin.check()) == []


@pytest.fixture
def server(clinic: EmbeddedDatabase) -> Iterator[Server]:
    with Server({"clinic": clinic}, token="salt", tokens=TOKENS, roles=ROLES, keys_for=["mirror"]) as server:
        yield server


def opened(server: Server, who: str = "mirror") -> RemoteDatabase:
    return RemoteDatabase(f"{server.url('clinic')}?token={TOKENS.get(who, 'salt')}")


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return [row[0] for row in connection.execute("SELECT name FROM patients ORDER BY id")]


def given(db: EmbeddedDatabase) -> list[tuple[str, str]]:
    notices: list[Any] = list(db.past.log(kind="notice"))
    return [(one.actor, one.about.subject) for one in notices if one.about.kind == people.KIND]


def test_a_follower_with_keys_is_equal_and_obeys(
    server: Server, clinic: EmbeddedDatabase, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror.db"
    with opened(server) as db, SqliteSink(mirror) as sink:
        Follower(db, sink).run(bounded=True)
        assert names(mirror) == ["Ann", "Bob"]
        assert verify(db, sink) == []
        clinic.people.forget(PATIENTS, 1)
        Follower(db, sink).run(bounded=True)
        assert names(mirror) == ["Bob"]
        assert verify(db, sink) == []
        clinic.put(PATIENTS, patient(1, "s-1", name="Ann again"))
        Follower(db, sink).run(bounded=True)
        assert names(mirror) == ["Ann again", "Bob"]
    assert b"cough" not in mirror.read_bytes()
    with opened(server) as db, SqliteSink(tmp_path / "late.db") as late:
        Follower(db, late).run(bounded=True)
        assert names(tmp_path / "late.db") == ["Ann again", "Bob"]
        assert verify(db, late) == []


def test_who_is_given_keys_is_in_the_log_before_and_once_a_day(
    server: Server, clinic: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = clinic.head
    with opened(server) as db, SqliteSink(tmp_path / "mirror.db") as sink:
        assert Follower(db, sink).run(bounded=True).position.seq == head + 1
        for n in range(3, 9):
            clinic.put(PATIENTS, patient(n, f"s-{n}"))
            Follower(db, sink).run(bounded=True)
        assert given(clinic) == [("mirror", "mirror")]
        assert clinic.log.commit(head + 1).notice.kind == people.KIND
        monkeypatch.setattr(people, "EVERY_S", 0)
        Follower(db, sink).run(bounded=True)
        assert given(clinic) == [("mirror", "mirror")] * 2
        assert verify(db, sink) == []


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("web", "the token of web may not have the keys of people.* --keys-for web"),
        ("nobody", "a caller without a named token .* --tokens FILE --keys-for NAME"),
    ],
)
def test_who_may_not_have_keys_is_told_how_to_and_gets_nothing(
    server: Server, clinic: EmbeddedDatabase, tmp_path: Path, who: str, says: str
) -> None:
    head = clinic.head
    with opened(server, who) as db:
        with SqliteSink(tmp_path / "mirror.db") as sink:
            with pytest.raises(AccessError, match=says):
                Follower(db, sink).run(bounded=True)
            assert sink.open() is None
        with SqliteSink(tmp_path / "others.db") as sink:
            Follower(db, sink, tables=["items"]).run(bounded=True)
            assert verify(db, sink) == []
    assert clinic.head == head


def test_a_server_without_tokens_gives_keys_to_nobody(clinic: EmbeddedDatabase, tmp_path: Path) -> None:
    with (
        Server({"clinic": clinic}) as server,
        RemoteDatabase(server.url("clinic")) as db,
        SqliteSink(tmp_path / "mirror.db") as sink,
        pytest.raises(AccessError, match="--tokens FILE --keys-for NAME"),
    ):
        Follower(db, sink).run(bounded=True)
    with pytest.raises(OpenError, match="--keys-for: expected the name of a token, found 'cy'"):
        Server({"clinic": clinic}, tokens=TOKENS, roles=ROLES, keys_for=["cy"])


def test_keys_travel_over_tls(clinic: EmbeddedDatabase, tmp_path: Path) -> None:
    with Server({"clinic": clinic}, tokens=TOKENS, roles=ROLES, keys_for=["mirror"], tls=TLS) as server:
        url = f"{server.url('clinic')}?token=sesame&ca={TLS.certificate}"
        assert url.startswith("everlog://")
        with RemoteDatabase(url) as db, SqliteSink(tmp_path / "mirror.db") as sink:
            Follower(db, sink).run(bounded=True)
            assert verify(db, sink) == []
    with pytest.raises(OpenError, match="needs TLS"):
        Server({"clinic": clinic}, "0.0.0.0:0", tokens=TOKENS, roles=ROLES, keys_for=["mirror"])


def test_sealed_rows_of_tables_that_are_gone_are_followed_through(
    server: Server, clinic: EmbeddedDatabase, tmp_path: Path
) -> None:
    declare(clinic, drop=["patients", "visits"])
    with opened(server) as db, SqliteSink(tmp_path / "mirror.db") as sink:
        Follower(db, sink).run(bounded=True)
        Follower(db, sink).run(bounded=True)  # the log was notified meanwhile
        assert verify(db, sink) == []
    with (
        opened(server, "web") as db,
        SqliteSink(tmp_path / "web.db") as sink,
        pytest.raises(AccessError, match="--keys-for web"),
    ):
        Follower(db, sink).run(bounded=True)


def test_more_people_than_are_kept_in_memory_are_followed(
    server: Server, clinic: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_keys, "KEYS_MAX", 20)
    monkeypatch.setattr(remote_keys, "ASKED_KEYS_MAX", 7)
    clinic.load(PATIENTS, [patient(n, f"s-{n}", name=str(n)) for n in range(3, 300)])
    clinic.load(VISITS, [visit(n, f"s-{n % 50}", "cold") for n in range(100, 400)])
    with opened(server) as db, SqliteSink(tmp_path / "mirror.db") as sink:
        Follower(db, sink).run(bounded=True)
        assert verify(db, sink) == []


def test_a_server_that_has_no_master_key_or_only_reads_gives_none(
    clinic: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERLOG_MASTER_KEY", "EVERLOG_MASTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    clinic.tables.flush()
    for master_key, kind, says in (
        (MASTER, ReadOnlyError, "opened for reading"),
        (None, SealedError, "there are no keys to release: no master key was given"),
    ):
        with (
            EmbeddedDatabase(clinic.path, read_only=True, master_key=master_key) as reader,
            Server({"clinic": reader}, tokens=TOKENS, roles=ROLES, keys_for=["mirror"]) as server,
            opened(server) as db,
            SqliteSink(tmp_path / "mirror.db") as sink,
            pytest.raises(kind, match=says),
        ):
            Follower(db, sink).run(bounded=True)


def test_a_fork_gives_the_keys_of_its_origin(clinic: EmbeddedDatabase, tmp_path: Path) -> None:
    backup(clinic, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "fork", fork=True)
    (tmp_path / "fork" / "KEYS").write_bytes((clinic.path / "KEYS").read_bytes())
    with (
        EmbeddedDatabase(tmp_path / "fork", master_key=MASTER) as fork,
        Server({"clinic": fork}, tokens=TOKENS, roles=ROLES, keys_for=["mirror"]) as server,
        opened(server) as db,
        SqliteSink(tmp_path / "mirror.db") as sink,
    ):
        fork.put(PATIENTS, patient(3, "s-3", name="Cyd"))
        Follower(db, sink).run(bounded=True)
        assert names(tmp_path / "mirror.db") == ["Ann", "Bob", "Cyd"]
        assert verify(db, sink) == []


def changes(db: EmbeddedDatabase) -> list[Any]:
    return [
        change
        for seq in range(1, db.head + 1)
        for change in db.log.commit(seq).changes
        if change.key_id and change.row
    ]


def test_a_key_is_dropped_when_the_log_says_it_is_forgotten(server: Server, clinic: EmbeddedDatabase) -> None:
    with opened(server) as db:
        keys, sealed = db.opener(["patients"]), changes(clinic)
        assert None not in keys.open(sealed)
        gone = clinic.people.forget(PATIENTS, 1).key_id
        assert None not in keys.open(sealed)  # it was not notified yet
        keys.drop(gone)
        assert [row is None for row in keys.open(sealed)] == [one.key_id == gone for one in sealed]
