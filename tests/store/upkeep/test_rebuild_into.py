"""Rebuilding into another directory: a database that equals the live one, or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.errors import OpenError
from everlog.store.progress import Progress
from everlog.store.upkeep.rebuild import is_half
from tests.store.conftest import Opener
from tests.store.models import ITEMS, declare
from tests.store.upkeep.test_rebuild import fill

SCRIPT = """
import os, signal, sys
from everlog.store.progress import Progress
from tests.store.models import *
db = open_flights(Path(sys.argv[1]))
def die(progress: Progress) -> None:
    if progress.step.startswith(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
db.admin.rebuild_into(sys.argv[3], die)
"""


def test_another_database_is_rebuilt_from_the_log_alone(opening: Opener, tmp_path: Path) -> None:
    db = opening()
    fill(db)
    declare(db, ITEMS)
    copy = db.admin.rebuild_into(tmp_path / "copy")
    assert copy == db.admin.hashes()
    other = opening(at=tmp_path / "copy")
    assert (other.uuid, other.head, other.admin.hashes()) == (db.uuid, db.head, copy)
    assert other.log.read(0, 1 << 30) == db.log.read(0, 1 << 30)
    with pytest.raises(OpenError, match="is not empty; expected a new directory"):
        db.admin.rebuild_into(tmp_path / "copy")


class Stopped(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("there", [False, True])
def test_a_rebuild_into_a_directory_that_is_interrupted_leaves_nothing(
    opening: Opener, tmp_path: Path, there: bool
) -> None:
    db, copy = opening(), tmp_path / "copy"
    fill(db)
    if there:
        copy.mkdir()

    def stop(progress: Progress) -> None:
        if progress.step == "rebuild":
            raise Stopped

    with pytest.raises(Stopped):
        db.admin.rebuild_into(copy, stop)
    assert copy.exists() == there
    assert not there or not [*copy.iterdir()]


def test_what_a_killed_rebuild_into_a_directory_left_is_no_database_and_is_begun_anew(
    opening: Opener, tmp_path: Path
) -> None:
    db, copy = opening(), tmp_path / "copy"
    fill(db)
    db.close()
    words = [sys.executable, "-c", SCRIPT, str(db.path), "rebuild", str(copy)]
    assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
    with pytest.raises(OpenError, match="a rebuild into it is running or was killed"):
        Database(copy)
    assert is_half(copy)
    db = opening()
    assert db.admin.rebuild_into(copy) == db.admin.hashes()
    assert not is_half(copy)
    assert opening(at=copy).head == db.head


def test_one_rebuild_into_a_directory_at_a_time(opening: Opener, tmp_path: Path) -> None:
    db, copy, refused = opening(), tmp_path / "copy", list[OpenError]()
    fill(db)

    def second(progress: Progress) -> None:
        if not refused:
            with pytest.raises(OpenError, match="another process rebuilds into") as caught:
                db.admin.rebuild_into(copy)
            refused.append(caught.value)

    assert db.admin.rebuild_into(copy, second) == db.admin.hashes()
    assert refused
