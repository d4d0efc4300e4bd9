"""Visible: rows and fields that a role limits, in every way to read and write them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event
from typing import Any

import grpc
import pytest

import everlog
from everlog import AccessError, SchemaError, UniqueError
from everlog.proto import (
    access_pb2,
    access_pb2_grpc,
    history_pb2,
    log_pb2,
    store_pb2,
)
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import store
from everlog.rpc.server.server import Server
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx.transaction import new_commit_id
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import (
    AIRPORTS,
    FAA,
    FLIGHTS,
    VERSION,
    Airport,
    Flight,
    Place,
    airport,
    flight,
    migrate,
)

ALL = ("read", "history", "write", "feed", "load", "status")


@pytest.fixture
def filled(db: EmbeddedDatabase) -> EmbeddedDatabase:
    """Airports of two cities, which stand for tenants; names are hidden."""
    with db.transaction() as tx:
        for number in range(40):
            city = "acme" if number % 4 == 0 else "globex"
            tx.put(AIRPORTS, Airport(faa=f"A{number:02}", name=f"name {number}", city=city))
    rule = Rule(ALL, ("airports",), rows={"city": ("$who",)}, hidden=("name",))
    db.access.define(Role("tenant", (rule,)))
    db.access.grant("acme", "tenant")
    return db


@pytest.fixture
def acme(filled: EmbeddedDatabase) -> Iterator[RemoteDatabase]:
    with (
        Server({"x": filled}, tokens={"acme": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as remote,
    ):
        yield remote


MINE = [f"A{number:02}" for number in range(0, 40, 4)]


def test_current_rows(acme: RemoteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VISITED_ROWS", 3)
    monkeypatch.setattr(store, "PAGE_ROWS", 2)
    monkeypatch.setattr(store, "FIRST_PAGE_ROWS", 2)
    found = acme.get(AIRPORTS, "A04")
    assert found is not None
    assert (found.faa, found.city, found.name) == ("A04", "acme", "")
    assert acme.get(AIRPORTS, "A05") is None
    assert [row and row.faa for row in acme.get_many(AIRPORTS, ["A04", "A05", "A08"])] == [
        "A04",
        None,
        "A08",
    ]
    for how in ({}, {"reverse": True}):
        rows = list(acme.scan(AIRPORTS, **how))  # type: ignore[arg-type]
        assert [row.faa for row in rows] == (MINE[::-1] if how else MINE)
        assert {(row.city, row.name) for row in rows} == {("acme", "")}
    assert [row.faa for row in acme.scan(AIRPORTS, limit=3)] == MINE[:3]
    assert [row.faa for row in acme.scan(AIRPORTS, start="A05", end="A13")] == ["A08", "A12"]
    assert acme.count(AIRPORTS) == 10
    assert [row.faa for row in acme.scan(AIRPORTS.by_city, "acme")] == MINE
    assert list(acme.scan(AIRPORTS.by_city, "globex")) == []
    assert acme.count(AIRPORTS.by_city, "globex") == 0
    with acme.snapshot() as now:
        assert [row.faa for row in now.scan(AIRPORTS)] == MINE


def test_an_index_over_a_hidden_field_is_denied(acme: RemoteDatabase) -> None:
    for call in (lambda: list(acme.scan(AIRPORTS.by_name, "name 5")), lambda: acme.count(AIRPORTS.by_name)):
        with pytest.raises(AccessError, match="hide fields of airports that the index by_name is ordered by"):
            call()


def test_tables_without_a_right_and_without_limits_are_not_followed_or_loaded(acme: RemoteDatabase) -> None:
    with pytest.raises(SchemaError, match="there is no table 'flights'"):
        acme.get(FLIGHTS, ("AA", 1))
    with pytest.raises(AccessError, match="limit the rows or fields of airports, so it cannot follow, load"):
        next(iter(acme.feed(tables=[AIRPORTS])))
    with pytest.raises(AccessError, match="acme lacks the right feed"):
        next(iter(acme.feed()))
    with pytest.raises(AccessError, match="limit the rows or fields of airports, so it cannot follow, load"):
        acme.load(AIRPORTS, [airport("ZZZ")])
    (table,) = acme.admin.status().tables
    assert (table.name, table.rows) == ("airports", 0)
    assert acme.admin.hashes() == {}


def test_writes_are_of_visible_rows_and_keep_hidden_fields(
    acme: RemoteDatabase, filled: EmbeddedDatabase
) -> None:
    head = filled.head
    refused: list[Any] = [
        lambda: acme.put(AIRPORTS, Airport(faa="A05", city="acme")),  # of another
        lambda: acme.put(AIRPORTS, Airport(faa="NEW", city="globex")),
        lambda: acme.put(AIRPORTS, Airport(faa="A04", city="globex")),  # given away
        lambda: acme.delete(AIRPORTS, "A05"),
    ]
    for call in refused:
        with pytest.raises(AccessError, match="do not allow this row of airports"):
            call()
    with pytest.raises(AccessError, match="hide the field name of airports; leave it unset"):
        acme.put(AIRPORTS, Airport(faa="A04", city="acme", name="mine"))
    assert filled.head == head
    acme.put(AIRPORTS, Airport(faa="A04", city="acme", place=Place(country="US")))
    acme.put(AIRPORTS, Airport(faa="NEW", city="acme"))
    acme.delete(AIRPORTS, "A08")
    kept, new = filled.get(AIRPORTS, "A04"), filled.get(AIRPORTS, "NEW")
    assert kept is not None
    assert new is not None
    assert (kept.name, kept.place.country, new.name) == ("name 4", "US", "")
    assert filled.get(AIRPORTS, "A08") is None
    with acme.transaction() as tx:
        row = tx.get(AIRPORTS, "A12")
        assert row is not None
        row.place.country = "DE"
        tx.put(AIRPORTS, row)
    changed = filled.get(AIRPORTS, "A12")
    assert changed is not None
    assert (changed.name, changed.place.country) == ("name 12", "DE")


def test_a_row_that_is_given_away_meanwhile_is_a_conflict_and_not_overwritten(
    acme: RemoteDatabase, filled: EmbeddedDatabase
) -> None:
    tx = acme.transaction()
    row = tx.get(AIRPORTS, "A04")
    assert row is not None
    tx.put(AIRPORTS, row)
    filled.put(AIRPORTS, Airport(faa="A04", name="theirs", city="globex"))
    with pytest.raises((AccessError, everlog.ConflictError)):
        tx.commit()
    now = filled.get(AIRPORTS, "A04")
    assert now is not None
    assert now.city == "globex"


def test_the_past(acme: RemoteDatabase, filled: EmbeddedDatabase) -> None:
    before = filled.head
    filled.put(AIRPORTS, Airport(faa="A04", name="secret", city="acme"))
    filled.put(AIRPORTS, Airport(faa="A04", name="theirs", city="globex"))
    filled.put(AIRPORTS, Airport(faa="A05", name="mine", city="acme"))
    filled.delete(AIRPORTS, "A08")
    filled.delete(AIRPORTS, "A09")
    filled.put(FLIGHTS, flight(1))
    assert acme.get(AIRPORTS, "A04") is None
    then = acme.at(seq=before)
    assert [row.faa for row in then.scan(AIRPORTS)] == MINE
    assert then.get(AIRPORTS, "A05") is None
    found = then.get(AIRPORTS, "A04")
    assert found is not None
    assert found.name == ""
    assert then.count(AIRPORTS) == 10
    for newest_first in (True, False):
        versions = list(acme.history(AIRPORTS, "A04", newest_first=newest_first))
        assert len(versions) == 2
        assert {one.row.name for one in versions if one.row} == {""}
        assert not any("name" in one.fields for one in versions)
        ops = [one.op for one in acme.history(AIRPORTS, "A08", newest_first=newest_first)]
        assert ops == (["delete", "put"] if newest_first else ["put", "delete"])
        assert list(acme.history(AIRPORTS, "A09", newest_first=newest_first)) == []
    assert len(list(acme.history(AIRPORTS, "A08", limit=1))) == 1
    found_now = {one.key[0]: one for one in acme.past.diff(AIRPORTS, before, filled.head)}
    assert {key: one.kind for key, one in found_now.items()} == {
        "A04": "deleted",
        "A05": "added",
        "A08": "deleted",
    }
    sides = [row for one in found_now.values() for row in (one.before, one.after) if row is not None]
    assert {row.name for row in sides} == {""}
    entries = list(acme.past.log())
    seen = {change.key[0] for entry in entries for change in entry.changes}
    assert seen == {*MINE, "A05"}
    assert {change.table for entry in entries for change in entry.changes} == {"airports"}
    shown: list[Any] = [change.row for entry in entries for change in entry.changes if change.row]
    assert {row.name for row in shown} == {""}
    assert all(entry.about is None for entry in entries)
    assert len(list(acme.past.log(limit=1))) == 1
    assert [entry.seq for entry in acme.past.log(table=AIRPORTS, key="A05")] == [before + 3]
    with pytest.raises(AccessError, match="acme lacks the right history on flights"):
        list(acme.history(FLIGHTS, ("AA", 1)))


def test_rules_add_rows_and_each_shows_a_row_with_its_own_fields(filled: EmbeddedDatabase) -> None:
    filled.access.define(
        Role("mixed", (Rule(("read",), rows={"faa": ("A01", "A04")}), Rule(("read",), ("none",))))
    )
    filled.access.grant("acme", "mixed", ("airports",))
    with (
        Server({"x": filled}, tokens={"acme": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as remote,
    ):
        names = {row.faa: row.name for row in remote.scan(AIRPORTS)}
        assert names == {**dict.fromkeys(MINE, ""), "A01": "name 1", "A04": "name 4"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Rule(("read",), ("airports",), rows={"tenant": ("a",)}), "table airports has no field tenant"),
        (Rule(("read",), ("airports",), hidden=("tenant",)), "table airports has no field tenant"),
        (Rule(("read",), ("airports",), hidden=("faa",)), "part of the primary key of table airports"),
        (Rule(("read",), ("airports",), rows={"place": ("x",)}), "no values that can be compared with text"),
        (Rule(("read",), ("flights",), rows={"delay": ("late",)}), "'late' is no value of the field delay"),
        (Rule(("read",), ("flights",), rows={"number": ("-1",)}), "'-1' is no value of the field number"),
        (Rule(("read",), ("flights",), rows={"delay": ("$who",)}), "'.who' is no value of the field delay"),
        (Rule(("read",), ("gates",), hidden=("name",)), "of table gates, which does not exist"),
        (Rule(("read",), ("g*",), hidden=("name",)), "gives nothing: it matches no table"),
        (Rule(("read",), hidden=("tenant",)), "gives nothing: table airports has no field tenant"),
    ],
)
def test_limits_are_checked_against_the_schema_when_a_role_is_defined(
    db: EmbeddedDatabase, rule: Rule, says: str
) -> None:
    head = db.head
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        for one in (db, remote):
            with pytest.raises(everlog.RowError, match=says):
                one.access.define(Role("r", (rule,)))
    assert db.head == head


def changed(db: EmbeddedDatabase, change: Any) -> None:
    """Put a schema into force that differs as `change` makes it."""
    schema = log_pb2.Schema()
    schema.CopyFrom(db.schema.proto)
    schema.version += 1
    change(schema)
    db.apply_migration(
        log_pb2.Migration(
            step=log_pb2.Migration.FINISHED, version=schema.version, name="change", schema=schema
        )
    )


def fields_of(schema: log_pb2.Schema) -> Any:
    (file,) = schema.models.file
    return next(one for one in file.message_type if one.name == "Airport").field


def rename_fields(schema: log_pb2.Schema) -> None:
    """Rename the field of the condition and the hidden one, and give their names to others."""
    for field in fields_of(schema):
        field.name = {"city": "tenant", "name": "secret"}.get(field.name, field.name)
    for number, name in ((8, "city"), (9, "name")):
        fields_of(schema).add(name=name, number=number, type=9, label=1)


def scan_by_name(db: RemoteDatabase, info: TableInfo) -> Iterator[Any]:
    return db.scan(table_of(info))


def test_a_rule_follows_fields_and_tables_that_are_renamed(
    acme: RemoteDatabase, filled: EmbeddedDatabase
) -> None:
    before = filled.head
    changed(filled, rename_fields)
    acme.refresh_schema()
    now: Any = acme.schema.table("airports")
    row: Any = acme.get(table_of(now), "A04")
    assert (row.tenant, row.secret, row.name) == ("acme", "", "")
    assert [row.faa for row in scan_by_name(acme, now)] == MINE
    mine = filled.schema.table("airports")
    filled.put(table_of(mine), mine.model(faa="A05", tenant="globex", city="acme"))
    assert acme.get(table_of(now), "A05") is None
    changed(filled, lambda schema: setattr(schema.tables[0], "name", "fields"))
    acme.refresh_schema()
    assert [one.name for one in acme.schema.tables.values()] == ["fields"]
    fields = table_of(acme.schema.table("fields"))
    assert [row.faa for row in scan_by_name(acme, acme.schema.table("fields"))] == MINE
    assert acme.count(fields) == len(MINE)
    assert filled.access.problems() == []
    assert filled.access.explain("acme", "read", "fields").allowed
    assert filled.access.explain("acme", "read", "airports", at=before).allowed
    then = acme.at(seq=before)
    assert [row.faa for row in then.scan(AIRPORTS)] == MINE


@pytest.mark.parametrize("name", ["city", "name"])
def test_a_rule_about_a_dropped_field_denies(
    acme: RemoteDatabase, filled: EmbeddedDatabase, name: str
) -> None:
    def drop(schema: log_pb2.Schema) -> None:
        fields = fields_of(schema)
        at = next(at for at, field in enumerate(fields) if field.name == name)
        number = fields[at].number
        del fields[at]
        for table in schema.tables:
            kept = [one for one in table.indexes if all(path.numbers[0] != number for path in one.fields)]
            if table.name == "airports":
                del table.indexes[:]
                table.indexes.extend(kept)

    before = filled.head
    changed(filled, drop)
    acme.refresh_schema()
    table = table_of(acme.schema.table("airports"))
    calls: list[Any] = [
        lambda: acme.get(table, "A04"),
        lambda: list(acme.scan(table)),
        lambda: acme.count(table),
        lambda: acme.get_many(table, ["A04"]),
        lambda: list(acme.history(table, "A04")),
        lambda: list(acme.past.diff(table, 1, filled.head)),
        lambda: acme.put(table, table.model(faa="NEW")),
        lambda: list(acme.past.log(table=table)),
        lambda: list(acme.at(seq=before).scan(AIRPORTS)),
    ]
    for call in calls:
        with pytest.raises(
            AccessError, match="refer to tables or fields that are gone, so they allow nothing"
        ):
            call()
    assert list(acme.past.log()) == []
    (problem,) = filled.access.problems()
    assert problem.startswith(f"role tenant refers to the field {name} of table airports, which is gone")
    assert "gone" in filled.access.explain("acme", "read", "airports", key="A04").sentences[-1]


@pytest.mark.parametrize("how", ["renamed", "dropped"])
def test_another_table_of_the_name_gives_no_right_on_the_past_of_the_first(
    acme: RemoteDatabase, filled: EmbeddedDatabase, how: str
) -> None:
    before, key = filled.head, filled.schema.table("airports").encode_key("A05")
    if how == "renamed":
        changed(filled, lambda schema: setattr(schema.tables[0], "name", "old"))
    else:
        changed(filled, lambda schema: schema.tables.pop(0))
    migrate(filled, filled.schema.version + 1, AIRPORTS)
    assert filled.schema.table("airports").proto.id > 2
    filled.access.define(Role("all", (Rule(("read", "history"), ("airports",)),)))
    filled.access.grant("acme", "all")
    filled.put(AIRPORTS, airport("NEW"))
    acme.refresh_schema()
    assert [row.faa for row in acme.scan(AIRPORTS)] == ["NEW"]  # without limits
    about: dict[str, Any] = {"database": "x", "table": "airports"}
    for name, request in (
        ("Store/Get", store_pb2.GetRequest(**about, key=key, at_seq=before)),
        ("Store/BatchGet", store_pb2.BatchGetRequest(**about, keys=[key], at_seq=before)),
        ("Store/Scan", store_pb2.ScanRequest(**about, at_seq=before)),
        ("History/History", history_pb2.HistoryRequest(**about, key=key)),
        ("History/Diff", history_pb2.DiffRequest(**about, start_seq=2, end_seq=before)),
        ("History/Log", history_pb2.LogRequest(**about)),
        ("History/Log", history_pb2.LogRequest(database="x")),
    ):
        kind = "unary_unary" if name in {"Store/Get", "Store/BatchGet"} else "unary_stream"
        call: Any = getattr(acme.channel.grpc, kind)(f"/everlog.v1.{name}")
        raw = b""
        with contextlib.suppress(grpc.RpcError):
            found = call(request.SerializeToString(), metadata=acme.channel.metadata, timeout=20)
            raw = found if isinstance(found, bytes) else b"".join(found)
        assert b"globex" not in raw, name
        assert b"name 4" not in raw, name


def test_a_table_that_is_newer_than_the_rule_is_not_read(filled: EmbeddedDatabase) -> None:
    filled.access.define(Role("all", (Rule(("read",), rows={"city": ("acme",)}),)))
    filled.access.grant("bob", "all")
    gates = Table("gates", Airport, key=FAA)
    migrate(filled, VERSION + 1, gates)
    with (
        Server({"x": filled}, tokens={"bob": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as bob,
    ):
        assert bob.count(AIRPORTS) == len(MINE)
        assert list(bob.schema.tables) == ["airports"]
        assert filled.access.problems() == [
            "role all gives nothing on table gates, which is newer than the role; define it again"
        ]
        filled.access.define(Role("all", (Rule(("read",), rows={"city": ("acme",)}),)))
        bob.refresh_schema()
        assert bob.count(gates) == 0


def test_what_an_operator_is_told_about_a_row_and_a_field(
    acme: RemoteDatabase, filled: EmbeddedDatabase
) -> None:
    def last(**asked: Any) -> str:
        return filled.access.explain("acme", "read", "airports", **asked).sentences[-1]

    assert last(key="A04") == "the row is visible"
    assert last(key="A05") == "the row is not visible by role tenant: its city has another value"
    assert last(key="ZZZ") == "no row has this key"
    assert last(field="name") == "the field name is hidden"
    assert last(field="city", key="A04") == "the field city is visible"
    assert filled.access.explain("acme", "read", "airports", key="A04").hidden == ("name",)
    assert acme.access.explain("", "read", "airports", key="A04").hidden == ("name",)
    assert acme.access.explain("", "put", "airports").sentences[0].startswith("acme may")
    assert filled.access.explain("", "put", "airports", key="A04").hidden == ()
    before = filled.head
    filled.put(AIRPORTS, Airport(faa="A05", city="acme"))
    assert last(key="A05", at=before).startswith("the row is not visible by role tenant")
    assert last(key="A05") == "the row is visible"
    for key, seen in (("A04", True), ("A06", False), ("ZZZ", False)):  # it learns no more than by reading
        stub = access_pb2_grpc.AccessStub(acme.channel.grpc)
        encoded = filled.schema.table("airports").encode_key(key)
        request = access_pb2.ExplainAccessRequest(database="x", verb="read", table="airports", key=encoded)
        said = stub.Explain(request, metadata=acme.channel.metadata).sentences[-1]
        assert said == ("the row is visible" if seen else "no row that is visible has this key")


def test_conditions_compare_numbers_and_nested_fields(db: EmbeddedDatabase) -> None:
    for number in range(6):
        db.put(FLIGHTS, Flight(carrier="AA", number=number, delay=number % 2))
    db.put(AIRPORTS, Airport(faa="JFK", name="j", place=Place(country="US")))
    db.put(AIRPORTS, Airport(faa="BER", name="b", place=Place(country="DE")))
    db.put(AIRPORTS, Airport(faa="XXX", name="x"))
    rules = (
        Rule(("read",), ("flights",), rows={"delay": ("1",), "number": ("1", "2", "3")}),
        Rule(("read",), ("airports",), rows={"place.country": ("DE",)}, hidden=("place.height",)),
    )
    db.access.define(Role("r", rules))
    db.access.grant("ann", "r")
    with (
        Server({"x": db}, tokens={"ann": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as ann,
    ):
        assert [row.number for row in ann.scan(FLIGHTS)] == [1, 3]
        assert [row.faa for row in ann.scan(AIRPORTS)] == ["BER"]


def test_an_error_names_no_row_that_the_caller_does_not_see(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK", name="theirs", city="globex"))
    rule = Rule(("read", "write"), ("airports",), rows={"city": ("$who",)})
    db.access.define(Role("tenant", (rule,)))
    db.access.grant("acme", "tenant")
    with (
        Server({"x": db}, tokens={"acme": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as acme,
    ):
        with pytest.raises(
            UniqueError, match="another row has the same values in the unique index by_name"
        ) as caught:
            acme.put(AIRPORTS, Airport(faa="LAX", name="theirs", city="acme"))
        assert "JFK" not in f"{caught.value} {caught.value.facts}"


# conflicts


def test_a_conflict_is_only_with_rows_that_are_visible(
    acme: RemoteDatabase, filled: EmbeddedDatabase
) -> None:
    tx = acme.transaction()
    assert len(list(tx.scan(AIRPORTS))) == len(MINE)
    assert tx.get(AIRPORTS, "A05") is None
    filled.put(AIRPORTS, Airport(faa="A05", name="new", city="globex"))
    filled.put(AIRPORTS, Airport(faa="Z99", name="newer", city="globex"))
    filled.delete(AIRPORTS, "A06")
    assert tx.get(AIRPORTS, "A05") is None  # at its snapshot, as it seems
    assert tx.count(AIRPORTS) == len(MINE)
    tx.put(AIRPORTS, Airport(faa="A04", city="acme", place=Place(country="DE")))
    tx.commit()
    changes: list[Any] = [
        lambda: filled.put(AIRPORTS, Airport(faa="A05", name="mine", city="acme")),  # comes
        lambda: filled.put(AIRPORTS, Airport(faa="A05", name="theirs", city="globex")),  # goes
        lambda: filled.delete(AIRPORTS, "A08"),
    ]
    for change in changes:
        tx = acme.transaction()
        list(tx.scan(AIRPORTS))
        tx.put(AIRPORTS, Airport(faa="A12", city="acme"))
        change()
        with pytest.raises(
            everlog.ConflictError, match="rows that this transaction read were changed; run it"
        ):
            tx.commit()


def test_a_repeated_commit_of_a_caller_with_limits_takes_effect_once(
    acme: RemoteDatabase, filled: EmbeddedDatabase
) -> None:
    commit_id = new_commit_id()
    row = Airport(faa="A04", city="acme", place=Place(country="DE"))
    first = acme.put(AIRPORTS, row, commit_id=commit_id)
    filled.put(AIRPORTS, Airport(faa="A04", name="other", city="acme"))
    assert acme.put(AIRPORTS, row, commit_id=commit_id).seq == first.seq
    filled.put(AIRPORTS, Airport(faa="A04", name="theirs", city="globex"))
    assert acme.put(AIRPORTS, row, commit_id=commit_id).seq == first.seq


def test_a_scan_of_few_visible_rows_is_read_in_slices(
    acme: RemoteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "VISITED_ROWS", 1)
    pages: list[int] = []
    page = store.ServedScan.page

    def counted(self: store.ServedScan) -> store_pb2.ScanResponse:
        found = page(self)
        pages.append(len(found.rows))
        return found

    monkeypatch.setattr(store.ServedScan, "page", counted)
    assert [row.faa for row in acme.scan(AIRPORTS, start="A01")] == MINE[1:]
    assert len(pages) >= 39  # between two of them it can be ended
    assert max(pages) == 1


@pytest.mark.parametrize("whole", [False, True], ids=["tenant", "reader"])
def test_a_read_ends_when_its_caller_loses_a_rule(
    filled: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """It shows what its caller saw when it began, by other rules than now."""
    began = Event()

    def endless(self: store.ServedScan) -> store_pb2.ScanResponse:
        began.set()
        return store_pb2.ScanResponse()

    monkeypatch.setattr(store.ServedScan, "page", endless)
    filled.access.grant("ann", "reader" if whole else "tenant")
    filled.access.define(Role("few", (Rule(("read",), ("airports",), rows={"city": ("nowhere",)}),)))
    request = store_pb2.ScanRequest(database="x", table="airports").SerializeToString()
    with (
        Server({"x": filled}, tokens={"ann": "sesame"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame") as remote,
    ):
        scan: Any = remote.channel.grpc.unary_stream("/everlog.v1.Store/Scan")
        call = scan(request, metadata=remote.channel.metadata, timeout=60)
        assert began.wait(30)
        filled.access.grant("ann", "few")  # shows more, and hides nothing
        filled.access.revoke("ann", "reader" if whole else "tenant")
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "the rights of the caller changed" in error.details()


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_a_scan_without_visible_rows_ends_with_its_client(
    acme: RemoteDatabase, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    began, released = Event(), Event()

    def endless(self: store.ServedScan) -> store_pb2.ScanResponse:
        began.set()
        return store_pb2.ScanResponse()

    monkeypatch.setattr(store.ServedScan, "page", endless)
    monkeypatch.setattr(store.ServedScan, "release", lambda _: released.set())
    request = store_pb2.ScanRequest(database="x", table="airports").SerializeToString()
    scan: Any = acme.channel.grpc.unary_stream("/everlog.v1.Store/Scan")
    for timeout_s in (1, 10, 60):  # a deadline may pass before the scan begins
        call = scan(request, metadata=acme.channel.metadata, timeout=timeout_s if how == "deadline" else 60)
        if how == "cancelled":
            assert began.wait(30)
            call.cancel()
        with pytest.raises(grpc.RpcError):
            next(call)
        if began.is_set():
            break
    assert began.is_set()
    assert released.wait(30)


def test_writes_beside_others_keep_to_the_rows_and_fields_of_each(filled: EmbeddedDatabase) -> None:
    """Two tenants write while a third caller changes hidden fields, and gives rows away."""
    filled.access.grant("globex", "tenant")
    tokens, stop = {"acme": "a", "globex": "g"}, Event()
    keys = [f"A{number:02}" for number in range(6)]

    def write(url: str, who: str, seed: int) -> int:
        random, done = Random(seed), 0
        with RemoteDatabase(f"{url}?token={tokens[who]}") as db:
            for number in range(150):
                row = Airport(faa=random.choice(keys), city=who, place=Place(height=number))
                with contextlib.suppress(AccessError, everlog.ConflictError):
                    done += 1 if db.put(AIRPORTS, row).seq else 0
        return done

    def disturb() -> None:
        random, number = Random(3), 0
        while not stop.is_set():
            number += 1
            city = random.choice(("acme", "globex"))
            filled.put(AIRPORTS, Airport(faa=random.choice(keys), name=f"secret {number}", city=city))

    with (
        Server({"x": filled}, tokens=tokens) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        third = pool.submit(disturb)
        writers = [pool.submit(write, server.url("x"), who, seed) for seed, who in enumerate(tokens)]
        assert all(writer.result() for writer in writers)
        stop.set()
        third.result()
    checked = 0
    rows: dict[tuple[Any, ...], Any] = {}
    for entry in filled.past.log(table=AIRPORTS):
        for change in entry.changes:
            before: Any = rows.get(change.key)
            after: Any = change.row
            if entry.actor:
                assert after is not None
                assert after.city == entry.actor
                assert before is None or (before.city, before.name) == (entry.actor, after.name)
                checked += 1
            rows[change.key] = after
    assert checked
