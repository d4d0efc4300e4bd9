"""Consumers of a server: a name belongs to an identity, and no other can move or drop what is held for it."""

from __future__ import annotations

import re
from typing import Any

import grpc
import pytest

from everlog import AccessError, RowError
from everlog.proto import archive_pb2, archive_pb2_grpc, consumers_pb2_grpc, log_pb2
from everlog.proto import consumers_pb2 as pb
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.allowance import DAY_S, LIMITS, Allowance, Limit
from everlog.store.upkeep.consumers import Cap, Registering, message_of_cap
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import AIRPORTS, Airport
from tests.rpc.server.calling import Callers, callers

DENIED, INVALID = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT


def stub_of(called: Callers) -> consumers_pb2_grpc.ConsumersStub:
    return consumers_pb2_grpc.ConsumersStub(called.channel)


def asked(name: str = "mirror", **fields: Any) -> pb.RegisterRequest:
    return pb.RegisterRequest(database="x", name=name, **fields)


def test_another_follower_cannot_take_move_or_limit_a_name(db: EmbeddedDatabase) -> None:
    for name in ("mirror", "eve"):
        db.access.grant(name, "follower")
    db.put(AIRPORTS, Airport(faa="JFK"))
    with callers(db, "mirror", "eve") as called:
        stub = stub_of(called)
        mine = called.call("mirror", stub.Register, asked()).consumer
        assert (mine.owner, mine.turn > 0) == ("mirror", True)
        head = db.head
        for request in (
            asked(),
            asked(after=log_pb2.Cursor(seq=head)),
            asked(reason="it is mine"),
            asked(leave=True, cap=pb.Cap(records=1), reason="small"),
            asked(leave=True, owner="eve"),
        ):
            code, text = called.refused("eve", stub.Register, request)
            assert (code, "belongs to another identity" in text, "of mirror" in text) == (DENIED, True, False)
        moved = pb.BookmarkRequest(
            database="x", name="mirror", turn=mine.turn, position=log_pb2.Cursor(seq=head)
        )
        assert called.refused("eve", stub.Bookmark, moved)[0] is DENIED
        seen = called.call("eve", stub.List, pb.ListConsumersRequest(database="x")).consumers
        assert [(one.name, one.turn, one.position.seq) for one in seen] == [("mirror", 0, 0)]
        assert called.call("eve", stub.Register, asked(leave=True)).consumer.turn == 0
        assert db.head == head
        assert db.consumers["mirror"].epoch == mine.turn
        called.call("mirror", stub.Bookmark, moved)
        assert db.consumers["mirror"].position.seq == head


def test_to_take_a_name_over_needs_the_right_and_a_reason(db: EmbeddedDatabase) -> None:
    db.access.grant("mirror", "follower")
    db.access.grant("boss", "owner")
    with callers(db, "mirror", "boss") as called:
        stub = stub_of(called)
        called.call("mirror", stub.Register, asked())
        code, text = called.refused("boss", stub.Register, asked())
        assert (code, "belongs to mirror" in text, "needs a reason" in text) == (INVALID, True, True)
        called.call("boss", stub.Register, asked(leave=True, cap=pb.Cap(records=9), reason="less disk"))
        assert (db.consumers["mirror"].owner, db.consumers["mirror"].cap) == ("mirror", Cap(9, 0, 0))
        theirs = called.call("boss", stub.Register, asked(reason="mirror has left")).consumer
        assert (theirs.owner, db.consumers["mirror"].epoch) == ("boss", theirs.turn)
        commit = db.log.commit(db.head)
        assert (commit.actor, commit.reason, commit.notice.subject) == ("boss", "mirror has left", "mirror")
        assert called.refused("mirror", stub.Register, asked())[0] is DENIED
        called.call("boss", stub.Register, asked(leave=True, owner="mirror", reason="it is back"))
        called.call("mirror", stub.Register, asked())
        assert db.consumers["mirror"].owner == "mirror"


