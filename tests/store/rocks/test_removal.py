"""Removing a database: its files are removed, others are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.rocks.ownership import remove
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item


def test_a_directory_with_nothing_else_in_it_goes(opening: Opener) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    db.close()
    assert remove(db.path) == []
    assert not db.path.exists()


def test_a_removal_that_was_killed_at_any_point_can_be_made_again(
    opening: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    db.close()

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    for module, name in ((Path, "rename"), (shutil, "rmtree"), (Path, "rmdir")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, killed)
            with pytest.raises(Killed):
                remove(db.path)
        Database(db.path).close()
    assert remove(db.path) == []
    assert not db.path.exists()


def test_what_looks_after_a_database_goes_with_it(opening: Opener) -> None:
    db = opening()
    db.close()
    for name in ("ARCHIVE", "BOOKMARKS", "HOLDS", "HOLDS.new"):
        (db.path / name).write_text("{}")
    assert remove(db.path) == []
