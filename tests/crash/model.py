"""Model: a dict that the log of the campaign must equal, as must every table, index and follower.

The order comes from the log, the content of each op from the journals, and nothing from the rows in the log.
An op in the log must have read what the model has at that position (so the order of the log is a serial
one). An acknowledged op must be in the log, and a refused one must not.
"""

from __future__ import annotations

import time
from typing import Any

from everlog.audit.prover import LocalProver
from everlog.consumers import Follower, SqliteSink, verify
from everlog.proto import log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.record import decode
from everlog.store.upkeep.expiry import EXPIRED
from tests.crash import limits
from tests.crash.beside import agree_signed
from tests.crash.clocks import TRUSTED_NS
from tests.crash.ends import Ends, Held, read_ns
from tests.crash.folders import Folders, Value
from tests.crash.journal import Told
from tests.crash.operations import load_rows

PAST_EVERY = 37  # records between two remembered positions
SIGNED = 10  # checkpoints that are verified again


class Model:
    """`rows` is the state at `seq`, up to which the log was read."""

    def __init__(self) -> None:
        self.rows: dict[int, Value] = {}
        self.ops: dict[str, dict[str, Any]] = {}
        self.found: dict[str, int] = {}
        self.ids: dict[str, str] = {}
        self.loads: dict[int, int] = {}
        self.past: dict[int, dict[int, Value]] = {}  # the rows at some records
        self.ends = Ends()
        self.limits: set[str] = set()  # recipes of accepted rows
        self.past_ends: dict[int, dict[str, Held]] = {}
        self.checksums: dict[int, int] = {}  # of the records there
        self.roots: dict[int, str] = {}  # of the tree, by its size
        self.signed: list[str] = []
        self.seq = 0
        self.checksum = 0
        self.time_ns = 0

    def take(
        self, db: EmbeddedDatabase, told: Told, opened_ns: int, *, power: bool, turned: bool = False
    ) -> None:
        """Read what one run added to the log, and what was added since the database was opened again. With
        `power`, commits acknowledged under `os` may be lost, from the end. With `turned`, the clock was wrong
        for some time.
        """
        lived = self.seq
        assert db.log.checksum_at(self.seq) == self.checksum, f"record {self.seq} is another one now"
        self.ops.update(told.ops)
        for line in told.did:
            if "root" in line:
                assert self.roots.setdefault(line["size"], line["root"]) == line["root"]
            if "signed" in line:
                self.signed.append(line["signed"])
        for seq, framed in db.log.scan(self.seq):
            commit = decode(framed, seq)
            assert commit.time_ns >= self.time_ns, f"record {seq} is older than the previous one"
            self.time_ns = commit.time_ns
            if commit.correlation_id:
                self._op(db, commit)
            elif (commit.actor, commit.reason) == (EXPIRED.actor, EXPIRED.reason):
                self.ends.expired(db, commit, opened_ns + TRUSTED_NS if turned else 0)
            lived = seq if read_ns(commit) < opened_ns else lived
            if not seq % PAST_EVERY:
                self.past[seq], self.past_ends[seq] = dict(self.rows), dict(self.ends.rows)
                self.checksums[seq] = commit.checksum
        self.seq, self.checksum = db.log.written, db.log.checksum_at(db.log.written)
        for op, seq in told.yes.items():
            if op not in self.found:
                assert power, f"{op} was acknowledged at {seq}, and is not in the log"
                assert self.ops[op]["durability"] == "os", f"{op} was synced at {seq}, and is gone"
                assert seq > lived, f"{op} is gone from the middle of the log, at {seq} of {lived}"
            else:
                assert self.found[op] == seq, f"{op} was acknowledged at {seq}, found at {self.found[op]}"
        refused = [op for op in told.no if op in self.found]
        assert not refused, f"refused, and in the log: {refused}"

    def _op(self, db: EmbeddedDatabase, commit: log_pb2.Commit) -> None:
        name, seq = commit.correlation_id, commit.seq
        op = self.ops[name]
        if "load" in op:
            self._load(op, commit)
            return
        assert name not in self.found, f"{name} is in the log twice, at {self.found[name]} and {seq}"
        self.found[name] = seq
        if op["id"]:
            assert self.ids.setdefault(op["id"], name) == name, f"commit_id {op['id']} was committed twice"
        if "limit" in op:
            (self.limits.add if op["put"] else self.limits.discard)(op["limit"])
            return
        if "forget" in op or "seen" in op:
            self.ends.take(db, commit, op)
            return
        for number, value in op["reads"].items():
            held = self.rows.get(int(number))
            assert held == _value(value), f"{name} at {seq} read {number} as {value}, it was {held}"
        for kind, start, end, keys in op["ranges"]:
            assert keys == self._range(kind, start, end), f"{name} at {seq}: {kind} {start} to {end}"
        for number in op["insert"]:
            assert number not in self.rows, f"{name} at {seq} inserted {number}, which was there"
        for number in op["update"]:
            assert number in self.rows, f"{name} at {seq} updated {number}, which was not there"
        for number, value in op["writes"].items():
            self._set(int(number), _value(value))

    def _range(self, kind: str, start: int, end: int) -> list[int]:
        if kind == "key":
            return sorted(number for number in self.rows if start <= number < end)
        found = ((value.n, number) for number, value in self.rows.items() if start <= value.n < end)
        return [number for _, number in sorted(found)]

    def _load(self, op: dict[str, Any], commit: log_pb2.Commit) -> None:
        number, done = op["load"], self.loads.get(op["load"], 0)
        for at, (key, value) in enumerate(load_rows(number, op["rows"])):
            if done <= at < commit.load.rows:
                self._set(key, value)
        assert done <= commit.load.rows <= op["rows"], f"load {number}: {done}, then {commit.load.rows}"
        self.loads[number] = commit.load.rows

    def _set(self, number: int, value: Value | None) -> None:
        if value is None:
            self.rows.pop(number, None)
        else:
            self.rows[number] = value

    def agree(self, db: EmbeddedDatabase, folders: Folders, swept_ns: int) -> None:
        """Check that the tables equal the model's, through every way to read them."""
        problems = list(db.admin.check())
        assert not problems, problems[:5]
        if "people" in db.schema.tables:
            self.ends.agree(db, folders, swept_ns)
            limits.agree(db, folders.limits, self.limits)
        way = folders.ways.get(db.schema.version)
        if way is None:
            assert not self.rows
            return
        found = dict(map(way.read, db.scan(way.table)))
        wrong = {key for key in {*found, *self.rows} if found.get(key) != self.rows.get(key)}
        assert not wrong, {key: (found.get(key), self.rows.get(key)) for key in list(wrong)[:5]}
        assert db.count(way.table) == len(found)
        assert [way.read(row)[0] for row in db.scan(way.table.by_n)] == self._range("n", -(2**62), 2**62)
        some = list(self.rows)[:: len(self.rows) // 20 + 1]
        rows = db.get_many(way.table, [way.key(number) for number in some])
        assert [row and way.read(row) for row in rows] == [(number, self.rows[number]) for number in some]

    def agree_before(self, db: EmbeddedDatabase, folders: Folders, some: list[int]) -> None:
        """Check that the past equals the model's, and that the tree is unchanged."""
        for seq in some:
            assert db.log.checksum_at(seq) == self.checksums[seq], f"record {seq} is another one now"
            if "people" in {one.name for one in db.schema_at(seq).tables}:
                self.ends.agree_before(db, folders, seq, self.past_ends[seq])
            way = folders.ways.get(db.schema_at(seq).version)
            if way is not None:
                assert dict(map(way.read, db.at(seq=seq).scan(way.table))) == self.past[seq], seq
        prover = LocalProver(db)
        for size, root in self.roots.items():
            assert prover.head(size)[1].hex() == root, f"the tree of the first {size} records is another"
        agree_signed(db, self.signed[-SIGNED:])

    def agree_now(self, db: EmbeddedDatabase) -> None:
        """Check that, after the clock was confirmed, the view at the current time is the last state."""
        notice = db.admin.correct_clock()
        assert db.at(time=time.time_ns()).seq == db.head, "the view at the current time lacks the last commit"
        assert db.admin.correct_clock() in {0, notice}, "the log says the same twice"

    def follow(self, db: EmbeddedDatabase, path: Any, tables: tuple[str, ...] | None) -> None:
        """Check that the follower was never ahead of the log, reaches its end, and is equal."""
        with SqliteSink(path) as sink:
            Follower(db, sink, tables=tables).run(bounded=True)
            different = verify(db, sink)
            assert not different, different


def _value(found: list[Any] | None) -> Value | None:
    return None if found is None else Value(*found)
