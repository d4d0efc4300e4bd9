import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.migrations import Approval
from everlog.store.database import Database
from tests.migrations.approving import one_pending
from tests.migrations.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without migrations; what it does to the path of imports goes with it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits within a second must be seen
    return Project(tmp_path)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database that is checked when it is closed."""
    with Database(tmp_path / "db") as database:
        yield database
        assert list(database.admin.check()) == []


@pytest.fixture
def approval(project: Project, tmp_path: Path) -> Iterator[Approval]:
    """One migration applied, one pending; the database is checked in the end."""
    with one_pending(project, tmp_path / "approved") as approval:
        yield approval
