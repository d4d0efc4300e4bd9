"""Backups in an object store behave like those in a directory."""

from __future__ import annotations

import traceback
import uuid

import pytest

from everlog.audit import archive, backup, manifest, restore, verify_backup
from everlog.audit.archived import attach
from everlog.audit.place import place
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, Error, OpenError
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a URL that only fsspec can read; `local` is the directory behind it, which fsspec writes in its
    own way.
    """
    if request.param == "memory":
        return f"memory://backup-{uuid.uuid4().hex}"
    return f"local://{tmp_path_factory.mktemp('bucket')}/kept"


def test_a_backup_in_an_object_store_is_incremental_verified_and_restored(opening: Opener, url: str) -> None:
    db = opening()
    fill(db, 1, 50)
    at, tables = db.head, db.admin.hashes()
    assert backup(db, url).records == at
    assert backup(db, url).records == 0
    fill(db, 60, 90)
    done = backup(db, url)
    assert (done.first, done.last, done.segments) == (at + 1, db.head, 2)
    assert list(verify_backup(url, deep=True)) == []
    assert restore(url, db.path.with_name("copy")).tables == db.admin.hashes()
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
    assert list(verify_backup(url, deep=True)) == []


def test_no_error_says_the_password_of_a_url(db: Database) -> None:
    """The errors of fsspec contain the path, and with it everything in the URL."""
    bucket, secret = f"bucket-{uuid.uuid4().hex}", uuid.uuid4().hex
    url = f"memory://ann:{secret}@{bucket}/kept"
    there = place(url)
    said = list[Error]()
    with pytest.raises(OpenError, match="there is no backup at memory://bucket-") as missing:
        manifest.needed(there)
    said.append(missing.value)
    with pytest.raises(CorruptionError, match="cannot be read") as unread:
        there.read("none")
    said.append(unread.value)
    with pytest.raises(OpenError, match="cannot be reached through fsspec") as unknown:
        place(f"nothing://ann:{secret}@{bucket}/kept")
    said.append(unknown.value)
    fill(db, 1, 50)
    archive(db, url, keep_records=10)
    attach(db)
    name = next(name for name in there.names() if name.endswith(".zst"))
    data = there.read(name)
    there.remove(name)
    with pytest.raises(CorruptionError, match="record 3 was archived and cannot be read") as gone:
        db.log.get(3)
    said.append(gone.value)
    found = list(verify_backup(url))
    assert found
    for text in [*found, *("".join(traceback.format_exception(error)) for error in said)]:
        assert secret not in text
    assert not any(secret in str(error.facts) for error in said)
    there.write(name, data)
    assert url in (db.path / "ARCHIVE").read_text()


def test_a_place_of_another_database_is_refused(db: Database, opening: Opener, url: str) -> None:
    backup(db, url)
    with pytest.raises(OpenError, match="this is a backup of database"):
        backup(opening(at=db.path.with_name("another")), url)
    place(url).write("letter.txt", b"dear")
    place(url).remove("BACKUP")
    with pytest.raises(OpenError, match="is not a backup: it has no file BACKUP, but letter"):
        backup(db, url)
