"""Transactions: random ones, each written to the journal with its reads before it commits.

Some move an amount between two rows, some read a range by key or by index and write the result, some insert
or update with preconditions; some have a commit_id, and are sent twice.
"""

from __future__ import annotations

import random
import time
from typing import Any

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import ClosedError, ConflictError, DiskError, PreconditionError, SchemaError
from everlog.store.tx.transaction import Transaction, new_commit_id
from tests.crash import disk
from tests.crash.folders import FIRST, NEWEST, Folders, Value, Way
from tests.crash.journal import Journal

KEYS = 120
PAUSE_S = 0.01  # seconds after a refusal of the disk, which keep the journal short
WORDS = ("red", "green", "blue")
REFUSALS = (ConflictError, PreconditionError, SchemaError)


def ended(error: Exception) -> bool:
    """Return whether the error means that the files are gone, and that writing has ended."""
    return "Nothing more is written" in str(error)


class Transactions:
    """One writer. `name` is the prefix of its operations' names."""

    def __init__(
        self, db: EmbeddedDatabase | RemoteDatabase, folders: Folders, journal: Journal, name: str, seed: int
    ) -> None:
        self.db, self.folders, self.journal, self.name = db, folders, journal, name
        self.random = random.Random(f"{seed} {name}")

    def run(self) -> None:
        for number in range(1 << 30):
            way = self._way()
            self.one(f"{self.name}.{number}", way)

    def _way(self) -> Way:
        """Return the version in force, or another one that is also served."""
        version = self.db.schema.version
        if self.random.random() < 0.1:
            version += self.random.choice((-1, 1))
        return self.folders.ways[min(max(version, FIRST), NEWEST)]

    def one(self, name: str, way: Way) -> None:
        chance = self.random
        commit_id = new_commit_id() if chance.random() < 0.2 else b""
        metadata: dict[str, Any] = {
            "correlation_id": name,
            "commit_id": commit_id,
            "durability": chance.choice(("sync", "os")),
        }
        told: dict[str, Any] = {"reads": {}, "ranges": [], "writes": {}, "insert": [], "update": []}
        try:
            with self.db.transaction(**metadata) as tx:
                self._fill(tx, way, told)
                self.journal.say(op=name, durability=metadata["durability"], id=commit_id.hex(), **told)
                result = tx.commit()
            if not tx.writes:
                return
            if not result.seq:  # it only deleted missing rows, so the log has no record of it
                assert result.missing == len(told["writes"])
                self.journal.say(no=name)
                return
            self.journal.say(yes=name, seq=result.seq)
            if commit_id and chance.random() < 0.5 and not told["reads"] and not told["ranges"]:
                self._again(tx, metadata, result.seq)
        except REFUSALS:
            self.journal.say(no=name)
        except DiskError as error:
            if error.outcome == "nothing written":
                self.journal.say(no=name)
            if ended(error):
                raise
            if error.outcome != "nothing written" and not (disk.is_filling() or error.facts.get("full")):
                raise
            self.journal.say(disk=str(error))  # the disk has space again later
            time.sleep(PAUSE_S)
        except ClosedError:
            if isinstance(self.db, RemoteDatabase):
                raise

    def _again(self, first: Transaction, metadata: dict[str, Any], seq: int) -> None:
        """Commit the same transaction again, as if its response was lost."""
        try:
            with self.db.transaction(**metadata) as tx:
                tx.writes.update(first.writes)
                again = tx.commit()
        except (*REFUSALS, DiskError):
            return  # the schema and so the bytes have changed meanwhile, or the disk has failed
        assert again.seq == seq, f"committed twice: {seq} and {again.seq}"

    def _fill(self, tx: Transaction, way: Way, told: dict[str, Any]) -> None:
        chance = self.random
        kind = chance.random()
        if kind < 0.35:
            one, other = chance.sample(range(KEYS), 2)
            mine, theirs = self._read(tx, way, one, told), self._read(tx, way, other, told)
            amount = chance.randrange(10)
            self._put(tx, way, one, Value(self._text(), (mine.n if mine else 0) - amount), told)
            self._put(tx, way, other, Value(self._text(), (theirs.n if theirs else 0) + amount), told)
        elif kind < 0.55:
            start = chance.randrange(KEYS)
            end = start + chance.randrange(1, 30)
            found = [way.read(row) for row in tx.scan(way.table, start=way.key(start), end=way.key(end))]
            told["ranges"].append(["key", start, end, [number for number, _ in found]])
            self._put(tx, way, chance.randrange(KEYS), Value(self._text(), len(found)), told)
        elif kind < 0.65:
            start = chance.randrange(-20, 20)
            end = start + chance.randrange(1, 10)
            found = [way.read(row) for row in tx.scan(way.table.by_n, start=start, end=end, limit=5000)]
            told["ranges"].append(["n", start, end, [number for number, _ in found]])
            self._put(tx, way, chance.randrange(KEYS), Value(self._text(), len(found)), told)
        else:
            for _ in range(chance.randrange(1, 6)):
                self._write(tx, way, chance.randrange(KEYS), told)

    def _write(self, tx: Transaction, way: Way, number: int, told: dict[str, Any]) -> None:
        kind = self.random.choice(("put", "put", "insert", "update", "delete"))
        if str(number) in told["writes"]:
            return
        if kind == "delete":
            tx.delete(way.table, way.key(number))
            told["writes"][str(number)] = None
            return
        value = Value(self._text(), self.random.randrange(-50, 50))
        getattr(tx, kind)(way.table, way.row(number, value))
        told["writes"][str(number)] = value
        if kind != "put":
            told[kind].append(number)

    def _read(self, tx: Transaction, way: Way, number: int, told: dict[str, Any]) -> Value | None:
        row = tx.get(way.table, way.key(number))
        value = None if row is None else way.read(row)[1]
        told["reads"][str(number)] = value
        return value

    @staticmethod
    def _put(tx: Transaction, way: Way, number: int, value: Value, told: dict[str, Any]) -> None:
        tx.put(way.table, way.row(number, value))
        told["writes"][str(number)] = value

    def _text(self) -> str:
        return f"{self.random.choice(WORDS)} {'x' * self.random.randrange(60)}{self.random.randrange(100)}"
