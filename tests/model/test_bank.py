"""A bank: threads move money, and no observer ever sees money created or lost.

The reads of each thread determine its writes, so a lost update, a write skew or a phantom would change the
sum. Then the log is replayed, commit by commit.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.record import decode
from everlog.store.tx.transaction import Transaction
from tests.model.test_random_histories import seeds
from tests.store.models import AIRPORTS, ITEMS, Item, airport, open_flights

ACCOUNTS, EACH, THREADS, MOVES = 12, 1000, 5, 40


def move(tx: Transaction, chance: random.Random) -> None:
    """Move money between two accounts, or all of one into a new one, found by scan or by key."""
    kind = chance.random()
    if kind < 0.5:
        one, other = chance.sample(range(ACCOUNTS), 2)
        source, target = tx.get(ITEMS, one), tx.get(ITEMS, other)
        if source is None or target is None:
            return
        amount = chance.randint(0, max(0, source.n))
        source.n -= amount
        target.n += amount
        tx.put(ITEMS, source)
        tx.put(ITEMS, target)
    elif kind < 0.8:
        rows = list(tx.scan(ITEMS))
        richest = max(rows, key=lambda row: row.n)
        poorest = min(rows, key=lambda row: row.n)
        if richest.id != poorest.id:
            half = (richest.n - poorest.n) // 2
            richest.n -= half
            poorest.n += half
            tx.put(ITEMS, richest)
            tx.put(ITEMS, poorest)
    else:  # the account gets the next number after the last: two at once would take the same
        (last,) = tx.scan(ITEMS, reverse=True, limit=1)
        found = tx.get(ITEMS, chance.randrange(ACCOUNTS))
        if found is not None and found.id != last.id:
            tx.delete(ITEMS, found.id)
            tx.insert(ITEMS, Item(id=last.id + 1, n=found.n))
    tx.put(AIRPORTS, airport(f"A{chance.randrange(5)}", city=str(chance.random())))


def audit(reader: Any) -> None:
    rows = list(reader.scan(ITEMS))
    assert sum(row.n for row in rows) == ACCOUNTS * EACH
    assert len(rows) == ACCOUNTS


def play(db: Database) -> None:
    """Replay the log, commit by commit: every `prior` is correct, and the sum holds after each."""
    rows: dict[tuple[int, bytes], tuple[int, int]] = {}
    space = db.schema.table("items").space
    for seq, framed in db.log.scan():
        for change in decode(framed, seq).changes:
            at = (change.space, change.key)
            assert rows.get(at, (0, 0))[0] == change.prior
            if change.op:
                del rows[at]
            else:
                rows[at] = seq, Item.FromString(change.row).n if change.space == space else 0
        total = sum(n for (where, _), (_, n) in rows.items() if where == space)
        assert total in (0, ACCOUNTS * EACH)


@pytest.mark.timeout(0)
def test_nothing_is_made_or_lost(tmp_path: Path) -> None:
    for seed in seeds():
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure; scheduling differs
        with open_flights(tmp_path / str(seed), ITEMS, AIRPORTS) as db:
            run(db, seed)
            audit(db)
            play(db)
            db.admin.rebuild()
            assert list(db.admin.check()) == []
        with Database(tmp_path / str(seed)) as db:
            audit(db)


def run(db: Database, seed: int) -> None:
    with db.transaction() as tx:
        for number in range(ACCOUNTS):
            tx.put(ITEMS, Item(id=number, n=EACH))
    failed: list[BaseException] = []
    done = threading.Event()

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        try:
            for _ in range(MOVES):
                durability = chance.choice(("sync", "os"))
                db.run(lambda tx: move(tx, chance), retries=10_000, durability=durability)
        except BaseException as error:  # noqa: BLE001  it would end the thread silently
            failed.append(error)

    def look() -> None:
        try:
            while not done.is_set():
                with db.snapshot() as snapshot:
                    audit(snapshot)
                    audit(snapshot)
                audit(db)
        except BaseException as error:  # noqa: BLE001  as above
            failed.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    auditor = threading.Thread(target=look)
    for thread in (*workers, auditor):
        thread.start()
    db.admin.rebuild()
    for thread in workers:
        thread.join()
    done.set()
    auditor.join()
    if failed:
        raise failed[0]
