"""Rows become keys and entries, with the log's own model or that of another version."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError, RowError, SchemaError
from everlog.store.schema.codec import STRING, TIMESTAMP, UINT64
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Field, Index, Table
from tests.store.models import AIRPORTS, SEATS, TABLES, Airport, Item, Position, Seat, models


def schema_of(*tables: Table[Any, Any]) -> Schema:
    return Schema(evolve(log_pb2.Schema(), 1, tables or TABLES))


def test_a_key_comes_back_from_its_bytes() -> None:
    info = schema_of().table("seats")
    seat = Seat(flight=-7, row=2**40, letter=b"A\0")
    key = info.bind(Seat).key_of(seat)
    assert info.decode_key(key) == (-7, 2**40, b"A\0")
    assert info.encode_key((-7, 2**40, b"A\0")) == key
    assert info.show_key(key) == "seats/-7/1099511627776/b'A\\x00'"


def test_a_key_that_does_not_decode_is_damage() -> None:
    info = schema_of().table("airports")
    for bad in (b"", b"JFK", b"JFK\x00\x01more", b"\xff\x00\x01"):
        with pytest.raises(CorruptionError, match="of table airports cannot be decoded"):
            info.decode_key(bad)


def test_index_values_say_what_is_absent() -> None:
    info = schema_of().table("airports")
    by_city, by_lat, by_icao = info.indexes.values()
    row = Airport(faa="JFK", city="New York")
    values = info.bind(Airport).values(row, row.SerializeToString())
    assert values[0] == by_city.prefix + b"\x01New York\x00\x01"
    assert values[1] == by_lat.prefix + b"\x00"
    assert values[2] == by_icao.prefix + b"\x00"
    row.icao, row.position.lon = "", 1.0
    values = info.bind(Airport).values(row, row.SerializeToString())
    assert values[1] == by_lat.prefix + by_lat.encode(0.0)
    assert values[2] == by_icao.prefix + by_icao.encode("")


def test_an_entry_gives_back_its_values_and_its_key() -> None:
    info = schema_of().table("seats")
    (index,) = info.indexes.values()
    row = Seat(flight=1, row=2, letter=b"C", cabin=-1, price=-2.5)
    (values,) = info.own.values(info.parse(row.SerializeToString()), row.SerializeToString())
    key = info.own.key_of(row)
    assert index.key_in(values[len(index.prefix) :] + key) == key
    assert index.show(values[len(index.prefix) :]) == "-1, -2.5"


@pytest.mark.parametrize(
    ("table", "row", "words"),
    [
        (AIRPORTS, Airport(name="no key"), "a row of airports lacks its key field faa; set it, or declare"),
        (SEATS, Seat(flight=1), "a row of seats lacks its key field letter"),
    ],
)
def test_a_row_without_its_key_is_refused(table: Table[Any, Any], row: Any, words: str) -> None:
    binding = schema_of().table(table.name).bind(table.model)
    with pytest.raises(RowError, match=words):
        binding.key_of(row)


def test_a_key_field_that_tells_absent_from_empty_may_be_empty() -> None:
    (row_class,) = models("m", Row="id 1 string?").values()
    table: Table[Any, str] = Table("rows", row_class, key=Field(row_class, "id", 1, STRING))
    binding = schema_of(table).table("rows").bind(row_class)
    assert binding.key_of(row_class(id="")) == b"\x00\x01"
    with pytest.raises(RowError, match="lacks its key field id; set it"):
        binding.key_of(row_class())


def test_nan_is_no_key_and_an_absent_message_has_none() -> None:
    both = models("m", Row="at 1 .Position", Position="lat 1 double")
    from everlog.store.schema.codec import DOUBLE, MESSAGE

    lat = Field(both["Row"], "at", 1, MESSAGE).then(Field(both["Position"], "lat", 1, DOUBLE))
    table: Table[Any, float] = Table("rows", both["Row"], key=lat)
    key_of = schema_of(table).table("rows").bind(both["Row"]).key_of
    with pytest.raises(RowError, match=r"lacks its key field at\.lat"):
        key_of(both["Row"]())
    with pytest.raises(RowError, match=r"NaN in its key field at\.lat"):
        key_of(both["Row"](at=both["Position"](lat=math.nan)))
    assert key_of(both["Row"](at={})) == schema_of(table).table("rows").encode_key(0.0)


def test_a_time_of_another_class_is_a_time_of_a_key() -> None:
    row_class = models("t", Row="at 1 timestamp")["Row"]
    row = row_class(at={"seconds": 12, "nanos": 5})
    assert type(row.at) is not Timestamp  # each log has classes of its own
    table: Table[Any, Any] = Table("rows", row_class, key=Field(row_class, "at", 1, TIMESTAMP))
    info = schema_of(table).table("rows")
    key = info.encode_key(Timestamp(seconds=12, nanos=5))
    assert info.encode_key(row.at) == info.bind(row_class).key_of(row) == key
    with pytest.raises(RowError, match="expected `Timestamp` for at in the primary key of rows, found `Row`"):
        info.encode_key(row)


def test_a_model_of_another_version_serves_where_numbers_and_types_agree() -> None:
    info = schema_of().table("airports")
    older = models("old", Airport="faa 1 string, title 2 string")["Airport"]
    binding = info.bind(older)
    raw = Airport(faa="JFK", city="New York").SerializeToString()
    row = older.FromString(raw)
    assert binding.key_of(row) == info.encode_key("JFK")
    assert binding.values(row, raw) == info.own.values(info.parse(raw), raw)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("name 2 string", "has faa in its key at schema version 1, but the model bad.Airport has no such"),
        ("faa 1 bytes", "holds flights.Airport.faa = 1 as string at schema version 1, but the model bad"),
        ("faa 1 string, name 2 string*", "holds flights.Airport.name = 2 as string"),
    ],
)
def test_a_model_that_contradicts_the_schema_is_refused(fields: str, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        schema_of().table("airports").bind(models("bad", Airport=fields)["Airport"])


def test_what_there_is_not_is_named_with_what_there_is() -> None:
    schema = schema_of()
    with pytest.raises(SchemaError, match=r"no table 'planes' at schema version 1.* airports, items, seats"):
        schema.table("planes")
    with pytest.raises(SchemaError, match=r"no index 'by_name'.* by_city, by_icao, by_lat"):
        schema.table("airports").index("by_name")
    with pytest.raises(SchemaError, match="the tables are: none; apply its migration first"):
        Schema(log_pb2.Schema()).table("planes")


def test_a_table_is_checked_against_its_model_where_it_is_declared() -> None:
    with pytest.raises(
        SchemaError, match=r"test_schema\.py:\d+: field 'id' of flights.Item.*has number 1 in the model"
    ):
        Table("items", Item, key=Field(Item, "id", 2, UINT64))
    with pytest.raises(SchemaError, match="declared as string, but has type uint64 in the model"):
        Table("items", Item, key=Field(Item, "id", 1, STRING))
    with pytest.raises(SchemaError, match=r"names Position.lat, expected a field of Item"):
        Table("items", Item, key=Field(Position, "lat", 1, STRING))
    text = Field(Item, "text", 2, STRING)
    with pytest.raises(SchemaError, match="two indexes named 'a'"):
        Table("items", Item, key=text, indexes=(Index("a", text), Index("a", text)))
    with pytest.raises(SchemaError, match="identifier of at most 63"):
        Table("no name", Item, key=Field(Item, "id", 1, UINT64))
    with pytest.raises(AttributeError, match="table airports has no index 'by_name'; it has: by_city"):
        AIRPORTS.by_name  # noqa: B018


def test_fields_of_a_model_are_handles_by_name() -> None:
    assert AIRPORTS.fields.faa.number == 1
    assert AIRPORTS.fields.faa.kind is STRING
    assert "faa" in [field.name for field in AIRPORTS.fields]
    with pytest.raises(AttributeError, match=r"Airport has no field 'nothing'; it has: "):
        _ = AIRPORTS.fields.nothing
