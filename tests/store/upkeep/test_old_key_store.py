"""An older copy of the key store: missing keys do not count as forgotten, and no person gets two keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from everlog.audit import backup, restore
from everlog.store.crypto.vault import Vault
from everlog.store.errors import DiskError, SealedError
from everlog.store.rocks.engine import Engine
from everlog.store.tables.tables import Tables
from everlog.store.upkeep import check
from tests.store.people import PATIENTS, VISITS, open_people, patient, visit


@pytest.fixture
def older(path: Path) -> bytes:
    """Restore the key store from before Cyd was added, who is in the database; return the newest one."""
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1", email="ann@x", name="Ann"))
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        copy = (path / "KEYS").read_bytes()
        db.people.forget(PATIENTS, 1)
        db.put(PATIENTS, patient(3, "s-3", email="cyd@x", name="Cyd"))
    newest = (path / "KEYS").read_bytes()
    (path / "KEYS").write_bytes(copy)
    return newest


def test_a_row_whose_key_is_missing_is_not_said_to_be_forgotten(path: Path, older: bytes) -> None:
    with open_people(path) as db:
        with pytest.raises(SealedError, match=r"patients/3: .*restore the newest copy") as caught:
            db.get(PATIENTS, 3)
        assert not caught.value.erased
        assert next(iter(db.history(PATIENTS, 3)))[-2:] == (False, True)
        assert list(db.history(PATIENTS, 1))[-1][-2:] == (True, False)
        assert [one for one in db.admin.check() if "patients/3" in one]
        row = db.get(PATIENTS, 2)
        assert row is not None
        assert row.name == "Bob"


def test_who_has_a_key_may_be_written_and_nobody_gets_another(path: Path, older: bytes) -> None:
    with open_people(path) as db:
        db.put(PATIENTS, patient(2, "s-2", name="Bobby"))
        for row in (patient(3, "s-3", name="Cyd"), patient(4, "s-4")):
            with pytest.raises(SealedError, match="KEYS has none for row patients/3"):
                db.put(PATIENTS, row)
        head = db.head
    (path / "KEYS").write_bytes(older)
    with open_people(path) as db:
        assert db.head == head
        assert [row.name for row in db.scan(PATIENTS)] == ["Bobby", "Cyd"]
        db.put(PATIENTS, patient(4, "s-4"))
        assert list(db.admin.check()) == []


@pytest.mark.parametrize("remade", ["rebuild", "restore"])
def test_what_was_made_with_an_older_copy_has_its_entries_once_the_newest_is_back(
    path: Path, older: bytes, remade: str
) -> None:
    copy = (path / "KEYS").read_bytes()
    if remade == "rebuild":
        with open_people(path) as db:
            db.admin.rebuild()
    else:
        with open_people(path) as db:
            backup(db, path.with_name("backup"))
        path = path.with_name("restored")
        restore(path.with_name("backup"), path)
        (path / "KEYS").write_bytes(copy)
    for read_only in (False, True, False):
        with open_people(path, read_only=read_only) as db:
            assert [row.id for row in db.scan(PATIENTS.by_id, limit=1)] == [2]
    (path / "KEYS").write_bytes(older)
    with open_people(path, read_only=True) as db, pytest.raises(SealedError, match="indexes must be built"):
        list(db.scan(PATIENTS.by_email, "cyd@x"))
    with open_people(path) as db:
        assert [row.id for row in db.scan(PATIENTS.by_email, "cyd@x")] == [3]
        assert list(db.admin.check()) == []
    with open_people(path, read_only=True) as db:
        assert [row.id for row in db.scan(PATIENTS.by_id)] == [2, 3]


def test_a_reader_beside_the_writer_that_built_missing_entries_finds_them(path: Path, older: bytes) -> None:
    with open_people(path) as db:
        db.admin.rebuild()
    (path / "KEYS").write_bytes(older)
    with open_people(path), open_people(path, read_only=True) as reader:
        assert list(reader.admin.check()) == []
        assert [row.id for row in reader.scan(PATIENTS.by_email, "cyd@x")] == [3]


@pytest.mark.parametrize("look", ["opens", "refreshes"])
def test_a_reader_that_never_saw_a_key_finds_its_rows_erased(
    path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """A person is added before the reader reads the log, and forgotten before it reads the keys."""
    moments = iter((True, True))
    catch_up, refresh = Engine.catch_up, Vault.refresh

    def come(engine: Engine, *, anew: bool = False) -> None:
        if next(moments, False):
            db.put(PATIENTS, patient(9, "s-9", email="zoe@x", name="Zoe"))
        catch_up(engine, anew=anew)

    def leave(vault: Vault, gone: Iterable[bytes] = ()) -> None:
        if next(moments, False):
            db.people.forget(PATIENTS, 9)
        refresh(vault, gone)

    def look_aside() -> None:
        monkeypatch.setattr(Engine, "catch_up", come)
        monkeypatch.setattr(Vault, "refresh", leave)

    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1", email="ann@x", name="Ann"))
        if look == "opens":
            look_aside()
        with open_people(path, read_only=True) as reader:
            if look == "refreshes":
                look_aside()
                reader.refresh()
            assert next(moments, None) is None
            assert [row.id for row in reader.scan(PATIENTS.by_email, "ann@x")] == [1]
            assert [one.erased for one in reader.history(PATIENTS, 9)] == [False, True]
            assert list(reader.admin.check()) == []


def test_a_key_is_shredded_after_edits_that_the_disk_refused_before_are_on_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a reader, or the next opening, finds rows whose key is missing without a trace."""
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1", email="ann@x", name="Ann"))
        monkeypatch.setattr(Tables, "try_flush", lambda _: False)  # edits stay in memory
        db.put(PATIENTS, patient(9, "s-9", email="zoe@x", name="Zoe"))
        db.people.forget(PATIENTS, 9)
        with open_people(path, read_only=True) as reader:
            assert list(reader.admin.check()) == []
            assert [row.id for row in reader.scan(PATIENTS.by_email, "ann@x")] == [1]


