"""Exported rows are imported as the same rows: every type of field, every value, each format."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from everlog.console.export import exported
from everlog.migrations.rows import read_csv, read_jsonl, read_parquet
from everlog.migrations.values import as_json, message_from_json
from everlog.store.errors import RowError
from tests.store.documents import Document, Document2, model

NULL = "\N{NULL}\N{EMPTY SET}"


def csv(rows: list[Any], of: Any, _: Path) -> list[Any]:
    return list(read_csv(io.BytesIO(b"".join(exported(rows, "csv", of, null=NULL))), of, null=NULL))


def jsonl(rows: list[Any], of: Any, _: Path) -> list[Any]:
    return list(read_jsonl(io.BytesIO(b"".join(exported(rows, "jsonl", of))), of))


def parquet(rows: list[Any], of: Any, _: Path) -> list[Any]:
    pytest.importorskip("pyarrow", reason="an extra of its own")
    return list(read_parquet(io.BytesIO(b"".join(exported(rows, "parquet", of))), of))


FORMATS: dict[str, Callable[[list[Any], Any, Path], list[Any]]] = {
    "csv": csv,
    "jsonl": jsonl,
    "parquet": parquet,
}
each_format = pytest.mark.parametrize("there_and_back", FORMATS.values(), ids=FORMATS)


def content(row: Any) -> bytes:
    """Return a row as stored; all NaNs are equal."""
    alone = type(row)()
    alone.CopyFrom(row)
    _one_nan(alone)
    return bytes(alone.SerializeToString(deterministic=True))


def _one_nan(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for one in value.values():
                    _one_nan(one)
        elif field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                _one_nan(one)
        elif field.is_repeated:
            for at, one in enumerate(value):
                if one != one:  # noqa: PLR0124
                    value[at] = math.nan
        elif value != value:  # noqa: PLR0124
            setattr(message, field.name, math.nan)


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────

KNOWN = "type.googleapis.com/google.protobuf"
HARD: dict[str, dict[str, Any]] = {
    "nanoseconds": {"at": {"seconds": 1, "nanos": 123_456_789}, "times": [{"nanos": 1}, {"seconds": -1}]},
    "year 10000": {"at": {"seconds": 253_402_300_800, "nanos": 7}},
    "before year 1": {"at": {"seconds": -62_135_596_801}},
    "negative nanos": {"at": {"seconds": 5, "nanos": -1}},
    "nanos of a second": {"at": {"seconds": 5, "nanos": 10**9}},
    "seconds of 64 bits": {"at": {"seconds": -(2**63), "nanos": 2**31 - 1}},
    "time of zeros": {"at": {}},
    "durations": {"took": {"seconds": 1, "nanos": 1}},
    "negative duration": {"took": {"seconds": -1, "nanos": -1}},
    "duration of mixed signs": {"took": {"seconds": 1, "nanos": -1}},
    "duration out of range": {"took": {"seconds": 2**63 - 1}},
    "a long cell": {"text": "x" * 200_000, "words": ["y" * 140_000]},
    "line ends": {"text": "a\rb\nc\r\nd\n", "title": "\r", "words": ["\r\n", "\r"], "by_word": {"\r": "\n"}},
    "quotes": {"text": '"', "title": 'a,"b"', "words": ['"', ","]},
    "NUL": {"text": "\0", "title": "a\0b", "words": ["\0"]},
    "spaces": {"text": " a ", "title": "\t"},
    "separators": {"text": "\u2028\u2029\x85\x0b\x1c", "title": "\ufeff"},
    "words that mean something": {"text": "null", "note": "true", "word": {"value": "NaN"}},
    "empty and set": {"note": "", "opt_raw": b"", "opt_flag": False, "opt_weight": 0.0, "opt_color": 0},
    "set and empty messages": {"inner": {}, "data": {}, "list": {}, "any": {}, "mask": {}, "word": {}},
    "bytes": {"raw": bytes(range(256)), "opt_raw": b"\xff", "blobs": [b"", b"\0"], "blob": {}},
    "extremes": {
        "i32": -(2**31), "i64": -(2**63), "u32": 2**32 - 1, "u64": 2**64 - 1, "s64": 2**63 - 1,
        "f32": 2**32 - 1, "sf64": -(2**63), "numbers": [2**53 + 1, -(2**53) - 1], "opt_i64": 0,
        "big": {"value": 2**63 - 1}, "by_number": {-(2**63): {}, 2**63 - 1: {"number": 2**53 + 1}},
    },
    "floats": {"ratio": 3.4028234663852886e38, "weight": 5e-324, "ratios": [0.1, 1e-45, 16777217.0]},
    "odd floats": {"ratio": math.nan, "weight": -math.inf, "opt_weight": math.inf, "weights": [math.nan]},
    "negative zero": {"ratio": -0.0, "weight": -0.0, "opt_weight": -0.0, "ratios": [-0.0, math.inf]},
    "unknown enums": {"color": 77, "opt_color": -5, "colors": [0, 1, 2, 99], "inner": {"color": 77}},
    "null values": {"body": {"null_value": 0}, "bodies": [{"null_value": 0}, {}, {"string_value": "null"}]},
    "value of no kind": {"body": {}, "list": {"values": [{}]}, "by_flag": {True: {}}},
    "odd numbers in a value": {
        "body": {"number_value": math.nan},
        "bodies": [{"number_value": math.inf}, {"number_value": -0.0}, {"number_value": 5}],
        "data": {"fields": {"a": {"number_value": -math.inf}, "b": {"string_value": "NaN"}}},
    },
    "a key that means something": {
        "data": {"fields": {"@stored": {"number_value": 1}}},
        "body": {"struct_value": {"fields": {"@stored": {"struct_value": {"fields": {"@stored": {}}}}}}},
        "bodies": [{"struct_value": {"fields": {"@type": {"string_value": "x"}, "@stored": {}}}}],
    },
    "unknown null": {"body": {"null_value": 7}, "nothing": 7},
    "any of an unknown type": {"any": {"type_url": "x.y/z.Unknown", "value": b"\x08\x01\xff"}},
    "any of no type": {"any": {"value": b"\x08"}},
    "any with invalid bytes": {"any": {"type_url": f"{KNOWN}.Timestamp", "value": b"\xff"}},
    "any of a known type": {"any": {"type_url": f"{KNOWN}.Duration", "value": b"\x08\x01"}},
    "any of a time out of range": {
        "any": {"type_url": f"{KNOWN}.Timestamp", "value": b"\x10\xff\xff\xff\xff\x07"}
    },
    "odd field masks": {"mask": {"paths": ["a_b", "FooBar", "a__b", "", "a.b", ",", "x y"]}},
    "field mask": {"mask": {"paths": ["a_b.c_d", "e"]}},
    "one text": {"one_text": ""},
    "one number": {"one_number": 0},
    "one message": {"one_inner": {}},
    "one empty message": {"one_empty": {}},
    "maps": {"by_word": {"": "", "a.b": "c", "é": "\U0001f600"}, "by_time": {"x": {"seconds": 2**40}}},
    "nested": {"inner": {"inner": {"text": "", "at": {"nanos": 5}, "body": {}}}, "inners": [{}]},
}  # fmt: skip


@each_format
@pytest.mark.parametrize("of", [Document, Document2], ids=["proto3", "proto2"])
def test_hard_values_are_read_back_as_they_were(there_and_back: Any, of: Any, tmp_path: Path) -> None:
    rows, names = [], []
    for id, (name, words) in enumerate(HARD.items(), 1):
        row = of(id=id)
        try:
            json_safe = of(id=id, **words)
        except ValueError:
            assert of is Document2  # its enums are closed
            json_safe = row
        rows.append(json_safe)
        names.append(name)
    found = there_and_back(rows, of, tmp_path)
    assert len(found) == len(rows)
    for name, row, again in zip(names, rows, found, strict=True):
        assert content(again) == content(row), name


@each_format
def test_a_value_as_deep_as_protobuf_parses_is_read_back(there_and_back: Any, tmp_path: Path) -> None:
    for kind in ("list", "struct"):
        row = Document(id=1)
        value = row.body
        for _ in range(49 if kind == "list" else 32):
            value = value.list_value.values.add() if kind == "list" else value.struct_value.fields["a"]
        value.number_value = 1
        assert Document.FromString(row.SerializeToString()) == row
        assert there_and_back([row], Document, tmp_path) == [row]


@each_format
def test_a_row_that_import_would_not_read_stops_the_export(there_and_back: Any, tmp_path: Path) -> None:
    row = Document(id=1, inner={"text": "\1" * 3_000_000})  # six characters each as JSON
    if there_and_back is csv:
        with pytest.raises(RowError, match=r"cannot be exported as csv: it has 18,.* characters in the cell"):
            csv([row], Document, tmp_path)
    else:
        assert there_and_back([row], Document, tmp_path) == [row]
    row = Document(id=1, inners=[{"text": "\1" * 3_000_000}] * 2)
    if there_and_back is jsonl:
        with pytest.raises(RowError, match=r"it has 36,000,.* bytes, and `import` reads at most 33,554,432"):
            jsonl([row], Document, tmp_path)


@pytest.mark.parametrize("write", [csv, jsonl, parquet])
def test_text_that_is_not_utf_8_stops_the_export(write: Any, tmp_path: Path) -> None:
    row = Document2(id=1)
    row.MergeFromString(b"\x22\x01\xff")
    assert as_json(row)["text"] == "\\xff"
    with pytest.raises(RowError, match="cannot be exported"):
        write([row], Document2, tmp_path)


def test_what_json_has_words_for_is_written_as_protobuf_does() -> None:
    row = Document(
        id=1, title="a", raw=b"\0", i64=2**60, color=1, at={"seconds": 1}, took={"nanos": 5}, weight=1.5,
        inner={"number": 3, "color": 2}, inners=[{"text": "x"}], by_number={3: {}},
        by_flag={True: {"bool_value": True}},
        data={"fields": {"a": {"list_value": {"values": [{"null_value": 0}]}}}}, mask={"paths": ["a_b"]},
        word={"value": "w"}, big={"value": 7}, one_empty={}, opt_flag=False, ratio=0.1,
    )  # fmt: skip
    for defaults in (True, False):
        expected = json_format.MessageToDict(
            row,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=defaults,
            descriptor_pool=Document.DESCRIPTOR.file.pool,
        )
        found = as_json(row, defaults=defaults)
        assert found == expected
        assert list(found) == list(expected)


# ── at random ─────────────────────────────────────────────────────────────────────────────────────

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["", "\0", "\r", "\r\n", "\n", '"', ",", " ", "null", "@stored", "NaN", "a.b"]
)
INTEGERS = {32: st.integers(-(2**31), 2**31 - 1), 64: st.integers(-(2**63), 2**63 - 1)}
UNSIGNED = {32: st.integers(0, 2**32 - 1), 64: st.integers(0, 2**64 - 1)}
FD = FieldDescriptor
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FD.TYPE_BOOL: st.booleans(),
    FD.TYPE_STRING: TEXT,
    FD.TYPE_BYTES: st.binary(max_size=4),
    FD.TYPE_FLOAT: st.floats(width=32),
    FD.TYPE_DOUBLE: st.floats(),
    **{getattr(FD, f"TYPE_{n}32"): INTEGERS[32] for n in ("INT", "SINT", "SFIXED")},
    **{getattr(FD, f"TYPE_{n}64"): INTEGERS[64] for n in ("INT", "SINT", "SFIXED")},
    **{getattr(FD, f"TYPE_{n}32"): UNSIGNED[32] for n in ("UINT", "FIXED")},
    **{getattr(FD, f"TYPE_{n}64"): UNSIGNED[64] for n in ("UINT", "FIXED")},
}


def value_of(draw: st.DrawFn, field: FieldDescriptor, depth: int) -> Any:
    if field.message_type is not None:
        return words_of(draw, field.message_type, depth - 1)
    if field.enum_type is not None:
        return draw(st.integers(-2, 5) if not field.enum_type.is_closed else st.integers(0, 0))
    return draw(SCALARS[field.type])


def words_of(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> dict[str, Any]:
    """Return arguments for the constructor of a message, with some of its fields."""
    words: dict[str, Any] = {}
    if depth <= 0 or not descriptor.fields:
        return words
    chosen = draw(
        st.lists(st.sampled_from(list(descriptor.fields)), unique_by=lambda f: f.number, max_size=4)
    )
    for field in chosen:
        oneof = field.containing_oneof
        if oneof is not None and any(one.name in words for one in oneof.fields):
            continue
        sizes = range(draw(st.integers(0, 2)))
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            words[field.name] = {value_of(draw, key, depth): value_of(draw, value, depth) for _ in sizes}
        elif field.is_repeated:
            words[field.name] = [value_of(draw, field, depth) for _ in sizes]
        else:
            words[field.name] = value_of(draw, field, depth)
    return words


@st.composite
def documents(draw: st.DrawFn, of: Any = Document) -> Any:
    return of(**{**words_of(draw, of.DESCRIPTOR, 4), "id": draw(st.integers(0, 2**64 - 1))})


KINDS = (
    "int32", "int64", "uint32", "uint64", "sint64", "fixed64", "sfixed32", "float", "double", "bool",
    "string", "bytes", "Color", "NullValue", "Timestamp", "Duration", "Value", "Struct", "ListValue", "Any",
    "FieldMask", "Empty", "Int64Value", "DoubleValue", "StringValue", "BytesValue", "BoolValue", ".Inner",
)  # fmt: skip
KEYS = ("string", "int64", "uint64", "bool", "sfixed32")
NAMES = ("id", "class", "from", "a_b", "aB2", "_x", "None", "rows", "value", "json_name")
_numbers = count()


@st.composite
def models(draw: st.DrawFn) -> Any:
    """Return a model with some fields of any types."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    fields = []
    for number, name in enumerate(names, 1):
        kind, label = draw(st.sampled_from(KINDS)), draw(st.sampled_from(["", "?", "*", "|", ":"]))
        word = f"{draw(st.sampled_from(KEYS))}:{kind}" if label == ":" else kind + label
        if label == "?" and kind not in {kind.lower(), "Color", "NullValue"}:
            word = kind
        fields.append(f"{name} {number} {word}")
    return model(f"drawn{next(_numbers)}", ", ".join(fields))


@each_format
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(st.lists(documents(), max_size=3))
def test_random_rows_are_read_back_as_they_were(there_and_back: Any, tmp_path: Path, rows: list[Any]) -> None:
    found = there_and_back(rows, Document, tmp_path)
    assert [content(row) for row in found] == [content(row) for row in rows]


@each_format
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
@given(st.data())
def test_rows_of_random_models_are_read_back_as_they_were(
    there_and_back: Any, tmp_path: Path, data: st.DataObject
) -> None:
    of = data.draw(models())
    row = of(**data.draw(st.composite(lambda draw: words_of(draw, of.DESCRIPTOR, 4))()))
    found = there_and_back([row], of, tmp_path)
    assert [content(one) for one in found] == [content(row)]


@given(documents(), st.binary(max_size=30))
def test_whatever_is_accepted_can_be_shown(row: Any, more: bytes) -> None:
    try:
        row.MergeFromString(more)
    except Exception:  # noqa: BLE001
        assume(False)
    shown = as_json(row)
    again = message_from_json(Document.DESCRIPTOR)(shown)
    row.DiscardUnknownFields()
    assert content(again) == content(row)