def test_a_name_of_nobody_belongs_to_the_first_that_takes_it(db: EmbeddedDatabase) -> None:
    for name in ("mirror", "eve"):
        db.access.grant(name, "follower")
    db.consumers.register("mirror")
    db.consumers.register("eves", owner="eve")
    with callers(db, "mirror", "eve") as called:
        stub = stub_of(called)
        assert called.refused("mirror", stub.Register, asked("eves"))[0] is DENIED
        called.call("eve", stub.Register, asked(leave=True))
        assert db.consumers["mirror"].owner == ""
        called.call("mirror", stub.Register, asked())
        head = db.head
        called.call("mirror", stub.Register, asked())
        assert (db.head, db.consumers["mirror"].owner) == (head, "mirror")
        assert called.refused("eve", stub.Register, asked())[0] is DENIED


def test_a_caller_of_the_unnamed_token_moves_what_it_took_over(db: EmbeddedDatabase) -> None:
    db.consumers.register("mirror", owner="mirror")
    with (
        Server({"x": db}, token="sesame") as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as remote,
    ):
        with pytest.raises(RowError, match="belongs to mirror: taking it over or changing it needs a"):
            remote.consumers.register("mirror")
        taken = remote.consumers.register("mirror", reason="by hand")
        remote.consumers.bookmark(taken, db.cursor())
        assert remote.consumers["mirror"].owner == "mirror"


def test_limited_callers_see_their_own_consumers_and_no_holds(db: EmbeddedDatabase) -> None:
    db.access.define(Role("some", (Rule(("feed", "consumers", "status"), ("air*",)),)))
    db.access.grant("ann", "some")
    db.access.grant("bob", "reader")
    db.archive.hold("case of smith", 1)
    db.consumers.register("secret mirror", owner="bob")
    db.consumers.register("nobody's")
    with callers(db, "ann", "bob") as called:
        stub, archive = stub_of(called), archive_pb2_grpc.ArchiveStub(called.channel)
        called.call("ann", stub.Register, asked("mine"))
        listed = pb.ListConsumersRequest(database="x")
        assert [one.name for one in called.call("ann", stub.List, listed).consumers] == ["mine"]
        names = [one.name for one in called.call("bob", stub.List, listed).consumers]
        assert names == ["mine", "nobody's", "secret mirror"]
        for method, request in (
            (archive.Holds, archive_pb2.HoldsRequest(database="x")),
            (archive.Removable, archive_pb2.RemovableRequest(database="x")),
        ):
            assert called.refused("ann", method, request)[0] is DENIED
            called.call("bob", method, request)


@pytest.mark.parametrize(
    ("cap", "says"),
    [
        (Cap(seconds=0), "a cap of at most 7 days .*, found no limit"),
        (Cap(bytes=0), "a cap of at most 10,737,418,240 bytes .*, found no limit"),
        (Cap(seconds=8 * DAY_S), "a cap of at most 7 days .*, found 8 days"),
        (Cap(bytes=20 << 30), "a cap of at most 10,737,418,240 bytes .*, found 21,474,836,480 bytes"),
    ],
)
def test_a_follower_holds_the_log_within_its_cap_and_an_operator_without(
    db: EmbeddedDatabase, cap: Cap, says: str
) -> None:
    db.access.grant("mirror", "follower")
    db.access.grant("boss", "owner")
    with callers(db, "mirror", "boss") as called:
        stub, head = stub_of(called), db.head
        wide = asked(cap=message_of_cap(cap))
        code, text = called.refused("mirror", stub.Register, wide)
        assert code is DENIED
        assert re.search(says, text)
        assert db.head == head
        called.call("mirror", stub.Register, asked(cap=pb.Cap(records=5, seconds=60, bytes=1 << 20)))
        assert called.refused("mirror", stub.Register, wide)[0] is DENIED
        called.call("boss", stub.Register, asked(cap=message_of_cap(cap), leave=True, reason="it is slow"))
        called.call("mirror", stub.Register, asked(cap=message_of_cap(cap)))  # unchanged
        assert db.consumers["mirror"].cap == cap


