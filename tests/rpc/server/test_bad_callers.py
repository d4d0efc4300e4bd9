"""Bad callers over a real socket: a sentence each, nothing leaked, nothing done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlog import AccessError, UnavailableError
from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.issuer import Jwt
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.issuing import AUDIENCE, TestIssuer

JFK = Airport(faa="JFK", name="Kennedy")
REFUSED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def other(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "hidden.db") as found:
        yield found


@pytest.fixture
def server(db: EmbeddedDatabase, other: EmbeddedDatabase) -> Iterator[Server]:
    with (
        TestIssuer() as issuer,
        Server(
            {"x": db, "hidden": other},
            tokens={"ann": "sesame", "bob": "thyme"},
            roles={"bob": ("owner",)},
            jwt=Jwt(issuer.url, AUDIENCE),
        ) as found,
    ):
        yield found


def status(server: Server, database: str, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """Return how a call ends that a client with these headers makes."""
    with grpc.insecure_channel(server.address) as channel:
        stub = store_pb2_grpc.StoreStub(channel)
        try:
            stub.Describe(store_pb2.DescribeRequest(database=database), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            found: Any = error
            return found.code(), str(found.details())
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sesame",
        "Bearer",
        "Bearer  sesame",
        "bearer sesame",
        "Bearer sesame,Bearer thyme",
        "Basic c2VzYW1l",
        "Bearer sesam",
        "Bearer SESAME",
        "Bearer " + "a" * 9000,
        "Bearer eyJ" + "a" * 13_000 + ".e30.x",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Bearer evl_" + "a" * 43,
    ],
)
def test_a_wrong_token_is_refused_without_a_word_of_it(
    server: Server, db: EmbeddedDatabase, value: str
) -> None:
    head = db.head
    code, text = status(server, "x", ("authorization", value))
    assert code == REFUSED
    assert "sesame" not in text
    assert "a" * 20 not in text
    assert len(text) < 300
    assert db.head == head


@pytest.mark.parametrize(
    "name",
    ["hidden", "nothing", "", ".", "..", "../x", "x/../hidden", "/etc", "x\0", "X", "x ", "\uff58"],
)
def test_a_name_of_a_database_is_no_path_and_tells_nothing(server: Server, name: str) -> None:
    code, text = status(server, name, ("authorization", "Bearer sesame"))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    said = text.replace(repr(name), "NAME") if name else text.replace("''", "NAME")
    _, unknown = status(server, "unknown", ("authorization", "Bearer sesame"))
    assert said == unknown.replace("'unknown'", "NAME"), "the same whether it exists or not"


def test_a_token_of_another_database_has_no_rights_and_a_revoked_one_ends_its_stream(
    server: Server, db: EmbeddedDatabase, other: EmbeddedDatabase
) -> None:
    theirs = other.access.create_token("eve", ("owner",)).text
    ours = db.access.create_token("eve", ("owner",))
    with pytest.raises(AccessError, match="eve has no rights in database 'x'"):
        RemoteDatabase(f"{server.url('x')}?token={theirs}", connect_s=2)
    with RemoteDatabase(f"{server.url('x')}?token={ours.text}", retry_s=0.0) as eve:
        eve.put(AIRPORTS, JFK)
        feed = iter(eve.feed(after=db.head))
        db.access.revoke_token(ours.token.id)
        with pytest.raises(UnavailableError, match="this token has ended"):
            list(feed)  # the revocation is a commit itself
        head = db.head
        with pytest.raises(UnavailableError, match="this token has ended"):
            eve.put(AIRPORTS, JFK)
        assert db.head == head


def test_a_name_of_any_length_is_shown_in_part(server: Server) -> None:
    code, text = status(server, "a" * 9000, ("authorization", "Bearer sesame"))
    assert (code, len(text) < 300) == (grpc.StatusCode.INVALID_ARGUMENT, True)
