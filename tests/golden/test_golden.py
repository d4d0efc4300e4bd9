"""Golden bytes: data of every version can be read permanently, and is written unchanged."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from everlog.feed import cursor, message
from everlog.proto import access_pb2
from everlog.store import keys, record
from everlog.store.database import Database
from everlog.store.schema.codec import Kind
from everlog.store.upkeep.allowance import Allowance
from everlog.store.upkeep.conditions import Comparison
from everlog.store.upkeep.roles import role_of
from tests.golden.samples import AIRPORTS, DATABASE, JFK, SCHEMA, TIME_NS, VALUES, samples
from tests.store.models import KINDS

HERE = Path(__file__).parent
SAMPLES = samples()
STATE = json.loads((HERE / "database.json").read_text(encoding="utf-8"))


def golden(group: str) -> dict[str, bytes]:
    lines = (HERE / f"{group}.hex").read_text(encoding="ascii").splitlines()
    return {name: bytes.fromhex(text) for name, _, text in (line.partition(": ") for line in lines)}


@pytest.mark.parametrize("group", SAMPLES)
def test_what_is_written_now_is_what_was_written_ever(group: str) -> None:
    assert SAMPLES[group] == golden(group)


@pytest.mark.parametrize("name", golden("records"))
def test_a_record_of_each_kind_is_read(name: str) -> None:
    framed = golden("records")[name]
    commit = record.decode(framed, record.seq_of(framed))
    assert commit.time_ns == TIME_NS
    assert commit.checksum == record.checksum_of(framed)
    kinds = dict.fromkeys(("created", "base", "migration", "load", "notice"))
    expected = {name: name for name in kinds} | dict.fromkeys(
        ("backfill", "returning", "prepared", "aborted"), "migration"
    )
    expected |= dict.fromkeys(
        ("consumer", "role", "grant", "token", "bound-role", "limited-role", "audited"), "notice"
    )
    assert commit.WhichOneof("about") == expected.get(name)


def test_a_migration_carries_the_schema() -> None:
    assert record.decode(golden("records")["migration"], 2).migration.schema == SCHEMA


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_key_of_every_kind_is_read(kind: Kind[Any]) -> None:
    assert kind.decode is not None
    name = kind.name.rpartition(".")[2].lower()
    for at, value in enumerate(VALUES[kind.name]):
        found, end = kind.decode(golden("keys")[f"{name}-{at}"], 0)
        assert found == value or (value != value and found != found)  # noqa: PLR0124  NaN
        assert end == len(golden("keys")[f"{name}-{at}"])


def test_row_values_are_read() -> None:
    values = golden("values")
    row = JFK.SerializeToString()
    assert [keys.row_of(values[name]) for name in ("plain", "versioned", "expiring")] == [row] * 3
    assert [keys.version_of(values[name]) for name in ("plain", "versioned", "expiring", "sealed")] == [
        3,
        4,
        8,
        4,
    ]
    assert [keys.seq_of(values[name]) for name in ("plain", "versioned", "expiring", "sealed")] == [
        3,
        8,
        8,
        8,
    ]
    assert keys.row_of(values["sealed"]) == b"\xee\xee"


def test_a_feed_message_is_read() -> None:
    batch = message.read(golden("feed")["first"])
    assert [commit.seq for commit in batch.commits] == [3]
    assert batch.schema == SCHEMA
    assert batch.mark.position.database == DATABASE.bytes


def test_a_cursor_is_read() -> None:
    position = cursor.parse(golden("cursor")["text"].decode())
    assert position == message.read(golden("feed")["mark"]).mark.position


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with tarfile.open(HERE / "database.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "database"


@pytest.fixture(params=["writing", "reading"])
def database(directory: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    with Database(directory, read_only=request.param == "reading", create=False) as db:
        yield db


def test_a_database_of_then_opens_and_checks_clean(database: Database) -> None:
    assert list(database.admin.check()) == []
    assert UUID(bytes=database.uuid) == UUID(STATE["uuid"])
    assert cursor.show(database.cursor()) == STATE["cursor"]
    assert database.schema.version == STATE["schema"]
    assert {name: [rows, found.hex()] for name, (rows, found) in database.admin.hashes().items()} == STATE[
        "tables"
    ]


def test_a_database_of_then_is_read_by_key_and_by_index(database: Database) -> None:
    found = database.get(AIRPORTS, "JFK")
    assert found is not None
    assert found.icao == "KJFK"
    assert [row.faa for row in database.scan(AIRPORTS.by_city, "Los Angeles")] == ["LAX"]
    assert database.get(AIRPORTS, "A00") is None


def test_a_database_of_then_rebuilds_to_the_same_rows_and_goes_on(directory: Path) -> None:
    with Database(directory, create=False) as db:
        before = db.admin.hashes()
        db.admin.rebuild()
        assert db.admin.hashes() == before
        db.put(AIRPORTS, JFK)
        assert list(db.admin.check()) == []
        kinds = [commit.WhichOneof("about") for commit in map(db.log.commit, range(1, db.head + 1))]
    assert kinds[:2] == ["created", "migration"]
    assert "load" in kinds
    assert kinds[-1] is None
    assert len(kinds) == cursor.parse(STATE["cursor"]).seq + 1


def test_a_role_of_then_has_the_same_limits_and_conditions() -> None:
    notice = record.decode(golden("records")["limited-role"], 13).notice
    role = role_of(access_pb2.Role.FromString(notice.detail))
    names = ("consumers", "cap_seconds", "cap_bytes", "streams", "calls", "rows", "heavy", "bytes_in")
    limits = (5, 86_400, 0, 10, 50, 1000, 1, 1 << 20)
    assert role.allowance == Allowance(**dict(zip(names, limits, strict=True)), bytes_out=1 << 40)
    assert role.rules[0].comparisons == (
        Comparison("amount", "<=", ("100",)),
        Comparison("path", "prefix", ("eu/", "us/")),
        Comparison("owner", "unset"),
    )
