"""Samples: the objects behind the golden bytes, encoded by the current code.

SAMPLES[group][name] ─▶ bytes      kept permanently in <group>.hex, one line `name: hex` each
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from everlog.feed import cursor, message
from everlog.proto import access_pb2, consumers_pb2, feed_pb2, log_pb2
from everlog.store import keys, record
from everlog.store.crypto import key_store
from everlog.store.crypto.cipher import hashed
from everlog.store.history.version_index import APPLIED, inverted, packed, row_of
from everlog.store.online.backfill import BUILDING
from everlog.store.record import changes
from everlog.store.schema.codec import STRING, Kind
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Field, Index, Table
from everlog.store.tables.hashing import content_hash
from everlog.store.tables.projection import Edits, edit_notes
from everlog.store.tables.projector import built_note
from tests.golden.tree import tree
from tests.store.models import KINDS, models

Samples = dict[str, dict[str, bytes]]

DATABASE = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
COMMIT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
TIME_NS = 1_790_000_000_000_000_000
VERSION = 20260102030405

Airport = models("flights", Airport="faa 1 string, name 2 string, icao 3 string?, city 4 string")["Airport"]
FAA = Field(Airport, "faa", 1, STRING)
ICAO = Field(Airport, "icao", 3, STRING)
CITY = Field(Airport, "city", 4, STRING)
AIRPORTS: Table[Any, str] = Table(
    "airports", Airport, key=FAA, indexes=(Index("by_city", CITY), Index("by_icao", ICAO, unique=True))
)
SCHEMA = evolve(log_pb2.Schema(), VERSION, [AIRPORTS])
JFK = Airport(faa="JFK", city="New York")
JFK_NAMED = Airport(faa="JFK", icao="KJFK", city="New York")
LAX = Airport(faa="LAX", city="Los Angeles")

VALUES: dict[str, tuple[Any, ...]] = {
    "bool": (False, True),
    "float": (-1.5, 0.0, 1.5),
    "double": (float("-inf"), -1.5, 0.0, 1.5, float("inf"), float("nan")),
    "string": ("", "JFK", "a\0b", "Zürich"),
    "bytes": (b"", b"\0", b"\x01\xff"),
    "google.protobuf.Timestamp": (Timestamp(seconds=-1, nanos=5), Timestamp(seconds=1_790_000_000)),
    **dict.fromkeys(("uint32", "uint64", "fixed32", "fixed64"), (0, 1, 300)),
    **dict.fromkeys(("int32", "int64", "sint32", "sint64", "sfixed32", "sfixed64", "enum"), (-1, 0, 300)),
}


def samples() -> Samples:
    return {
        "records": _records(),
        "keys": {f"{_name(kind)}-{at}": one for kind in KINDS for at, one in enumerate(_encoded(kind))},
        "entries": _entries(),
        "values": _values(),
        "notes": _notes(),
        "versions": _versions(),
        "feed": _feed(),
        "hash": {"airports": content_hash((_key(row), row.SerializeToString()) for row in (JFK, LAX)).hash},
        "sealed": _sealed(),
        "cursor": {"text": cursor.show(_position()).encode()},
        "tree": tree(record.unframe(_records()["created"], 1)),
    }


def _records() -> dict[str, bytes]:
    schema = record.schema_field(VERSION)
    here = record.space_and_op(1, log_pb2.PUT)
    created = log_pb2.Created(database=DATABASE.bytes, format=1, software="everlog 0.1.0")
    migration = log_pb2.Migration(
        step=log_pb2.Migration.FINISHED,
        version=VERSION,
        name="airports",
        digest=bytes(range(32)),
        schema=SCHEMA,
        sources=[log_pb2.SourceFile(path="__init__.py", content=b"MIGRATION = 1\n")],
    )
    load = log_pb2.Load(
        step=log_pb2.Load.CHUNK, kind=log_pb2.Load.IMPORT, id="l", rows=2, table="airports", source="a.csv"
    )
    notice = log_pb2.Notice(kind="backup.taken", subject="weekly", detail=b"\x01\x02")
    return {
        "created": record.frame(log_pb2.Commit(seq=1, time_ns=TIME_NS, created=created)),
        "migration": record.frame(_commit(2, actor="ann", migration=migration)),
        "put": _framed(3, schema, here, JFK),
        "replace": record.frame(
            _commit(
                4,
                actor="ann",
                reason="ICAO",
                commit_id=COMMIT_ID.bytes,
                changes=[_change(JFK_NAMED, prior=3)],
            )
        ),
        "delete": record.frame_parts(
            [
                record.commit_header(5, TIME_NS, schema),
                *record.change(
                    record.change_body(record.space_and_op(1, log_pb2.DELETE), _key(JFK), b""), prior=4
                ),
            ]
        )[0],
        "load": record.frame(_commit(6, changes=[_change(JFK), _change(LAX)], load=load)),
        "notice": record.frame(_commit(7, notice=notice)),
        "rewritten": record.frame(
            _commit(
                8,
                requires=[log_pb2.REWRITTEN, log_pb2.EXPIRY],
                changes=[_change(JFK_NAMED, prior=6, version=4, expires_ns=TIME_NS + 1)],
            )
        ),
        "backfill": record.frame_parts([_backfill().SerializeToString(), *_rewritten()])[0],
        "sealed": record.frame_parts(
            [
                record.commit_header(11, TIME_NS, schema),
                *record.change(
                    record.with_key(record.change_body(here, _key(JFK), b"\xee\xee"), DATABASE.bytes), prior=6
                ),
                record.REQUIRES_SEALED,
            ]
        )[0],
        "jwt": record.frame(
            _commit(14, actor="ann", proof=log_pb2.Commit.JWT, changes=[_change(JFK)], reason="signed in")
        ),
        "consumer": record.frame(_commit(12, notice=_registered())),
        **{name: record.frame(_commit(13, notice=one)) for name, one in _access().items()},
        "returning": record.frame(_commit(10, requires=[log_pb2.ONLINE], migration=_returning())),
        "prepared": record.frame(_commit(15, requires=[log_pb2.PREPARED], migration=_prepared())),
        "aborted": record.frame(_commit(16, requires=[log_pb2.PREPARED], migration=_aborted())),
        "base": record.frame(_commit(3, base=_base())),
    }


def _registered() -> log_pb2.Notice:
    """Return a consumer that has record 3, and a cap of a day and 1,000 records."""
    position = log_pb2.Cursor(seq=3, checksum=0x182BE224)
    cap = consumers_pb2.Cap(records=1000, seconds=86_400)
    detail = consumers_pb2.Registration(position=position, cap=cap).SerializeToString()
    return log_pb2.Notice(kind="consumer.registered", subject="mirror", detail=detail)


def _access() -> dict[str, log_pb2.Notice]:
    """A role that sees the rows of its tenant without a field, given to ann, and a token with it."""
    rule = access_pb2.Rule(
        rights=[access_pb2.READ, access_pb2.WRITE],
        tables=["book*"],
        ops=[log_pb2.PUT, log_pb2.DELETE],
        rows=[access_pb2.Condition(field="tenant", values=["$who", "acme"])],
        hidden=["card"],
    )
    bound = access_pb2.Rule(
        rights=[access_pb2.READ],
        hidden=["owner.card"],
        bindings=[
            access_pb2.Binding(
                table=3,
                name="bookings",
                space=5,
                fields=[access_pb2.BoundField(name="owner.card", numbers=[4, 300])],
            )
        ],
    )
    conditions = [
        access_pb2.Condition(field="amount", values=["100"], comparison=access_pb2.IS_AT_MOST),
        access_pb2.Condition(field="path", values=["eu/", "us/"], comparison=access_pb2.HAS_PREFIX),
        access_pb2.Condition(field="owner", comparison=access_pb2.IS_UNSET),
    ]
    limits = access_pb2.Allowance(
        consumers=5,
        cap_seconds=86_400,
        cap_bytes=0,
        streams=10,
        calls=50,
        rows=1000,
        heavy=1,
        bytes_in=1 << 20,
        bytes_out=1 << 40,
    )
    few = access_pb2.Role(
        name="few", rules=[access_pb2.Rule(rights=[access_pb2.READ], rows=conditions)], allowance=limits
    )
    token = access_pb2.Token(
        id="0123456789ab",
        name="ann",
        sha256=bytes(range(32)),
        expires_ns=TIME_NS,
        roles=["tenant"],
        database=DATABASE.bytes,
        replaces="ba9876543210",
        replaced_ends_ns=TIME_NS + 1,
    )
    details = {
        "role": ("access.role", "tenant", access_pb2.Role(name="tenant", rules=[rule], audited=0.5)),
        "grant": (
            "access.granted",
            "ann",
            access_pb2.Grant(identity="ann", role="tenant", tables=["bookings"]),
        ),
        "token": ("token.created", "ann", token),
        "bound-role": ("access.role", "clerk", access_pb2.Role(name="clerk", rules=[bound])),
        "limited-role": ("access.role", "few", few),
        "audited": ("access.audited", "bookings", access_pb2.Audited(table=3, share=0.25)),
    }
    return {
        name: log_pb2.Notice(kind=kind, subject=subject, detail=detail.SerializeToString(deterministic=True))
        for name, (kind, subject, detail) in details.items()
    }


def _base() -> log_pb2.Base:
    """Return a Base in place of record 3: a tree of three has a subtree of two, and one leaf."""
    return log_pb2.Base(
        database=DATABASE.bytes,
        time_ns=TIME_NS,
        schema=log_pb2.Schema(version=VERSION, next_space=2, next_table=2),
        checksum=0x182BE224,
        tree_size=3,
        tree_frontier=[b"\xaa" * 32, b"\xbb" * 32],
    )


def _backfill() -> log_pb2.Commit:
    cursor = keys.SPACE.pack(2) + _key(JFK)
    step = log_pb2.Migration(
        step=log_pb2.Migration.BACKFILL, version=VERSION + 1, name="split", cursor=cursor, rows=300
    )
    return _commit(9, requires=[log_pb2.REWRITTEN], migration=step)


def _returning() -> log_pb2.Migration:
    """Return the first record of a rollback that rewrites the rows of a table."""
    schema = log_pb2.Schema(version=VERSION + 1, next_space=4, next_table=2)
    schema.building.add(name="airports", id=1, space=3, generation=2, since=VERSION, remade=True)
    started = log_pb2.Migration.STARTED
    return log_pb2.Migration(step=started, version=VERSION + 1, name="split", schema=schema, back=True)


def _prepared() -> log_pb2.Migration:
    """Return the vote for a migration that adds nothing."""
    return log_pb2.Migration(
        step=log_pb2.Migration.PREPARED,
        version=VERSION + 1,
        name="split",
        digest=b"\xdd" * 32,
        rows=300,
        decision_id=COMMIT_ID.bytes,
        fence=3,
        following=log_pb2.Schema(version=VERSION + 1, next_space=2, next_table=2),
    )


def _aborted() -> log_pb2.Migration:
    step = log_pb2.Migration.ABORTED
    return log_pb2.Migration(step=step, decision_id=COMMIT_ID.bytes, fence=3)


def _rewritten() -> tuple[bytes, ...]:
    """Return a row of the next generation, as a backfill writes it, with its previous version."""
    here = record.space_and_op(2, log_pb2.PUT)
    body = record.change_body(here, _key(JFK), JFK_NAMED.SerializeToString())
    return record.change(record.with_version(body, 4), 0)


def _commit(seq: int, **fields: Any) -> log_pb2.Commit:
    return log_pb2.Commit(seq=seq, time_ns=TIME_NS, schema=VERSION, **fields)


def _change(row: Any, **fields: Any) -> log_pb2.Change:
    return log_pb2.Change(space=1, key=_key(row), row=row.SerializeToString(), **fields)


def _framed(seq: int, schema: bytes, here: bytes, row: Any) -> bytes:
    """Return a record as the committer frames it: the head and the changes joined."""
    body = record.change_body(here, _key(row), row.SerializeToString())
    return record.frame_parts([record.commit_header(seq, TIME_NS, schema), *record.change(body, prior=0)])[0]


def _info() -> Any:
    return Schema(SCHEMA).tables["airports"]


def _key(row: Any) -> bytes:
    key: bytes = _info().bind(Airport).key_of(row)
    return key


def _encoded(kind: Kind[Any]) -> list[bytes]:
    assert kind.encode is not None
    return [kind.encode(value) for value in VALUES[kind.name]]


def _name(kind: Kind[Any]) -> str:
    return kind.name.rpartition(".")[2].lower()


def _entries() -> dict[str, bytes]:
    rows = {"jfk": JFK_NAMED, "lax": LAX}
    return {
        f"{index}-{name}": values + _key(row)
        for name, row in rows.items()
        for index, values in zip(_info().indexes, _info().bind(Airport).values(row, b""), strict=True)
    }


def _values() -> dict[str, bytes]:
    row = JFK.SerializeToString()
    return {
        "key": _info().row_prefix + _key(JFK),
        "plain": keys.pack_value(3, row),
        "versioned": keys.pack_value(8, row, version=4),
        "expiring": keys.pack_value(8, row, expires_ns=TIME_NS),
        "sealed": keys.pack_value(8, b"\xee\xee", version=4, expires_ns=TIME_NS, key_id=DATABASE.bytes),
    }


def _notes() -> dict[str, bytes]:
    return {
        "applied": keys.NOTE_APPLIED,
        "applied-value": keys.APPLIED.pack(3, 0xDEADBEEF),
        "schema": keys.NOTE_SCHEMA,
        "commit": keys.NOTE_COMMIT + COMMIT_ID.bytes,
        "load": keys.NOTE_LOAD + b"l",
        "rows": keys.rows_note(1),
        "migration": keys.NOTE_MIGRATION + keys.SEQ.pack(2),
        "built": built_note(_info().indexes["by_city"]),
        "built-value": BUILDING + keys.SEQ.pack(300) + _key(JFK),
        "backfill": keys.NOTE_BACKFILL,
        "end": keys.end_note(TIME_NS, _info().row_prefix + _key(JFK)),
        "bare": keys.NOTE_BARE + keys.SPACE.pack(1),
        "shredded": keys.NOTE_SHREDDED + DATABASE.bytes,
        "consumer": keys.NOTE_CONSUMER + b"mirror",
        "consumer-value": keys.CONSUMER.pack(12, TIME_NS) + _registered().detail,
        "clock": keys.NOTE_CLOCK + keys.SEQ.pack(12),
        "production": keys.NOTE_PRODUCTION,
        "access": keys.NOTE_ACCESS + keys.SEQ.pack(13),
        "prepared": keys.NOTE_PREPARED,
        "access-value": _kept(_commit(13, actor="bob", notice=_access()["grant"])),
        "of-key": keys.NOTE_OF_KEY + DATABASE.bytes + keys.SPACE.pack(1) + _key(JFK),
    }


def _kept(commit: log_pb2.Commit) -> bytes:
    """The value of a note on access, as it is projected."""
    edits: Edits = {}
    edit_notes(edits, commit)
    value = edits[keys.NOTE_ACCESS + keys.SEQ.pack(commit.seq)]
    assert value is not None
    return value


def _sealed() -> dict[str, bytes]:
    """Return parts of the key store, with fixed values instead of random ones."""
    wrapped, nonce_and_key = bytes(range(60)), bytes(range(60, 120))
    slot = key_store.Slot(key_store.PERSON, b"cover-id", DATABASE.bytes, bytes(range(32)), nonce_and_key)
    return {
        "head": key_store.pack_header(DATABASE.bytes),
        "wrapped": key_store.pack_wrapped(key_store.WrappedKey(key_store.IN_USE, b"cover-id", wrapped)),
        "slot": key_store.pack_slot(slot),
        "tag": hashed(hashed(bytes(32), b"everlog person"), b"s-1\x00\x01"),
        "value": hashed(hashed(bytes(32), b"everlog index"), b"\0\0\0\1\0\1", b"\0", b"ann@x\x00\x01")[:16],
    }


def _versions() -> dict[str, bytes]:
    """Return positions of changes in records: of a put row, a deleted row, and the second row of a load."""
    found = {"applied": APPLIED, "applied-value": keys.APPLIED.pack(3, 0xDEADBEEF)}
    for name, seq, at in (("put", 3, 0), ("delete", 5, 0), ("load", 6, 1)):
        space, op, key, offset, size = list(changes(_records()[name], seq))[at]
        found |= {name: row_of(space, key) + inverted(seq), f"{name}-value": packed(op, offset, size)}
    return found


def _position() -> log_pb2.Cursor:
    checksum = record.checksum_of(_records()["put"])
    return log_pb2.Cursor(database=DATABASE.bytes, seq=3, checksum=checksum)


def _feed() -> dict[str, bytes]:
    mark = feed_pb2.Mark(state=feed_pb2.Mark.LIVE, position=_position(), head=3, head_time_ns=TIME_NS)
    return {
        "commit": message.build(_records()["put"], mark),
        "mark": message.build(b"", mark),
        "first": message.build(_records()["put"], mark, SCHEMA),
    }
