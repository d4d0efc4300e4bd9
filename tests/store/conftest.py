"""Databases that are checked when they are closed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import ClosedError
from tests.store.models import open_flights

Opener = Callable[..., Database]

traces_opcodes = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 misses or crashes at traced instructions (python/cpython#114480 and #118415)",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the test's database, which need not exist."""
    return tmp_path / "db"


@pytest.fixture
def opening(path: Path) -> Iterator[Opener]:
    """Yield a function that opens the test's database, with its tables. All that are open at the end are
    checked.
    """
    opened: list[Database] = []

    def open_it(*tables: Any, at: Path = path, **options: Any) -> Database:
        db = open_flights(at, *tables, **options)
        opened.append(db)
        return db

    yield open_it
    for db in opened:
        with contextlib.suppress(ClosedError):
            assert list(db.admin.check()) == []
        db.close()


@pytest.fixture
def db(opening: Opener) -> Database:
    return opening()
