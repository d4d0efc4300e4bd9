"""Reach of tokens: what the owner of one database cannot obtain in another one of the same server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlog.proto import access_pb2 as pb
from everlog.proto import access_pb2_grpc, admin_pb2, admin_pb2_grpc, log_pb2, store_pb2, store_pb2_grpc
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.access import hash_of
from tests.conformance.database_case import Airport
from tests.store.models import open_flights

DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def other(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    open_flights(tmp_path / "other").close()
    with EmbeddedDatabase(tmp_path / "other") as found:
        yield found


def put(name: str) -> store_pb2.CommitRequest:
    row = Airport(faa="EVE", name="made by eve").SerializeToString()
    return store_pb2.CommitRequest(
        database=name, writes=[store_pb2.Write(table="airports", op=log_pb2.PUT, row=row)]
    )


@pytest.mark.parametrize("mine", ["a", "z"])
def test_a_token_that_is_recorded_twice_has_in_each_database_what_that_one_says(
    db: EmbeddedDatabase, other: EmbeddedDatabase, mine: str
) -> None:
    """The owner of a database records the hash of its token of another one, as it wants."""
    reader = db.access.create_token("eve", ("reader",))
    boss = other.access.create_token("boss", ("owner",))
    as_boss: Any = {"metadata": (("authorization", f"Bearer {boss.text}"),), "timeout": 20}
    as_eve: Any = {"metadata": (("authorization", f"Bearer {reader.text}"),), "timeout": 20}
    with Server({"x": db, mine: other}) as server, grpc.insecure_channel(server.address) as channel:
        access, rows = access_pb2_grpc.AccessStub(channel), store_pb2_grpc.StoreStub(channel)
        token = pb.Token(id="0" * 12, name="admin", sha256=hash_of(reader.text), roles=["owner"])
        access.CreateToken(pb.CreateTokenRequest(database=mine, token=token), **as_boss)
        head = db.head
        with pytest.raises(grpc.RpcError) as caught:
            rows.Commit(put("x"), **as_eve)
        assert (caught.value.code(), db.head) == (DENIED, head)
        whoami: Any = [access.WhoAmI(pb.WhoAmIRequest(database=name), **as_eve) for name in ("x", mine)]
        assert [(one.name, list(one.roles)) for one in whoami] == [("eve", ["reader"]), ("admin", ["owner"])]
        rows.Commit(put(mine), **as_eve)
        assert other.log.commit(other.head).actor == "admin"
        admin = admin_pb2_grpc.AdminStub(channel)
        names = admin.ListDatabases(admin_pb2.ListDatabasesRequest(), **as_eve).databases
        assert list(names) == sorted(["x", mine])
        other.access.revoke_token("0" * 12)
        rows.Get(store_pb2.GetRequest(database="x", table="airports"), **as_eve)
        with pytest.raises(grpc.RpcError) as caught:
            rows.Commit(put(mine), **as_eve)
        assert caught.value.code() is DENIED


def test_the_owner_of_a_database_cannot_take_over_a_name_of_the_configuration(db: EmbeddedDatabase) -> None:
    db.access.grant("boss", "owner")
    asked = pb.CreateTokenRequest(
        database="x", token=pb.Token(id="0" * 12, name="mirror", sha256=bytes(32), roles=["owner"])
    )
    how: dict[str, Any] = {"tokens": {"mirror": "sesame", "boss": "thyme"}, "keys_for": ["mirror"]}
    made = db.access.create_token("boss", ("owner",))
    with Server({"x": db}, **how) as server, grpc.insecure_channel(server.address) as channel:
        stub = access_pb2_grpc.AccessStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreateToken(asked, metadata=(("authorization", f"Bearer {made.text}"),), timeout=20)
        assert caught.value.code() is DENIED
        stub.CreateToken(asked, metadata=(("authorization", "Bearer thyme"),), timeout=20)
