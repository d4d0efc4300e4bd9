"""Rotation of the master key: while others work, and resumed after a kill at any point."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from everlog.store.crypto import vault
from everlog.store.crypto.master_key import LocalMaster
from everlog.store.database import Database
from everlog.store.errors import DiskError, OpenError, SealedError
from tests.store.people import MASTER, OTHER_MASTER, PATIENTS, open_people, patient


def test_after_a_rotation_the_new_master_key_opens_and_the_old_does_not(path: Path) -> None:
    with open_people(path) as db:
        db.load(PATIENTS, [patient(n, f"s-{n}") for n in range(1, 600)])
        before = (path / "KEYS").read_bytes()
        assert db.people.rotate_key(OTHER_MASTER) == 600
        after = (path / "KEYS").read_bytes()
        assert not {before[at + 60 : at + 120] for at in range(4096, len(before), 128)} & {
            after[at + 60 : at + 120] for at in range(4096, len(after), 128)
        }
        db.put(PATIENTS, patient(1000, "s-1000"))
        assert db.count(PATIENTS) == 600
    with open_people(path, master_key=OTHER_MASTER) as db:
        assert len(list(db.scan(PATIENTS))) == 600
        assert list(db.admin.check()) == []
        assert db.people.rotate_key(MASTER) == 601
    with pytest.raises(OpenError, match="these keys are under another master key"):
        open_people(path, master_key=OTHER_MASTER)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_that_was_killed_is_gone_on_with(path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "EACH", 100)
    with open_people(path) as db:
        db.load(PATIENTS, [patient(n, f"s-{n}") for n in range(1, 400)])
        assert db.tables.vault is not None
        half = vault.rotate(db.tables.vault, LocalMaster(OTHER_MASTER), lambda _: None)
        assert len(list(islice(half, steps))) == steps
        db.put(PATIENTS, patient(1000, "s-1000"))
        db.people.forget(PATIENTS, 300)
    with open_people(path) as db:
        assert len(list(db.scan(PATIENTS))) == 399
        db.put(PATIENTS, patient(1001, "s-1001"))
        db.people.rotate_key(OTHER_MASTER)
    with open_people(path, master_key=OTHER_MASTER) as db:
        assert len(list(db.scan(PATIENTS))) == 400


def rotations(db: Database) -> list[tuple[int, str, str, bytes]]:
    """Return seq, actor, reason and detail of each rotation in the log."""
    commits = [db.log.commit(seq) for seq in range(1, db.head + 1)]
    return [
        (one.seq, one.actor, one.reason, one.notice.detail)
        for one in commits
        if one.notice.kind == vault.ROTATED
    ]


def test_the_log_says_who_changed_the_master_key_and_why(path: Path) -> None:
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1"))
        head = db.head
        db.people.rotate_key(OTHER_MASTER, actor="ann", reason="once a year")
        db.people.rotate_key(OTHER_MASTER, actor="bob")  # which does nothing
        assert db.tables.vault is not None
        assert db.tables.vault.file is not None
        (in_use,) = db.tables.vault.file.wrapped_keys().values()
        assert rotations(db) == [(head + 1, "ann", "once a year", in_use.id)]


def test_nothing_is_under_another_master_key_that_the_log_could_not_be_told_of(path: Path) -> None:
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1"))
        assert db.tables.vault is not None

        def refuse(_: bytes) -> None:
            raise DiskError("full", outcome="nothing written")

        with pytest.raises(DiskError):
            list(vault.rotate(db.tables.vault, LocalMaster(OTHER_MASTER), refuse))
        assert rotations(db) == []
    with open_people(path) as db:
        assert db.get(PATIENTS, 1) is not None
        db.people.rotate_key(OTHER_MASTER, actor="ann")
        assert [who for _, who, *_ in rotations(db)] == ["ann"]


def test_the_master_key_may_be_in_a_service(path: Path) -> None:
    class Service:
        """Stands for a key management service, which stores what it wraps under a name."""

        def __init__(self) -> None:
            self.kept: dict[bytes, bytes] = {}

        def wrap(self, key: bytes) -> bytes:
            name = b"key-%d" % len(self.kept)
            self.kept[name] = key
            return name

        def unwrap(self, wrapped: bytes) -> bytes | None:
            return self.kept.get(wrapped)

    service = Service()
    with open_people(path, master_key=service) as db:
        db.put(PATIENTS, patient(1, "s-1"))
    with open_people(path, master_key=service) as db:
        assert db.get(PATIENTS, 1) == patient(1, "s-1")
    with pytest.raises(OpenError, match="these keys are under another master key"):
        open_people(path, master_key=Service())


def test_without_keys_there_is_nothing_to_rotate(path: Path) -> None:
    with open_people(path) as db, pytest.raises(SealedError, match="there is no key store"):
        db.people.rotate_key(OTHER_MASTER)
