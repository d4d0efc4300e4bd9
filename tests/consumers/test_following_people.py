"""Following sealed tables: a follower with the keys has open rows, and loses those who are forgotten."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from everlog.consumers import Follower, SqliteSink, verify
from everlog.feed.embedded import EmbeddedDatabase
from everlog.store.errors import SealedError
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, VISITS, patient, visit


def opened(path: Path, master_key: bytes | None = MASTER) -> EmbeddedDatabase:
    db = EmbeddedDatabase(path, master_key=master_key)
    if not db.schema.version:
        declare(db, PATIENTS, VISITS)
    return db


def names(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM patients ORDER BY id")]


def test_a_follower_in_the_process_has_open_rows_and_obeys(tmp_path: Path) -> None:
    with opened(tmp_path / "db") as db:
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        db.put(VISITS, visit(7, "s-1", "cough"))
        with SqliteSink(tmp_path / "mirror.db") as sink:
            Follower(db, sink).run(bounded=True)
            assert names(tmp_path / "mirror.db") == ["Ann", "Bob"]
            db.forget(PATIENTS, 1)
            Follower(db, sink).run(bounded=True)
            assert names(tmp_path / "mirror.db") == ["Bob"]
            assert verify(db, sink) == []
        with SqliteSink(tmp_path / "late.db") as sink:  # from the beginning, when she is forgotten already
            Follower(db, sink).run(bounded=True)
            assert names(tmp_path / "late.db") == ["Bob"]


def test_a_follower_without_keys_is_told_so(tmp_path: Path) -> None:
    with opened(tmp_path / "db") as db:
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
    with (
        opened(tmp_path / "db", None) as db,
        SqliteSink(tmp_path / "mirror.db") as sink,
        pytest.raises(SealedError, match="no master key was given"),
    ):
        Follower(db, sink).run(bounded=True)
