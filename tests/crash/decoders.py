"""Decoders: all code that reads bytes from untrusted sources, with valid examples.

Each accepts any bytes: it returns, or raises an everlog error. Anything else is a finding: another exception,
a hang, unbounded memory. `test_decoders` tries some inputs, `fuzz` millions.

A new decoder is a line in `decoders`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from everlog.feed import cursor, message
from everlog.migrations import schema_text
from everlog.migrations.rows import read_csv, read_jsonl
from everlog.migrations.values import as_json
from everlog.proto import feed_pb2, log_pb2
from everlog.rpc import address
from everlog.store import environment, record
from everlog.store.rocks import files
from everlog.store.schema import admission
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.upkeep import consumers
from tests.store.documents import Document, deep
from tests.store.models import SEATS, TABLES, models

Decoder = Callable[[bytes], object]

WORDS = (
    "bool int32 int64 uint32 uint64 sint32 sint64 fixed32 fixed64 sfixed32 sfixed64 float double string"
    " bytes enum timestamp"
)
EVERY = models(
    "fuzzed",
    Inner="lat 1 double, tags 2 string*",
    Row=", ".join(f"f{number} {number} {word}" for number, word in enumerate(WORDS.split(), 1))
    + ", many 40 int64*, inner 41 .Inner, some 42 string?",
)["Row"]
DOCUMENT_JSON = (
    b'{"id": "1", "body": {"a": [null, {"@stored": {"number_value": "NaN"}}]}, "at": {"nanos": 5},'
    b' "took": "1.5s", "any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"},'
    b' "mask": "aB", "byNumber": {"5": {"number": 3}}, "nothing": null, "big": "7", "ratio": "Infinity"}\n'
)
COMMIT = log_pb2.Commit(
    seq=1,
    time_ns=2,
    actor="ann",
    changes=[log_pb2.Change(space=3, key=b"key", row=b"row", prior=4)],
    migration=log_pb2.Migration(name="x", schema=evolve(log_pb2.Schema(), 1, TABLES)),
)


class Example(NamedTuple):
    """A decoder, and bytes that it accepts."""

    call: Decoder
    whole: tuple[bytes, ...]


def decoders(scratch: Path) -> dict[str, Example]:
    """Return all decoders by name. `scratch` is a directory for those that read files."""
    framed = record.frame(COMMIT)
    schema = Schema(COMMIT.migration.schema)
    seats = schema.table(SEATS.name)
    sent = message.build(framed, feed_pb2.Mark(), COMMIT.migration.schema)
    csv = b"f1,f2,f14,f17,inner.lat\ntrue,-5,a text,2026-01-05T09:30:00Z,1.5\n"
    jsonl = b'{"f1": true, "f2": -5, "f14": "a", "many": [1, 2], "inner": {"lat": 1.5}}\n'
    text = schema_text.to_text(schema).encode()
    key = seats.encode_key((1, -2, b"A\0"))
    return {
        "record.unframe": Example(lambda raw: record.unframe(raw, 1), (framed,)),
        "record.decode": Example(lambda raw: record.decode(_framed(raw), 1), (COMMIT.SerializeToString(),)),
        "record.split": Example(lambda raw: list(record.split(raw)), (framed + framed,)),
        "record.seq_of": Example(record.seq_of, (framed,)),
        "feed.message.read": Example(message.read, (sent,)),
        "feed.message.read, sealed": Example(
            lambda raw: message.read(record.seal(raw)).commits[:], (sent[:-5],)
        ),
        "record.time_of": Example(record.time_of, (framed,)),
        "feed.cursor": Example(
            _texts(cursor.parse), (cursor.show(log_pb2.Cursor(database=b"x" * 16)).encode(),)
        ),
        "keys": Example(seats.decode_key, (key,)),
        "rows.csv": Example(lambda raw: list(read_csv(io.BytesIO(raw), EVERY)), (csv,)),
        "rows.jsonl": Example(lambda raw: list(read_jsonl(io.BytesIO(raw), EVERY)), (jsonl,)),
        "rows.jsonl, documents": Example(
            lambda raw: list(read_jsonl(io.BytesIO(raw), Document)), (DOCUMENT_JSON,)
        ),
        "admission.read": Example(
            lambda raw: as_json(admission.read(Document, raw)), (deep(1, 60).SerializeToString(),)
        ),
        "schema text": Example(_texts(schema_text.from_text), (text,)),
        "url": Example(
            _texts(address.parse), (b"everlog://host:7450/name?ca=x", b"everlog+insecure://[::1]:1/n")
        ),
        "HEAD": Example(
            lambda raw: files.read(_file(scratch, raw), files.Head), (b'{"seq": 1, "checksum": 2}\n',)
        ),
        "EVERLOG": Example(
            lambda raw: files.read(_file(scratch, raw), files.Marker), (b'{"format": 1, "database": "x"}\n',)
        ),
        "BOOKMARKS": Example(
            lambda raw: files.read(_file(scratch, raw), consumers.File),
            (b'{"format": 1, "bookmarks": {"a": {"seq": 1, "checksum": 2, "time_ns": 3, "turn": 4}}}\n',),
        ),
        ".env": Example(lambda raw: _env(scratch, raw), (b"DATABASE_URL=file:x\nA='b'\n",)),
    }


def _framed(body: bytes) -> bytes:
    """Return a record with a valid frame and checksum, and arbitrary content."""
    sealed = record.seal(body)
    return b"\x0a" + record.varint(len(sealed)) + sealed


def _texts(call: Callable[[str], object]) -> Decoder:
    """Wrap a decoder of text: bytes that are not UTF-8 are skipped."""

    def decode(raw: bytes) -> object:
        with contextlib.suppress(UnicodeDecodeError):
            return call(raw.decode())
        return None

    return decode


def _file(scratch: Path, raw: bytes) -> Path:
    path = scratch / "file"
    path.write_bytes(raw)
    return path


def _env(scratch: Path, raw: bytes) -> dict[str, str]:
    (scratch / ".env").write_bytes(raw)
    return environment.variables_in(scratch / ".env")
