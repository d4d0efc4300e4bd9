"""Forgetting one person: erased everywhere, proofs stay valid, and no other person is affected."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from everlog.store.crypto.key_store import KeyStore
from everlog.store.database import Database
from everlog.store.errors import DiskError, RowError, SealedError
from everlog.store.tx.transaction import new_commit_id
from everlog.store.upkeep import people as forgetting
from tests.store.models import ITEMS, Item
from tests.store.people import MASTER, PATIENTS, VISITS, bytes_of, open_people, patient, visit


def filled(path: Path) -> Database:
    db = open_people(path)
    for n in range(1, 6):
        db.put(PATIENTS, patient(n, f"s-{n % 3}", email=f"{n}@x", name=f"name {n}"))
    db.put(VISITS, visit(7, "s-1", "cough"))
    db.put(VISITS, visit(8, "s-2", "cold"))
    db.put(ITEMS, Item(id=1))
    return db


def test_all_rows_of_the_person_are_gone_and_those_of_others_are_there(path: Path) -> None:
    with filled(path) as db:
        others = [row for row in db.scan(PATIENTS) if row.subject != "s-1"]
        done = db.people.forget(PATIENTS, 1, actor="dpo", reason="asked for it")
        assert done.rows == 3
        assert list(db.scan(PATIENTS)) == others
        assert [row.id for row in db.scan(VISITS)] == [8]
        assert db.count(PATIENTS.by_email, "1@x") == 0
        assert db.count(PATIENTS.by_email, "2@x") == 1
        assert db.get(ITEMS, 1) == Item(id=1)
        assert list(db.admin.check()) == []
    with open_people(path) as db:
        assert list(db.scan(PATIENTS)) == others
        assert list(db.admin.check()) == []


def test_the_log_says_who_forgot_whom_and_why_and_no_byte_of_it_changed(path: Path) -> None:
    with filled(path) as db:
        before = dict(db.log.scan(0, db.head))
        done = db.people.forget("patients", 1, actor="dpo", reason="asked for it")
        commit = db.log.commit(done.seq)
        assert (commit.actor, commit.reason) == ("dpo", "asked for it")
        assert (commit.notice.kind, commit.notice.subject) == ("key.shredded", "patients")
        assert commit.notice.detail == done.key_id
        assert len(commit.changes) == done.rows
        assert {seq: framed for seq, framed in db.log.scan(0, db.head) if seq in before} == before


def test_the_key_is_nowhere_any_more(path: Path) -> None:
    db = filled(path)
    wrapped = (path / "KEYS").read_bytes()
    key_id = db.log.commit(3).changes[0].key_id
    at = wrapped.index(key_id) - 12
    slot = wrapped[at : at + 128]
    db.people.forget(PATIENTS, 1)
    assert (path / "KEYS").read_bytes()[at : at + 128] == bytes(128)
    info = db.schema.table("patients")
    assert info.sealing is not None
    old = db.log.commit(3).changes[0]
    with pytest.raises(SealedError, match="was forgotten") as caught:
        info.sealing.open(old.key, old.key_id, old.row)
    assert caught.value.erased
    db.close()
    assert slot[60:120] not in bytes_of(path)


def test_rebuilt_tables_are_equal_and_have_nothing_of_the_forgotten(path: Path, tmp_path: Path) -> None:
    with filled(path) as db:
        db.people.forget(PATIENTS, 1)
        live = db.admin.hashes()
        assert db.admin.rebuild() == live
        assert db.admin.rebuild_into(tmp_path / "other") == live
        assert list(db.admin.check()) == []


def test_the_same_person_may_come_back_with_another_key(path: Path) -> None:
    with filled(path) as db:
        gone = db.people.forget(PATIENTS, 1)
        db.put(PATIENTS, patient(1, "s-1", email="1@x"))
        assert db.log.commit(db.head).changes[0].key_id != gone.key_id
        assert db.admin.rebuild() == db.admin.hashes()
        assert list(db.admin.check()) == []


def test_a_person_whose_rows_were_deleted_before_is_forgotten_by_name(path: Path) -> None:
    with filled(path) as db:
        db.delete(PATIENTS, 3)
        with pytest.raises(RowError, match=r"there is no row patients/3.*value of subject"):
            db.people.forget(PATIENTS, 3)
        assert db.people.forget(PATIENTS, person="s-0").rows == 0
        with pytest.raises(RowError, match="forgotten already"):
            db.people.forget(PATIENTS, person="s-0")
        with pytest.raises(RowError, match="found both or neither"):
            db.people.forget(PATIENTS)
        with pytest.raises(RowError, match="has no person field"):
            db.people.forget(ITEMS, 1)


@pytest.mark.parametrize("master_key", [MASTER, None])
def test_what_was_cut_short_after_the_notice_is_finished_on_opening(
    path: Path, monkeypatch: pytest.MonkeyPatch, master_key: Any
) -> None:
    db = filled(path)
    monkeypatch.setattr(forgetting, "shred", lambda *_: None)
    key_id = db.people.forget(PATIENTS, 1).key_id
    monkeypatch.undo()
    db.close()
    assert key_id in (path / "KEYS").read_bytes()
    with open_people(path, master_key=master_key):
        assert key_id not in (path / "KEYS").read_bytes()
    with open_people(path) as db:
        assert [row.id for row in db.scan(VISITS)] == [8]
        assert list(db.admin.check()) == []


def test_what_the_disk_refused_is_ended_by_whoever_asks_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_id = new_commit_id()
    with filled(path) as db:
        key_id = db.log.commit(3).changes[0].key_id
        monkeypatch.setattr(KeyStore, "sync", refuses)
        with pytest.raises(DiskError):
            db.people.forget(PATIENTS, 1, commit_id=commit_id)
        monkeypatch.undo()
        done = db.people.forget(PATIENTS, 1, commit_id=commit_id)
        assert (done.key_id, done.seq) == (key_id, db.head)
        assert db.tables.vault is not None
        assert not db.tables.vault.has(key_id)
        assert key_id not in (path / "KEYS").read_bytes()


def refuses(*_: object) -> None:
    raise DiskError("the disk is gone", outcome="unknown")


def test_an_old_copy_of_the_keys_brings_nobody_back(path: Path) -> None:
    db = filled(path)
    copy = (path / "KEYS").read_bytes()
    key_id = db.people.forget(PATIENTS, 1).key_id
    db.close()
    (path / "KEYS").write_bytes(copy)
    with open_people(path):
        assert key_id not in (path / "KEYS").read_bytes()


def test_a_view_of_before_reads_the_row_as_erased(path: Path) -> None:
    with filled(path) as db, db.snapshot() as before:
        db.people.forget(PATIENTS, 1)
        with pytest.raises(SealedError, match=r"patients/1: .*was forgotten"):
            before.get(PATIENTS, 1)
        row = before.get(PATIENTS, 2)
        assert row is not None
        assert row.name == "name 2"


def test_who_is_forgotten_during_a_check_is_no_problem(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlog.store.upkeep.check.EVERY", 2)
    with filled(path) as db:
        done: list[Any] = []

        def forget_once(_: Any) -> None:
            if not done:
                done.append(db.people.forget(PATIENTS, 1))

        assert list(db.admin.check(forget_once)) == []
        assert done
        assert list(db.admin.check()) == []


def test_where_the_disk_refuses_the_zeros_nothing_is_sealed_with_that_key_any_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: KeyStore) -> None:
        raise DiskError("the disk refuses", outcome="unknown")

    with filled(path) as db:
        key_id = db.log.commit(3).changes[0].key_id
        with monkeypatch.context() as patched:
            patched.setattr(KeyStore, "sync", refuse)
            with pytest.raises(
                DiskError, match="forgets a person of patients and deletes their rows"
            ) as caught:
                db.people.forget(PATIENTS, 1)
        assert caught.value.outcome == "written"
        db.put(PATIENTS, patient(9, "s-1", name="back"))
        assert db.log.commit(db.head).changes[0].key_id != key_id
    with open_people(path) as db:
        assert db.get(PATIENTS, 9) == patient(9, "s-1", name="back")
        assert db.get(PATIENTS, 1) is None
        assert key_id not in (path / "KEYS").read_bytes()
        assert list(db.admin.check()) == []


def test_who_was_refused_by_the_disk_goes_with_the_next_who_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise DiskError("the disk refuses", outcome="nothing written")

    with filled(path) as db:
        key_id = db.log.commit(3).changes[0].key_id
        with monkeypatch.context() as patched:
            patched.setattr(KeyStore, "put", refuse)
            with pytest.raises(DiskError):
                db.people.forget(PATIENTS, 1)
            assert key_id in (path / "KEYS").read_bytes()
            assert "not overwritten yet" in db.admin.status().warnings[0]
        db.people.forget(PATIENTS, 2)
        assert key_id not in (path / "KEYS").read_bytes()


def test_what_the_disk_refused_is_ended_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = threading.Semaphore(0)

    def refuse(*_: Any) -> None:
        tries.release()
        raise DiskError("the disk refuses", outcome="nothing written")

    with filled(path) as db:
        key_id = db.log.commit(3).changes[0].key_id
        with monkeypatch.context() as patched:
            patched.setattr(KeyStore, "put", refuse)
            with pytest.raises(DiskError, match=r"could not be overwritten .* is tried again once a second"):
                db.people.forget(PATIENTS, 1)
            for _ in range(2):
                assert tries.acquire(timeout=60)
            assert "not overwritten yet" in db.admin.status().warnings[0]
            db.put(PATIENTS, patient(9, "s-2"))  # others continue
        while db.admin.status().warnings:
            threading.Event().wait(0.01)
        assert key_id not in (path / "KEYS").read_bytes()
