"""Visible: no call shows what a role hides: each call, and random rows compared with a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from everlog import AccessError
from everlog.proto import (
    feed_pb2,
    history_pb2,
    people_pb2,
    proofs_pb2,
    store_pb2,
)
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import store
from everlog.rpc.server.server import Server
from everlog.store.schema.codec import UINT64
from everlog.store.schema.table import Field, Table
from everlog.store.upkeep.conditions import read_conditions
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import (
    AIRPORTS,
    CITY,
    FAA,
    VERSION,
    Airport,
    Place,
    migrate,
    open_case,
)
from tests.rpc.server.test_rights import METHODS, path_of, request_of
from tests.store.models import models

ALL = ("read", "history", "write", "feed", "load", "status")


# every call

SECRET, HIDDEN = b"globex-secret", b"hidden-secret"
# Calls whose answers have bytes that are no rows, or that a role with limits cannot give.
NO_ROWS = {
    "Access/Show": "roles and tokens",
    "Admin/Calls": "methods and tables of running calls, positions",
    "Admin/Status": "hashes of whole tables, for callers without limits",
    "Admin/Rebuild": "as Admin/Status",
    "Archive/Holds": "positions",
    "Archive/Hold": "positions",
    "Archive/Release": "positions",
    "Archive/Archive": "positions",
    "Consumers/List": "positions",
    "Consumers/Register": "positions",
    "Consumers/Bookmark": "positions",
    "Fleet/Abort": "members and runs",
    "Fleet/Approve": "as Fleet/Abort",
    "Fleet/ApproveWave": "as Fleet/Abort",
    "Fleet/Contract": "as Fleet/Abort",
    "Fleet/Join": "orders",
    "Fleet/Plan": "as Fleet/Abort",
    "Fleet/Plans": "as Fleet/Abort",
    "Fleet/Reject": "as Fleet/Abort",
    "Fleet/Remove": "as Fleet/Abort",
    "Fleet/RollBack": "as Fleet/Abort",
    "Fleet/Rollouts": "as Fleet/Abort",
    "Fleet/Start": "as Fleet/Abort",
    "Fleet/StartRollout": "as Fleet/Abort",
    "Fleet/Status": "as Fleet/Abort",
    "Fleet/StopRollout": "as Fleet/Abort",
    "Fleet/Survey": "as Fleet/Abort",
    "Fleet/Upgrade": "as Fleet/Abort",
    "Fleet/Watch": "as Fleet/Abort",
    "People/Forget": "ids of keys",
    "People/Keys": "keys, for callers that the configuration names",
    "Store/Commit": "position",
    "Store/Load": "position",
    "Store/Turn": "id of a lease",
    "Store/Describe": "the schema",
    "History/At": "the schema",
}


# What answers rows and refuses a caller with limits.
DENIED = {
    "Feed/Subscribe",
    "Proofs/Head",
    "Proofs/Kept",
    "Proofs/Keep",
    "Proofs/Checkpoint",
    "Proofs/Prove",
    "Proofs/ProveFrom",
    "Proofs/Entries",
    "People/Export",
    *(name for name in METHODS if name.startswith("Migrations/")),
}


def carries_bytes(message: Descriptor, known: frozenset[str] = frozenset()) -> bool:
    return any(
        field.type == FieldDescriptor.TYPE_BYTES
        or (
            field.message_type is not None
            and field.message_type.full_name not in known
            and carries_bytes(field.message_type, known | {field.message_type.full_name})
        )
        for field in message.fields
    )


def requests_of(db: EmbeddedDatabase) -> dict[str, list[Any]]:
    """Requests of each call that answers rows, which would show rows and fields that are not visible."""
    info, head = db.schema.table("airports"), db.head
    about: dict[str, Any] = {"database": "x", "table": "airports"}
    mine, theirs = info.encode_key("A04"), info.encode_key("A05")
    found: dict[str, list[Any]] = defaultdict(list)
    for at_seq in (0, head - 1):
        for key in (mine, theirs):
            found["Store/Get"].append(store_pb2.GetRequest(**about, key=key, at_seq=at_seq))
            found["Store/Get"].append(store_pb2.GetRequest(**about, key=key, snapshot=1))
            found["Store/BatchGet"].append(store_pb2.BatchGetRequest(**about, keys=[key] * 3, at_seq=at_seq))
            found["History/History"] += [
                history_pb2.HistoryRequest(**about, key=key, oldest_first=first) for first in (True, False)
            ]
            found["History/Log"].append(history_pb2.LogRequest(**about, key=key))
        for index in ("", "by_city", "by_name", "by_country"):
            for backwards in (True, False):
                found["Store/Scan"].append(
                    store_pb2.ScanRequest(**about, index=index, backwards=backwards, at_seq=at_seq)
                )
    found["History/Diff"] = [history_pb2.DiffRequest(**about, start_seq=2, end_seq=head)]
    found["History/Log"] += [history_pb2.LogRequest(database="x"), history_pb2.LogRequest(**about)]
    found["Feed/Subscribe"] = [
        feed_pb2.SubscribeRequest(database="x", tables=["airports"], bounded=True),
        feed_pb2.SubscribeRequest(database="x", bounded=True),
    ]
    found["Proofs/Prove"] = [proofs_pb2.ProveRequest(database="x", seq=3, size=head)]
    found["Proofs/Entries"] = [proofs_pb2.EntriesRequest(database="x", until=head)]
    found["People/Export"] = [people_pb2.ExportRequest(**about, key=theirs)]
    return found


def test_no_call_shows_rows_and_fields_that_are_not_visible(db: EmbeddedDatabase) -> None:
    """A call whose answer has bytes must have requests in `requests_of`, or a reason in NO_ROWS."""
    mine, theirs = (
        {"name": "hidden-secret", "city": "acme"},
        {"name": "globex-secret", "city": "globex-secret"},
    )
    for number, one in ((4, mine), (5, theirs), (8, theirs), (8, mine), (9, mine), (9, theirs)):
        db.put(AIRPORTS, Airport(faa=f"A0{number}", **{**one, "name": f"{one['name']} {number}"}))
    db.delete(AIRPORTS, "A08")
    rule = Rule((*ALL, "consumers"), ("airports",), rows={"city": ("acme",)}, hidden=("name",))
    db.access.define(Role("tenant", (rule,)))
    db.access.grant("acme", "tenant")
    requests = requests_of(db)
    answering = {name for name, method in METHODS.items() if carries_bytes(method.output_type)}
    unknown = answering - requests.keys() - NO_ROWS.keys() - DENIED
    assert not unknown, "add requests that would show rows"
    shown: set[str] = set()
    with (
        Server({"x": db}, tokens={"acme": "sesame"}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for name in METHODS:
            for request in requests.get(name, [request_of(name)]):
                raw, code, text = called(channel, name, request)
                assert SECRET not in raw, (name, request)
                assert HIDDEN not in raw, (name, request)
                assert "secret" not in text, (name, request)
                if name in DENIED:
                    assert code is grpc.StatusCode.PERMISSION_DENIED, (name, request, text)
                if b"acme" in raw and name not in {"Access/WhoAmI", "Admin/Calls"}:  # its own name
                    shown.add(name)
    assert shown == {
        "Store/Get",
        "Store/BatchGet",
        "Store/Scan",
        "History/History",
        "History/Diff",
        "History/Log",
    }


def called(channel: grpc.Channel, name: str, request: Any) -> tuple[bytes, grpc.StatusCode, str]:
    """Return the bytes of all answers to a call, its status, and the text and metadata of an error."""
    method, raw, answers = METHODS[name], request.SerializeToString(), b""
    how: dict[str, Any] = {"metadata": (("authorization", "Bearer sesame"),), "timeout": 20}
    try:
        if method.client_streaming:
            answers = b"".join(channel.stream_stream(path_of(name))(iter([raw]), **how))
        elif name == "Store/Turn":
            answers = next(channel.unary_stream(path_of(name))(raw, **how))
        elif method.server_streaming:
            answers = b"".join(channel.unary_stream(path_of(name))(raw, **how))
        else:
            answers = channel.unary_unary(path_of(name))(raw, **how)
    except grpc.RpcError as error:
        found: Any = error
        return answers, found.code(), f"{found.details()} {found.trailing_metadata()}"
    return answers, grpc.StatusCode.OK, ""


# many random rows


class Model:
    """What the database has had: for each seq the rows, by key."""

    def __init__(self, shows: Callable[[Any], bool]) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.now: dict[str, Any] = {}
        self.shows = shows

    def visible(self, seq: int) -> dict[str, Any]:
        found = {}
        for key, row in self.rows[seq].items():
            if self.shows(row):
                found[key] = Airport(faa=key, city=row.city)
                if row.HasField("place"):
                    found[key].place.CopyFrom(row.place)
        return found


def changed_fields(before: Any, after: Any) -> tuple[str, ...]:
    if after is None:
        return ()
    names = [field.name for field in after.DESCRIPTOR.fields]
    if before is None:
        return tuple(field.name for field, _ in after.ListFields())
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


# What a rule shows, and what the model says.
SHOWN: dict[str, Callable[[Any], bool]] = {
    "city=$who": lambda row: row.city == "acme",
    "city=$who city=initech": lambda row: row.city in ("acme", "initech"),
    "place.height<5": lambda row: row.HasField("place") and row.place.height < 5,
    "place.height>=2 place.height<=6 city>a": lambda row: (
        row.HasField("place") and 2 <= row.place.height <= 6 and row.city > "a"
    ),
    "faa^=A1 faa^=A03": lambda row: row.faa.startswith(("A1", "A03")),
    "!place": lambda row: not row.HasField("place"),
    "!place faa>A10": lambda row: not row.HasField("place") and row.faa > "A10",
}


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        pytest.param(seed, words, marks=pytest.mark.long if seed % 2 else ())
        for seed, words in enumerate(SHOWN)
    ],
)
def test_answers_are_those_of_a_model(
    db: EmbeddedDatabase, seed: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    monkeypatch.setattr(store, "VISITED_ROWS", random.choice((1, 3, 100)))
    monkeypatch.setattr(store, "PAGE_ROWS", 3)
    monkeypatch.setattr(store, "FIRST_PAGE_ROWS", 2)
    equal, comparisons = read_conditions(words.split())
    rule = Rule(ALL, ("airports",), rows=equal, hidden=("name",), comparisons=comparisons)
    db.access.define(Role("tenant", (rule,)))
    db.access.grant("acme", "tenant")
    model, first = Model(SHOWN[words]), db.head
    model.rows[first] = {}
    for step in range(60):
        with db.transaction() as tx:
            for key in {f"A{random.randrange(25):02}" for _ in range(random.randrange(1, 4))}:
                if key in model.now and random.random() < 0.3:
                    tx.delete(AIRPORTS, key)
                    del model.now[key]
                else:
                    city = random.choice(("acme", "globex", "initech", ""))
                    place = Place(country=random.choice(("US", "DE")), height=random.randrange(9))
                    placed = {} if random.random() < 0.2 else {"place": place}
                    model.now[key] = Airport(faa=key, name=f"{step} {key}", city=city, **placed)
                    tx.put(AIRPORTS, model.now[key])
        model.rows[db.head] = dict(model.now)
    moments, last = sorted(model.rows), db.head
    keys = [f"A{number:02}" for number in range(25)]
    with (
        Server({"x": db}, tokens={"acme": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as acme,
    ):
        for seq in [last, *random.sample(moments, 5)]:
            expected = model.visible(seq)
            at: Any = acme if seq == last else acme.at(seq=seq)
            in_order = [expected[key] for key in sorted(expected)]
            by_country = sorted(in_order, key=lambda row: (row.place.country, row.city, row.faa))
            assert list(at.scan(AIRPORTS)) == in_order
            assert list(at.scan(AIRPORTS, reverse=True)) == in_order[::-1]
            assert list(at.scan(AIRPORTS, limit=4)) == in_order[:4]
            assert list(at.scan(AIRPORTS, start="A05", end="A20")) == [
                row for row in in_order if "A05" <= row.faa < "A20"
            ]
            assert list(at.scan(AIRPORTS.by_country)) == by_country
            assert list(at.scan(AIRPORTS.by_city, "globex")) == [
                row for row in in_order if row.city == "globex"
            ]
            assert at.count(AIRPORTS) == len(expected)
            assert at.count(AIRPORTS.by_country, "DE") == sum(row.place.country == "DE" for row in in_order)
            assert at.get_many(AIRPORTS, keys) == [expected.get(key) for key in keys]
            assert [at.get(AIRPORTS, key) for key in keys] == [expected.get(key) for key in keys]
        for key in keys:
            versions: list[tuple[int, Any]] = []
            for seq in moments:
                row, full = model.visible(seq).get(key), model.rows[seq].get(key)
                written = seq != first and full is not model.rows[seq - 1].get(key)
                if written and (
                    row is not None or (full is None and versions and versions[-1][1] is not None)
                ):
                    was = model.visible(seq - 1).get(key)
                    if row is not None or was is not None:
                        versions.append((seq, row))
            found = list(acme.history(AIRPORTS, key, newest_first=False))
            assert [(one.seq, one.row) for one in found] == versions, key
            assert list(acme.history(AIRPORTS, key)) == found[::-1]
            assert list(acme.history(AIRPORTS, key, limit=2)) == found[::-1][:2]
            for one in found:
                was = model.visible(one.seq - 1).get(key)
                assert one.fields == changed_fields(was, one.row), (key, one)
        for _ in range(5):
            start, end = sorted(random.sample(moments, 2))
            old, new = model.visible(start), model.visible(end)
            expected_diff = {
                key: (old.get(key), new.get(key)) for key in {*old, *new} if old.get(key) != new.get(key)
            }
            assert {one.key[0]: (one.before, one.after) for one in acme.past.diff(AIRPORTS, start, end)} == (
                expected_diff
            )
        logged = {
            (entry.seq, change.key[0]): change.row and change.row.SerializeToString()
            for entry in acme.past.log()
            for change in entry.changes
        }
        for entry in acme.past.log():
            for change in entry.changes:
                assert not change.prior or change.key[0] in model.visible(change.prior)
        expected_log: dict[tuple[int, str], Any] = {}
        for seq in moments[1:]:
            for key in keys:
                was, row = model.visible(seq - 1).get(key), model.visible(seq).get(key)
                if model.rows[seq].get(key) is model.rows[seq - 1].get(key):
                    continue
                if row is not None or (model.rows[seq].get(key) is None and was is not None):
                    expected_log[seq, key] = row and row.SerializeToString()
        assert logged == expected_log


# fields


def test_hidden_fields_of_nested_messages_and_lists(empty: EmbeddedDatabase) -> None:
    made: Any = models(
        "deep",
        Person="id 1 uint64, name 2 string, contact 3 .Contact, tags 4 string*, note 5 string?",
        Contact="mail 1 string, phone 2 string",
    )
    person_type, contact_type = made["Person"], made["Contact"]
    of_id: Any = Field(person_type, "id", 1, UINT64)
    people: Table[Any, int] = Table("people", person_type, key=of_id)
    migrate(empty, VERSION, people)
    whole = person_type(id=1, name="n", contact=contact_type(mail="m", phone="p"), tags=["a", "b"], note="")
    empty.put(people, whole)
    rule = Rule(("read", "write"), ("people",), hidden=("contact.mail", "tags", "note"))
    empty.access.define(Role("r", (rule,)))
    empty.access.grant("ann", "r")
    with (
        Server({"x": empty}, tokens={"ann": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as ann,
    ):
        row: Any = ann.get(people, 1)
        assert row == person_type(id=1, name="n", contact=contact_type(phone="p"))
        row.name, row.contact.phone = "new", "q"
        ann.put(people, row)
        kept = person_type()
        kept.CopyFrom(whole)
        kept.name, kept.contact.phone = "new", "q"
        assert empty.get(people, 1) == kept
        row.ClearField("contact")
        ann.put(people, row)
        kept.contact.ClearField("phone")
        assert empty.get(people, 1) == kept
        for change in ({"tags": ["c"]}, {"note": ""}, {"contact": contact_type(mail="x")}):
            with pytest.raises(AccessError, match="leave it unset"):
                ann.put(people, person_type(id=1, name="new", **change))
        empty.access.define(Role("s", (Rule(("read",), ("people",), hidden=("contact", "tags")),)))
        empty.access.grant("ann", "s")  # both hide contact.mail, and only one the whole contact
        both: Any = ann.get(people, 1)
        assert (both.HasField("contact"), both.contact.mail, list(both.tags)) == (True, "", [])


def test_sealed_rows_that_cannot_be_opened_are_not_visible(tmp_path: Path) -> None:
    people: Table[Any, str] = Table("people", Airport, key=FAA, person=CITY)
    with open_case("file", tmp_path, people, master_key=bytes(range(32))) as case:
        db = case.embedded
        for key, city in (("1", "ann"), ("2", "bob"), ("3", "ann")):
            db.put(people, Airport(faa=key, name=f"n{key}", city=city))
        before = db.head
        db.access.define(Role("r", (Rule(("read", "history"), ("people",), rows={"city": ("ann",)}),)))
        db.access.grant("acme", "r")
        with (
            Server({"x": db}, tokens={"acme": "sesame"}) as server,
            RemoteDatabase(f"{server.url('x')}?token=sesame") as acme,
        ):
            assert [row.faa for row in acme.scan(people)] == ["1", "3"]
            assert acme.get(people, "2") is None
            db.people.forget(people, "1", reason="asked")
            assert list(acme.scan(people)) == []
            then = acme.at(seq=before)
            assert [then.get(people, key) for key in "123"] == [None, None, None]
            assert list(acme.history(people, "1")) == []
            assert list(acme.past.log(table=people)) == []
