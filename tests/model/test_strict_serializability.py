"""Histories of concurrent transactions, here and over a server, are strictly serializable: no cycle."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from everlog.feed.embedded import EmbeddedDatabase
from everlog.rpc.remote import RemoteDatabase
from everlog.rpc.server import Server
from everlog.store.errors import ConflictError
from everlog.store.transaction import Transaction
from tests.model.elle import anomalies
from tests.model.history import Lists, Op, Registers, Txn, range_read
from tests.model.test_random_histories import seeds
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare

KEYS = 8
LOCAL, REMOTE, TXNS = 3, 2, 40


class Recorder:
    """Threads that work on one database, each through a way of its own to it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.history: list[Txn] = []
        self.values = count(1)
        self.failed: list[BaseException] = []

    def work(self, db: EmbeddedDatabase | RemoteDatabase, number: int) -> None:
        chance = random.Random(self.seed * 100 + number)
        try:
            for at in range(TXNS):
                self.one(db, chance, f"{number}.{at}")
        except BaseException as error:  # noqa: BLE001  it would end the thread, unseen
            self.failed.append(error)

    def one(self, db: EmbeddedDatabase | RemoteDatabase, chance: random.Random, name: str) -> None:
        ops: list[Op] = []
        began, ok = time.monotonic_ns(), False
        with suppress(ConflictError), db.transaction(durability=chance.choice(("sync", "os"))) as tx:
            for _ in range(chance.randrange(1, 5)):
                ops += self.step(tx, chance)
            tx.commit()
            ok = True
        self.history.append(Txn(name, tuple(ops), ok, began, time.monotonic_ns()))

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
    """A history, and the lists as they are after it."""
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
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown where it fails; threads take turns as they like
        history, final = record(tmp_path / f"{seed}-{os.getpid()}", seed)
        lists = Lists([of_lists(txn) for txn in history])
        assert anomalies(lists, Registers([of_registers(txn) for txn in history])) == []
        lists.lost(final)
        assert lists.anomalies == []
        assert sum(txn.ok is True for txn in history) > TXNS
