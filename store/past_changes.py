"""Past changes: where in a record its changes lie, found by walking its tags.

    0x0A length │ 0x08 seq │ 0x11 time │ 0x18 schema │ 0x22 length Change │ 0x22 length Change │ …
                                                                  └ offset, size, and its space, op, key

The rows are stepped over, so that a record costs by its changes and not by its bytes; what of a Change
is not as everlog writes it is left to protobuf.

Invariants
  (1) a record that does not check is not walked.
"""

from __future__ import annotations

from collections.abc import Iterator

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.record import read_varint

_CHANGES = 0x22
_FIXED = {1: 8, 5: 4}


def changes(framed: bytes, seq: int) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Space, op and key of each change of a framed record, and where in it the Change lies. Only the
    tags are read: the rows are stepped over. Raises CorruptionError if the record does not check."""
    end = len(framed) - record.CHECKSUM_SIZE
    at = len(framed) - len(record.unframe(framed, seq))
    while at < end:
        tag = framed[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(framed, at - 1)
        wire = tag & 7
        if wire == 0:
            while framed[at] >= 0x80:
                at += 1
            at += 1
            continue
        if wire != 2:
            at += _FIXED[wire]
            continue
        size = framed[at]
        at += 1
        if size >= 0x80:
            size, at = read_varint(framed, at - 1)
        if tag == _CHANGES:
            yield (*_change(framed, at, at + size), at, size)
        at += size


def _change(framed: bytes, at: int, end: int) -> tuple[int, int, bytes]:
    """Space, op and key of a Change. As everlog writes it, they come first and are short."""
    if framed[at] == 0x08 and framed[at + 1] < 0x80:
        start, op = at + 2, 0
        if framed[start] == 0x10:
            op, start = framed[start + 1], start + 2
        if op < 0x80 and framed[start] == 0x1A and framed[start + 1] < 0x80:
            upto = start + 2 + framed[start + 1]
            if upto <= end:
                return framed[at + 1], op, framed[start + 2 : upto]
    change = log_pb2.Change.FromString(framed[at:end])
    return change.space, change.op, change.key