def test_a_role_says_how_many_names_and_which_caps_its_holders_may_have(db: EmbeddedDatabase) -> None:
    rule = Rule(("feed", "consumers"))
    db.access.define(Role("few", (rule,), allowance=Allowance(consumers=2, cap_seconds=DAY_S)))
    db.access.define(Role("wide", (rule,), allowance=Allowance(cap_seconds=30 * DAY_S, cap_bytes=0)))
    db.access.grant("mirror", "few")
    with callers(db, "mirror", "boss", roles={"boss": ("operator",)}) as called:
        stub = stub_of(called)
        called.call("mirror", stub.Register, asked("one"))
        assert (db.consumers["one"].cap.seconds, db.consumers["one"].owner) == (DAY_S, "mirror")
        called.call("mirror", stub.Register, asked("two", leave=True))
        assert db.consumers["two"].owner == "mirror"
        head = db.head
        for request in (asked("three"), asked("three", leave=True)):
            code, text = called.refused("mirror", stub.Register, request)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "the limit of mirror is reached: expected at most 2 consumers" in text
        code, text = called.refused("mirror", stub.Register, asked("three", owner="eve"))
        assert (code, "only for itself" in text) == (DENIED, True)
        called.call("mirror", stub.Register, asked("one"))
        assert db.head == head
        called.call("boss", stub.Register, asked("three", owner="mirror", leave=True))
        called.call("mirror", stub.Register, asked("three"))
        assert (
            called.refused("mirror", stub.Register, asked("one", cap=pb.Cap(seconds=2 * DAY_S)))[0] is DENIED
        )
        db.access.grant("mirror", "wide")
        called.call("mirror", stub.Register, asked("one", cap=pb.Cap(seconds=30 * DAY_S)))


def test_nobody_registers_more_names_than_the_limit_without_a_role_that_says_so(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "consumers", Limit(3, "consumers"))
    db.access.grant("mirror", "follower")
    with callers(db, "mirror") as called:
        stub = stub_of(called)
        for number in range(3):
            called.call("mirror", stub.Register, asked(f"m{number}"))
        assert called.refused("mirror", stub.Register, asked("m3"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert called.server.activity.limits == {"consumers": 1}
        db.access.define(Role("many", (Rule(("feed",)),), allowance=Allowance(consumers=0)))
        db.access.grant("mirror", "many")
        called.call("mirror", stub.Register, asked("m3"))


def test_the_status_tells_of_consumers_without_a_limit(db: EmbeddedDatabase) -> None:
    db.consumers.register("mirror")
    assert db.admin.status().warnings == []
    db.consumers.register("the copy", cap=Cap(0, 0, 0))
    (said,) = db.admin.status().warnings
    assert said.startswith("the log is held without limit for 1 consumer (the copy); to set a limit:")
    assert "register 'the copy' --cap-days 7" in said


def test_the_owner_survives_a_rebuild(db: EmbeddedDatabase) -> None:
    db.consumers.register("mirror", owner="ann")
    db.consumers.register("mirror", cap=Cap(records=5))
    db.admin.rebuild()
    assert (db.consumers["mirror"].owner, db.consumers["mirror"].cap.records) == ("ann", 5)
    for wrong in (7, " ann", "a\nb"):
        with pytest.raises(RowError):
            db.consumers.register("mirror", owner=wrong)  # type: ignore[arg-type]
    with pytest.raises(AccessError, match="not yours"):
        db.consumers.register("mirror", permit=_never)
    assert db.consumers["mirror"].owner == "ann"


def _never(one: Registering) -> None:
    raise AccessError(f"not yours but of {one.new.owner}")
