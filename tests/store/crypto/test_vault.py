"""The key store: with its keys rows are readable; without them there is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.store.crypto.master_key import LocalMaster
from everlog.store.crypto.vault import Vault
from everlog.store.errors import DiskError, OpenError, SealedError
from tests.store.models import ITEMS, Item
from tests.store.people import (
    MASTER,
    OTHER_MASTER,
    PATIENTS,
    open_people,
    patient,
)
from tests.store.schema.test_sealing import filled


def test_without_the_master_key_the_other_tables_work(path: Path) -> None:
    with filled(path) as db:
        db.put(ITEMS, Item(id=1, text="open"))
    with open_people(path, master_key=None) as db:
        assert db.get(ITEMS, 1) == Item(id=1, text="open")
        db.put(ITEMS, Item(id=2))
        for refused in (
            lambda: db.get(PATIENTS, 1),
            lambda: list(db.scan(PATIENTS)),
            lambda: list(db.scan(PATIENTS.by_email, "ann@x")),
            lambda: db.count(PATIENTS.by_id),
            lambda: db.put(PATIENTS, patient(3, "s-3")),
            lambda: db.delete(PATIENTS, 1),
            lambda: db.people.forget(PATIENTS, 1),
        ):
            with pytest.raises(SealedError, match="no master key was given") as caught:
                refused()
            assert not caught.value.erased
        assert any("was not checked" in problem for problem in db.admin.check())
    with open_people(path) as db:
        assert db.count(PATIENTS) == 2
        assert list(db.admin.check()) == []


def test_a_wrong_master_key_is_told_at_opening(path: Path) -> None:
    filled(path).close()
    with pytest.raises(OpenError, match="these keys are under another master key"):
        open_people(path, master_key=OTHER_MASTER)
    with pytest.raises(OpenError, match="expected 32 bytes, found 3"):
        open_people(path, master_key=b"abc")


def test_the_master_key_is_read_of_a_file_and_of_the_environment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path).close()
    file = tmp_path / "master"
    file.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
    with open_people(path, master_key=file) as db:
        assert db.count(PATIENTS) == 2
    monkeypatch.setenv("EVERLOG_MASTER_KEY_FILE", str(file))
    with open_people(path, master_key=None) as db:
        assert db.count(PATIENTS) == 2
    monkeypatch.setenv("EVERLOG_MASTER_KEY", file.read_text())
    with open_people(path, master_key=None) as db:
        assert db.count(PATIENTS) == 2


def test_keys_that_are_gone_are_missed_and_not_made_anew(path: Path) -> None:
    filled(path).close()
    kept = (path / "KEYS").rename(path.parent / "KEYS")
    with open_people(path) as db:
        with pytest.raises(SealedError, match="KEYS is missing"):
            db.get(PATIENTS, 1)
        with pytest.raises(SealedError, match="KEYS is missing"):
            db.put(PATIENTS, patient(1, "s-1"))
    kept.rename(path / "KEYS")
    with open_people(path) as db:
        assert db.count(PATIENTS) == 2


def test_a_reader_beside_the_writer_sees_new_people(path: Path) -> None:
    with filled(path) as db, open_people(path, read_only=True) as reader:
        db.put(PATIENTS, patient(3, "s-3", name="late"))
        db.tables.flush()
        reader.refresh()
        row = reader.get(PATIENTS, 3)
        assert row is not None
        assert row.name == "late"


def test_a_reader_whose_tables_come_later_keeps_a_key_until_they_have(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(path) as db, open_people(path, read_only=True) as reader:
        db.people.forget(PATIENTS, 1)
        with monkeypatch.context() as patch:  # it read the tables earlier, and reads the keys now
            patch.setattr(reader.engine, "catch_up", lambda **_: None)
            patch.setattr(reader.log, "reopen", lambda: None)
            reader.refresh()
            assert reader.get(PATIENTS, 1) is not None
        reader.refresh()
        assert reader.get(PATIENTS, 1) is None
        reader.refresh()
        vault = reader.tables.vault
        assert vault is not None
        assert not vault.has(db.log.commit(3).changes[0].key_id)


def test_a_key_is_on_disk_before_the_commit_that_uses_it(path: Path) -> None:
    with open_people(path) as db:
        with db.transaction() as tx:
            tx.put(PATIENTS, patient(1, "s-1"))
        read = Vault(path / "KEYS", db.uuid, None, read_only=True)
        assert read.has(db.log.commit(db.head).changes[0].key_id)
        read.close()


@settings(max_examples=50)
@given(row=st.binary(max_size=300), key=st.binary(max_size=20), person=st.binary(min_size=1, max_size=20))
def test_what_is_sealed_opens_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, row: bytes, key: bytes, person: bytes
) -> None:
    where = tmp_path_factory.mktemp("vault") / "KEYS"
    vault = Vault(where, bytes(16), LocalMaster(MASTER), read_only=False)
    key_id = vault.key_of(person)
    sealed = vault.seal(key_id, key, row)
    assert vault.key_of(person) == key_id
    vault.close()
    again = Vault(where, bytes(16), LocalMaster(MASTER), read_only=True)
    assert again.open(key_id, key, sealed) == row
    assert again.find(person) == key_id
    again.close()


def test_a_key_that_the_disk_refuses_is_shown_until_one_is_accepted(path: Path) -> None:
    with filled(path) as db:
        assert db.core.vault.file is not None
        descriptor = db.core.vault.file._file  # noqa: SLF001  only the key store is on a full disk
        kept, full = os.dup(descriptor), os.open("/dev/full", os.O_RDWR)
        os.dup2(full, descriptor)
        for number in (7, 8):
            with pytest.raises(DiskError, match=r"KEYS: the disk is full; nothing was written\. Free"):
                db.put(PATIENTS, patient(number, f"s-{number}"))
        [said] = db.admin.status().warnings
        assert "key of a new person was refused" in said
        assert "the disk is full" in said
        db.put(ITEMS, Item(id=1))
        os.dup2(kept, descriptor)
        for one in (kept, full):
            os.close(one)
        db.put(PATIENTS, patient(9, "s-9"))
        assert db.admin.status().warnings == []
        assert list(db.admin.check()) == []
