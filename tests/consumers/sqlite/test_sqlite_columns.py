"""Columns: any row is read back unchanged from SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from everlog.consumers.sqlite.table import SqlTable
from everlog.store import keys
from everlog.store.tables.hashing import canonical
from tests.conformance.sink_log import HandMadeLog, table

MODEL = """
syntax = "proto3";
package any;
import "google/protobuf/timestamp.proto";
message Row {
  uint64 id = 1;
  int64 i = 2; uint64 u = 3; double d = 4; float f = 5; string s = 6; bytes b = 7; bool t = 8;
  optional int64 oi = 9; optional double od = 10; optional string os = 11; optional bool ot = 12;
  google.protobuf.Timestamp at = 13; Row self = 14;
  repeated double ds = 15; repeated bytes bs = 16; map<string, int64> m = 17;
  oneof one { uint64 left = 18; bytes right = 19; }
}
"""
LOG = HandMadeLog()
LOG.migrate(MODEL, table("rows", 1, "any.Row", 1))
INFO = LOG.schema.table("rows")
TABLE = SqlTable(INFO)

int64s = st.integers(-(2**63), 2**63 - 1)
uint64s = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
times = st.fixed_dictionaries({"seconds": int64s, "nanos": st.integers(-(2**31), 2**31 - 1)})


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


flat = {
    "i": int64s, "u": uint64s, "d": st.floats(), "f": st.floats(width=32), "s": texts, "b": st.binary(),
    "t": st.booleans(), "oi": int64s, "od": st.floats(), "os": texts, "ot": st.booleans(), "at": times,
    "ds": st.lists(st.floats()), "bs": st.lists(st.binary()), "m": st.dictionaries(texts, int64s),
}  # fmt: skip
sides = st.one_of(some(left=uint64s), some(right=st.binary()))
rows = st.builds(
    lambda id, fields, self, side: {
        "id": id,
        **fields,
        **side,
        **({"self": self} if self is not None else {}),
    },
    uint64s,
    some(**flat),
    st.none() | some(**flat),
    sides,
)


@given(st.lists(rows, max_size=5, unique_by=lambda row: row["id"]))
def test_any_row_comes_back_as_it_was(rows: list[dict[str, Any]]) -> None:
    messages = [LOG.row("rows", **row) for row in rows]
    expected = {
        key: canonical(INFO, key, keys.pack_value(1, one.SerializeToString()))
        for one in messages
        for key in [INFO.own.key_of(one)]
    }
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(TABLE.create())
        connection.executemany(TABLE.upsert(), TABLE.parse(one.SerializeToString() for one in messages))
        assert list(TABLE.rows(connection)) == sorted(expected.items())
        connection.executemany(TABLE.delete(), map(TABLE.key_values, expected))
        assert list(TABLE.rows(connection)) == []
