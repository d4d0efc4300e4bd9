"""Record: the bytes of one commit, in the log and in the feed.

    framed := 0x0A length:varint record
    record := Commit without its checksum, 0x7D crc32:u32le
    Commit := header change*
    header := 0x08 seq:varint 0x11 time_ns:u64le 0x18 schema:varint  and other fields that are set
    change := 0x22 length:varint Change

The frame makes joined records a valid `Batch` (and the first field of a `FeedMessage`). The last five
bytes are the record's own field `checksum`, over all preceding bytes of the record.

`changes` finds the changes in a record by walking its tags:

    0x0A length │ 0x08 seq │ 0x11 time │ 0x18 schema │ 0x22 length Change │ 0x22 length Change │ …
                                                                  └ offset, size, and its space, op, key

It steps over the rows, so its cost depends on the number of changes, not on their bytes. A Change that
is not encoded as everlog encodes it is parsed by protobuf.

Invariants
  (1) a record starts with its seq: 0x08 seq:varint, as protobuf writes the lowest field first;
  (2) `unframe` returns checked bytes only; nothing unchecked is ever parsed on a rebuild, or walked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

from google.protobuf.message import DecodeError

from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError, RowError

CHECKSUM_TAG = 0x7D
CHECKSUM_SIZE = 5
RECORD_BYTES_MAX = 8 << 20
KNOWN_FEATURES = frozenset(
    (log_pb2.REWRITTEN, log_pb2.EXPIRY, log_pb2.SEALED, log_pb2.ONLINE, log_pb2.PREPARED)
)
# The field `requires` of a commit, with one feature. The field is repeated, so they can be joined.
REQUIRES_SEALED = bytes((0x5A, 1, log_pb2.SEALED))
REQUIRES_REWRITTEN = bytes((0x5A, 1, log_pb2.REWRITTEN))
REQUIRES_EXPIRY = bytes((0x5A, 1, log_pb2.EXPIRY))

_CHECKSUM = struct.Struct("<BI")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_U64_PACK = _U64.pack
_TIME_TAG = b"\x11"  # of Commit.time_ns, the field after `seq`


def varint(value: int) -> bytes:
    """Encode a number in base 128, least significant group first (protobuf's varint)."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the value that starts at `at`, and where it ends. Raises CorruptionError."""
    value = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise CorruptionError(f"a varint that ends at byte {at} has more than ten bytes")
    except IndexError:
        raise CorruptionError(f"expected a varint to end, found the end of the data at byte {at}") from None


_VARINTS_MAX = 4096
_VARINTS = [varint(value) for value in range(_VARINTS_MAX)]
# The first two parts of a change by the size of its body, if that is less than the number of them.
CHANGE_STARTS = [(b"\x22" + size) for size in _VARINTS]


def seal(body: bytes) -> bytes:
    """Return the body of a record or of a feed message, followed by its checksum."""
    return body + _CHECKSUM.pack(CHECKSUM_TAG, crc32(body))


def commit_header(seq: int, time_ns: int, schema: bytes, reading_ns: int = 0) -> bytes:
    """Return the start of a commit without metadata, as protobuf would serialize it."""
    made = b"\x08" + varint(seq) + b"\x11" + _U64_PACK(time_ns) + schema
    return made + b"\x61" + _U64_PACK(reading_ns) if reading_ns else made


def schema_field(version: int) -> bytes:
    """Return the field `schema` in the header of a commit."""
    return b"\x18" + varint(version) if version else b""


def change(body: bytes, prior: int) -> tuple[bytes, bytes]:
    """Return the parts of one change of a commit, from a Change without its `prior`, and the `prior`."""
    if prior:
        body += b"\x28" + varint(prior)
    size = len(body)
    return CHANGE_STARTS[size] if size < _VARINTS_MAX else b"\x22" + varint(size), body


def with_version(body: bytes, version: int) -> bytes:
    """Return a Change without `prior` whose row keeps a version other than its commit's seq."""
    return body + b"\x30" + varint(version)


def with_expiry(body: bytes, expires_ns: int) -> bytes:
    """Return a Change without `prior` whose row expires at `expires_ns`. The commit REQUIRES_EXPIRY."""
    return body + b"\x39" + _U64_PACK(expires_ns)


def with_key(body: bytes, key_id: bytes) -> bytes:
    """Return a Change without `prior` whose row is sealed. The commit REQUIRES_SEALED."""
    return body + b"\x42\x10" + key_id


def change_body(space_and_op: bytes, key: bytes, row: bytes) -> bytes:
    """Return a Change without `prior`, as protobuf would serialize it."""
    key_size, row_size = len(key), len(row)
    if not row:
        return b"".join((space_and_op, b"\x1a", varint(key_size), key))
    return b"".join(
        (
            space_and_op,
            b"\x1a",
            _VARINTS[key_size] if key_size < _VARINTS_MAX else varint(key_size),
            key,
            b"\x22",
            _VARINTS[row_size] if row_size < _VARINTS_MAX else varint(row_size),
            row,
        )
    )


def space_and_op(space: int, op: int) -> bytes:
    """Return the start of a Change: fields 1 and 2, the latter only if it is not PUT."""
    return b"\x08" + varint(space) + (b"\x10" + varint(op) if op else b"")


def frame(commit: log_pb2.Commit) -> bytes:
    """Return the framed record of a commit whose `checksum` is unset. Raises RowError over 8 MiB."""
    return frame_parts([commit.SerializeToString()])[0]


def frame_parts(parts: list[bytes]) -> tuple[bytes, int]:
    """Return the framed record of a commit given as its header and its changes, and its checksum. Raises
    RowError."""
    body = b"".join(parts)
    size = len(body) + CHECKSUM_SIZE
    if size > RECORD_BYTES_MAX:
        raise RowError(
            f"the commit has {size:,} bytes; the limit is {RECORD_BYTES_MAX:,}; split the transaction, or"
            " use the bulk load, which splits automatically",
            commit_bytes=size,
        )
    length = _VARINTS[size] if size < _VARINTS_MAX else varint(size)
    checksum = crc32(body)
    return b"".join((b"\x0a", length, body, _CHECKSUM.pack(CHECKSUM_TAG, checksum))), checksum


def checksum_of(framed: bytes) -> int:
    """Return the checksum in a record."""
    checksum: int = _U32.unpack_from(framed, len(framed) - 4)[0]
    return checksum


def seq_of(framed: bytes) -> int:
    """Return the seq in a record. Raises CorruptionError."""
    at = read_varint(framed, 1)[1]
    if at >= len(framed) or framed[at] != 0x08:
        raise CorruptionError("expected a record to start with its seq, found another field")
    return read_varint(framed, at + 1)[0]


def time_of(framed: bytes) -> int:
    """Return the time of a framed record in nanoseconds since the Unix epoch, read from its first bytes
    without parsing or checking it; 0 if it has none. Raises CorruptionError."""
    at = read_varint(framed, 1)[1]
    at = read_varint(framed, at + 1)[1]
    if framed[at : at + 1] != _TIME_TAG:
        return 0
    try:
        time_ns: int = _U64.unpack_from(framed, at + 1)[0]
    except struct.error:
        raise CorruptionError("expected a record to have its time, found its end") from None
    return time_ns


def unframe(framed: bytes, seq: int) -> bytes:
    """Return the checked record in a frame. Raises CorruptionError that names `seq`."""
    if len(framed) > 2 and framed[0] == 0x0A:  # fast path for valid records that are not large
        low, high = framed[1], framed[2]
        at = 2 if low < 0x80 else 3
        if high < 0x80 or at == 2:
            size = low if at == 2 else low & 0x7F | high << 7
            if at + size == len(framed) and size >= CHECKSUM_SIZE and framed[-CHECKSUM_SIZE] == CHECKSUM_TAG:
                record = framed[at:]
                if crc32(record[:-CHECKSUM_SIZE]) == _U32.unpack_from(record, size - 4)[0]:
                    return record
    try:
        if framed[0] != 0x0A:
            raise CorruptionError(f"expected its frame to start with 0x0a, found 0x{framed[0]:02x}")
        size, at = read_varint(framed, 1)
        if at + size != len(framed) or size < CHECKSUM_SIZE:
            raise CorruptionError(f"its frame states {size:,} bytes, found {len(framed) - at:,}")
        record = framed[at:]
        if record[-CHECKSUM_SIZE] != CHECKSUM_TAG:
            raise CorruptionError("it does not end in a checksum")
        if crc32(memoryview(record)[:-CHECKSUM_SIZE]) != checksum_of(record):
            raise CorruptionError("its checksum does not match its bytes")
    except (CorruptionError, IndexError) as error:
        raise CorruptionError(
            f"record {seq} of the log is damaged: {str(error) or 'it is empty'}; the records before it"
            " can be read. Restore a backup, or cut the log before it with `everlog repair`",
            seq=seq,
        ) from None
    return record


def decode(framed: bytes, seq: int) -> log_pb2.Commit:
    """Return the checked commit in a frame. Raises CorruptionError that names `seq`."""
    record = unframe(framed, seq)
    try:
        commit = log_pb2.Commit.FromString(record)
    except DecodeError as error:
        raise CorruptionError(f"record {seq} of the log is not a Commit: {error}", seq=seq) from None
    if commit.seq != seq:
        raise CorruptionError(f"expected record {seq} of the log, found one with seq {commit.seq}", seq=seq)
    if commit.requires:
        check_requires(commit)
    return commit


def check_requires(commit: log_pb2.Commit) -> None:
    """Raise CorruptionError if the commit requires a feature that this program lacks."""
    unknown = sorted(set(commit.requires) - KNOWN_FEATURES)
    if unknown:
        raise CorruptionError(
            f"record {commit.seq} requires feature(s) {unknown}, unknown to this version of everlog; use a"
            " newer one",
            seq=commit.seq,
        )


def split(batch: bytes) -> Iterator[bytes]:
    """Yield the framed records of a batch. Raises CorruptionError."""
    at = 0
    while at < len(batch):
        size, start = read_varint(batch, at + 1)
        if batch[at] != 0x0A or start + size > len(batch):
            raise CorruptionError(f"a batch is damaged at byte {at}", place=at)
        yield batch[at : start + size]
        at = start + size


_CHANGES = 0x22
_FIXED = {1: 8, 5: 4}


def changes(framed: bytes, seq: int) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Yield space, op and key of each change of a framed record, and offset and size of the Change in it.

    Only the tags are read; the rows are skipped. Raises CorruptionError if the record is invalid.
    """
    end = len(framed) - CHECKSUM_SIZE
    at = len(framed) - len(unframe(framed, seq))
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
    """Return space, op and key of a Change. As everlog encodes it, they come first and are short."""
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
