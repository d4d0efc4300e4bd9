"""Values: every type of a field, at its extremes, in rows and in keys."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from everlog.store.schema.admission import DEPTH_MAX
from tests.conformance.sink_case import Opened, SinkCase, differences, follow
from tests.conformance.sink_log import HandMadeLog, table

INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "sint32": (-(2**31), 2**31 - 1),
    "sfixed32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "sint64": (-(2**63), 2**63 - 1),
    "sfixed64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "fixed32": (0, 2**32 - 1),
    "uint64": (0, 2**63 - 1, 2**63, 2**64 - 1),
    "fixed64": (0, 2**63 - 1, 2**63, 2**64 - 1),
}
(ODD_NAN,) = struct.unpack(">d", bytes.fromhex("fff8000000000123"))
FLOATS = (0.0, -0.0, 1.5, -1e38, math.inf, -math.inf, math.nan, 5.0)
DOUBLES = (*FLOATS, 1e308, 5e-324, 0.1, ODD_NAN)
VALUES: dict[str, tuple[Any, ...]] = {
    **{kind: (*extremes, 1) for kind, extremes in INTEGERS.items()},
    "bool": (False, True),
    "float": FLOATS,
    "double": DOUBLES,
    "string": ("", "a", "nul\0nul", "quote'\"", "żółć 🦆", "12", "1e5", " "),
    "bytes": (b"", b"\0\xff", b"text"),
    "Color": (0, 1, -1, 77),
    "google.protobuf.Timestamp": (
        {},
        {"seconds": 1, "nanos": 999_999_999},
        {"seconds": -62_135_596_800},
        {"seconds": -62_135_596_801},
        {"seconds": 253_402_300_799, "nanos": 1},
        {"seconds": 253_402_300_800},
        {"seconds": -(2**63), "nanos": 5},
        {"seconds": 3, "nanos": 2**31 - 1},
        {"seconds": 3, "nanos": -1},
    ),
}
KINDS = sorted(VALUES)
HEADER = """
syntax = "proto3";
package every;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Color { RED = 0; BLUE = 1; BELOW = -1; }
"""
# Values that no key can have: NaN, the empty text of a field without presence, negative nanos.
NO_KEY = ("''", "b''", "nan", repr({"seconds": 3, "nanos": -1}))


class ValuesConformance(SinkCase):
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_value_of_a_field_survives(self, opened: Opened, kind: str) -> None:
        oneof = f"oneof one {{ {kind} either = 4; {kind} other = 5; }}"
        fields = f"int32 id = 1; {kind} plain = 2; optional {kind} may = 3; {oneof} repeated {kind} many = 6;"
        log = _log(f"message Row {{ {fields} map<string, {kind}> named = 7; }}", 1)
        for number, value in enumerate(VALUES[kind], 1):
            log.write(
                log.put("rows", id=number * 10, plain=value),
                log.put("rows", id=number * 10 + 1, may=value),
                log.put("rows", id=number * 10 + 2, either=value),
                log.put("rows", id=number * 10 + 3, other=value),
                log.put("rows", id=number * 10 + 4, many=[value, value]),
                log.put("rows", _named(log, number * 10 + 5, value)),
                log.put("rows", id=number * 10 + 6),
            )
        follow(log, opened)
        assert differences(log, opened) == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_value_of_a_key_survives_in_its_order(self, opened: Opened, kind: str) -> None:
        log = _log(
            f"message Row {{ int32 part = 1; {kind} key = 2; Deep deep = 3; }} {_deep(kind)}", 1, 2, (3, 1)
        )
        for value in VALUES[kind]:
            if repr(value) in NO_KEY:
                continue
            log.write(*(log.put("rows", part=part, key=value, deep={"key": value}) for part in (-1, 2)))
        follow(log, opened)
        assert differences(log, opened) == []
        log.write(*(_delete(log, change) for commit in log.commits[2:] for change in commit.changes[:1]))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_a_key_of_minus_zero_is_the_key_of_zero(self, opened: Opened) -> None:
        log = _log("message Row { double key = 1; int32 n = 2; }", 1)
        for number, key in enumerate((0.0, -0.0, 0.0, -0.0)):
            log.write(log.put("rows", key=key, n=number))
            follow(log, opened)
            assert differences(log, opened) == []
        log.write(log.delete("rows", 0.0))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_a_table_can_be_all_key(self, opened: Opened) -> None:
        log = _log("message Row { string key = 1; }", 1)
        log.write(log.put("rows", key="a"), log.put("rows", key="b"))
        log.write(log.put("rows", key="a"), log.delete("rows", "b"))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_messages_as_deep_as_readers_parse_survive(self, opened: Opened) -> None:
        log = _log("message Row { int32 id = 1; Row self = 2; repeated Row many = 3; }", 1)
        for depth in (1, DEPTH_MAX - 1, DEPTH_MAX):
            for field in ("self", "many"):
                row: dict[str, Any] = {}
                for _ in range(depth):
                    row = {field: [row] if field == "many" else row}
                log.write(log.put("rows", id=depth, **row))
                follow(log, opened)
                assert differences(log, opened) == []

    def test_nested_messages_survive(self, opened: Opened) -> None:
        fields = """
          google.protobuf.Any any = 2; google.protobuf.Duration took = 3; google.protobuf.Struct free = 4;
          google.protobuf.Value value = 5; google.protobuf.UInt64Value wrapped = 6; Row self = 7;
          repeated google.protobuf.Value values = 8; map<int32, Row> rows = 9; Color color = 10;
          bytes raw = 11; repeated google.protobuf.Timestamp times = 12; double number = 13;
          optional string from = 14;"""
        log = _log(f"message Row {{ int32 id = 1; {fields} }}", 1)
        rows: list[dict[str, Any]] = [
            {},
            {"any": {"type_url": "type.example/unknown.Type", "value": b"\x08\x01"}},
            {"any": {"type_url": "type.example/every.Row", "value": b"\x08\x01"}},
            {"took": {"seconds": 5}},
            {"took": {"seconds": 2**62}},
            {"free": {"fields": {"a": {"number_value": math.nan}, "b": {"null_value": 0}}}},
            {"free": {"fields": {"a": {"list_value": {"values": [{"bool_value": True}]}}}}},
            {"value": {"null_value": 0}},
            {"value": {}},
            {"wrapped": {}},
            {"wrapped": {"value": 2**64 - 1}},
            {"self": {}},
            {"self": {"self": {"number": ODD_NAN, "color": 77, "raw": b"\xff", "from": ""}}},
            {"values": [{"null_value": 0}, {"string_value": "x"}, {}]},
            {"times": [{"seconds": 2**60}, {}]},
            {"from": "a keyword"},
        ]
        log.write(*(log.put("rows", id=number, **row) for number, row in enumerate(rows, 1)))
        keyed = log.row("rows", id=99)
        keyed.rows[-5].id = 1
        keyed.rows[7].self.number = -0.0
        log.write(log.put("rows", keyed))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_unknown_fields_are_left_out_as_the_hash_leaves_them_out(self, opened: Opened) -> None:
        log = _log(
            "message Row { int32 id = 1; Deep deep = 2; repeated Deep many = 3; }"
            " message Deep { int32 n = 1; }",
            1,
        )
        unknown = b"\x98\x06\x01"  # field 99
        row = b"\x08\x07" + unknown + b"\x12\x03" + unknown + b"\x1a\x05\x08\x01" + unknown
        change = log.put("rows", id=7)
        change.row = row
        log.write(change)
        follow(log, opened)
        assert differences(log, opened) == []


def _log(messages: str, *key: Any) -> HandMadeLog:
    log = HandMadeLog(batch=50)
    log.migrate(HEADER + messages, table("rows", 1, "every.Row", *key))
    return log


def _deep(kind: str) -> str:
    return f"message Deep {{ {kind} key = 1; }}"


def _named(log: HandMadeLog, id: int, value: Any) -> Any:
    row = log.row("rows", id=id)
    for name in ("b", "a"):
        if isinstance(value, dict):
            row.named[name].MergeFrom(log.row("rows", plain=value).plain)
        else:
            row.named[name] = value
    return row


def _delete(log: HandMadeLog, change: Any) -> Any:
    gone = type(change)()
    gone.CopyFrom(change)
    gone.op, gone.row = 1, b""
    return gone