def test_with_the_newest_keys_who_was_forgotten_after_the_moment_restored_to_is_forgotten_again(
    path: Path, older: bytes
) -> None:
    (path / "KEYS").write_bytes(older)
    with open_people(path) as db:
        backup(db, path.with_name("backup"))
    restored = path.with_name("restored")
    restore(path.with_name("backup"), restored, at=4)
    (restored / "KEYS").write_bytes(older)
    with open_people(restored) as db:
        for attempt in (lambda: db.get(PATIENTS, 1), lambda: db.put(PATIENTS, patient(4, "s-4"))):
            with pytest.raises(SealedError, match=r"restored to a time before .* was forgotten, forget"):
                attempt()
        assert db.people.forget(PATIENTS, 1).rows == 1
        db.put(PATIENTS, patient(4, "s-4"))
        assert [row.id for row in db.scan(PATIENTS)] == [2, 4]
        assert list(db.admin.check()) == []


def test_a_database_of_an_earlier_moment_has_all_index_entries_once_it_has_the_keys_of_that_moment(
    path: Path, older: bytes
) -> None:
    copy = (path / "KEYS").read_bytes()
    (path / "KEYS").write_bytes(older)
    made = path.with_name("made")
    with open_people(path) as db:
        db.admin.rebuild_into(made, seq=4)  # Ann is in it, who was forgotten later
    (made / "KEYS").write_bytes(older)
    with open_people(made) as db, pytest.raises(SealedError, match=r"patients/1: .* forget that row"):
        db.get(PATIENTS, 1)
    (made / "KEYS").write_bytes(copy)
    with (
        open_people(made, read_only=True) as reader,
        pytest.raises(SealedError, match="its indexes must be built with the keys"),
    ):
        list(reader.scan(PATIENTS.by_email, "ann@x"))
    with open_people(made) as db:
        assert [row.name for row in db.scan(PATIENTS.by_email, "ann@x")] == ["Ann"]
        assert list(db.admin.check()) == []


def test_where_the_newest_is_lost_those_who_are_missed_are_forgotten(path: Path, older: bytes) -> None:
    with open_people(path) as db:
        assert db.people.forget(PATIENTS, 3).rows == 1
        db.put(PATIENTS, patient(3, "s-3", name="Cyd again"))
        db.put(VISITS, visit(7, "s-4", "cough"))
        names: list[Any] = [row.name for row in db.scan(PATIENTS)]
        assert names == ["Bob", "Cyd again"]
        assert list(db.scan(PATIENTS.by_email, "cyd@x")) == []
        assert list(db.admin.check()) == []
    with open_people(path) as db:
        assert list(db.admin.check()) == []
        assert db.admin.rebuild() == db.admin.hashes()


