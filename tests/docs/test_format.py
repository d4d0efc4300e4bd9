"""The examples of docs/format.md, byte by byte: the code writes them, and a reader written from the page
alone reads them.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from everlog.audit import segment, tree
from everlog.audit.archived import Archive, Target
from everlog.audit.holds import Holds
from everlog.audit.manifest import Hashes, Manifest, Position
from everlog.audit.segment import Segment
from everlog.feed import tail
from everlog.migrations import digest
from everlog.migrations.proposal import FindingEntry, MigrationEntry, Plan, StepEntry
from everlog.proto import access_pb2, consumers_pb2, feed_pb2, log_pb2
from everlog.store import keys
from everlog.store.history.version_index import FAMILY
from everlog.store.record import KNOWN_FEATURES, RECORD_BYTES_MAX
from everlog.store.rocks import engine, files, ownership
from everlog.store.schema.codec import encode_string
from everlog.store.upkeep import consumers
from everlog.store.upkeep.read_audit import records_in
from everlog.store.upkeep.repair import DAMAGED
from tests.docs.format_reader import (
    airport,
    checked,
    double,
    fields,
    integer,
    text,
    timestamp,
    unframed,
    value_of,
)
from tests.golden.samples import samples

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
SAMPLES = {f"{group}/{name}": raw for group, named in samples().items() for name, raw in named.items()}
TABLE = re.compile(r"((?:^\|.*\n)+)", re.MULTILINE)
CELL = re.compile(r"^\| `([0-9a-f]{2}(?: [0-9a-f]{2})*)` \|", re.MULTILINE)
LINE = re.compile(r"^\| `((?:keys|notes|versions)/[a-z0-9-]+)` \| (.*?) \| `([0-9a-f ]+)` \|", re.MULTILINE)


def _bytes_in(text: str) -> bytes:
    """Return the first column of the next table in `text`."""
    table = TABLE.search(text)
    assert table is not None
    return bytes.fromhex("".join(CELL.findall(table[1])))


EXAMPLES = {
    found[1]: _bytes_in(PAGE[found.end() :])
    for found in re.finditer(r"^Example `([a-z]+/[a-z_-]+)`", PAGE, re.MULTILINE)
}
LINES = {name: bytes.fromhex(raw) for name, _, raw in LINE.findall(PAGE)}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not name.startswith("hash/")])
def test_an_example_is_what_the_code_writes(name: str) -> None:
    assert EXAMPLES[name] == SAMPLES[name]


@pytest.mark.parametrize("name", LINES)
def test_an_example_of_one_line_is_what_the_code_writes(name: str) -> None:
    assert LINES[name] == SAMPLES[name]


def test_the_page_has_an_example_of_everything() -> None:
    assert {name.partition("/")[0] for name in [*EXAMPLES, *LINES]} == {
        "records", "keys", "entries", "values", "notes", "feed", "hash", "versions",
        "tree", "sealed",
    }  # fmt: skip


def test_the_leaf_of_a_record_is_made_of_its_hash() -> None:
    entry = hashlib.sha256(unframed(EXAMPLES["records/created"])).digest()
    assert entry.hex() in PAGE
    assert EXAMPLES["tree/leaf"] == hashlib.sha256(b"\x00" + entry).digest()


def test_a_version_says_where_the_change_lies() -> None:
    for record, name in (("load", "load"), ("delete", "delete")):
        op, offset, size = EXAMPLES[f"versions/{name}-value"]
        change = fields(EXAMPLES[f"records/{record}"][offset : offset + size])
        assert (op, change.get(2, [0])) == (change.get(2, [0])[0], [op])
    space, key = EXAMPLES["versions/load"][:4], EXAMPLES["versions/load"][4:-8]
    _, offset, size = EXAMPLES["versions/load-value"]
    change = fields(EXAMPLES["records/load"][offset : offset + size])
    assert (change[1], change[3]) == ([int.from_bytes(space)], [key])
    assert 2**64 - 1 - int.from_bytes(EXAMPLES["versions/load"][-8:]) == 6


def test_the_example_records_decode() -> None:
    records = {
        name.partition("/")[2]: checked(unframed(raw))
        for name, raw in EXAMPLES.items()
        if name.startswith("records/")
    }
    assert {name: found[1] for name, found in records.items()} == {
        "created": [1], "put": [3], "delete": [5], "load": [6], "rewritten": [8], "backfill": [9],
        "base": [3], "consumer": [12], "grant": [13],
    }  # fmt: skip
    assert {found[2][0] for found in records.values()} == {1_790_000_000_000_000_000}
    assert UUID(bytes=fields(records["created"][16][0])[1][0]) == UUID("0f8fad5b-d9cb-469f-a165-70867728950e")

    put = fields(records["put"][4][0])
    assert (put[1], text(put[3][0]), airport(put[4][0])) == ([1], (b"JFK", 5), ("JFK", "", "New York"))
    assert records["put"][3] == [20260102030405]

    delete = fields(records["delete"][4][0])
    assert (delete[2], delete[3], delete[5], 4 in delete) == ([1], put[3], [4], False)

    rows = [airport(fields(change)[4][0])[0] for change in records["load"][4]]
    load = fields(records["load"][19][0])
    assert (rows, load[1], load[2], load[3], load[4]) == (["JFK", "LAX"], [2], [3], [b"l"], [2])

    rewritten = fields(records["rewritten"][4][0])
    assert (rewritten[5], rewritten[6], rewritten[7]) == ([6], [4], [1_790_000_000_000_000_001])
    assert records["rewritten"][11] == [b"\x01\x02"]

    backfill, change = fields(records["backfill"][18][0]), fields(records["backfill"][4][0])
    assert (backfill[1], backfill[2], backfill[10]) == ([5], [20260102030406], [300])
    assert backfill[9] == [b"\0\0\0\x02" + change[3][0]]
    assert (change[1], change[6], airport(change[4][0])) == ([2], [4], ("JFK", "KJFK", "New York"))

    base = fields(records["base"][17][0])
    assert (fields(base[3][0])[1], base[4], base[5]) == ([20260102030405], [0x182BE224], [3])
    assert [len(one) for one in base[6]] == [32, 32]

    notice = fields(records["consumer"][20][0])
    assert (notice[1], notice[2]) == ([b"consumer.registered"], [b"mirror"])
    registration = fields(notice[3][0])
    position, cap = fields(registration[1][0]), fields(registration[2][0])
    assert (position[2], position[3], cap[1], cap[2], 3 in cap) == (
        [3],
        [0x182BE224],
        [1000],
        [86_400],
        False,
    )

    notice = fields(records["grant"][20][0])
    assert (notice[1], notice[2]) == ([b"access.granted"], [b"ann"])
    assert fields(notice[3][0]) == {1: [b"ann"], 2: [b"tenant"], 3: [b"bookings"]}


def test_the_record_of_the_read_audit_on_the_page_is_read_by_the_code(tmp_path: Path) -> None:
    section = PAGE.partition("\n## Read audit\n")[2].partition("\n## ")[0]
    raw = bytes.fromhex("".join(re.findall(r"^\| `((?:[0-9a-f]{2} ?)+)` \|", section, re.MULTILINE)))
    path = tmp_path / "file"
    path.write_bytes(raw + raw[:7])  # and a part of another
    with path.open("rb") as file:
        (record,) = records_in(file)
    found = access_pb2.ReadRecord.FromString(record)
    assert (found.identity, found.call, found.table, found.space, found.share) == (
        "ann",
        "Store/Get",
        1,
        3,
        1.0,
    )
    assert found.proof == log_pb2.Commit.TOKEN
    assert [one.key for one in found.keys] == [encode_string("JFK")]


ROW = re.compile(r"^\| (\d+) \| `(\w+)` \| (\w+\*?) \|", re.MULTILINE)
LINE_OF = re.compile(r"^\| ([A-Z]\w+(?:\.\w+)?) \| (\d+ .*) \|$", re.MULTILINE)
FIELD = re.compile(r"(\d+) `(\w+)` (\w+\*?)")
VALUE = re.compile(r"(\d+) ([A-Z_]+)")
ON_PAGE = [log_pb2.DESCRIPTOR, feed_pb2.DESCRIPTOR, consumers_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR]
ON_DISK = {
    *("Registration", "Cap", "Role", "Rule", "Binding", "BoundField", "Condition", "Grant", "Token"),
    *("Audited", "Allowance", "ReadRecord", "ReadKey"),
}
NOT_ON_PAGE = {"SubscribeRequest"} | {
    name
    for file in (consumers_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR)
    for name in file.message_types_by_name
    if name not in ON_DISK
}


def type_of(field: FieldDescriptor) -> str:
    """Return the type as the page writes it."""
    named = field.message_type or field.enum_type
    types = {number: name for name, number in FieldDescriptorProto.Type.items()}
    kind = named.name if named else types[FieldDescriptorProto.Type.ValueType(field.type)][5:].lower()
    return kind + "*" * field.is_repeated


def messages_in_code() -> dict[str, list[tuple[int, str, str]]]:
    return {
        name: [(field.number, field.name, type_of(field)) for field in message.fields]
        for file in ON_PAGE
        for name, message in file.message_types_by_name.items()
        if name not in NOT_ON_PAGE
    }


def messages_on_page() -> dict[str, list[tuple[int, str, str]]]:
    tables = {
        "Commit": PAGE.partition("\n## Commit\n")[2].partition("\nChange:\n")[0],
        "Change": PAGE.partition("\nChange:\n")[2].partition("\n| message |")[0],
    }
    found = {name: ROW.findall(text) for name, text in tables.items()}
    found |= {name: FIELD.findall(line) for name, line in LINE_OF.findall(PAGE) if FIELD.search(line)}
    return {
        name: sorted((int(number), field, kind) for number, field, kind in fields)
        for name, fields in found.items()
    }


def test_the_fields_on_the_page_are_those_of_the_code_with_their_numbers_and_types() -> None:
    assert messages_on_page() == {name: sorted(fields) for name, fields in messages_in_code().items()}


def test_the_enums_on_the_page_are_those_of_the_code() -> None:
    on_page = {
        name: {value: int(number) for number, value in VALUE.findall(line)}
        for name, line in LINE_OF.findall(PAGE)
        if VALUE.fullmatch(line.split(" · ")[0])
    }
    in_code = {
        enum.full_name.removeprefix("everlog.v1."): dict(enum.values_by_name.items())
        for file in ON_PAGE
        for enum in (
            *file.enum_types_by_name.values(),
            *(one for message in file.message_types_by_name.values() for one in message.enum_types),
        )
        if enum.name != "Feature"
    }
    assert on_page == {
        name: {value: one.number for value, one in values.items()} for name, values in in_code.items()
    }


def fields_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(kind))


JSON_FILES: dict[str, tuple[str, ...]] = {
    "| `EVERLOG` |": fields_of(files.Marker),
    "| `HEAD` |": fields_of(files.Head),
    "| `OWNER` |": fields_of(files.Owner),
    "| `ARCHIVE` |": (*fields_of(Archive), *fields_of(Target)),
    "| `HOLDS` |": fields_of(Holds),
    "## Consumers": (*fields_of(consumers.File), *fields_of(consumers.Bookmark)),
    "## Proposals": tuple(
        name for kind in (Plan, MigrationEntry, StepEntry, FindingEntry) for name in fields_of(kind)
    ),
    "## Segments": tuple(name for kind in (Manifest, Position, Hashes, Segment) for name in fields_of(kind)),
}


@pytest.mark.parametrize("place", JSON_FILES)
def test_a_json_file_has_the_keys_on_the_page(place: str) -> None:
    begin = PAGE.index(f"\n{place}")
    end = PAGE.index("\n" if place.startswith("|") else "\n## ", begin + 1)
    assert set(JSON_FILES[place]) <= set(re.findall(r"`(\w+)`", PAGE[begin:end]))


def test_every_file_of_a_database_and_every_column_family_is_on_the_page() -> None:
    section = PAGE.partition("\n## Directory\n")[2].partition("\n## ")[0]
    on_page = set(re.findall(r"`([\w.-]+?)/?`", section))
    made = {*ownership.SMALL, ownership.LOCK, ownership.HALF, ownership.DATABASE, ownership.DROPPED}
    made |= {files.MARKER, files.READS, f"{DAMAGED}N", engine.LOG, engine.KEPT, FAMILY, tree.FAMILY}
    assert made <= on_page


def test_every_kind_of_notice_is_on_the_page() -> None:
    kinds = {
        kind
        for room in ("store", "audit", "migrations", "rpc")
        for file in (ROOT / room).rglob("*.py")
        if "Notice" in (text := file.read_text(encoding="utf-8"))
        for line in re.findall(r"^[A-Z_, ]+ = (\(?\".*)$", text, re.MULTILINE)
        for kind in re.findall(r'"([a-z]+(?:\.[a-z]+)+)"', line)
    }
    assert len(kinds) > 12
    assert {kind for kind in kinds if f"`{kind}`" not in PAGE} == set()


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    section = PAGE.partition("\n## Limits\n")[2].partition("\n## ")[0]
    for item, maximum in (
        ("an encoded primary key", f"{keys.KEY_BYTES_MAX:,} bytes"),
        ("a serialised row", f"{keys.ROW_BYTES_MAX >> 20} MiB"),
        ("the encoded values of a row in one index", f"{keys.INDEX_BYTES_MAX >> 20} MiB"),
        ("a record, without its frame", f"{RECORD_BYTES_MAX >> 20} MiB"),
        ("records in one feed message", f"{tail.MESSAGE_BYTES_MAX >> 10} KiB"),
    ):
        row = re.search(rf"^\| {item} \| (.*) \|$", section, re.MULTILINE)
        assert row is not None
        assert maximum in row[1]
    assert f"about {segment.BLOCK_BYTES >> 20} MiB of records" in PAGE
    assert f"a segment about {segment.SEGMENT_BYTES >> 20} MiB" in PAGE


def test_the_features_on_the_page_are_those_that_this_version_reads_and_writes() -> None:
    section = PAGE.partition("\n## Features\n")[2].partition("\n## ")[0]
    rows = {
        name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section, re.MULTILINE)
    }
    assert rows == dict(log_pb2.Feature.items())
    said = re.search(r"This version reads and writes\s+([\d, and]+)\.", section)
    assert said is not None
    numbers = {int(number) for number in re.findall(r"\d+", said[1])}
    assert numbers == KNOWN_FEATURES == set(rows.values()) - {0}


READ: dict[str, tuple[Callable[[bytes], Any], list[Any]]] = {
    "bool": (lambda data: data == b"\x01", [False, True]),
    "int32": (integer, [-1, 0, 300]),
    "uint64": (lambda data: int.from_bytes(data, "big"), [0, 1, 300]),
    "enum": (integer, [-1, 0, 300]),
    "float": (double, [-1.5, 0.0, 1.5]),
    "double": (lambda data: str(double(data)), ["-inf", "-1.5", "0.0", "1.5", "inf", "nan"]),
    "string": (lambda data: text(data)[0].decode(), ["", "JFK", "a\0b", "Zürich"]),
    "bytes": (lambda data: text(data)[0], [b"", b"\0", b"\x01\xff"]),
    "timestamp": (timestamp, [(-1, 5), (1_790_000_000, 0)]),
}


@pytest.mark.parametrize("kind", READ)
def test_the_example_keys_decode_and_stand_in_order(kind: str) -> None:
    read, values = READ[kind]
    found = [raw for name, raw in LINES.items() if name.startswith(f"keys/{kind}-")]
    assert [read(raw) for raw in found] == values
    if kind not in {"string", "bytes"}:  # those are listed by what they show, not in order
        assert found == sorted(found)


def test_the_example_keys_are_of_every_kind() -> None:
    assert {name.split("/")[1].split("-")[0] for name in LINES if name.startswith("keys/")} == set(READ)


def test_the_example_values_decode() -> None:
    plain, sealed = (value_of(EXAMPLES[f"values/{name}"]) for name in ("plain", "sealed"))
    assert plain[:4] == (3, 3, 0, b"")
    assert airport(plain.row) == ("JFK", "", "New York")
    key_id = UUID("0f8fad5b-d9cb-469f-a165-70867728950e").bytes
    assert sealed == (8, 4, 1_790_000_000_000_000_000, key_id, b"\xee\xee")


def test_the_example_entries_decode() -> None:
    jfk, lax = EXAMPLES["entries/by_city-jfk"], EXAMPLES["entries/by_icao-lax"]
    assert struct.unpack_from(">IHB", jfk) == (1, 1, 1)
    city, at = text(jfk, 7)
    assert (city, text(jfk, at)) == (b"New York", (b"JFK", len(jfk)))
    assert struct.unpack_from(">IHB", lax) == (1, 2, 0)
    assert text(lax, 7) == (b"LAX", len(lax))


def test_the_example_notes_decode() -> None:
    found = [struct.unpack_from(">IH", raw) for name, raw in LINES.items() if name.startswith("notes/")]
    assert found == [(0, kind) for kind in (*range(1, 10), 10, 10, 10, 11, 12, 13, 14)]
    assert LINES["notes/built"][6:] == struct.pack(">IH", 1, 1)
    assert LINES["notes/rows"][6:] == (1).to_bytes(4, "big")
    assert struct.unpack_from(">QI", LINES["notes/end"], 6) == (1_790_000_000_000_000_000, 1)
    assert text(LINES["notes/end"], 18) == (b"JFK", len(LINES["notes/end"]))
    assert LINES["notes/migration"][6:] == (2).to_bytes(8, "big")
    assert LINES["notes/consumer"][6:] == b"mirror"
    assert LINES["notes/access"][6:] == (13).to_bytes(8, "big")


def test_the_example_of_a_content_hash_is_that_of_the_code() -> None:
    raw = EXAMPLES["hash/airports"]
    assert hashlib.sha256(raw).digest() == SAMPLES["hash/airports"]
    assert f"`{SAMPLES['hash/airports'].hex()}`" in PAGE
    at, parts = 0, []
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        parts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    assert [text(key)[0] for key in parts[::2]] == [b"JFK", b"LAX"]
    assert [airport(row)[0] for row in parts[1::2]] == ["JFK", "LAX"]


def test_the_example_message_decodes_and_its_cursor_is_the_one_in_text() -> None:
    found = checked(EXAMPLES["feed/commit"])
    assert checked(found[1][0])[1] == [3]
    mark = fields(found[3][0])
    position = fields(mark[2][0])
    assert (mark[1], mark[3], position[2]) == ([2], [3], [3])
    assert position[3] == checked(found[1][0])[15]
    shown = f"{UUID(bytes=position[1][0])}:{position[2][0]}:{position[3][0]:08x}"
    assert shown.encode() == SAMPLES["cursor/text"]
    assert f"`cursor/text` is `{shown}`" in PAGE


def test_the_example_of_a_digest_is_that_of_the_code(tmp_path: Path) -> None:
    section = PAGE.partition("\n## Digest of a migration\n")[2].partition("\n## ")[0]
    (tmp_path / "__init__.py").write_bytes(b"MIGRATION = 1\r\n")
    (tmp_path / "model.proto").write_bytes(b'syntax = "proto3";\n')
    (tmp_path / "testdata.py").write_bytes(b"left out\n")
    found = digest.digest(digest.sources(tmp_path), tmp_path)
    assert hashlib.sha256(_bytes_in(section)).digest() == found
    assert f"`{found.hex()}`" in section


@pytest.mark.parametrize("heading", ["Keys", "Content hash", "Feed", "Features", "Digest of a migration"])
def test_what_the_code_refers_to_is_a_heading(heading: str) -> None:
    assert f"\n## {heading}\n" in PAGE
