"""People who are added, changed, removed, forgotten and added again, against a dict: no other person is
affected.

In addition to the current rows, the dict has every version of each row, and its person. Versions that were
written before that person was last forgotten are erased, and all others are unchanged.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from everlog.consumers import Follower, SqliteSink, verify
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.errors import RowError, SealedError
from tests.model.test_random_histories import seeds
from tests.store.models import ITEMS, declare
from tests.store.people import MASTER, OTHER_MASTER, PATIENTS, VISITS, bytes_of, patient, visit

STEPS, PEOPLE, ROWS = 150, 6, 12


class Written(NamedTuple):
    """A version of a row: its content, person and commit; `row` None: it was deleted."""

    row: Any
    person: str
    seq: int


class Clinic:
    """A database and its dict."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path, self.chance, self.number = path, chance, 0
        self.masters = [MASTER, OTHER_MASTER]
        self.versions: dict[tuple[str, int], list[Written]] = {}
        self.forgotten: dict[str, int] = {}  # the last time, by person
        self.db = self.open()
        declare(self.db, PATIENTS, VISITS, ITEMS)

    def open(self) -> EmbeddedDatabase:
        return EmbeddedDatabase(self.path, master_key=self.masters[0])

    def step(self) -> None:
        chance = self.chance
        number, person = chance.randrange(ROWS), f"s-{chance.randrange(PEOPLE)}"
        kind, table = chance.random(), chance.choice((PATIENTS, VISITS))
        if kind < 0.6:
            self.put(table, number, person)
        elif kind < 0.7:
            self.delete(table, number)
        elif kind < 0.85:
            self.forget(table, number, person)
        elif kind < 0.9:
            if not (self.db.path / "KEYS").exists():  # nothing was sealed or looked up yet
                with pytest.raises(SealedError, match="no key store"):
                    self.db.people.rotate_key(self.masters[1])
                return
            self.db.people.rotate_key(self.masters[1])
            self.masters.reverse()
        elif kind < 0.95:
            self.db.close()
            self.db = self.open()
        else:
            assert self.db.admin.rebuild() == self.db.admin.hashes()

    def put(self, table: Any, number: int, person: str) -> None:
        self.number += 1
        text = f"secret-{self.number:06}-of-{person}"
        row: Any = visit(number, person, text)
        if table is PATIENTS:
            row = patient(number, person, name=text, email=f"{number}@x")
        seq = self.db.put(table, row).seq
        self.versions.setdefault((table.name, number), []).append(Written(row, person, seq))

    def delete(self, table: Any, number: int) -> None:
        seq = self.db.delete(table, number).seq
        if self.now(table, number) is not None:
            self.versions[table.name, number].append(Written(None, "", seq))

    def forget(self, table: Any, number: int, person: str) -> None:
        by_row = self.chance.random() < 0.5
        row = self.now(table, number)
        try:
            seq = (
                self.db.people.forget(table, number)
                if by_row
                else self.db.people.forget(table, person=person)
            ).seq
        except RowError:
            assert row is None if by_row else not self.has_key(person)
            return
        person = row.subject if by_row else person
        self.forgotten[person] = seq
        for versions in self.versions.values():
            if versions[-1].row is not None and versions[-1].person == person:
                versions.append(Written(None, "", seq))

    def now(self, table: Any, number: int) -> Any:
        versions = self.versions.get((table.name, number))
        return versions[-1].row if versions else None

    def has_key(self, person: str) -> bool:
        since = self.forgotten.get(person, 0)
        return any(one.person == person and one.seq > since for of in self.versions.values() for one in of)

    def is_erased(self, one: Written) -> bool:
        return one.row is not None and one.seq < self.forgotten.get(one.person, 0)

    def compare(self, db: Database) -> None:
        for table in (PATIENTS, VISITS):
            rows = [self.now(table, number) for number in range(ROWS)]
            assert list(db.scan(table)) == [row for row in rows if row is not None]
            for number in range(ROWS):
                expected = [
                    (one.seq, None if self.is_erased(one) else one.row, self.is_erased(one), False)
                    for one in self.versions.get((table.name, number), [])
                ]
                found = db.history(table, number, newest_first=False)
                assert [(one.seq, one.row, one.erased, one.sealed) for one in found] == expected
        for number in range(ROWS):
            row = self.now(PATIENTS, number)
            assert list(db.scan(PATIENTS.by_email, f"{number}@x")) == ([row] if row is not None else [])
        assert list(db.admin.check()) == []


def test_nobody_else_is_touched_by_who_is_forgotten(tmp_path: Path) -> None:
    for seed in seeds(1, 2):
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
        folder = tmp_path / str(seed)
        folder.mkdir()
        try_one(folder, random.Random(seed))


def try_one(folder: Path, chance: random.Random) -> None:
    clinic = Clinic(folder / "clinic", chance)
    with SqliteSink(folder / "mirror.db") as sink:
        for number in range(STEPS):
            clinic.step()
            if not number % 40:
                Follower(clinic.db, sink).run(bounded=True)
                clinic.compare(clinic.db)
        Follower(clinic.db, sink).run(bounded=True)
        assert verify(clinic.db, sink) == []
    clinic.compare(clinic.db)
    clinic.db.close()
    everything = bytes_of(folder)
    for versions in clinic.versions.values():
        for one in versions:
            if one.row is not None and one is not versions[-1]:
                text = one.row.name if hasattr(one.row, "name") else one.row.note
                assert text.encode() not in everything, text
