"""Segment: a self-describing, checksummed file of consecutive log records, compressed.

    segment := header block* index
    header  := 0x184D2A50:u32le size:u32le "everlog" 0x01 database:16 first:u64be last:u64be
               first_time_ns:u64be last_time_ns:u64be schema:u64be before:u32be checksum:u32be
    block   := a zstd frame (RFC 8878): framed records, joined
    index   := 0x184D2A5E:u32le size:u32le (first:u64be offset:u64be size:u32be raw:u32be sha256:32)*
               blocks:u32be sha256:32          the last hash covers every byte of the file before it

Header and index are zstd skippable frames, so `zstd -dc` of one segment, or of several in order, gives a
`Batch`: reading it needs no everlog. Each block can be read alone.

Invariants
  (1) records are those of the log, byte for byte, dense from `first` to `last`;
  (2) a segment is written once and never changed; two segments of one range have the same records.

Numbers are on disk: never reuse one. Format reference: docs/format.md, "Segments".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import msgspec
import zstandard

from everlog.store import record
from everlog.store.errors import CorruptionError

BLOCK_BYTES = 1 << 20  # of records, before compression
SEGMENT_BYTES = 32 << 20  # two are in memory while they are made
LEVEL = 1  # measured: a third faster than 3, and no larger
MAGIC = b"everlog\x01"
COPIED_MAX = 1024  # below this many bytes a copy is faster than a view

HEADER_TAG, INDEX_TAG = 0x184D2A50, 0x184D2A5E
FRAME = struct.Struct("<II")
HEADER = struct.Struct(">8s16sQQQQQII")
ENTRY = struct.Struct(">QQII32s")
END = struct.Struct(">I32s")
HEADER_SIZE = FRAME.size + HEADER.size
TIME_TAG, SCHEMA_TAG, CHANGES_TAG = 0x11, 0x18, 0x22

_TIME = struct.Struct("<Q")
_CRC = struct.Struct("<I")


class Head(NamedTuple):
    """The first fields of a record, and its checksum."""

    seq: int
    time_ns: int
    schema: int
    checksum: int


NOTHING = Head(0, 0, 0, 0)


class Segment(msgspec.Struct, frozen=True):
    """One segment, as a manifest lists it. `schema` is the version in force before its first record, `before`
    the checksum of the record before that, `raw` the size of its records in bytes."""

    name: str
    first: int
    last: int
    first_time_ns: int
    last_time_ns: int
    schema: int
    before: int
    checksum: int
    raw: int
    size: int
    sha256: str


class Block(NamedTuple):
    """The position of one block in its segment."""

    first: int
    offset: int
    size: int
    raw: int
    sha256: bytes


class Packed(NamedTuple):
    """A compressed block that is not yet in a segment."""

    first: Head
    last: Head
    raw: int
    data: bytes
    sha256: bytes


def pack_block(records: bytes, first: int, where: str) -> Packed:
    """Check joined records, from `first` on, and compress them to a block. Releases the GIL, except for
    small records. Raises CorruptionError naming the record."""
    last = position_of(check_records(records, first, where))
    data = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(records)
    return Packed(position_of(records), last, len(records), data, hashlib.sha256(data).digest())


def pack(database: bytes, before: Head, blocks: list[Packed]) -> tuple[Segment, list[bytes]]:
    """Return the manifest entry of a segment of these blocks, and its bytes in parts."""
    first, last = blocks[0].first, blocks[-1].last
    content = HEADER.pack(
        MAGIC, database, first.seq, last.seq, first.time_ns, last.time_ns, before.schema, before.checksum,
        last.checksum,
    )  # fmt: skip
    parts, offset, index = [FRAME.pack(HEADER_TAG, len(content)), content], HEADER_SIZE, []
    for block in blocks:
        index.append(ENTRY.pack(block.first.seq, offset, len(block.data), block.raw, block.sha256))
        parts.append(block.data)
        offset += len(block.data)
    size = ENTRY.size * len(index) + END.size
    parts += [FRAME.pack(INDEX_TAG, size), *index, struct.pack(">I", len(index))]
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    parts.append(whole.digest())
    whole.update(parts[-1])
    segment = Segment(
        name=f"{first.seq:016d}-{last.seq:016d}.zst",
        first=first.seq,
        last=last.seq,
        first_time_ns=first.time_ns,
        last_time_ns=last.time_ns,
        schema=before.schema,
        before=before.checksum,
        checksum=last.checksum,
        raw=sum(block.raw for block in blocks),
        size=sum(map(len, parts)),
        sha256=whole.hexdigest(),
    )
    return segment, parts


def read_header(data: bytes, where: str) -> tuple[bytes, int, int]:
    """Return database UUID, first and last seq from a segment's header. Raises CorruptionError."""
    if len(data) < HEADER_SIZE or data[: FRAME.size] != FRAME.pack(HEADER_TAG, HEADER.size):
        raise CorruptionError(f"{where} is not a segment: expected a segment header", place=where)
    magic, database, first, last, *_ = HEADER.unpack_from(data, FRAME.size)
    if magic != MAGIC:
        raise CorruptionError(
            f"{where} is a segment of a format that this everlog does not read", place=where
        )
    return database, first, last


