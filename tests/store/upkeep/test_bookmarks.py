"""A damaged file of bookmarks."""

from __future__ import annotations

import re

import pytest

from everlog.store.errors import OpenError
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
