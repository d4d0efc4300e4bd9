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
    """Yield a project without migrations; its changes of the import path are undone at the end."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits within a second must be seen
    return Project(tmp_path)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """Yield a database that is checked when it is closed."""
    with Database(tmp_path / "db") as database:
        yield database
        assert list(database.admin.check()) == []


@pytest.fixture
def approval(project: Project, tmp_path: Path) -> Iterator[Approval]:
    """Yield one applied and one pending migration; the database is checked at the end."""
    with one_pending(project, tmp_path / "approved") as approval:
        yield approval
