"""Slice: the result of a migration that rewrites the rows of a table."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.online.backfill import Slice
from everlog.store.rocks.view import Item
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tx import write
from tests.store.models import AIRPORTS, Airport

SINCE, SEQ = 1000, 1234
VERSIONS = {"JFK": 7, "LGA": 7, "EWR": 300}


@pytest.fixture
def newer() -> TableInfo:
    return Schema(evolve(log_pb2.Schema(), version=1, tables=[AIRPORTS])).tables["airports"]


def airport(faa: str, name: str = "") -> Any:
    return Airport(faa=faa, name=name or f"{faa} International", city="New York", icao=f"K{faa}")


def stored(newer: TableInfo, faa: str, seq: int, **facts: Any) -> Item:
    """Return a row of the previous generation, which here has the model of the next."""
    value = keys.pack_value(seq, airport(faa).SerializeToString(), **facts)
    return keys.prefix(99) + newer.encode_key(faa), value


def renamed(newer: TableInfo, faa: str) -> write.Write:
    return write.put(newer.own, newer.parse(airport(faa, f"{faa}, renamed").SerializeToString()))


@pytest.fixture
def made(newer: TableInfo) -> Slice:
    def convert(key: bytes, raw: bytes) -> tuple[bytes, list[bytes]]:
        one = renamed(newer, newer.decode_key(key)[0])
        assert raw == airport(newer.decode_key(key)[0]).SerializeToString()
        return one.row, one.values

    made = Slice(newer)
    made.make([stored(newer, faa, version) for faa, version in VERSIONS.items()], convert, since=SINCE)
    return made


def commit_of(made: Slice) -> log_pb2.Commit:
    return log_pb2.Commit.FromString(b"".join(made.changes))


def test_a_change_is_the_one_that_protobuf_would_write(made: Slice, newer: TableInfo) -> None:
    expected = log_pb2.Commit()
    for faa, version in VERSIONS.items():
        one = renamed(newer, faa)
        expected.changes.add(space=newer.space, key=one.key, row=one.row, version=version)
    assert b"".join(made.changes) == expected.SerializeToString()


def test_the_tables_get_each_row_with_its_version_and_its_entries(made: Slice, newer: TableInfo) -> None:
    expected: dict[bytes, bytes | None] = {}
    for faa, version in VERSIONS.items():
        one = renamed(newer, faa)
        expected[one.full] = keys.pack_value(SEQ, one.row, version=version)
        expected.update({values + one.key: b"" for values in one.values})
    assert made.edits(SEQ) == expected
    assert len(made) == len(VERSIONS)
    assert made.size == sum(keys.SEQ.size + len(renamed(newer, faa).row) for faa in VERSIONS)


def test_a_row_keeps_the_version_that_it_had_before_an_earlier_rewrite(newer: TableInfo) -> None:
    made, one = Slice(newer), renamed(newer, "JFK")
    made.make([stored(newer, "JFK", 900, version=7)], lambda _, __: (one.row, one.values), since=SINCE)
    assert [change.version for change in commit_of(made).changes] == [7]


def test_a_row_that_was_written_since_is_left_out(newer: TableInfo) -> None:
    made, one = Slice(newer), renamed(newer, "JFK")
    rows = [stored(newer, "JFK", SINCE - 1), stored(newer, "LGA", SINCE)]
    made.make(rows, lambda _, __: (one.row, one.values), since=SINCE)
    assert list(made.keys) == [rows[0][0]]


@pytest.mark.parametrize("faa", VERSIONS)
def test_a_row_that_is_dropped_leaves_nothing(made: Slice, newer: TableInfo, faa: str) -> None:
    dropped = renamed(newer, faa)
    made.drop(stored(newer, faa, 1)[0])
    assert [change.key for change in commit_of(made).changes] == [
        renamed(newer, other).key for other in VERSIONS if other != faa
    ]
    gone = {dropped.full, *(values + dropped.key for values in dropped.values)}
    assert not gone & made.edits(SEQ).keys()
    assert len(made.edits(SEQ)) == (len(VERSIONS) - 1) * (1 + len(newer.indexes))


def test_values_of_one_index_come_by_the_key_of_the_row(made: Slice, newer: TableInfo) -> None:
    for at in range(len(newer.indexes)):
        expected = {renamed(newer, faa).key: renamed(newer, faa).values[at] for faa in VERSIONS}
        assert made.values(at) == expected