def test_a_row_that_is_deleted_without_its_key_leaves_nothing_in_the_indexes(
    path: Path, older: bytes
) -> None:
    with open_people(path) as db:
        db.delete(PATIENTS, 3)
    with open_people(path) as db:
        assert list(db.scan(PATIENTS.by_email, "cyd@x")) == []
        assert list(db.admin.check()) == []
        db.put(PATIENTS, patient(3, "s-3", email="cyd@x"))


def test_who_was_forgotten_since_the_copy_stays_so(path: Path, older: bytes) -> None:
    with open_people(path) as db:
        db.people.forget(PATIENTS, 3)
        gone = db.log.commit(3).changes[0].key_id
        assert gone not in (path / "KEYS").read_bytes()
        assert [row.name for row in db.scan(PATIENTS)] == ["Bob"]


def test_a_key_that_came_back_opens_nothing_and_check_says_so(path: Path, older: bytes) -> None:
    copy = (path / "KEYS").read_bytes()
    with open_people(path, read_only=True) as reader:
        assert [one.erased for one in reader.history(PATIENTS, 1)] == [False, True]
        assert reader.at(seq=3).get(PATIENTS, 1) is None
        (found,) = [one for one in reader.admin.check() if "forgotten person" in one]
        assert "has the keys of 1 forgotten person" in found
        (warning,) = reader.admin.status().warnings
        assert warning.endswith("the next opening for writing does it, as `everlog expire` does")
    assert (path / "KEYS").read_bytes() == copy
    with open_people(path) as db:
        assert not [one for one in db.admin.check() if "forgotten person" in one]
    assert (path / "KEYS").read_bytes() != copy


def test_a_reader_that_was_open_before_obeys_the_log_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FORGETTING_S", 0.05)
    with open_people(path) as db:
        for number in (1, 2):
            db.put(PATIENTS, patient(number, f"s-{number}", name=str(number)))
        copy = (path / "KEYS").read_bytes()
        with open_people(path, read_only=True) as reader:
            assert reader.get(PATIENTS, 1) == patient(1, "s-1", name="1")
            seq = reader.tables.applied
            db.people.forget(PATIENTS, 1)
            (path / "new").write_bytes(copy)
            (path / "new").replace(path / "KEYS")
            for _ in range(2):
                reader.refresh()
                assert [one.erased for one in reader.history(PATIENTS, 1)] == [False, True]
                assert reader.at(seq=seq).get(PATIENTS, 1) is None
                assert reader.get(PATIENTS, 2) == patient(2, "s-2", name="2")
            assert [one for one in reader.admin.check() if "forgotten person" in one]
        assert [one for one in db.admin.check() if "forgotten person" in one]


def test_a_restored_database_with_an_old_key_store_obeys_its_log(path: Path, older: bytes) -> None:
    copy = (path / "KEYS").read_bytes()
    with open_people(path) as db:
        backup(db, path.with_name("backup"))
    restored = path.with_name("restored")
    restore(path.with_name("backup"), restored)
    (restored / "KEYS").write_bytes(copy)
    with open_people(restored, read_only=True) as reader:
        assert [one.erased for one in reader.history(PATIENTS, 1)] == [False, True]


def test_nobody_new_is_written_once_the_key_store_was_replaced(path: Path) -> None:
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
        copy = (path / "KEYS").read_bytes()
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        newest = (path / "KEYS").read_bytes()
        (path / "new").write_bytes(copy)
        (path / "new").replace(path / "KEYS")
        assert any("lacks 1 key that this process has" in one for one in db.admin.check())
        db.put(PATIENTS, patient(2, "s-2", name="Bobby"))
        head = db.head
        with pytest.raises(DiskError, match="was replaced or removed"):
            db.put(PATIENTS, patient(3, "s-3", name="Cyd"))
        assert db.get(PATIENTS, 2) == patient(2, "s-2", name="Bobby")
        assert db.head == head
    (path / "KEYS").write_bytes(newest)
    with open_people(path) as db:
        assert [row.name for row in db.scan(PATIENTS)] == ["Ann", "Bobby"]
        db.put(PATIENTS, patient(3, "s-3", name="Cyd"))
        assert list(db.admin.check()) == []
