"""Readers beside a writing process, while a person is forgotten or added."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from everlog.store import opening
from everlog.store.crypto.vault import Vault
from everlog.store.database import Database
from everlog.store.errors import RowError
from tests.store.people import MASTER, PATIENTS, open_people, patient


def changed(db: Database) -> None:
    db.people.forget(PATIENTS, 1)
    db.put(PATIENTS, patient(3, "s-3", name="Cyd"))


def before(db: Database) -> Callable[..., Vault]:
    """Forget a person after the log was read, and before the key store is read."""

    def made(*args: Any, **more: Any) -> Vault:
        changed(db)
        return Vault(*args, **more)

    return made


def after(db: Database) -> Callable[..., Vault]:
    """Do the same after the key store was read."""

    def made(*args: Any, **more: Any) -> Vault:
        vault = Vault(*args, **more)
        changed(db)
        return vault

    return made


def later(db: Database) -> Callable[..., Vault]:
    """Do the same after the log was read again, and before the key store is read again."""

    class Later(Vault):
        def refresh(self, gone: Iterable[bytes] = ()) -> None:
            if db.get(PATIENTS, 1) is not None:
                changed(db)
            super().refresh(gone)

    return Later


@pytest.mark.parametrize(("when", "there"), [(before, {2, 3}), (after, {2, 3}), (later, {1, 2})])
def test_every_row_that_it_sees_opens_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, when: Any, there: set[int]
) -> None:
    with open_people(path) as db:
        for number in (1, 2):
            db.put(PATIENTS, patient(number, f"s-{number}", name=str(number)))
        db.tables.flush()
        db.engine.flush()
        with monkeypatch.context() as patched:
            patched.setattr(opening, "Vault", when(db))
            reader = Database(path, read_only=True, master_key=MASTER)
        with reader:
            assert {row.id for row in reader.scan(PATIENTS)} == there
            assert list(reader.admin.check()) == []
            reader.refresh()
            assert {row.id for row in reader.scan(PATIENTS)} == {2, 3}
            assert list(reader.admin.check()) == []


def test_a_reader_looks_up_before_the_first_row_is_sealed(path: Path) -> None:
    with open_people(path) as db, Database(path, read_only=True, master_key=MASTER) as reader:
        for look in (reader, reader.snapshot()):
            assert list(look.scan(PATIENTS.by_email, "a@x")) == []
            assert look.count(PATIENTS.by_email, "a@x") == 0
        db.put(PATIENTS, patient(1, "s-1", name="Ann", email="a@x"))
        reader.refresh()
        assert [row.name for row in reader.scan(PATIENTS.by_email, "a@x")] == ["Ann"]


def test_a_refused_forget_creates_no_key_store(path: Path) -> None:
    with open_people(path) as db:
        with pytest.raises(RowError):
            db.people.forget(PATIENTS, 1)
        with pytest.raises(RowError):
            db.people.forget(PATIENTS, person="s")
        assert not (path / "KEYS").exists()
