"""Ends: the model of the rows of people.py: dicts that the log must equal, and that the key store must match.

A row disappears by a commit that deletes it, by one that expires it (never early, by a correct clock), or
with its person: the Notice deletes all rows of that person in all tables, and makes their versions in the log
unreadable. Every row of other people that was ever written opens, unchanged.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from everlog.proto import log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.rocks.files import KEYS
from everlog.store.tables.projection import SHREDDED
from tests.crash.folders import Folders
from tests.crash.people import BY_TABLE, Row, read


class Held(NamedTuple):
    """A row, and the id of the key that seals it."""

    row: Row
    key_id: bytes


class Ends:
    """`rows` is the state at the end of the log, by table and number: "people/12"."""

    def __init__(self) -> None:
        self.rows: dict[str, Held] = {}
        self.keys: dict[str, bytes] = {}  # subject -> the key that seals their rows
        self.shredded: set[bytes] = set()
        self.sealed: list[tuple[log_pb2.Change, str]] = []  # everything that was ever sealed, and its text

    def take(self, db: EmbeddedDatabase, commit: log_pb2.Commit, op: dict[str, Any]) -> None:
        """Apply a commit whose op is known."""
        if "forget" in op:
            self._forget(commit, op["forget"])
            return
        name, seq = commit.correlation_id, commit.seq
        for row, seen in op["seen"].items():
            held = self.rows.get(row)
            there = None if held is None else [held.row.subject, held.row.text]
            assert there == seen, f"{name} at {seq} read {row} as {seen}, it was {there}"
        changes = {_named(db, change): change for change in commit.changes}
        for row, value in op["rows"].items():
            if value is None:
                self.rows.pop(row, None)
            else:
                self._put(db, row, Row(*value), read_ns(commit), changes[row])
        assert changes.keys() <= op["rows"].keys(), f"{name} at {seq} changed more than it was to"

    def _put(self, db: EmbeddedDatabase, name: str, row: Row, time_ns: int, change: log_pb2.Change) -> None:
        table = db.schema.table(name.split("/", maxsplit=1)[0]).proto
        if row.end == BY_TABLE:
            row = row._replace(end=time_ns + table.life_ns if table.life_ns else 0)
        if row.subject:
            known = self.keys.setdefault(row.subject, change.key_id)
            assert change.key_id, f"{name} is not sealed"
            assert change.key_id == known, f"{name} of {row.subject} is sealed with another key"
            assert change.key_id not in self.shredded, f"{name} is sealed with a key that was shredded before"
            self.sealed.append((change, row.text))
        self.rows[name] = Held(row, change.key_id)

    def _forget(self, commit: log_pb2.Commit, subject: str) -> None:
        assert commit.notice.kind == SHREDDED
        known = self.keys.pop(subject, commit.notice.detail)
        assert commit.notice.detail == known, f"record {commit.seq} shreds another key than that of {subject}"
        self.shredded.add(commit.notice.detail)
        self.rows = {name: held for name, held in self.rows.items() if held.row.subject != subject}

    def expired(self, db: EmbeddedDatabase, commit: log_pb2.Commit, until_ns: int) -> None:
        """Apply a commit that deletes expired rows. `until_ns`: no row may expire later than this; 0: the
        time of the commit.
        """
        until_ns = until_ns or read_ns(commit)
        for change in commit.changes:
            name = _named(db, change)
            held = self.rows.pop(name, None)
            assert held is not None, f"record {commit.seq} ends {name}, which is not there"
            early_ns = held.row.end - until_ns
            assert held.row.end, f"record {commit.seq} ends {name}, which has no end"
            assert early_ns <= 0, f"record {commit.seq} ends {name} {early_ns / 1e9:.3f} s before its time"

    def agree(self, db: EmbeddedDatabase, folders: Folders, swept_ns: int) -> None:
        """Check that tables and keys equal the model's. Rows that expired before `swept_ns` are deleted."""
        found: dict[str, Row] = {}
        for table in folders.people.values():
            for message in db.scan(table):
                number, subject, text = read(message)
                found[f"{table.name}/{number}"] = Row(subject, text, db.expires_ns(table, number))
        rows = {name: held.row for name, held in self.rows.items()}
        wrong = {name for name in {*found, *rows} if found.get(name) != rows.get(name)}
        assert not wrong, {name: (found.get(name), rows.get(name)) for name in list(wrong)[:5]}
        late = [name for name, row in rows.items() if 0 < row.end <= swept_ns]
        assert not late, f"over, and still there: {late}"
        people = folders.people["people"]
        for name, row in list(rows.items())[::5]:
            if name.startswith("people/"):
                found_by = [read(one)[0] for one in db.scan(people.by_text, row.text)]
                assert int(name.split("/")[1]) in found_by, f"{name} is not found by its text"
        self._agree_keys(db)

    def _agree_keys(self, db: EmbeddedDatabase) -> None:
        raw = (db.path / KEYS).read_bytes() if (db.path / KEYS).exists() else b""
        left = [key_id.hex() for key_id in self.shredded if key_id in raw]
        assert not left, f"shredded by the log, and in the key store: {left}"
        opener = db.opener()
        for change, text in self.sealed:
            (opened,) = opener.open([change])
            if change.key_id in self.shredded:
                assert opened is None, "a row of who was forgotten opens"
            else:
                assert opened is not None, f"a row of somebody else does not open: {text}"
                model = db.schema.spaces[change.space].model
                assert read(model.FromString(opened))[2] == text

    def agree_before(self, db: EmbeddedDatabase, folders: Folders, seq: int, then: dict[str, Held]) -> None:
        """Check that earlier versions are unchanged, except those of people who were forgotten later."""
        found = {
            f"{table.name}/{read(message)[0]}": read(message)[2]
            for table in folders.people.values()
            for message in db.at(seq=seq).scan(table)
        }
        left = {name: held.row.text for name, held in then.items() if held.key_id not in self.shredded}
        assert found == left, f"as of {seq}"


def sweep(db: EmbeddedDatabase) -> int:
    """Delete all rows that have expired by now, and none that expire later; return this time."""
    db.sweeper.close()
    now = time.time_ns()
    db.admin.expire()
    return now


def read_ns(commit: log_pb2.Commit) -> int:
    """Return the reading of the clock at this commit."""
    return commit.reading_ns or commit.time_ns


def _named(db: EmbeddedDatabase, change: log_pb2.Change) -> str:
    info = db.schema.spaces[change.space]
    return f"{info.name}/{info.decode_key(change.key)[0]}"
