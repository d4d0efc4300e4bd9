"""Values of every type as bytes: in order, and decoded again."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.store.schema import codec
from everlog.store.schema import codec as kinds
from tests.store.models import KINDS

_SIZES = {"32": 31, "64": 63}


def values(kind: kinds.Kind[Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911  a table of kinds
    """Return all values that a field of this type can have."""
    name = kind.name
    if kind is kinds.TIMESTAMP:
        nanos = st.integers(0, 999_999_999)
        return st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=nanos)
    if kind is kinds.ENUM:
        return st.integers(-(2**31), 2**31 - 1)
    if kind is kinds.BOOL:
        return st.booleans()
    if kind is kinds.FLOAT:
        return st.floats(width=32)
    if kind is kinds.DOUBLE:
        return st.floats()
    if kind is kinds.STRING:
        return st.text(st.characters(exclude_categories=["Cs"])) | st.text("\0\x01\xff")
    if kind is kinds.BYTES:
        return st.binary() | st.text("\0\x01\xff").map(lambda text: text.encode("latin-1"))
    bits = _SIZES[name[-2:]]
    return st.integers(0, 2 ** (bits + 1) - 1) if name[0] in "uf" else st.integers(-(2**bits), 2**bits - 1)


def order(value: Any) -> Any:
    """Return a key for Python's comparison in the order that the codec guarantees."""
    if isinstance(value, Timestamp):
        return value.seconds, value.nanos
    if isinstance(value, float):
        return (1, 0.0) if math.isnan(value) else (0, value)
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@settings(max_examples=40)
@given(data=st.data())
def test_bytes_are_in_the_order_of_the_values(kind: kinds.Kind[Any], data: st.DataObject) -> None:
    assert kind.encode is not None
    one, other = data.draw(values(kind)), data.draw(values(kind))
    first, second = kind.encode(one), kind.encode(other)
    assert (first < second) == (order(one) < order(other))
    assert (first == second) == (order(one) == order(other))
    if first != second:
        assert not first.startswith(second)
        assert not second.startswith(first)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@settings(max_examples=40)
@given(data=st.data(), before=st.binary(max_size=3), behind=st.binary(max_size=3))
def test_a_value_comes_back_from_where_it_stands(
    kind: kinds.Kind[Any], data: st.DataObject, before: bytes, behind: bytes
) -> None:
    assert kind.encode is not None
    assert kind.decode is not None
    value = data.draw(values(kind))
    encoded = kind.encode(value)
    found, end = kind.decode(before + encoded + behind, len(before))
    assert order(found) == order(value)
    assert end == len(before) + len(encoded)


def test_minus_zero_is_zero_and_every_nan_is_the_greatest() -> None:
    (odd_nan,) = struct.unpack(">d", bytes.fromhex("fff8000000000123"))
    assert codec.encode_float(-0.0) == codec.encode_float(0.0)
    assert codec.encode_float(odd_nan) == codec.encode_float(math.nan) > codec.encode_float(math.inf)
    least = (-math.inf, -1e308, -5e-324, 0.0, 5e-324, 1.5, 1e308, math.inf, math.nan)
    assert sorted(least, key=codec.encode_float) == list(least)


def test_a_float_by_hand_is_the_float_that_a_row_can_hold() -> None:
    encode = kinds.FLOAT.encode
    assert encode is not None
    (held,) = struct.unpack("<f", struct.pack("<f", 0.1))
    assert encode(0.1) == encode(held) == codec.encode_float(held)


def test_text_is_escaped_so_that_it_ends_where_it_ends() -> None:
    assert codec.encode_string("a\0b") == b"a\x00\xffb\x00\x01"
    assert codec.encode_string("") == b"\x00\x01" < codec.encode_string("\0") < codec.encode_string("\x01")


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (codec.decode_bytes, b"never ends"),
        (codec.decode_bytes, b"ends too soon\x00"),
        (codec.decode_bytes, b"a\x00\x02"),
        (codec.decode_string, b"\xff\x00\x01"),
        (codec.decode_bool, b"\x02"),
        (codec.decode_bool, b""),
        (codec.decode_int, b"short"),
        (codec.decode_float, b""),
        (codec.decode_timestamp, bytes(11)),
    ],
)
def test_bytes_that_are_no_value_are_refused(decode: codec.Decode, data: bytes) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        decode(data, 0)


@given(st.binary(max_size=4), st.binary(max_size=3))
def test_after_is_the_least_bytes_greater_than_all_that_start_so(prefix: bytes, more: bytes) -> None:
    end = codec.after(prefix)
    if not end:
        assert prefix.strip(b"\xff") == b""
        return
    assert prefix + more < end
    assert prefix + b"\xff" * 8 < end
    assert end[:-1] + bytes((end[-1] - 1,)) <= prefix
