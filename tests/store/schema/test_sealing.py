"""Rows of people: sealed everywhere, and open with the keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import (
    ConflictError,
    CorruptionError,
    RowError,
    SchemaError,
    SealedError,
    UniqueError,
)
from everlog.store.schema.table import Index, Table
from tests.store.people import (
    EMAIL,
    ID,
    PATIENTS,
    SUBJECT,
    VISITS,
    Patient,
    bytes_of,
    open_people,
    patient,
    visit,
)

SECRET = "Wilhelmina-the-patient"


def filled(path: Path) -> Database:
    db = open_people(path)
    db.put(PATIENTS, patient(1, "s-1", email="ann@x", name=SECRET, born=1970))
    db.put(PATIENTS, patient(2, "s-2", email="bob@x", name="Bob", born=1980))
    db.put(VISITS, visit(7, "s-1", "cough of " + SECRET))
    return db


def test_a_sealed_row_reads_as_it_was_written_in_every_way(path: Path) -> None:
    with filled(path) as db:
        first = patient(1, "s-1", email="ann@x", name=SECRET, born=1970)
        assert db.get(PATIENTS, 1) == first
        assert db.get_many(PATIENTS, [1, 9]) == [first, None]
        assert [row.id for row in db.scan(PATIENTS)] == [1, 2]
        assert [row.id for row in db.scan(PATIENTS, reverse=True)] == [2, 1]
        assert db.count(PATIENTS) == 2
        with db.snapshot() as now:
            assert now.get(PATIENTS, 1) == first
            assert [row.id for row in now.scan(PATIENTS)] == [1, 2]
        with db.transaction() as tx:
            tx.put(PATIENTS, patient(3, "s-3", email="cyd@x"))
            assert [row.id for row in tx.scan(PATIENTS)] == [1, 2, 3]
            assert [row.id for row in tx.scan(PATIENTS.by_email, "cyd@x")] == [3]
            tx.delete(PATIENTS, 2)
        assert [row.id for row in db.scan(PATIENTS)] == [1, 3]
        assert list(db.admin.check()) == []
    with open_people(path) as db:
        assert db.get(PATIENTS, 1) == first
        assert list(db.admin.check()) == []


def test_no_file_of_the_database_has_what_is_sealed(path: Path) -> None:
    db = filled(path)
    assert SECRET.encode() not in bytes_of(path)  # the state after a kill
    db.tables.flush()
    db.engine.flush()
    assert SECRET.encode() not in bytes_of(path)
    db.admin.rebuild()
    db.close()
    everything = bytes_of(path)
    for secret in (SECRET, "ann@x", "bob@x", "s-1"):
        assert secret.encode() not in everything, secret


def test_a_commit_with_sealed_rows_says_so_and_one_person_has_one_key(path: Path) -> None:
    with filled(path) as db:
        commits = [db.log.commit(seq) for seq in range(3, db.head + 1)]
        assert all(list(commit.requires) == [log_pb2.SEALED] for commit in commits)
        ids = [commit.changes[0].key_id for commit in commits]
        assert ids[0] == ids[2] != ids[1]
        assert all(len(id_) == 16 for id_ in ids)


def test_a_sealed_row_that_is_moved_does_not_open(path: Path) -> None:
    with filled(path) as db:
        info = db.schema.table("patients")
        value = db.tables.get(info.row_prefix + info.encode_key(1))
        assert value is not None
        with pytest.raises(CorruptionError, match="changed or moved"):
            info.opened(info.encode_key(2), value)
        with pytest.raises(CorruptionError, match="changed or moved"):
            info.opened(info.encode_key(1), value[:-1] + bytes((value[-1] ^ 1,)))


def test_a_hashed_index_finds_what_is_equal_and_refuses_an_order(path: Path) -> None:
    with filled(path) as db:
        assert [row.id for row in db.scan(PATIENTS.by_email, "bob@x")] == [2]
        assert [row.id for row in db.scan(PATIENTS.by_name_and_born, ("Bob", 1980))] == [2]
        assert [row.id for row in db.scan(PATIENTS.by_name_and_born, "Bob")] == [2]
        assert db.count(PATIENTS.by_email, "nobody") == 0
        assert [row.id for row in db.scan(PATIENTS.by_id, start=2)] == [2]
        for limits in ({}, {"start": "a"}, {"end": "b"}, {"starts_with": "a"}):
            with pytest.raises(RowError, match="equality but no order"):
                db.scan(PATIENTS.by_email, **limits)  # type: ignore[arg-type]


def test_a_unique_hashed_index_is_unique_and_says_no_value(path: Path) -> None:
    with filled(path) as db:
        with pytest.raises(UniqueError, match="by_email") as caught:
            db.put(PATIENTS, patient(3, "s-3", email="ann@x"))
        assert "ann@x" not in str(caught.value)
        db.put(PATIENTS, patient(3, "s-3"))
        db.put(PATIENTS, patient(4, "s-4"))  # rows without an address are not duplicates
        assert list(db.admin.check()) == []


def test_a_row_that_changes_its_person_changes_its_key(path: Path) -> None:
    with filled(path) as db:
        db.put(PATIENTS, patient(1, "s-9", email="ann@x"))
        assert db.log.commit(db.head).changes[0].key_id != db.log.commit(3).changes[0].key_id
        row = db.get(PATIENTS, 1)
        assert row is not None
        assert row.subject == "s-9"
        assert list(db.admin.check()) == []


def test_a_row_of_nobody_is_refused(path: Path) -> None:
    with open_people(path) as db, pytest.raises(RowError, match="has no person: its field subject is empty"):
        db.put(PATIENTS, patient(1, ""))


def test_a_retry_with_its_commit_id_is_known_though_it_is_sealed_anew(path: Path) -> None:
    commit_id = bytes.fromhex("01990000000070008000000000000001")
    with open_people(path, idempotency_s=1e9) as db:
        first = db.put(PATIENTS, patient(1, "s-1"), commit_id=commit_id)
        again = db.put(PATIENTS, patient(1, "s-1"), commit_id=commit_id)
        assert (again.seq, again.repeated) == (first.seq, True)


def test_what_a_table_of_people_cannot_have_is_refused_with_the_reason() -> None:
    with pytest.raises(SchemaError, match="would reveal sealed fields: email"):
        Table("patients", Patient, key=ID, indexes=(Index("by_email", EMAIL),), person=SUBJECT)
    with pytest.raises(SchemaError, match="leave out hashed=True"):
        Table("patients", Patient, key=ID, indexes=(Index("by_email", EMAIL, hashed=True),))


def test_a_load_seals_its_rows_and_the_rebuilt_tables_are_equal(path: Path, tmp_path: Path) -> None:
    with open_people(path) as db:
        db.load(PATIENTS, [patient(n, f"s-{n % 7}", name=SECRET) for n in range(1, 2001)])
        live = db.admin.hashes()
        assert db.admin.rebuild() == live
        assert db.admin.rebuild_into(tmp_path / "other") == live
        assert SECRET.encode() not in bytes_of(tmp_path / "other")
        assert list(db.admin.check()) == []
        assert db.count(PATIENTS.by_name_and_born, SECRET) == 2000


def test_a_rebuild_without_keys_gives_sealed_rows_whose_entries_come_with_the_keys(
    path: Path, tmp_path: Path
) -> None:
    filled(path).close()
    with open_people(path, master_key=None) as db:
        assert db.admin.hashes() == db.admin.rebuild_into(tmp_path / "other")
    with open_people(tmp_path / "other") as other, pytest.raises(SealedError, match="KEYS is missing"):
        other.get(PATIENTS, 1)
    (tmp_path / "other" / "KEYS").write_bytes((path / "KEYS").read_bytes())
    with (
        open_people(tmp_path / "other", read_only=True) as other,
        pytest.raises(SealedError, match="open it once for writing"),
    ):
        list(other.scan(PATIENTS.by_email, "bob@x"))
    with open_people(tmp_path / "other") as other:
        assert [row.id for row in other.scan(PATIENTS.by_email, "bob@x")] == [2]
        assert list(other.admin.check()) == []


def test_a_row_written_while_its_person_is_forgotten_conflicts(path: Path) -> None:
    with filled(path) as db:
        tx = db.transaction()
        tx.put(PATIENTS, patient(5, "s-1"))
        db.people.forget(PATIENTS, 1)
        with pytest.raises(ConflictError, match="was forgotten while this transaction ran"):
            tx.commit()
        db.put(PATIENTS, patient(5, "s-1"))  # and may be added again, as a new person
        assert list(db.admin.check()) == []
