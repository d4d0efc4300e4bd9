"""Backups in an object store: as in a directory."""

from __future__ import annotations

import uuid

import pytest

from everlog.audit import backup, restore, verify
from everlog.audit.place import place
from everlog.store.database import Database
from everlog.store.errors import OpenError
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A place that fsspec alone knows; `local` is a directory that it writes to in its own way."""
    if request.param == "memory":
        return f"memory://backup-{uuid.uuid4().hex}"
    return f"local://{tmp_path_factory.mktemp('bucket')}/kept"


def test_a_backup_in_an_object_store_is_incremental_verified_and_restored(opening: Opener, url: str) -> None:
    db = opening()
    fill(db, 1, 50)
    at, tables = db.head, db.hashes()
    assert backup(db, url).records == at
    assert backup(db, url).records == 0
    fill(db, 60, 90)
    done = backup(db, url)
    assert (done.first, done.last, done.segments) == (at + 1, db.head, 2)
    assert list(verify(url, deep=True)) == []
    assert restore(url, db.path.with_name("copy")).tables == db.hashes()
    assert restore(url, db.path.with_name("before"), at=at).tables == tables


def test_small_segments_in_an_object_store_become_one_and_remains_go(db: Database, url: str) -> None:
    place(url).write("0000000000000001-0000000000000099.zst", b"half of it")
    for number in range(11):
        fill(db, 100 * number, 100 * number + 10)
        backup(db, url)
    fill(db, 2000, 2010)
    done = backup(db, url)
    assert done.segments < 8
    assert len(place(url).names()) == done.segments + 1
    assert list(verify(url, deep=True)) == []


def test_a_place_of_another_database_is_refused(db: Database, opening: Opener, url: str) -> None:
    backup(db, url)
    with pytest.raises(OpenError, match="this is a backup of database"):
        backup(opening(at=db.path.with_name("another")), url)
    place(url).write("letter.txt", b"dear")
    place(url).remove("BACKUP")
    with pytest.raises(OpenError, match="is no backup: it has no file BACKUP, but letter"):
        backup(db, url)
