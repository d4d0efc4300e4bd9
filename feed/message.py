"""Message: the bytes that the feed sends, and how a client reads them.

    message := framed*                    records as they are in the log: `FeedMessage.commits`
               [0x12 length schema]       in the first message of a subscription
               0x1A length mark           position of the subscription after this message
               0x7D crc32:u32le           over all bytes before

A message is made by joining: the server neither decodes nor encodes records. A client checks one checksum
for the whole message and decodes it at once. It does not look for features that a record requires, which
would cost half as much again: no server writes one that this client does not know (docs/format.md,
"Features").

Invariants
  (1) every message has a mark, and a client that received the message resumes after it;
  (2) the commits of a message are whole, in order, and not after its mark's position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from google.protobuf.message import DecodeError

from everlog.proto import feed_pb2, log_pb2
from everlog.store import record
from everlog.store.errors import CorruptionError

SCHEMA_TAG = b"\x12"
MARK_TAG = b"\x1a"

_from_string = feed_pb2.FeedMessage.FromString


class FeedBatch(NamedTuple):
    """Consecutive commits of a subscription. They are decoded when they are accessed."""

    commits: Sequence[log_pb2.Commit]
    mark: feed_pb2.Mark
    schema: log_pb2.Schema | None = None  # in force before the first commit; in the first batch
    raw: bytes = b""  # the message as received


def build(framed: bytes, mark: feed_pb2.Mark, schema: log_pb2.Schema | None = None) -> bytes:
    """Return a message of joined framed records."""
    parts = [framed]
    if schema is not None:
        parts += _field(SCHEMA_TAG, schema.SerializeToString())
    parts += _field(MARK_TAG, mark.SerializeToString())
    return record.seal(b"".join(parts))


def read(raw: bytes) -> FeedBatch:
    """Parse a message. Raises CorruptionError for a wrong checksum or an invalid message."""
    size = len(raw) - record.CHECKSUM_SIZE
    if (
        size < 0
        or raw[size] != record.CHECKSUM_TAG
        or crc32(memoryview(raw)[:size]) != record.checksum_of(raw)
    ):
        raise CorruptionError(
            f"a message of the feed ({len(raw):,} bytes) does not match its checksum; subscribe again"
            " after the last valid message"
        )
    try:
        message = _from_string(raw)
    except DecodeError as error:
        raise CorruptionError(f"a message of the feed is not a FeedMessage: {error}") from None
    schema = message.schema if message.HasField("schema") else None
    return FeedBatch(message.commits, message.mark, schema, raw)


def _field(tag: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    return tag, record.varint(len(value)), value
