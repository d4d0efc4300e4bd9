from __future__ import annotations

from typing import Any

import pytest

import everlog
from everlog import RowError
from everlog.proto import log_pb2, migrations_pb2, store_pb2, store_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.errors import translate
from everlog.rpc.http2 import grpc
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, Airport

NONSENSE: Any = 99


def test_a_kind_of_load_that_there_is_not_is_refused_and_nothing_written(db: EmbeddedDatabase) -> None:
    head = db.head
    request = store_pb2.LoadRequest(database="x", table="airports", kind=NONSENSE, last=True)
    request.rows.append(Airport(faa="JFK").SerializeToString())
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        with pytest.raises(Exception, match=r"LoadRequest\.kind to be one of .*IMPORT \(\d\), .*found 99"):
            list(store_pb2_grpc.StoreStub(remote.channel.grpc).Load(iter([request])))
        with pytest.raises(everlog.Error, match=r"expected a kind of load, .*found 99"):
            remote.load(AIRPORTS, [Airport(faa="JFK")], kind=NONSENSE)
    assert db.head == head


def test_numbers_deep_in_a_request_are_looked_at(db: EmbeddedDatabase) -> None:
    request = store_pb2.CommitRequest(database="x")
    request.writes.add(table="airports", row=Airport(faa="JFK").SerializeToString())
    request.writes.add(table="airports", key=b"x", op=NONSENSE)
    head = db.head
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        stub = store_pb2_grpc.StoreStub(remote.channel.grpc)
        with pytest.raises(Exception, match=r"Write\.op to be one of PUT \(0\), .*found 99") as caught:
            stub.Commit(request)
        assert isinstance(translate(caught.value, ""), RowError)  # type: ignore[arg-type]
    assert db.head == head


@pytest.mark.parametrize(
    "message",
    [
        store_pb2.CommitRequest(durability=store_pb2.OS, writes=[store_pb2.Write(op=log_pb2.DELETE)]),
        store_pb2.LoadRequest(kind=log_pb2.Load.TEST),
        store_pb2.GetRequest(),
        migrations_pb2.ApplyRequest(),
    ],
)
def test_what_is_known_passes(message: Any) -> None:
    grpc.check(message)  # and does not raise


def test_a_message_that_holds_itself_is_looked_at_to_its_end() -> None:
    commit = log_pb2.Commit(migration=log_pb2.Migration(step=NONSENSE))
    with pytest.raises(RowError, match=r"Migration\.step"):
        grpc.check(commit)
