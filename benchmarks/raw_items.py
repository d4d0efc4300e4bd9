"""The subject `raw`: the bytes that everlog stores, written to RocksDB alone.

    log entry   'l' seq:u64be                  framed record
    row         'r' id:u64be                   header, row
    index entry 'i' name 0x00 id:u64be         nothing

One batch for each commit. The bytes are prepared before the measurement.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from rocksdict import Options, Rdict, WriteBatch

from benchmarks.items import message
from benchmarks.rows import Row, row
from everlog.proto import log_pb2
from everlog.store.keys import pack_value
from everlog.store.record import frame

Puts = list[tuple[bytes, bytes]]

_SEQ = struct.Struct(">cQ")


def open_raw(folder: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    return Rdict(str(folder), options)


def row_key(number: int) -> bytes:
    return _SEQ.pack(b"r", number)


def index_key(item: Row) -> bytes:
    return b"i%s\x00" % item.name.encode() + row_key(item.id)[1:]


def commit(seq: int, items: Sequence[Row]) -> Puts:
    """Return the keys and values that one commit of these rows writes to RocksDB."""
    record = log_pb2.Commit(seq=seq, time_ns=1_700_000_000_000_000_000 + seq, schema=1, actor="bench")
    puts: Puts = []
    for item in items:
        raw = message(item).SerializeToString()
        key = row_key(item.id)[1:]
        record.changes.add(space=1, key=key, row=raw)
        puts += [(b"r" + key, pack_value(seq, raw)), (index_key(item), b"")]
    return [(_SEQ.pack(b"l", seq), frame(record)), *puts]


def commits(n: int, size: int = 1) -> Iterator[Puts]:
    """Yield `n` rows in commits of `size` rows."""
    for seq, first in enumerate(range(1, n + 1, size), start=1):
        yield commit(seq, [row(number) for number in range(first, min(first + size, n + 1))])


def write(db: Rdict, puts: Puts) -> None:
    batch = WriteBatch(raw_mode=True)
    for key, value in puts:
        batch.put(key, value)
    db.write(batch)
