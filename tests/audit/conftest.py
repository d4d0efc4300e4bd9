"""Databases that are checked when they are closed, and directories for their backups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.conftest import Opener, db, opening, path

__all__ = ["Opener", "db", "opening", "path"]


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """Return the path of the test's backup, which need not exist."""
    return tmp_path / "backup"
