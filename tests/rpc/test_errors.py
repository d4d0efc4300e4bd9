"""Errors over the network: the same class, the same sentence, the same facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

import everlog
from everlog.proto import admin_pb2, admin_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store import errors
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.status import ArchiveStatus

KINDS = [
    getattr(errors, name)
    for name in sorted(vars(errors))
    if name.endswith("Error") and name not in ("UnavailableError", "ClosedError")
]


class Failing(Admin):
    """A database whose calls raise a given error."""

    error: Exception

    def status(self) -> Any:
        raise self.error


@pytest.fixture
def failing(tmp_path: Path) -> Any:
    with (
        EmbeddedDatabase(tmp_path / "x") as db,
        Server({"x": db}) as server,
        RemoteDatabase(server.url("x"), retry_s=0.2) as remote,
    ):
        db.admin = Failing(db.core, db.past, db.consumers, ArchiveStatus, db.transaction)
        yield db.admin, remote


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_on_the_other_side(failing: Any, kind: type[errors.Error]) -> None:
    admin, remote = failing
    facts: dict[str, Any] = {"seq": 7, "key": ("JFK", 3), "raw": b"\x00\xff", "where": None}
    admin.error = kind("expected `a`, found `b` — at ✈/JFK\nand a second line: 100 %", **facts)
    with pytest.raises(errors.Error) as caught:
        remote.admin.status()
    assert type(caught.value) is kind
    assert str(caught.value) == str(admin.error)
    assert caught.value.seq == 7
    assert tuple(caught.value.key) == ("JFK", 3)
    assert caught.value.raw == b"\x00\xff"


def test_an_error_that_is_too_long_for_headers_is_cut(failing: Any) -> None:
    admin, remote = failing
    admin.error = everlog.RowError("x" * 100_000, value="y" * 100_000)
    with pytest.raises(everlog.RowError, match=r"x…$"):
        remote.admin.status()


def test_facts_that_have_no_form_on_the_wire_are_told_as_text(failing: Any) -> None:
    admin, remote = failing
    admin.error = everlog.RowError("no", what=object)
    with pytest.raises(everlog.RowError) as caught:
        remote.admin.status()
    assert caught.value.what == repr(object)


def test_a_fault_of_the_server_is_a_sentence_and_no_traceback(failing: Any) -> None:
    admin, remote = failing
    admin.error = ZeroDivisionError("division by zero")
    with pytest.raises(everlog.Error, match="a fault in the server: ZeroDivisionError; its log says where"):
        remote.admin.status()


def test_what_is_closed_there_is_asked_again_until_patience_ends(failing: Any) -> None:
    admin, remote = failing
    admin.error = everlog.ClosedError("the database is closed")
    with pytest.raises(everlog.ClosedError, match="the database is closed"):
        remote.admin.status()


@pytest.mark.parametrize("fact", ["\udcff", 1 << 70])
def test_an_error_about_what_is_no_text_arrives_all_the_same(failing: Any, fact: object) -> None:
    admin, remote = failing
    admin.error = everlog.RowError("expected a name, found \udcff", name=fact)
    with pytest.raises(everlog.RowError, match=r"found \\udcff"):
        remote.admin.status()


def test_other_clients_receive_the_standard_details(failing: Any) -> None:
    admin, remote = failing
    admin.error = errors.PreconditionError("expected `a` ✈, found `b`", seq=7, table="airports", raw=b"\xff")
    stub = admin_pb2_grpc.AdminStub(remote.channel.grpc)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Status(admin_pb2.StatusRequest(database="x"))
    call: Any = caught.value
    found = status_pb2.Status.FromString(dict(call.trailing_metadata())["grpc-status-details-bin"])
    assert (found.code, found.message) == (call.code().value[0], call.details())
    info = error_details_pb2.ErrorInfo()
    assert found.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("PRECONDITION", "everlog")
    assert dict(info.metadata) == {"seq": "7", "table": "airports"}
