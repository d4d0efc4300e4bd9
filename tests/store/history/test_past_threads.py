"""Many threads read the past while others commit."""

from __future__ import annotations

import random
import threading

import pytest

from everlog.store.database import Database
from tests.store.models import ITEMS, Item

WRITES, READERS, ROWS = 250, 3, 7


@pytest.mark.long
def test_every_moment_is_the_same_to_all_who_ask_while_others_commit(db: Database) -> None:
    first = db.head + 1
    wrong: list[str] = []
    written = threading.Event()

    def expected(seq: int) -> dict[int, int]:
        done = seq - first
        return {id: max(n for n in range(done + 1) if n % ROWS == id) for id in range(min(ROWS, done + 1))}

    def read(seed: int) -> None:
        chance = random.Random(seed)
        while not written.is_set() or chance.random() < 0.9:
            newest = db.tables.applied
            if newest < first:
                continue
            seq = chance.choice((newest, chance.randint(first, newest)))
            moment = db.at(seq=seq)
            rows = {row.id: row.n for row in moment.scan(ITEMS, reverse=chance.random() < 0.5)}
            id = chance.randrange(ROWS)
            row = moment.get(ITEMS, id)
            versions = [version.seq for version in db.history(ITEMS, id, limit=3)]
            if rows != expected(seq) or (row and row.n) != expected(seq).get(id):
                wrong.append(f"at {seq}: {rows}, {row}")
            if versions != sorted(versions, reverse=True):
                wrong.append(f"history of {id}: {versions}")

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(READERS)]
    for reader in readers:
        reader.start()
    for n in range(WRITES):
        db.put(ITEMS, Item(id=n % ROWS, n=n))
    written.set()
    for reader in readers:
        reader.join()
    assert wrong == []
