"""A reader of the format, written from docs/format.md alone, without the code under test and without
protobuf.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def fields(data: bytes) -> dict[int, list[Any]]:
    """Return the fields of a message by number; varints and fixed ones as integers."""
    at, found = 0, dict[int, list[Any]]()
    while at < len(data):
        tag, at = varint(data, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
            assert len(value) == size
        else:
            size = {1: 8, 5: 4}[tag & 7]
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        found.setdefault(tag >> 3, []).append(value)
    return found


def checked(data: bytes) -> dict[int, list[Any]]:
    """Return the fields of a record, or of a message of the feed."""
    assert data[-5] == 0x7D
    assert zlib.crc32(data[:-5]) == int.from_bytes(data[-4:], "little")
    return fields(data)


def unframed(framed: bytes) -> bytes:
    assert framed[0] == 0x0A
    size, at = varint(framed, 1)
    assert at + size == len(framed)
    return framed[at:]


def text(data: bytes, at: int = 0) -> tuple[bytes, int]:
    out = bytearray()
    while True:
        if data[at] == 0:
            if data[at + 1] == 1:
                return bytes(out), at + 2
            assert data[at + 1] == 0xFF
            out.append(0)
            at += 2
        else:
            out.append(data[at])
            at += 1


def integer(data: bytes) -> int:
    return int.from_bytes(data, "big") - (1 << 63)


def double(data: bytes) -> float:
    bits = int.from_bytes(data, "big")
    bits ^= 1 << 63 if bits >> 63 else (1 << 64) - 1
    value: float = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
    return value


def timestamp(data: bytes) -> tuple[int, int]:
    return integer(data[:8]), int.from_bytes(data[8:], "big", signed=True)


class Value(NamedTuple):
    seq: int
    version: int
    expires_ns: int
    key_id: bytes
    row: bytes


def value_of(data: bytes) -> Value:
    flags, seq, at = data[0], int.from_bytes(data[1:9], "big"), 9
    parts = []
    for flag, width in ((1, 8), (2, 8), (4, 16)):
        size = width * bool(flags & flag)
        parts.append(data[at : at + size])
        at += size
    version = int.from_bytes(parts[0], "big") or seq
    return Value(seq, version, int.from_bytes(parts[1], "big"), parts[2], data[at:])


def airport(row: bytes) -> tuple[str, str, str]:
    found = fields(row)
    faa, icao, city = (found.get(number, [b""])[0].decode() for number in (1, 3, 4))
    return faa, icao, city
