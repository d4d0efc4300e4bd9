"""Keys that a server releases: the requested ones, and never the root of all hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from everlog.proto import people_pb2, people_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.rpc.wire import ASKED_KEYS_MAX
from everlog.store.errors import RowError, SealedError
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, patient

Ask = Callable[[Sequence[bytes]], people_pb2.KeysResponse]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "clinic", master_key=MASTER) as db:
        declare(db, PATIENTS)
        db.put(PATIENTS, patient(1, "s-1"))
        db.put(PATIENTS, patient(2, "s-2"))
        yield db


@pytest.fixture
def ask(clinic: EmbeddedDatabase) -> Iterator[Ask]:
    with (
        Server(
            {"clinic": clinic}, tokens={"mirror": "sesame"}, roles={"mirror": ("owner",)}, keys_for=["mirror"]
        ) as server,
        RemoteDatabase(f"{server.url('clinic')}?token=sesame") as db,
    ):
        stub = people_pb2_grpc.PeopleStub(db.channel.grpc)
        yield lambda ids: db.channel.call(stub.Keys, people_pb2.KeysRequest(database="clinic", key_ids=ids))


def ids(db: EmbeddedDatabase) -> list[bytes]:
    return [change.key_id for seq in (3, 4) for change in db.log.commit(seq).changes]


def test_those_that_were_asked_for_are_given_and_the_forgotten_are_not(
    clinic: EmbeddedDatabase, ask: Ask
) -> None:
    ann, bob = ids(clinic)
    assert [one.key_id for one in ask([ann]).keys] == [ann]
    clinic.people.forget(PATIENTS, 1)
    answer = ask([ann, bob])
    assert [(one.key_id, len(one.key)) for one in answer.keys] == [(bob, 32)]
    assert answer.sealed_in == clinic.uuid


def test_the_root_and_what_there_is_not_are_refused(clinic: EmbeddedDatabase, ask: Ask) -> None:
    for none in (bytes(16), b"k" * 16, b""):
        with pytest.raises(
            SealedError, match=r"is missing in .*, and the log does not say that it was forgotten"
        ):
            ask([none])
    with pytest.raises(RowError, match=f"at most {ASKED_KEYS_MAX} keys"):
        ask([bytes(16)] * (ASKED_KEYS_MAX + 1))


def test_nobody_is_given_what_was_forgotten_a_moment_ago(
    clinic: EmbeddedDatabase, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everlog.store.upkeep import people

    monkeypatch.setattr(people, "shred", lambda *_: None)  # Notice, but no overwriting
    clinic.people.forget(PATIENTS, 1)
    assert list(ask([ids(clinic)[0]]).keys) == []
