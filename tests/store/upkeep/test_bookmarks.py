"""A file of bookmarks that is damaged, or cannot be written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everlog.store.errors import CursorError, DiskError, OpenError
from tests.store.conftest import Opener
from tests.store.models import ITEMS, items
from tests.store.upkeep.test_consumers import fill

DAMAGED = {
    "empty": b"",
    "no text": b"\xff\x00\xff",
    "cut": b'{"format":1,"bookmarks":{"mirror":{"seq":3,"che',
    "another": b"{}",
    "a later format": b'{"format":9,"bookmarks":{}}',
    "no numbers": b'{"format":1,"bookmarks":{"mirror":{"seq":-4,"checksum":1,"time_ns":0,"turn":1}}}',
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_of_bookmarks_is_told_and_hurts_no_rows(opening: Opener, data: bytes) -> None:
    db = opening()
    fill(db, 10)
    mirror = db.consumers.register("mirror", after=3)
    db.close()
    (db.path / "BOOKMARKS").write_bytes(data)
    db = opening()
    db.put(ITEMS, *items(50, 50))
    assert db.count(ITEMS) == 11
    assert list(db.admin.check()) == []
    told = r"BOOKMARKS is not a valid BOOKMARKS file of everlog: .*\. Restore a copy of it, or"
    for ask in (
        lambda: list(db.consumers),
        lambda: db.consumers["mirror"],
        lambda: db.consumers.bookmark(mirror, db.cursor()),
        lambda: db.consumers.register("mirror", after=5),
    ):
        with pytest.raises(OpenError, match=told):
            ask()
    found = db.admin.status()
    assert (found.consumers.registered, found.consumers.over) == (1, [])
    assert re.search(told, found.consumers.error)
    (db.path / "BOOKMARKS").unlink()  # as the message says
    assert db.admin.status().consumers.error == ""
    assert db.consumers["mirror"].position.seq == 3
    assert db.consumers.register("mirror", after=5).position.seq == 5


def test_a_known_consumer_runs_while_the_disk_is_full(small_disk: Path, opening: Opener) -> None:
    db = opening(at=small_disk / "db")
    fill(db, 10)
    before = db.consumers.register("mirror", after=3)
    with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(64 << 20))
    with pytest.raises(DiskError):
        db.consumers.bookmarks.take("another", 1, 1)
    now = db.consumers.register("mirror", after=4)
    with pytest.raises(CursorError, match="two processes"):
        db.consumers.bookmark(before, db.cursor())
    db.consumers.bookmark(now, db.log.cursor(6, db.uuid))
    assert db.consumers["mirror"].position.seq == 6
    written = (db.path / "BOOKMARKS").read_bytes()
    assert b'"seq":3,' in written
    (small_disk / "ballast").unlink()
    db.close()
    db = opening(at=small_disk / "db")
    assert db.consumers["mirror"].position.seq == 6
    db.close()
    (db.path / "BOOKMARKS").write_bytes(written)  # as if the process was killed before it could write
    db = opening(at=small_disk / "db")
    db.consumers.bookmark(now, db.log.cursor(7, db.uuid))
    with pytest.raises(CursorError, match="two processes"):
        db.consumers.bookmark(before, db.cursor())
    with pytest.raises(CursorError, match="two processes"):  # an epoch that nobody can have
        db.consumers.move("mirror", 1 << 62, db.cursor())
    assert db.consumers["mirror"].position.seq == 7
    db.close()
