"""Reach of errors and open calls: what they do not tell to callers that may not know it."""

from __future__ import annotations

import contextlib
import queue
import shlex
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from everlog.proto import log_pb2, migrations_pb2, migrations_pb2_grpc, store_pb2, store_pb2_grpc
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, Flight
from tests.rpc.server.calling import callers

DENIED = grpc.StatusCode.PERMISSION_DENIED
Response = health_pb2.HealthCheckResponse


def test_health_shows_databases_only_to_callers_with_rights_in_them(db: EmbeddedDatabase) -> None:
    db.access.grant("ann", "reader", ("airports",))
    asked = health_pb2.HealthCheckRequest(service="x/migrations")
    with (
        Server({"x": db}, tokens={"ann": "sesame", "eve": "thyme"}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for token in ("", "wrong", "thyme", "sesame"):
            how: Any = {"metadata": [("authorization", f"Bearer {token}")] if token else [], "timeout": 20}
            listed = stub.List(health_pb2.HealthListRequest(), **how).statuses
            watched = next(stub.Watch(asked, **how)).status
            assert "" in listed
            if token == "sesame":
                assert stub.Check(asked, **how).status == watched == Response.SERVING
                assert "x/migrations" in listed
                continue
            assert "x/migrations" not in listed
            assert watched == Response.SERVICE_UNKNOWN
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                stub.Check(asked, **how)
    with Server({"x": db}) as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert "x/migrations" in stub.List(health_pb2.HealthListRequest()).statuses


def test_a_load_of_another_table_is_not_named_to_a_caller_that_may_not_see_it(db: EmbeddedDatabase) -> None:
    loader = db.loader(FLIGHTS, log_pb2.Load(kind=log_pb2.Load.IMPORT, id="nightly", table="flights"))
    loader.add([Flight(carrier="AA", number=1)])
    db.access.define(Role("some", (Rule(("read", "load"), ("airports",)),)))
    db.access.grant("ann", "some")
    with callers(db, "ann") as called:
        stub = store_pb2_grpc.StoreStub(called.channel)
        first = store_pb2.LoadRequest(database="x", table="airports", id="nightly")
        code, text = called.refused("ann", stub.Load, iter([first]))
        assert (code, "flights" in text) == (grpc.StatusCode.FAILED_PRECONDITION, False)
        db.access.grant("ann", "writer")
        assert "flights" in called.refused("ann", stub.Load, iter([first]))[1]


def test_nobody_continues_or_ends_the_load_of_another_identity(db: EmbeddedDatabase) -> None:
    for name in ("ann", "bob"):
        db.access.grant(name, "writer")
    row = Airport(faa="JFK").SerializeToString()
    first = store_pb2.LoadRequest(database="x", table="airports", id="nightly")
    with callers(db, "ann", "bob") as called:
        stub = store_pb2_grpc.StoreStub(called.channel)
        called.call("ann", stub.Load, iter([first, store_pb2.LoadRequest(rows=[row])]))
        head = db.head
        ended = [first, store_pb2.LoadRequest(last=True)]
        code, text = called.refused("bob", stub.Load, iter(ended))
        assert (code, "begun by another identity" in text) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert db.head == head
        db.admin.rebuild()
        assert called.refused("bob", stub.Load, iter(ended))[0] is grpc.StatusCode.FAILED_PRECONDITION
        assert called.call("ann", stub.Load, iter(ended))[-1].finished
        assert called.refused("bob", stub.Load, iter([first]))[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_who_may_not_read_a_table_learns_no_key_of_a_row_with_the_same_values(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
    db.access.define(Role("blind", (Rule(("write",)),)))
    db.access.grant("ann", "blind")
    row = Airport(faa="EVE", name="Kennedy").SerializeToString()
    put = store_pb2.Write(table="airports", op=log_pb2.PUT, row=row)
    with callers(db, "ann") as called:
        stub = store_pb2_grpc.StoreStub(called.channel)
        with pytest.raises(grpc.RpcError) as caught:
            called.call("ann", stub.Commit, store_pb2.CommitRequest(database="x", writes=[put]))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        said = f"{error.details()} {error.trailing_metadata()}"
        assert ("JFK" in said, "by_name" in said) == (False, True)
        db.access.grant("ann", "reader")
        asked = store_pb2.CommitRequest(database="x", writes=[put])
        assert "JFK" in called.refused("ann", stub.Commit, asked)[1]


def test_changes_of_folders_are_shown_to_those_who_work_on_migrations(db: EmbeddedDatabase) -> None:
    db.access.grant("ann", "reader")
    asked = migrations_pb2.ListMigrationsRequest(database="x", diff=True)
    with callers(db, "ann") as called:
        stub = migrations_pb2_grpc.MigrationsStub(called.channel)
        called.call("ann", stub.List, migrations_pb2.ListMigrationsRequest(database="x"))
        assert called.refused("ann", stub.List, asked)[0] is DENIED
        db.access.grant("ann", "approver")
        called.call("ann", stub.List, asked)


def test_a_command_in_an_error_can_be_pasted_whatever_the_names_are(db: EmbeddedDatabase) -> None:
    name, table = "eve; rm -rf ~", "$(reboot)"
    with (
        Server({"x": db}, tokens={name: "sesame"}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = store_pb2_grpc.StoreStub(channel)

        def said() -> list[str]:
            asked = store_pb2.GetRequest(database="x", table=table)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Get(asked, metadata=(("authorization", "Bearer sesame"),), timeout=20)
            text = str(caught.value.details())
            return shlex.split(text[text.index("everlog access") :])

        assert said() == ["everlog", "access", "grant", name, "reader"]
        db.access.grant(name, "reader", ("airports",))
        assert said() == ["everlog", "access", "grant", name, "reader", "--table", table]
    sentence = db.access.explain(name, "write", table).sentences[-1]
    assert shlex.split(sentence[sentence.index("everlog") :])[3::3] == [name, table]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_open_streams_of_a_token_end_with_it(db: EmbeddedDatabase, version: str) -> None:
    made = db.access.create_token("ann", ("reader",))
    how: Any = {"metadata": (("authorization", f"Bearer {made.text}"),), "timeout": 20}
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    with Server({"x": db}) as server, grpc.insecure_channel(server.address) as channel:
        sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        call: Any = channel.stream_stream(path)
        reflection = call(iter(sent.get, None), **how)
        sent.put(b"\x3a\x01\x2a")  # list_services
        next(reflection)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="x/migrations"), **how)
        assert next(watch).status == Response.SERVING
        db.access.revoke_token("ann")
        for stream in (watch, reflection):
            with pytest.raises(grpc.RpcError, match="this token has ended"):
                next(stream)


def test_reflection_does_not_show_the_models_of_databases(db: EmbeddedDatabase) -> None:
    models = descriptor_pb2.FileDescriptorProto(name="hidden/model.proto", package="hidden", syntax="proto3")
    models.message_type.add(name="Patient").field.add(name="illness", number=1, type=9, label=1)
    with contextlib.suppress(
        TypeError
    ):  # added by an earlier run: as a migration's folder is, when it is loaded
        descriptor_pool.Default().Add(models)
    assert descriptor_pool.Default().FindMessageTypeByName("hidden.Patient").name == "Patient"
    asked = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="hidden.Patient"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="hidden/model.proto"),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="hidden.Patient"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="everlog.v1.Store"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.protobuf.MethodOptions"),
    ]
    with callers(db, "ann") as called:
        stub = reflection_pb2_grpc.ServerReflectionStub(called.channel)
        answers = called.call("ann", stub.ServerReflectionInfo, iter(asked))
    kinds = [one.WhichOneof("message_response") for one in answers]
    assert kinds == ["error_response"] * 3 + ["file_descriptor_response"] * 2
    assert b"illness" not in b"".join(one.SerializeToString() for one in answers)
