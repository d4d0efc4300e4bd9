"""Histories of concurrent transactions, local and over a server, are strictly serializable: they have no
cycle.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import ConflictError
from everlog.store.tx.transaction import Transaction
from tests.model.elle import anomalies
from tests.model.history import Lists, Op, Registers, Txn, range_read
from tests.model.test_random_histories import seeds
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare

KEYS = 8
LOCAL, REMOTE, TXNS = 3, 2, 60
OVERLAP = 3  # transactions of one thread that are open at once


@dataclass
class Opened:
    """An open transaction, and the number of its remaining steps."""

    name: str
    tx: Transaction
    left: int
    ops: list[Op] = field(default_factory=list)
    began: int = field(default_factory=time.monotonic_ns)


class Recorder:
    """Threads that work on one database, each through a different interface."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.history: list[Txn] = []
        self.values = count(1)
        self.failed: list[BaseException] = []

    def work(self, db: EmbeddedDatabase | RemoteDatabase, number: int) -> None:
        """Run transactions, some of which are open at once: each round continues one of them."""
        chance = random.Random(self.seed * 100 + number)
        opened: list[Opened] = []
        try:
            begun = 0
            while begun < TXNS or opened:
                if begun < TXNS and len(opened) < OVERLAP:
                    tx = db.transaction(durability=chance.choice(("sync", "os")))
                    opened.append(Opened(f"{number}.{begun}", tx, chance.randrange(1, 5)))
                    begun += 1
                one = chance.choice(opened)
                if (ok := self.go_on(one, chance)) is not None:
                    opened.remove(one)
                    ended = time.monotonic_ns()
                    self.history.append(Txn(one.name, tuple(one.ops), ok, one.began, ended))
        except BaseException as error:  # noqa: BLE001  it would end the thread silently
            self.failed.append(error)

    def go_on(self, one: Opened, chance: random.Random) -> bool | None:
        """Run the next step of a transaction, or commit it: then return whether it was acknowledged."""
        try:
            if one.left:
                one.left -= 1
                one.ops += self.step(one.tx, chance)
                return None
            one.tx.commit()
        except ConflictError:
            return False
        return True

    def step(self, tx: Transaction, chance: random.Random) -> Iterator[Op]:
        key, kind = chance.randrange(KEYS), chance.random()
        if kind < 0.35:
            row = tx.get(ITEMS, key)
            seen = values(row)
            yield Op("read", key, seen)
            value = next(self.values)
            tx.put(ITEMS, Item(id=key, text=",".join(map(str, [*seen, value]))))
            yield Op("append", key, value)
        elif kind < 0.5:
            yield Op("read", key, values(tx.get(ITEMS, key)))
        elif kind < 0.65:
            end = key + chance.randrange(1, 5)
            found = {row.id: values(row) for row in tx.scan(ITEMS, start=key, end=end)}
            yield from range_read(found, range(key, end))
        elif kind < 0.8:
            row = tx.get(AIRPORTS, f"R{key}")
            yield Op("read", f"R{key}", int(row.city) if row is not None else None)
        else:
            value = next(self.values)
            tx.put(AIRPORTS, airport(f"R{key}", str(value)))
            yield Op("write", f"R{key}", value)


def values(row: Any) -> list[int]:
    return [int(one) for one in row.text.split(",")] if row is not None else []


def of_lists(txn: Txn) -> Txn:
    return txn._replace(ops=tuple(op for op in txn.ops if isinstance(op.key, int)))


def of_registers(txn: Txn) -> Txn:
    return txn._replace(ops=tuple(op for op in txn.ops if isinstance(op.key, str)))


def record(path: Path, seed: int) -> tuple[list[Txn], dict[int, list[int]]]:
    """Return a history, and the final lists."""
    recorder = Recorder(seed)
    with EmbeddedDatabase(path) as db:
        declare(db, ITEMS, AIRPORTS)
        with Server({"x": db}) as server:
            remotes = [RemoteDatabase(server.url("x")) for _ in range(REMOTE)]
            ways = [*remotes, *[db] * LOCAL]
            threads = [
                threading.Thread(target=recorder.work, args=(way, number)) for number, way in enumerate(ways)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for remote in remotes:
                remote.close()
        assert not recorder.failed, recorder.failed[0]
        return recorder.history, {row.id: values(row) for row in db.scan(ITEMS)}


@pytest.mark.timeout(0)
def test_histories_are_strictly_serializable(tmp_path: Path) -> None:
    for seed in seeds(1):
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure; scheduling differs
        history, final = record(tmp_path / f"{seed}-{os.getpid()}", seed)
        lists = Lists([of_lists(txn) for txn in history])
        assert anomalies(lists, Registers([of_registers(txn) for txn in history])) == []
        lists.lost(final)
        assert lists.anomalies == []
        assert {txn.ok for txn in history} == {True, False}
