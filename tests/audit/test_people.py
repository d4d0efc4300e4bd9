"""Copies of a log with sealed rows contain no keys, and never restore a forgotten person."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.audit import archive, backup, restore, verify_backup
from everlog.audit.manifest import needed
from everlog.audit.place import place
from everlog.audit.reader import Reader
from everlog.store.database import Database
from everlog.store.errors import SealedError
from tests.store.people import PATIENTS, VISITS, bytes_of, open_people, patient, visit

SECRET = "Wilhelmina-the-patient"


@pytest.fixture
def clinic(path: Path) -> Database:
    """Return a database with Ann and Bob, of whom Ann is forgotten with record 6."""
    db = open_people(path)
    db.put(PATIENTS, patient(1, "s-1", email="ann@x", name=SECRET), actor="web")
    db.put(PATIENTS, patient(2, "s-2", email="bob@x", name=SECRET))
    db.put(VISITS, visit(7, "s-1", SECRET))
    db.people.forget(PATIENTS, 1, actor="dpo")
    db.put(PATIENTS, patient(3, "s-3", name=SECRET))
    return db


def unpacked(where: Path) -> bytes:
    """Return all records of a backup or an archive, and the raw bytes of its files."""
    found = place(where)
    reader = Reader(found, needed(found))
    last = reader.manifest.head.seq
    return b"".join(block.data for block in reader.blocks(0, last)) + bytes_of(where)


def keys_of(db: Database) -> list[bytes]:
    """Return the keys of people, open and as stored in the key store."""
    vault = db.tables.vault
    assert vault is not None
    raw = (db.path / "KEYS").read_bytes()
    stored = [raw[at + 60 : at + 120] for at in range(4096, len(raw), 128) if raw[at]]
    ids = {change.key_id for seq in range(3, db.head + 1) for change in db.log.commit(seq).changes}
    return stored + [key for id_ in ids if id_ and (key := vault.key(id_))]


def test_a_backup_holds_no_key_and_nothing_of_a_row(clinic: Database, to: Path) -> None:
    with clinic as db:
        backup(db, to, hashes=True)
        everything, keys = unpacked(to), keys_of(db)
        assert len(keys) == 3 + 2
        assert not any(key in everything for key in keys)
        assert SECRET.encode() not in everything
        assert list(verify_backup(to, deep=True)) == []


def test_what_is_restored_without_keys_is_sealed_and_opens_with_them(clinic: Database, to: Path) -> None:
    with clinic as db:
        backup(db, to, hashes=True)
        live, sealed = db.admin.hashes(), db.admin.hashes(sealed=True)
    copy = to.with_name("copy")
    done = restore(to, copy)
    assert (done.proven, done.tables) == (True, sealed)
    with open_people(copy) as db:
        with pytest.raises(SealedError, match="KEYS is missing; restore the file") as caught:
            db.get(PATIENTS, 2)
        assert not caught.value.erased
        first = [next(iter(db.history(PATIENTS, key, newest_first=False))) for key in (1, 2)]
        assert [(one.erased, one.sealed, one.actor) for one in first] == [
            (True, False, "web"), (False, True, ""),
        ]  # fmt: skip
    (copy / "KEYS").write_bytes((clinic.path / "KEYS").read_bytes())
    with open_people(copy) as db:
        assert db.admin.hashes() == live
        assert [row.id for row in db.scan(PATIENTS.by_email, "bob@x")] == [2]
        assert list(db.admin.check()) == []


def test_keys_of_before_do_not_bring_back_who_was_forgotten(clinic: Database, to: Path) -> None:
    with open_people(to.with_name("other")) as other:
        other.put(PATIENTS, patient(1, "s-1", name=SECRET))
        old = (other.path / "KEYS").read_bytes()
        gone = other.log.commit(3).changes[0].key_id
        other.people.forget(PATIENTS, 1)
        backup(other, to)
    copy = to.with_name("copy")
    restore(to, copy)
    (copy / "KEYS").write_bytes(old)
    with open_people(copy) as db:
        assert gone not in (copy / "KEYS").read_bytes()
        assert [one.erased for one in db.history(PATIENTS, 1)] == [False, True]
    clinic.close()


def test_a_database_that_went_back_to_before_has_rows_that_nobody_opens(clinic: Database, to: Path) -> None:
    with clinic as db:
        backup(db, to)
    copy = to.with_name("copy")
    restore(to, copy, at=5)
    (copy / "KEYS").write_bytes((clinic.path / "KEYS").read_bytes())
    with open_people(copy) as db:
        with pytest.raises(SealedError, match="the log does not say that it was forgotten"):
            db.get(PATIENTS, 1)
        assert db.get(PATIENTS, 2) == patient(2, "s-2", email="bob@x", name=SECRET)
        assert db.people.forget(PATIENTS, 1).rows == 2
        assert [row.id for row in db.scan(PATIENTS)] == [2]
        assert list(db.admin.check()) == []


def test_an_archive_holds_no_key_and_its_versions_read_as_erased(clinic: Database, to: Path) -> None:
    with clinic as db:
        before = [list(db.history(PATIENTS, key)) for key in (1, 2)]
        archive(db, to, keep_records=1)
        everything = unpacked(to)
        assert not any(key in everything for key in keys_of(db))
        assert SECRET.encode() not in everything
        db.past.forget()
        assert [list(db.history(PATIENTS, key)) for key in (1, 2)] == before
        assert [one.erased for one in before[0]] == [False, True]
        assert db.people.forget(PATIENTS, 2).rows == 1
        assert [one.erased for one in db.history(PATIENTS, 2)] == [False, True]
        assert db.at(seq=5).get(PATIENTS, 1) is None
        assert list(db.admin.check()) == []


def test_a_fork_whose_log_was_trimmed_still_takes_the_keys_of_its_origin(clinic: Database, to: Path) -> None:
    with clinic as db:
        backup(db, to)
        head = db.head
    copy = to.with_name("copy")
    restore(to, copy, fork=True)
    (copy / "KEYS").write_bytes((clinic.path / "KEYS").read_bytes())
    with open_people(copy) as db:
        db.put(PATIENTS, patient(4, "s-2", name=SECRET))
        assert archive(db, to.with_name("archive"), keep_records=1).base == head
    to.with_name("archive").rename(to.with_name("away"))
    for read_only in (True, False):
        with open_people(copy, read_only=read_only) as db:
            assert [row.name for row in db.scan(PATIENTS)] == [SECRET] * 3
