"""Following sealed tables: a follower with the keys has open rows, and loses those of forgotten people."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from everlog.consumers import Follower, SqliteSink, verify
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import SealedError
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, VISITS, patient, visit


def opened(path: Path, master_key: bytes | None = MASTER) -> EmbeddedDatabase:
    db = EmbeddedDatabase(path, master_key=master_key)
    if not db.schema.version:
        declare(db, PATIENTS, VISITS)
    return db


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return [row[0] for row in connection.execute("SELECT name FROM patients ORDER BY id")]


def test_a_follower_in_the_process_has_open_rows_and_obeys(tmp_path: Path) -> None:
    with opened(tmp_path / "db") as db:
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        db.put(VISITS, visit(7, "s-1", "cough"))
        with SqliteSink(tmp_path / "mirror.db") as sink:
            Follower(db, sink).run(bounded=True)
            assert names(tmp_path / "mirror.db") == ["Ann", "Bob"]
            db.people.forget(PATIENTS, 1)
            Follower(db, sink).run(bounded=True)
            assert names(tmp_path / "mirror.db") == ["Bob"]
            assert verify(db, sink) == []
        with SqliteSink(tmp_path / "late.db") as sink:  # from the beginning, after she was forgotten
            Follower(db, sink).run(bounded=True)
            assert names(tmp_path / "late.db") == ["Bob"]


def test_no_byte_of_the_mirror_has_what_was_forgotten(tmp_path: Path) -> None:
    secret = "Wilhelmina-the-patient"
    with opened(tmp_path / "db") as db, SqliteSink(tmp_path / "mirror.db") as sink:
        db.load(PATIENTS, [patient(n, f"s-{n}", name=f"{secret}-{n % 2}") for n in range(500)])
        Follower(db, sink).run(bounded=True)
        assert secret.encode() in bytes_of(tmp_path, "mirror.db*")
        for n in range(1, 500, 2):
            db.people.forget(PATIENTS, n)
        Follower(db, sink).run(bounded=True)
        left = bytes_of(tmp_path, "mirror.db*")
        assert f"{secret}-0".encode() in left
        assert f"{secret}-1".encode() not in left


def test_who_reads_the_mirror_meanwhile_holds_its_log_up_to_the_next_commit(tmp_path: Path) -> None:
    with opened(tmp_path / "db") as db, SqliteSink(tmp_path / "mirror.db") as sink:
        db.put(PATIENTS, patient(1, "s-1", name="Wilhelmina"))
        Follower(db, sink).run(bounded=True)
        with closing(sqlite3.connect(tmp_path / "mirror.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM patients").fetchone() == (1,)
            db.people.forget(PATIENTS, 1)
            Follower(db, sink).run(bounded=True)
            assert b"Wilhelmina" in bytes_of(tmp_path, "mirror.db*")
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        Follower(db, sink).run(bounded=True)
        assert b"Wilhelmina" not in bytes_of(tmp_path, "mirror.db*")


def bytes_of(folder: Path, files: str) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob(files)))


def test_a_follower_without_keys_is_told_so(tmp_path: Path) -> None:
    with opened(tmp_path / "db") as db:
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
    with (
        opened(tmp_path / "db", None) as db,
        SqliteSink(tmp_path / "mirror.db") as sink,
        pytest.raises(SealedError, match="no master key was given"),
    ):
        Follower(db, sink).run(bounded=True)
