"""A database built from a server's feed: equal, record by record, and resumed after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.rpc.client import audit
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError, SealedError, UnavailableError
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep.rebuild import is_half
from tests.conformance.database_case import FLIGHTS, Case, flight, open_case
from tests.store.people import MASTER, PATIENTS, patient

COMMITS = 700


def remote(case: Case) -> RemoteDatabase:
    assert isinstance(case.db, RemoteDatabase)
    return case.db


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_case("remote", tmp_path) as case:
        for number in range(COMMITS):
            case.embedded.put(FLIGHTS, flight(number, "UA", 3), durability="os")
        case.embedded.put(FLIGHTS, flight(7, "UA", 9), expires=4 * 10**18)
        yield case


def test_a_database_is_made_of_a_server_s_feed(case: Case, tmp_path: Path) -> None:
    db = case.embedded
    assert remote(case).admin.rebuild_into(tmp_path / "copy") == db.admin.hashes()
    with Database(tmp_path / "copy") as copy:
        assert (copy.uuid, copy.head) == (db.uuid, db.head)
        assert copy.log.read(0, 1 << 30) == db.log.read(0, 1 << 30)
        assert list(copy.admin.check()) == []


def test_sealed_rows_come_sealed_and_are_proven_equal_without_keys(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with open_case("remote", tmp_path, PATIENTS, master_key=MASTER) as case:
        db: Any = case.db
        db.load(PATIENTS, [patient(n, f"s-{n % 5}", email=f"{n}@x", name=str(n)) for n in range(50)])
        seq = db.head
        db.people.forget(PATIENTS, 3)
        sealed = case.embedded.admin.hashes(sealed=True)
        assert db.admin.rebuild_into(copy) == db.admin.hashes(sealed=True) == sealed != db.admin.hashes()
        assert db.admin.rebuild_into(tmp_path / "then", seq=seq) == case.embedded.admin.hashes(
            seq=seq, sealed=True
        )
        keys = (case.embedded.path / "KEYS").read_bytes()
        live = db.admin.hashes()
    assert not (copy / "KEYS").exists()
    with Database(copy, master_key=MASTER) as made:
        with pytest.raises(SealedError, match="KEYS is missing; restore the file"):
            made.get(PATIENTS, 1)
        first = [next(iter(made.history(PATIENTS, key, newest_first=False))) for key in (1, 3)]
        assert [(one.sealed, one.erased) for one in first] == [(True, False), (False, True)]
    (copy / "KEYS").write_bytes(keys)
    with Database(copy, master_key=MASTER) as made:
        assert made.admin.hashes() == live
        assert [row.id for row in made.scan(PATIENTS.by_email, "7@x")] == [7]
        assert list(made.admin.check()) == []


def test_it_is_made_as_it_was_at_a_record_or_a_time(case: Case, tmp_path: Path) -> None:
    db, seq = case.embedded, COMMITS // 2
    then = db.at(seq=seq).hashes()
    assert remote(case).admin.rebuild_into(tmp_path / "seq", seq=seq) == then
    time_ns = db.log.commit(seq).time_ns
    last = db.past.position(time=time_ns)
    assert remote(case).admin.rebuild_into(tmp_path / "time", time=time_ns) == db.admin.hashes(seq=last)
    with pytest.raises(CursorError, match="there is no record 100000"):
        remote(case).admin.rebuild_into(tmp_path / "later", seq=100_000)
    with pytest.raises(CursorError, match="there is nothing at 1970"):
        remote(case).admin.rebuild_into(tmp_path / "before", time=1)


def test_what_a_server_left_half_made_goes_on_when_it_comes_again(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, asked = audit.records, list[int]()

    def ending(remote: Any, after: int, last: int) -> Iterator[bytes]:
        asked.append(after)
        for number, framed in enumerate(records(remote, after, last)):
            if number == 600 and len(asked) == 1:
                raise UnavailableError("gone")
            yield framed

    monkeypatch.setattr(audit, "records", ending)
    copy = tmp_path / "copy"
    with pytest.raises(UnavailableError):
        remote(case).admin.rebuild_into(copy)
    assert is_half(copy)
    case.embedded.put(FLIGHTS, flight(8, "UA", 1))
    assert remote(case).admin.rebuild_into(copy) == case.embedded.admin.hashes()
    assert asked == [0, 511, 512]  # from nothing; whether that record is equal; and the records after it
    with Database(copy) as made:
        assert made.log.read(0, 1 << 30) == case.embedded.log.read(0, 1 << 30)


def test_a_record_that_does_not_check_leaves_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = audit.records

    def flipped(remote: Any, after: int, last: int) -> Iterator[bytes]:
        for number, framed in enumerate(records(remote, after, last), after + 1):
            yield framed if number != 100 else framed[:-7] + bytes((framed[-7] ^ 1,)) + framed[-6:]

    monkeypatch.setattr(audit, "records", flipped)
    with pytest.raises(CorruptionError, match="record 100 of the log is damaged"):
        remote(case).admin.rebuild_into(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_tables_that_are_not_the_server_s_are_told(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"flights": TableHash(1, b"\1" * 32)}
    monkeypatch.setattr(case.db.admin, "hashes", lambda *_, **__: {**case.embedded.admin.hashes(), **other})
    with pytest.raises(
        CorruptionError, match=r"differ from those of everlog.*: flights\. The logs are equal"
    ):
        remote(case).admin.rebuild_into(tmp_path / "copy")
