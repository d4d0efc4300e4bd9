"""A process that commits until it is killed, and prints each acknowledged commit.

    python -m tests.crash.writer PATH MODE FIRST        prints a number for each commit that returned

Each transaction writes two rows with the same text: both are there, or neither.
"""

from __future__ import annotations

import sys
import threading
from itertools import count
from pathlib import Path

from everlog.store.database import Database
from tests.store.models import ITEMS, Item, items

THREADS = 8
PAIR = 1 << 32


def commit(db: Database, number: int, durability: str) -> None:
    with db.transaction(durability=durability) as tx:
        tx.insert(ITEMS, Item(id=number, text=f"pair {number}"))
        tx.insert(ITEMS, Item(id=number + PAIR, text=f"pair {number}"))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main(path: Path, mode: str, first: int) -> None:
    db = Database(path)
    say(-1)
    numbers = count(first)
    if mode == "load":
        for number in numbers:
            db.load(ITEMS, items(number * 10_000, number * 10_000 + 2999), id=f"load {number}")
            say(number)
    durability = "os" if mode == "os" else "sync"

    def work() -> None:
        for number in numbers:
            commit(db, number, durability)
            say(number)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS if mode == "threads" else 1)]
    for thread in threads:
        thread.start()
    while mode == "rebuild":
        db.admin.rebuild()
    threads[0].join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
