"""Past place: where a version of a row lies in the log, as versions.py keeps it, and what lies there.

    space:u32be key inverted:u64be ─▶ op:u8 offset:varint size:varint        inverted := 2^64 - 1 - seq

Invariants
  (1) what is read at a place is a change of that row, or an error.

The bytes: docs/format.md, "Versions".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from google.protobuf.message import DecodeError

from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError
from everlog.store.record import read_varint, varint

INVERTED_SIZE = 8
_MASK = (1 << 64) - 1
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


class Place(NamedTuple):
    """A version: the seq of its record, and where in that the change lies."""

    seq: int
    op: int
    offset: int
    size: int


def row_of(space: int, key: bytes) -> bytes:
    """What all versions of a row start with."""
    return _U32.pack(space) + key


def inverted(seq: int) -> bytes:
    """A seq at the end of a version's key."""
    return _U64.pack(_MASK ^ seq)


def packed(op: int, offset: int, size: int) -> bytes:
    """What a version says."""
    return bytes((op,)) + varint(offset) + varint(size)


def place_of(full: bytes, value: bytes) -> Place:
    """What a version says, from its key and value."""
    seq = _MASK ^ _U64.unpack_from(full, len(full) - INVERTED_SIZE)[0]
    if len(value) == 4 and value[1] < 0x80 <= value[2]:  # of a short record, as most are
        return Place(seq, value[0], value[1], value[2] & 0x7F | value[3] << 7)
    offset, at = read_varint(value, 1)
    return Place(seq, value[0], offset, read_varint(value, at)[0])


def change_at(framed: bytes, row: bytes, place: Place) -> log_pb2.Change:
    """The change of a row in a record that was checked. Raises CorruptionError if it is not there."""
    try:
        change = log_pb2.Change.FromString(framed[place.offset : place.offset + place.size])
    except DecodeError:
        change = log_pb2.Change()
    if row_of(change.space, change.key) != row:
        raise CorruptionError(
            f"expected a change of row {row.hex()} in record {place.seq} at byte {place.offset}, found"
            " another: what is known of versions is not of this log; delete it (`db.past.forget()`), and it"
            " is made anew",
            seq=place.seq,
            place=row.hex(),
        )
    return change
