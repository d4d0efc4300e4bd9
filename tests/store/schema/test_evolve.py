"""The next schema: ids are kept, and never reused."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError
from everlog.store.schema.codec import STRING, UINT64
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Field, Index, Table
from tests.store.models import AIRPORTS, ITEMS, TABLES, models


def table(package: str, fields: str, *indexes: tuple[str, str, int]) -> Table[Any, int]:
    model = models(package, Item=fields)["Item"]
    return Table(
        "items",
        model,
        key=Field(model, "id", 1, UINT64),
        indexes=tuple(Index(name, Field(model, field, number, STRING)) for name, field, number in indexes),
    )


def test_tables_and_spaces_are_numbered_from_one() -> None:
    schema = evolve(log_pb2.Schema(), 7, TABLES)
    assert schema.version == 7
    assert [(one.name, one.id, one.space) for one in schema.tables] == [
        ("airports", 1, 1),
        ("seats", 2, 2),
        ("items", 3, 3),
    ]
    assert [(one.name, one.id, one.unique) for one in schema.tables[0].indexes] == [
        ("by_city", 1, False),
        ("by_lat", 2, False),
        ("by_icao", 3, True),
    ]
    assert [list(field.numbers) for field in schema.tables[0].indexes[1].fields] == [[5, 1]]


def test_a_table_keeps_its_space_and_an_index_its_id() -> None:
    first = evolve(
        log_pb2.Schema(), 1, [table("a", "id 1 uint64, text 2 string", ("by_text", "text", 2)), AIRPORTS]
    )
    second = evolve(
        first,
        2,
        [
            table(
                "b",
                "id 1 uint64, words 2 string, more 3 string",
                ("by_more", "more", 3),
                ("by_text", "words", 2),
            )
        ],
    )
    items = next(one for one in second.tables if one.name == "items")
    assert (items.id, items.space, items.model) == (1, 1, "b.Item")
    assert [(one.name, one.id) for one in items.indexes] == [("by_more", 2), ("by_text", 1)]
    assert [file.name for file in second.models.file] == ["b.proto", "flights.proto"]


def test_an_index_over_other_fields_is_another_index() -> None:
    fields = "id 1 uint64, text 2 string, more 3 string"
    first = evolve(log_pb2.Schema(), 1, [table("a", fields, ("by_text", "text", 2))])
    without = evolve(first, 2, [table("a", fields)])
    again = evolve(without, 3, [table("a", fields, ("by_text", "text", 2))])
    other = evolve(first, 2, [table("a", fields, ("by_text", "more", 3))])
    assert [index.id for index in again.tables[0].indexes] == [2]
    assert [index.id for index in other.tables[0].indexes] == [2]


def test_numbers_of_what_was_dropped_are_not_used_again() -> None:
    first = evolve(log_pb2.Schema(), 1, [ITEMS])
    dropped = evolve(first, 2, [], drop=["items"])
    assert not dropped.tables
    assert not dropped.models.file
    again = evolve(dropped, 3, [ITEMS])
    assert (again.tables[0].id, again.tables[0].space) == (2, 2)


def test_what_would_rewrite_rows_or_is_not_there_is_refused() -> None:
    first = evolve(log_pb2.Schema(), 1, [ITEMS])
    model = models("a", Item="id 1 uint64, text 2 string")["Item"]
    with pytest.raises(SchemaError, match="table items is declared with a different primary key"):
        evolve(first, 2, [Table("items", model, key=Field(model, "text", 2, STRING))])
    with pytest.raises(SchemaError, match="migration 2 drops table 'planes', which does not exist"):
        evolve(first, 2, [], drop=["planes"])


def test_a_schema_is_whole_without_any_code_of_a_user() -> None:
    raw = evolve(log_pb2.Schema(), 1, TABLES).SerializeToString()
    info = Schema(log_pb2.Schema.FromString(raw)).table("airports")
    row = info.parse(AIRPORTS.model(faa="JFK", city="New York").SerializeToString())
    assert info.decode_key(info.own.key_of(row)) == ("JFK",)
