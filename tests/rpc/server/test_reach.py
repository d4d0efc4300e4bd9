"""Reach: what a caller with limited rights cannot learn, hold up or move by other calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from everlog.proto import access_pb2 as access
from everlog.proto import (
    admin_pb2,
    admin_pb2_grpc,
    archive_pb2,
    archive_pb2_grpc,
    feed_pb2,
    feed_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    log_pb2,
    proofs_pb2,
    proofs_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
)
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import rights
from everlog.rpc.server import store as served
from everlog.rpc.server.server import Server
from everlog.store.upkeep.roles import ASKED_MAX, Held, Holder, Role, Rule
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, Flight

SLOWLY = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))  # reads nothing ahead
ANN: dict[str, Any] = {"metadata": (("authorization", "Bearer sesame"),), "timeout": 120}


@contextmanager
def called(db: EmbeddedDatabase) -> Iterator[grpc.Channel]:
    with (
        Server({"x": db}, tokens={"ann": "sesame"}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield channel


def run(call: Any, request: Any) -> None:
    answer = call(request, **ANN)
    if hasattr(answer, "__next__"):
        list(answer)


def refused(call: Any, request: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        run(call, request)
    code: grpc.StatusCode = caught.value.code()
    return code


def rename(db: EmbeddedDatabase, old: str, new: str) -> None:
    schema = log_pb2.Schema()
    schema.CopyFrom(db.schema.proto)
    schema.version += 1
    next(table for table in schema.tables if table.name == old).name = new
    db.apply_migration(
        log_pb2.Migration(
            step=log_pb2.Migration.FINISHED, version=schema.version, name="rename", schema=schema
        )
    )


def test_a_table_cannot_be_read_by_a_name_that_it_had(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
    key, then = db.schema.table("airports").encode_key("JFK"), db.head
    db.access.define(Role("some", (Rule(("read", "history", "feed"), ("airports",)),)))
    db.access.grant("ann", "some")
    about: dict[str, Any] = {"database": "x", "table": "airports"}
    with called(db) as channel:
        history, rows = history_pb2_grpc.HistoryStub(channel), store_pb2_grpc.StoreStub(channel)
        feed = feed_pb2_grpc.FeedStub(channel)
        calls: list[tuple[Any, Any]] = [
            (history.At, history_pb2.AtRequest(**about, seq=then)),
            (history.History, history_pb2.HistoryRequest(**about, key=key)),
            (history.Diff, history_pb2.DiffRequest(**about, start_seq=1, end_seq=then)),
            (history.Log, history_pb2.LogRequest(**about)),
            (rows.Get, store_pb2.GetRequest(**about, key=key, at_seq=then)),
            (rows.BatchGet, store_pb2.BatchGetRequest(**about, keys=[key], at_seq=then)),
            (rows.Scan, store_pb2.ScanRequest(**about, at_seq=then)),
            (rows.Count, store_pb2.CountRequest(**about, at_seq=then)),
            (feed.Subscribe, feed_pb2.SubscribeRequest(database="x", tables=["airports"], bounded=True)),
        ]
        for call, request in calls:
            run(call, request)
        rename(db, "airports", "secrets")
        for call, request in calls:
            assert refused(call, request) is grpc.StatusCode.PERMISSION_DENIED, request
        db.access.define(Role("some", (Rule(("read", "history", "feed"), ("airports", "secrets")),)))
        for call, request in calls:
            run(call, request)


def test_history_and_log_show_only_the_schema_of_visible_tables(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK"))
    db.put(FLIGHTS, Flight(carrier="AA", number=1))
    db.access.grant("ann", "reader", ("airports",))
    key = db.schema.table("airports").encode_key("JFK")
    with called(db) as channel:
        stub = history_pb2_grpc.HistoryStub(channel)
        versions = next(
            stub.History(history_pb2.HistoryRequest(database="x", table="airports", key=key), **ANN)
        )
        log = list(stub.Log(history_pb2.LogRequest(database="x", table="airports"), **ANN))
    for text in (str(versions), str(log)):
        assert "airports" in text
        assert "flights" not in text
        assert "Flight" not in text


def test_the_log_shows_roles_and_tokens_only_to_callers_who_may_see_them(db: EmbeddedDatabase) -> None:
    made = db.access.create_token("deploy", ("owner",))
    db.access.grant("bob", "owner", reason="joins sales")
    db.access.grant("ann", "reader")
    with called(db) as channel:
        stub, asked = history_pb2_grpc.HistoryStub(channel), history_pb2.LogRequest(database="x")
        said = b"".join(one.SerializeToString() for one in stub.Log(asked, **ANN))
        for secret in (made.token.sha256, b"deploy", b"bob", b"joins sales"):
            assert secret not in said
        db.access.grant("ann", "auditor")
        said = b"".join(one.SerializeToString() for one in stub.Log(asked, **ANN))
        assert made.token.sha256 in said
        assert b"joins sales" in said


def test_long_names_are_refused_and_not_kept(db: EmbeddedDatabase) -> None:
    db.access.grant("ann", "reader", ("*_x_*_old",))
    db.access.define(Role("some", (Rule(("write",), ("airports",)),)))
    db.access.grant("ann", "some")
    long = "_x_" * ASKED_MAX
    with called(db) as channel:
        rows = store_pb2_grpc.StoreStub(channel)
        commit = store_pb2.CommitRequest(
            database="x", writes=[store_pb2.Write(table=long, op=log_pb2.DELETE)]
        )
        assert refused(rows.Get, store_pb2.GetRequest(database="x", table=long)) is INVALID
        assert refused(rows.Get, store_pb2.GetRequest(database=long, table="airports")) is INVALID
        assert refused(rows.Commit, commit) is INVALID
    holder = Holder("ann", [Held(Rule(("read",)), "all")])
    assert holder.decide(access.READ, "x" * ASKED_MAX).allowed
    assert not holder.decide(access.READ, "x" * (ASKED_MAX + 1)).allowed


INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_keys_that_are_repeated_do_not_fill_the_memory(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "BATCH_BYTES_MAX", 1 << 20)
    db.put(AIRPORTS, Airport(faa="BIG", name="n" * 100_000))
    db.access.grant("ann", "reader")
    key = db.schema.table("airports").encode_key("BIG")
    with called(db) as channel:
        rows = store_pb2_grpc.StoreStub(channel)

        def asked(*keys: bytes, most: int = 0) -> store_pb2.BatchGetRequest:
            return store_pb2.BatchGetRequest(database="x", table="airports", keys=keys, bytes_max=most)

        assert len(rows.BatchGet(asked(*[key] * 10), **ANN).rows) == 10
        assert refused(rows.BatchGet, asked(*[key] * 100)) is INVALID
        assert refused(rows.BatchGet, asked(*[b"\1"] * 100_000)) is INVALID
        assert len(rows.BatchGet(asked(*[key] * 100, most=1 << 40), **ANN).rows) == 11


def test_moving_a_hold_forward_is_a_release(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK"))
    db.archive.hold("legal", 2)
    db.access.grant("ann", "operator")
    with called(db) as channel:
        stub = archive_pb2_grpc.ArchiveStub(channel)

        def asked(name: str, seq: int) -> archive_pb2.HoldRequest:
            return archive_pb2.HoldRequest(database="x", name=name, seq=seq)

        assert refused(stub.Hold, asked("legal", 3)) is INVALID
        assert db.archive.holds() == {"legal": 2}
        stub.Hold(asked("legal", 1), **ANN)
        stub.Hold(asked("more", 3), **ANN)
        assert db.archive.holds() == {"legal": 1, "more": 3}
        db.access.grant("ann", "owner")
        stub.Hold(asked("legal", 3), **ANN)
    assert db.archive.holds() == {"legal": 3, "more": 3}


def test_hashes_of_the_past_need_history_by_the_current_name(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
    then = db.head
    db.put(AIRPORTS, Airport(faa="JFK", name="John F. Kennedy"))
    asked = admin_pb2.StatusRequest(database="x", hashes=True, at=then)
    with called(db) as channel:
        stub = admin_pb2_grpc.AdminStub(channel)

        def names(*rights: str) -> list[str]:
            db.access.define(Role("some", (Rule((*rights, "status"), ("airports", "flights")),)))
            db.access.grant("ann", "some")
            return [table.name for table in stub.Status(asked, **ANN).tables]

        assert names("read") == []
        assert names("history") == ["airports", "flights"]
        rename(db, "airports", "secrets")
        assert names("history") == ["flights"]
        assert names("feed") == ["flights"]


@pytest.mark.parametrize("name", ["feed", "scan", "log"])
def test_a_rename_ends_the_streams_of_limited_callers(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(served, "FIRST_PAGE_ROWS", 1)
    monkeypatch.setattr(served, "PAGE_ROWS", 1)
    for number in range(200):
        db.put(AIRPORTS, Airport(faa=f"A{number}", name=f"{number}" * 10_000))
    db.access.define(Role("some", (Rule(("read", "history", "feed"), ("airports",)),)))
    db.access.grant("ann", "some")
    db.access.grant("bob", "reader")
    about: dict[str, Any] = {"database": "x", "table": "airports"}
    with (
        Server({"x": db}, tokens={"ann": "sesame", "bob": "thyme"}) as server,
        grpc.insecure_channel(server.address, SLOWLY) as channel,
    ):
        feed = feed_pb2.SubscribeRequest(database="x", tables=["airports"])
        calls: dict[str, tuple[Any, Any]] = {
            "feed": (feed_pb2_grpc.FeedStub(channel).Subscribe, feed),
            "scan": (store_pb2_grpc.StoreStub(channel).Scan, store_pb2.ScanRequest(**about)),
            "log": (history_pb2_grpc.HistoryStub(channel).Log, history_pb2.LogRequest(**about)),
        }
        call, request = calls[name]
        stream = call(request, **ANN)
        next(stream)
        other = store_pb2_grpc.StoreStub(channel).Scan(
            store_pb2.ScanRequest(**about), metadata=(("authorization", "Bearer thyme"),), timeout=120
        )
        next(other)
        rename(db, "airports", "secrets")
        end = time.monotonic() + 60
        while len(server.activity.running) > 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "tables were renamed" in str(caught.value.details())
        assert sum(len(page.rows) for page in other) == 199


def test_a_call_that_begins_after_a_rename_is_not_ended_by_it(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "LOOK_S", 3600.0)  # the test looks
    db.access.define(Role("some", (Rule(("feed",), ("flights",)),)))
    db.access.grant("ann", "some")
    with (
        Server({"x": db}, tokens={"ann": "sesame"}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        rename(db, "airports", "secrets")
        asked = feed_pb2.SubscribeRequest(database="x", tables=["flights"])
        feed = feed_pb2_grpc.FeedStub(channel).Subscribe(asked, **ANN)
        next(feed)
        looked = threading.Event()
        assert server.loop is not None
        server.loop.call_soon_threadsafe(server.rights.look)
        server.loop.call_soon_threadsafe(looked.set)
        assert looked.wait(60)
        seq = db.put(FLIGHTS, Flight(carrier="UA", number=7)).seq
        assert any(one.seq == seq for message in feed for one in message.commits)


def test_files_of_migrations_are_for_those_who_may_have_them(db: EmbeddedDatabase) -> None:
    schema = log_pb2.Schema()
    schema.CopyFrom(db.schema.proto)
    schema.version += 1
    files = [log_pb2.SourceFile(path="migration.py", content=b"SECRET = 1")]
    step = log_pb2.Migration.FINISHED
    db.apply_migration(
        log_pb2.Migration(step=step, version=schema.version, name="x", schema=schema, sources=files)
    )
    seq = db.head
    db.access.define(Role("prover", (Rule(("prove", "history")),)))
    with called(db) as channel:
        history, proofs = history_pb2_grpc.HistoryStub(channel), proofs_pb2_grpc.ProofsStub(channel)

        def log() -> bytes:
            asked = history_pb2.LogRequest(database="x")
            return b"".join(one.SerializeToString() for one in history.Log(asked, **ANN))

        db.access.grant("ann", "reader")
        assert b"Flight" in log()
        assert b"SECRET" not in log()
        db.access.grant("ann", "prover")
        head = proofs.Head(proofs_pb2.HeadRequest(database="x"), **ANN)
        grant = db.head
        for secret in (seq, grant):
            asked = proofs_pb2.ProveRequest(database="x", seq=secret, size=head.size)
            assert refused(proofs.Prove, asked) is grpc.StatusCode.PERMISSION_DENIED
        proofs.Prove(proofs_pb2.ProveRequest(database="x", seq=1, size=head.size), **ANN)
        db.access.grant("ann", "auditor")
        assert b"SECRET" in log()
        for secret in (seq, grant):
            proofs.Prove(proofs_pb2.ProveRequest(database="x", seq=secret, size=head.size), **ANN)
