"""Preconditions: conditions on a row at the commit, and commits that are sent twice."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

import everlog
from everlog.store.tx.transaction import new_commit_id
from tests.conformance.database_case import AIRPORTS, FLIGHTS, airport, flight


def test_an_insert_of_a_row_that_is_there_is_refused(db: Any) -> None:
    db.insert(FLIGHTS, flight(1))
    with pytest.raises(everlog.PreconditionError, match="expected no row flights/UA/1") as caught:
        db.insert(FLIGHTS, flight(1, delay=1))
    assert caught.value.table == "flights"
    assert tuple(caught.value.key) == ("UA", 1)
    assert db.get(FLIGHTS, ("UA", 1)).delay == 0


def test_an_update_of_a_row_that_is_not_there_is_refused(db: Any) -> None:
    with pytest.raises(everlog.PreconditionError, match="expected a row flights/UA/1, found none"):
        db.update(FLIGHTS, flight(1))
    db.insert(FLIGHTS, flight(1))
    db.update(FLIGHTS, flight(1, delay=2))
    assert db.get(FLIGHTS, ("UA", 1)).delay == 2


def test_an_expected_version_must_hold(db: Any) -> None:
    first = db.put(FLIGHTS, flight(1), expect_version=0).seq
    second = db.put(FLIGHTS, flight(1, delay=1), expect_version=first).seq
    with pytest.raises(everlog.PreconditionError, match=f"at version {first}, found version {second}"):
        db.put(FLIGHTS, flight(1, delay=2), expect_version=first)
    with pytest.raises(everlog.PreconditionError, match="expected no row"):
        db.put(FLIGHTS, flight(1), expect_version=0)
    with pytest.raises(everlog.PreconditionError):
        db.delete(FLIGHTS, ("UA", 1), expect_version=first)
    db.delete(FLIGHTS, ("UA", 1), expect_version=second)


def test_a_duplicate_in_a_unique_index_names_index_value_and_the_other_row(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK", name="Kennedy"))
    with pytest.raises(everlog.UniqueError, match=r"by_name.*airports/JFK") as caught:
        db.put(AIRPORTS, airport("LGA", name="Kennedy"))
    assert caught.value.index == "by_name"
    assert "Kennedy" in caught.value.value
    assert tuple(caught.value.key) == ("JFK",)
    assert db.get(AIRPORTS, "LGA") is None


def test_two_rows_can_swap_their_unique_values(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK", name="a"))
    db.put(AIRPORTS, airport("LGA", name="b"))
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("JFK", name="b"))
        tx.put(AIRPORTS, airport("LGA", name="a"))
    assert [row.faa for row in db.scan(AIRPORTS.by_name)] == ["LGA", "JFK"]


def test_the_same_commit_id_commits_once(db: Any) -> None:
    commit_id = new_commit_id()
    first = db.put(FLIGHTS, flight(1), commit_id=commit_id)
    again = db.put(FLIGHTS, flight(1), commit_id=commit_id)
    assert (again.seq, again.checksum) == (first.seq, first.checksum)
    assert db.head == first.seq
    with pytest.raises(everlog.PreconditionError, match="other content"):
        db.put(FLIGHTS, flight(2), commit_id=commit_id)


def test_a_commit_id_that_is_no_uuid7_is_refused(db: Any) -> None:
    with pytest.raises(everlog.PreconditionError, match="UUIDv7"):
        db.put(FLIGHTS, flight(1), commit_id=uuid.uuid4().bytes)
