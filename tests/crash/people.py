"""People: the rows of the campaign that disappear: sealed rows, whose person is forgotten, and rows that
expire.

    people/12  sealed     visits/7  sealed, expires after two seconds     codes/3  expires after two seconds

The tables belong to a separate first folder, and no migration changes them. The journal has the content, the
person and the expiry of a row before the commit; `ends.py` compares.
"""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import ClosedError, DiskError
from everlog.store.schema.table import Table
from everlog.store.tx.transaction import Transaction, new_commit_id
from tests.crash import disk
from tests.crash.folders import PEOPLE, Folders
from tests.crash.journal import Journal
from tests.crash.transactions import REFUSALS

IDS, SUBJECTS = 40, 12
LONG_NS = 3600 * 10**9  # such a row does not expire during the campaign
BY_TABLE = -1  # expires as its table declares
PAUSE_S = 0.005


class Row(NamedTuple):
    """The person of a row, its text, and its expiry in nanoseconds; 0: never."""

    subject: str
    text: str
    end: int


def message(table: Table[Any, Any], number: int, row: Row) -> Any:
    subject = {"subject": row.subject} if table.person else {}
    return table.model(id=number, text=row.text, **subject)


def read(message: Any) -> tuple[int, str, str]:
    """Return number, subject and text."""
    return message.id, getattr(message, "subject", ""), message.text


class People:
    """One more writer. `name` is the prefix of its operations' names."""

    def __init__(
        self, db: EmbeddedDatabase, folders: Folders, journal: Journal, name: str, seed: int
    ) -> None:
        self.db, self.journal, self.name = db, journal, name
        self.tables = folders.people
        self.random = random.Random(f"{seed} {name}")

    def run(self) -> None:
        for number in range(1 << 30):
            self.one(f"{self.name}.{number}")
            time.sleep(PAUSE_S)  # it leaves most of the machine to the others

    def one(self, name: str) -> None:
        chance = self.random
        commit_id = new_commit_id() if chance.random() < 0.2 else b""
        durability = chance.choice(("sync", "os"))
        told: dict[str, Any] = {"seen": {}, "rows": {}, "id": commit_id.hex(), "durability": durability}
        try:
            with self.db.transaction(correlation_id=name, commit_id=commit_id, durability=durability) as tx:
                for _ in range(chance.randrange(1, 5)):
                    self._step(tx, told)
                self.journal.say(op=name, **told)
                result = tx.commit()
            if tx.writes and not result.seq:  # it only deleted missing rows
                self.journal.say(no=name)
            elif tx.writes:
                self.journal.say(yes=name, seq=result.seq)
        except REFUSALS:
            self.journal.say(no=name)
        except DiskError as error:
            if error.outcome == "nothing written":
                self.journal.say(no=name)
            if (error.outcome != "nothing written" and not disk.is_filling()) or "closed" in str(error):
                raise
        except ClosedError:
            return

    def _step(self, tx: Transaction, told: dict[str, Any]) -> None:
        chance = self.random
        table = self.tables[chance.choice(PEOPLE)]
        number = chance.randrange(IDS)
        name, kind = f"{table.name}/{number}", chance.random()
        if name in told["rows"] or name in told["seen"]:
            return
        if kind < 0.2:
            found = tx.get(table, number)
            told["seen"][name] = None if found is None else read(found)[1:]
        elif kind < 0.3:
            tx.delete(table, number)
            told["rows"][name] = None
        else:
            brief_ns = int(chance.uniform(-0.5, 3) * 1e9)
            end = chance.choice((BY_TABLE, 0, time.time_ns() + brief_ns, time.time_ns() + LONG_NS))
            subject = f"s-{chance.randrange(SUBJECTS)}" if table.person else ""
            row = Row(subject, f"{chance.choice('abc')}{'x' * chance.randrange(60)}", end)
            tx.put(table, message(table, number, row), expires=None if end == BY_TABLE else end)
            told["rows"][name] = row