def index_size(end: bytes, where: str) -> int:
    """Return the size of a segment's index in bytes, from its last bytes. Raises CorruptionError."""
    if len(end) < END.size:
        raise CorruptionError(f"{where} is truncated", place=where)
    count, _ = END.unpack_from(end, len(end) - END.size)
    size: int = FRAME.size + ENTRY.size * count + END.size
    return size


def read_index(data: bytes, where: str) -> list[Block]:
    """Return the blocks in a segment's index; `data` is the segment's last `index_size` bytes, or more.
    Raises CorruptionError."""
    size = index_size(data, where)
    start = len(data) - size
    if start < 0 or data[start : start + FRAME.size] != FRAME.pack(INDEX_TAG, size - FRAME.size):
        raise CorruptionError(f"{where} does not end with an index: truncated or changed", place=where)
    return [Block(*entry) for entry in ENTRY.iter_unpack(data[start + FRAME.size : len(data) - END.size])]


def unpack_block(data: bytes, block: Block, where: str) -> bytes:
    """Return the joined records of a block. Raises CorruptionError."""
    if hashlib.sha256(data).digest() != block.sha256:
        raise CorruptionError(
            f"{where}: the block with record {block.first} does not match its SHA-256",
            place=where,
            seq=block.first,
        )
    try:
        records = zstandard.ZstdDecompressor().decompress(data, max_output_size=block.raw)
    except zstandard.ZstdError as error:
        raise CorruptionError(
            f"{where}: the block with record {block.first} cannot be decompressed: {error}",
            place=where,
            seq=block.first,
        ) from None
    if len(records) != block.raw:
        raise CorruptionError(
            f"{where}: expected {block.raw:,} bytes of records from {block.first} on, found {len(records):,}",
            place=where,
            seq=block.first,
        )
    return records


def position_of(framed: bytes) -> Head:
    """Return the first fields of a framed record. Raises CorruptionError."""
    at = record.read_varint(framed, 1)[1]
    seq, at = record.read_varint(framed, at + 1)
    time_ns = schema = 0
    if framed[at] == TIME_TAG:
        time_ns = _TIME.unpack_from(framed, at + 1)[0]
        at += 9
    if framed[at] == SCHEMA_TAG:
        schema = record.read_varint(framed, at + 1)[0]
    return Head(seq, time_ns, schema, record.checksum_of(framed))


def check_records(records: bytes, first: int, where: str) -> bytes:
    """Check joined records: dense from `first` on, each with a valid checksum; return the last one, framed.
    Raises CorruptionError naming the record."""
    at = start = 0
    seq, size, view, begins = first, len(records), memoryview(records), _beginnings(first)
    try:
        while at < size:
            start = at
            if records[at] != 0x0A:
                raise CorruptionError("it is not framed")
            length, more = records[at + 1], records[at + 2]
            at += 2
            if length > 0x7F:
                if more < 0x80:
                    length, at = length & 0x7F | more << 7, at + 1
                else:
                    length, at = record.read_varint(records, at - 1)
            end = at + length
            if end > size or records[end - 5] != record.CHECKSUM_TAG:
                raise CorruptionError("it does not end in a checksum")
            body = records[at : end - 5] if length < COPIED_MAX else view[at : end - 5]
            if crc32(body) != _CRC.unpack_from(records, end - 4)[0]:
                raise CorruptionError("its checksum does not match its bytes")
            if not records.startswith(next(begins), at) and record.read_varint(records, at + 1)[0] != seq:
                raise CorruptionError(f"expected seq {seq}, found {record.read_varint(records, at + 1)[0]}")
            at = end
            seq += 1
    except (CorruptionError, IndexError, struct.error) as error:
        raise CorruptionError(f"{where}: record {seq} is damaged: {error}", place=where, seq=seq) from None
    return records[start:at]


def _beginnings(seq: int) -> Iterator[bytes]:
    """Yield the first bytes of the records from a seq on: the tag of the seq, and the seq. In a run of 128
    only the lowest byte differs."""
    while True:
        high = record.varint(seq >> 7) if seq >> 7 else b""
        yield from (bytes((0x08, low | 0x80 if high else low)) + high for low in range(seq & 0x7F, 0x80))
        seq = (seq | 0x7F) + 1
