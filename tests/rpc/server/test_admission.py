"""Rows of remote peers: unreadable bytes are refused; an unreadable row of an older version is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import everlog
from everlog.proto import log_pb2, store_pb2, store_pb2_grpc
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import CorruptionError, RowError
from tests.store.documents import DOCUMENTS, DOCUMENTS2, Document, deep, open_documents, put_unasked


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[EmbeddedDatabase, str]]:
    with (
        open_documents(tmp_path / "db", at=EmbeddedDatabase) as db,
        Server({"x": db}, "127.0.0.1:0") as server,
    ):
        yield db, f"127.0.0.1:{server.port}"


def test_bytes_that_no_reader_could_read_are_refused(served: tuple[EmbeddedDatabase, str]) -> None:
    db, address = served
    head = db.head
    put = store_pb2.Write(table="documents", op=log_pb2.PUT)
    bad = [
        ("documents", deep(1, 60).SerializeToString()),
        ("documents", b"\x08\x01\x22\x02\xff\xfe"),
        ("documents", b"\x08\x01\x22\x7f"),
        ("documents", b"\x08\x01" + b"\x9b\x06" * 150 + b"\x9c\x06" * 150),
        ("documents2", b"\x08\x01\x22\x02\xff\xfe"),
    ]
    with grpc.insecure_channel(address) as channel:
        stub = store_pb2_grpc.StoreStub(channel)
        for table, raw in bad:
            put = store_pb2.Write(table=table, op=log_pb2.PUT, row=raw)
            load = store_pb2.LoadRequest(database="x", table=table, id="a", rows=[raw])
            for call in (
                lambda put=put: stub.Commit(store_pb2.CommitRequest(database="x", writes=[put])),
                lambda load=load: list(stub.Load(iter([load]))),
            ):
                with pytest.raises(grpc.RpcError) as refused:
                    call()
                error: Any = refused.value
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
        for key in (b"", b"x", b"\0" * 9):
            delete = store_pb2.Write(table="documents", op=log_pb2.DELETE, key=key)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Commit(store_pb2.CommitRequest(database="x", writes=[delete]))
            error = refused.value
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert db.head == head
    assert list(db.admin.check()) == []


def test_a_remote_client_refuses_by_itself_and_reads_around_a_bad_row(
    served: tuple[EmbeddedDatabase, str],
) -> None:
    db, address = served
    for id in range(4):
        put_unasked(db, DOCUMENTS, deep(id, 60 if id == 2 else 1))
    with everlog.open(f"everlog+insecure://{address}/x") as remote:
        for table in (DOCUMENTS, DOCUMENTS2):
            row = deep(9, 60, table.model)
            with pytest.raises(RowError, match="nested deeper"):
                remote.put(table, row)
            with pytest.raises(RowError, match="documents"):
                remote.load(table, [row])
        with pytest.raises(CorruptionError, match="row documents/2 cannot be read"):
            remote.get(DOCUMENTS, 2)
        for what in (DOCUMENTS, DOCUMENTS.by_title):
            rows = remote.scan(what)
            with pytest.raises(CorruptionError, match="row documents/2 cannot be read"):
                list(rows)
            assert [row.id for row in rows] == [3]
        past: list[Any] = [version.row for version in remote.history(DOCUMENTS, 2)]
        assert [row.title for row in past] == ["title 2"]
        assert len(list(remote.past.diff(DOCUMENTS, 2, db.head))) == 4
        logged: list[Any] = [change.row for entry in remote.past.log() for change in entry.changes]
        assert [row.id for row in logged] == [0, 1, 2, 3]
        remote.put(DOCUMENTS, Document(id=2))
        assert len(list(remote.scan(DOCUMENTS))) == 4
