"""Access: roles with limits, explanations and the read audit, embedded and at a server."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import RowError, SchemaError
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import AIRPORTS, Case, airport

TENANT = Rule(("read", "write"), ("airports",), rows={"city": ("$who",)}, hidden=("place.height",))


def test_a_role_with_limits_is_bound_to_the_tables_and_fields_that_exist(db: Any) -> None:
    seq = db.access.define(Role("tenant", (TENANT,)), reason="why")
    assert seq == db.head
    assert db.access.define(Role("tenant", (TENANT,))) == 0
    role = next(role for role, _ in db.access.show().roles if role.name == "tenant")
    (rule,) = role.rules
    assert rule.unbound == TENANT
    assert [(one.name, one.fields) for one in rule.bindings] == [
        ("airports", {"city": (3,), "place.height": (4, 2)})
    ]
    assert db.access.define(role) == 0
    for wrong in (Rule(("read",), ("gates",), rows={"city": ("a",)}), Rule(("read",), hidden=("faa",))):
        with pytest.raises(RowError, match="rule 1 of role wrong"):
            db.access.define(Role("wrong", (wrong,)))
    assert db.access.show().problems == []


def test_what_hides_a_row_and_a_field_is_explained(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK", city="ann"))
    db.put(AIRPORTS, airport("LAX", city="bob"))
    seq = db.access.define(Role("tenant", (TENANT,)))
    db.access.grant("ann", "tenant")
    db.put(AIRPORTS, airport("LAX", city="ann"))

    def last(**asked: Any) -> str:
        sentence: str = db.access.explain("ann", "read", "airports", **asked).sentences[-1]
        return sentence

    assert last(key="JFK") == last(key="LAX") == "the row is visible"
    before = last(key="LAX", at=seq + 1)
    assert before == "the row is not visible by role tenant: its city has another value"
    assert last(field="place.height") == "the field place.height is hidden"
    assert last(field="name", key="JFK") == "the field name is visible"
    assert last(key="XXX") == "no row has this key"
    with pytest.raises(RowError, match="expected the name of the table"):
        db.access.explain("ann", "read", key="JFK")
    with pytest.raises((RowError, SchemaError)):
        db.access.explain("ann", "read", "airports", key=3)


def test_reads_are_recorded_at_servers_alone(case: Case, db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"))
    assert db.access.audit("airports", 1.0, reason="why") == db.head
    db.get(AIRPORTS, "JFK")
    found = list(db.access.reads(table="airports"))
    assert [(one.call, one.keys) for one in found] == (
        [("Store/Get", ("JFK",))] if case.kind == "remote" else []
    )
    ((table, share, change),) = db.access.show().audits
    assert (table, share, change.reason) == ("airports", 1.0, "why")
    assert db.access.audit("airports", 0) == db.head
    assert db.access.show().audits == []
    for limit in (0, 1):
        assert len(list(db.access.reads(limit=limit))) == min(limit, len(found))
    for wrong in (2, "all", None):
        with pytest.raises(RowError, match="a share of reads from 0 to 1"):
            db.access.audit("airports", wrong)
    with pytest.raises(SchemaError):
        db.access.audit("gates")
