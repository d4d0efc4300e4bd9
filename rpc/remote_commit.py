"""Remote commit: a transaction as a request. It is the same value; only its words are others.

    read keys, read ranges ─▶ Read {table, index, keys, ranges}     without the prefix of a space
    writes                 ─▶ Write {table, op, key | row, expectation}

Each commit carries an id, so that one whose answer was lost can be sent again and commits once.
"""

from __future__ import annotations

import secrets
import time

from everlog.proto import log_pb2, store_pb2
from everlog.store import codec, keys
from everlog.store.schema import Schema
from everlog.store.transaction import Reads, Transaction
from everlog.store.write import NEVER, Write

_DURABILITY = {
    None: store_pb2.DURABILITY_UNSPECIFIED,
    "sync": store_pb2.SYNC,
    "os": store_pb2.OS,
}


def request_of(
    transaction: Transaction, schema: Schema, snapshot: int, database: str
) -> store_pb2.CommitRequest:
    """The request that commits `transaction`, which read at `snapshot` under `schema`."""
    meta = transaction.metadata
    request = store_pb2.CommitRequest(
        database=database,
        snapshot=snapshot,
        reads=_reads(transaction, schema),
        actor=meta.actor,
        reason=meta.reason,
        correlation_id=meta.correlation_id,
        causation_id=meta.causation_id,
        client=meta.client,
        commit_id=meta.commit_id or new_commit_id(),
        durability=_DURABILITY[meta.durability],
    )
    for write in transaction.writes.values():
        is_put = write.op == log_pb2.PUT
        request.writes.add(
            table=write.info.name,
            space=write.info.space,
            op=write.op,
            key=b"" if is_put else write.key,
            row=write.row,
            expect=write.expect,
            version=write.version,
            expires_ns=_expires_ns(write),
        )
    return request


def _expires_ns(write: Write) -> int:
    """0 is as the table has it, and so never has a number of its own where the table has a life."""
    return write.expires_ns or (NEVER if write.info.life_ns and not write.life_ns else 0)


def new_commit_id() -> bytes:
    """A UUIDv7 (RFC 9562, section 5.7)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 7 << 76  # version
    return (number & ~(3 << 62) | 2 << 62).to_bytes(16, "big")  # variant


def _reads(transaction: Transaction, schema: Schema) -> list[store_pb2.Read]:
    found: dict[bytes, store_pb2.Read] = {}

    def of(full: bytes) -> store_pb2.Read:
        prefix = full[: keys.PREFIX.size]
        if prefix not in found:
            table, index = _names(schema, prefix)
            space = keys.SPACE.unpack_from(prefix)[0]
            found[prefix] = store_pb2.Read(table=table, space=space, index=index)
        return found[prefix]

    reads = transaction.reads or Reads(set(), [])
    for key in reads.keys:
        of(key).keys.append(key[keys.PREFIX.size :])
    for start, end in reads.ranges:
        last = b"" if end == codec.after(start[: keys.PREFIX.size]) else end[keys.PREFIX.size :]
        of(start).ranges.add(start=start[keys.PREFIX.size :], end=last)
    return list(found.values())


def _names(schema: Schema, prefix: bytes) -> tuple[str, str]:
    """The table and the index that keys with this prefix are of; an empty index is the rows."""
    space, index = keys.PREFIX.unpack(prefix)
    info = schema.spaces[space]
    name = next((one.name for one in info.indexes.values() if one.id == index), "")
    return info.name, name
