"""The meaning of the arguments of a scan."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.proto import log_pb2
from everlog.store.errors import RowError
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.tx.source import Span, span
from tests.store.models import TABLES

SCHEMA = Schema(evolve(log_pb2.Schema(), 1, TABLES))
AIRPORTS, SEATS = SCHEMA.table("airports"), SCHEMA.table("seats")
ORDERS = st.binary(max_size=3)


@given(ORDERS, ORDERS, ORDERS)
def test_a_span_holds_what_lies_under_it(start: bytes, end: bytes, order: bytes) -> None:
    low, high = Span(start, end).under(b"pre")
    assert Span(start, end).holds(order) == (low <= b"pre" + order < high)


@given(ORDERS, ORDERS, st.binary(min_size=1, max_size=3), ORDERS, st.booleans())
def test_what_is_left_after_a_place_is_all_beyond_it(
    start: bytes, end: bytes, place: bytes, order: bytes, reverse: bool
) -> None:
    whole = Span(start, end)
    beyond = order < place if reverse else order > place
    assert whole.after(place, reverse=reverse).holds(order) == (whole.holds(order) and beyond)


def test_the_first_fields_name_a_range() -> None:
    one = span(SEATS, None, (7, -1))
    assert one.holds(SEATS.encode_key((7, -1, b"A")))
    assert not one.holds(SEATS.encode_key((7, 0, b"A")))
    assert span(SEATS, None, 7).holds(SEATS.encode_key((7, 99, b"")))
    assert span(SEATS, None) == span(SEATS, None, ()) == Span()


def test_a_prefix_of_text_is_no_prefix_of_a_whole_text() -> None:
    index = AIRPORTS.index("by_city")
    inside = index.encode("New York") + AIRPORTS.encode_key("JFK")
    assert span(AIRPORTS, index, starts_with="New").holds(inside)
    assert not span(AIRPORTS, index, "New").holds(inside)
    assert span(AIRPORTS, None, starts_with="J").holds(AIRPORTS.encode_key("JFK"))
    assert span(SEATS, None, (7, 1), starts_with=b"A").holds(SEATS.encode_key((7, 1, b"A\0")))


def test_a_null_can_be_looked_for() -> None:
    index = AIRPORTS.index("by_icao")
    assert span(AIRPORTS, index, (None,)).holds(b"\x00" + AIRPORTS.encode_key("JFK"))
    assert not span(AIRPORTS, index, (None,)).holds(index.encode("KJFK"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"equals": "J", "start": "A"}, "found both"),
        ({"starts_with": "J", "end": "A"}, "found both"),
        ({"equals": 5}, r"expected `str` for faa in the primary key of airports, found `int`"),
        ({"equals": True}, "found `bool`"),
        ({"equals": ("a", "b")}, r"has 1 field\(s\), faa; found 2 value"),
        ({"start": None, "end": b"x"}, "expected `str`"),
        ({"starts_with": b"J"}, "requires a field of type bytes at position 0 of airports"),
        ({"equals": "JFK", "starts_with": "x"}, "at position 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        span(AIRPORTS, None, **arguments)


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RowError, match="does not fit flight in the primary key of seats, an int32"):
        span(SEATS, None, 2**63)
