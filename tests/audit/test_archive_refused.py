"""A target that is full or unreachable: nothing is removed, and the error names it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from everlog.audit import Retention, archive, verify_backup
from everlog.audit.archived import attach, note
from everlog.audit.place import place
from everlog.audit.tree import Tree
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, DiskError, OpenError
from everlog.store.progress import Progress
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill
from tests.store.models import ITEMS, open_flights

NOBODY = "ftp://127.0.0.1:1/archive"  # a port without a listener


def test_a_target_without_space_gets_less_and_goes_on_when_there_is_some(
    opening: Opener, small_disk: Path
) -> None:
    db = opening()
    fill(db, 1, 200)
    with (small_disk / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while True:
            rest.write(bytes(4096))
    with pytest.raises(DiskError, match="could not be written: No space left on device"):
        archive(db, small_disk / "archive")
    assert db.log.trimmed.base == 0
    retention = Retention(db, small_disk / "archive")
    with pytest.raises(DiskError):
        retention.look()
    (small_disk / "ballast").unlink()
    (small_disk / "rest").unlink()
    done = retention.look()
    assert done is not None
    assert done.base == db.head - 1
    assert list(verify_backup(small_disk / "archive", deep=True)) == []
    assert db.admin.rebuild() == db.admin.hashes()


def test_a_target_whose_path_is_not_utf_8_is_refused_before_anything_is_written(
    db: Database, tmp_path: Path
) -> None:
    fill(db, 1, 9)
    with pytest.raises(OpenError, match="expected a path in UTF-8 for an archive"):
        archive(db, os.fsdecode(os.fsencode(tmp_path) + b"/arch\xff"))
    assert db.log.trimmed.base == 0
    assert [file.name for file in tmp_path.iterdir() if file != db.path] == []


def test_a_target_that_cannot_be_reached_is_told_and_nothing_is_removed(db: Database) -> None:
    fill(db, 1, 50)
    with pytest.raises(OpenError, match=r"ftp://127.0.0.1:1/archive cannot be reached through fsspec"):
        archive(db, NOBODY)
    assert db.log.trimmed.base == 0
    assert not (db.path / "ARCHIVE").exists()


def test_an_archive_that_cannot_be_reached_any_more_is_told_to_who_needs_it(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    archive(db, to, keep_records=5)
    note(db.path, str(to), 0)  # it has moved to a port without a listener
    note(db.path, NOBODY, db.log.trimmed.base)
    attach(db)
    with pytest.raises(CorruptionError, match=r"record 7 was archived and cannot be read back: ftp://"):
        db.log.get(7)
    assert db.count(ITEMS) == 50
    note(db.path, str(to), db.log.trimmed.base)
    attach(db)
    assert db.log.get(7)


@pytest.mark.parametrize("what", ["a segment", "the manifest"])
def test_nothing_is_removed_where_somebody_else_writes_to_the_target(
    db: Database, opening: Opener, what: str
) -> None:
    """A second backup to the same object store does this: it sweeps files that it does not know."""
    fill(db, 1, 20)
    url = f"memory://refused-{uuid.uuid4().hex}"
    archive(db, url, keep_records=5)
    there, before = place(url), place(url).read("BACKUP")
    base = db.log.trimmed.base
    fill(db, 30, 60)

    def meddle(at: Progress) -> None:
        if at.step == "remove":
            if what == "the manifest":
                there.write("BACKUP", before)
            else:
                there.remove(there.names()[-2])  # BACKUP is written last

    with pytest.raises(DiskError, match=r"another process writes there. Nothing was removed"):
        archive(db, url, progress=meddle)
    assert db.log.trimmed.base == base
    again = f"memory://refused-{uuid.uuid4().hex}"
    archive(db, again)
    assert db.admin.rebuild() == db.admin.hashes()
    assert list(verify_backup(again, deep=True)) == []


def test_nothing_is_removed_where_the_disk_refused_the_tree(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has space again after the tree was refused, and before records are removed."""
    rest, catch_up = small_disk / "rest", Tree.catch_up

    def freed(self: Tree, *args: Any, **options: Any) -> int:
        try:
            return catch_up(self, *args, **options)
        finally:
            rest.unlink(missing_ok=True)
            (small_disk / "ballast").unlink(missing_ok=True)
            while db.log.refusal.since_ns:
                time.sleep(0.01)

    monkeypatch.setattr(Tree, "catch_up", freed)
    with open_flights(small_disk / "db", ITEMS) as db:
        fill(db, 1, 50)
        with rest.open("wb", buffering=0) as file:
            while shutil.disk_usage(small_disk).free > 200 << 10:  # too little for another column family
                file.write(bytes(4096))
        with pytest.raises(DiskError, match=r"creating tree in .*: the disk is full"):
            archive(db, tmp_path / "archive")
        assert db.log.trimmed.base == 0
        archive(db, tmp_path / "archive")
        assert db.log.trimmed.base == db.head - 1
        assert list(verify_backup(tmp_path / "archive", deep=True)) == []
