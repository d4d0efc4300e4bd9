"""Limit: a server that is busy, and says when to try again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import everlog
from everlog.proto import admin_pb2, admin_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.status import ArchiveStatus

PAUSE_S = 0.2


class Busy(Admin):
    """A `db.admin` that refuses the first calls."""

    times: list[float]
    refused: int
    pause_s: float

    def status(self) -> Any:
        self.times.append(time.monotonic())
        if len(self.times) <= self.refused:
            raise everlog.LimitError("the server is busy", limit="queue", retry_s=self.pause_s)
        return super().status()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Busy, Server]]:
    with EmbeddedDatabase(tmp_path / "x") as db, Server({"x": db}) as server:
        admin = db.admin = Busy(db.core, db.past, db.consumers, ArchiveStatus, db.transaction)
        admin.times, admin.refused, admin.pause_s = [], 2, PAUSE_S
        yield admin, server


def test_a_refused_call_is_repeated_when_the_server_says(busy: tuple[Busy, Server]) -> None:
    admin, server = busy
    with RemoteDatabase(server.url("x")) as remote:
        assert remote.admin.status().head == 1
    first, second, third = admin.times
    assert second - first >= PAUSE_S
    assert third - second >= PAUSE_S


def test_a_call_whose_deadline_is_before_that_is_not_repeated(busy: tuple[Busy, Server]) -> None:
    admin, server = busy
    with RemoteDatabase(server.url("x")) as remote:
        admin.pause_s = 120.0
        with everlog.deadline(60.0), pytest.raises(everlog.LimitError, match="the server is busy") as at:
            remote.admin.status()
        assert (at.value.limit, at.value.retry_s) == ("queue", 120.0)
    assert len(admin.times) == 1


def test_clients_of_grpc_read_it_in_their_own_words(busy: tuple[Busy, Server]) -> None:
    _, server = busy
    channel = grpc.insecure_channel(server.address)
    try:
        with pytest.raises(grpc.RpcError) as at:
            admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(database="x"))
        assert at.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        call: Any = at.value
        told: dict[str, Any] = dict(call.trailing_metadata())
        assert told["grpc-retry-pushback-ms"] == "200"
        # google.rpc.Status with a RetryInfo {retry_delay {nanos: 200000000}}
        status = told["grpc-status-details-bin"]
        assert status.startswith(b"\x08\x08\x12\x12the server is busy\x1a")
        assert status.endswith(b"google.rpc.RetryInfo\x12\x07\x0a\x05\x10\x80\x84\xaf\x5f")
    finally:
        channel.close()
