"""Comparisons: row filters that compare fields by order, prefix, and whether they are set.

Random rows in every call: test_visible_calls.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from everlog import AccessError, RowError
from everlog.proto import access_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.conditions import Comparison, read_conditions
from everlog.store.upkeep.roles import Role, Rule, role_of
from tests.conformance.database_case import AIRPORTS, Airport, Place

ALL = ("read", "history", "write", "status")


def test_writes_keep_to_comparisons(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="A04", name="low"))
    compare = (Comparison("place.height", ">=", ("100",)), Comparison("place.height", "<", ("200",)))
    db.access.define(Role("mid", (Rule(ALL, ("airports",), comparisons=compare),)))
    db.access.grant("bob", "mid")
    with (
        Server({"x": db}, tokens={"bob": "thyme"}) as server,
        RemoteDatabase(f"{server.url('x')}?token=thyme") as bob,
    ):
        bob.put(AIRPORTS, Airport(faa="B1", name="mid", place=Place(height=100)))
        for wrong in (Place(height=99), Place(height=200), Place(), None):
            with pytest.raises(AccessError, match="do not allow this row of airports"):
                bob.put(AIRPORTS, Airport(faa="B1", name="mid", place=wrong))
            with pytest.raises(AccessError, match="do not allow this row of airports"):
                bob.put(AIRPORTS, Airport(faa="B2", name="new", place=wrong))
        with pytest.raises(AccessError, match="do not allow this row"):
            bob.delete(AIRPORTS, "A04")
        assert [row.faa for row in bob.scan(AIRPORTS)] == ["B1"]
        bob.delete(AIRPORTS, "B1")
    said = db.access.explain("bob", "read", "airports", key="A04").sentences
    assert "only rows with place.height >= 100" in said
    assert said[-1] == "the row is not visible by role mid: its place.height has another value"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("place.height<tall", "the field place.height of table airports cannot have the value 'tall'"),
        (
            "place.height^=1",
            "the field place.height of table airports has no values that can be compared with prefix",
        ),
        ("place<1", "the field place of table airports has no values that can be compared with <"),
        ("!city", "the field city of table airports always has a value"),
        ("!town", "table airports has no field town"),
    ],
)
def test_comparisons_are_checked_against_the_schema(db: EmbeddedDatabase, words: str, says: str) -> None:
    _, compare = read_conditions([words])
    with pytest.raises(RowError, match=says):
        db.access.define(Role("r", (Rule(("read",), ("airports",), comparisons=compare),)))


@pytest.mark.parametrize(
    "compare",
    [
        (Comparison("city", "~", ("a",)),),
        (Comparison("city", "<"),),
        (Comparison("city", "<", ("a", "b")),),
        (Comparison("place", "unset", ("a",)),),
        (Comparison("city", "prefix", ("",)),),
        (Comparison("city", "<", ("a",)), Comparison("city", "<", ("b",))),
        (("city", "<", "a"),),
    ],
)
def test_invalid_comparisons_are_refused(db: EmbeddedDatabase, compare: Any) -> None:
    with pytest.raises(RowError, match="expected"):
        db.access.define(Role("r", (Rule(("read",), ("airports",), comparisons=compare),)))


def test_a_comparison_of_a_newer_program_gives_nothing() -> None:
    rule = access_pb2.Rule(rights=[access_pb2.READ])
    rule.rows.add(field="city", values=["a"], comparison=99)
    assert role_of(access_pb2.Role(name="r", rules=[rule])).rules == ()
