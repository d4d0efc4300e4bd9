from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from everlog import migrations
from everlog.console.cli.main import run
from everlog.console.cli.options import Settings
from everlog.store import environment
from everlog.store.database import Database
from tests.console import shop


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the migrations of the shop, built once: their package stays loaded in this process."""
    directory = tmp_path_factory.mktemp("project") / "console_shop"
    directory.mkdir()
    found = shop.write(directory)
    migrations.build(found)
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to an empty directory, without variables from outside."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("EVERLOG_")]:
        del os.environ[name]
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    environment.load_files([])  # files of the previous command must not affect the next test
    os.environ.clear()  # including those that were read from .env
    os.environ.update(before)


@pytest.fixture
def everlog(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line as a shell would, in this process."""

    def call(*words: object) -> Ended:
        capfd.readouterr()
        code = run([str(word) for word in words], Settings())
        sys.stdout.flush()
        return Ended(code, *capfd.readouterr())

    return call


@pytest.fixture
def books(everlog: Run, project: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a migrated database, named by the variables; it is checked at the end."""
    path = here / "books.db"
    monkeypatch.setenv("DATABASE_URL", f"file:{path}")
    monkeypatch.setenv("EVERLOG_MIGRATIONS_DIR", str(project))
    assert everlog("up").code == 0
    yield path
    if path.exists():
        with Database(path, create=False) as db:
            assert list(db.admin.check()) == []


@pytest.fixture
def one(everlog: Run, project: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Yield a database with the first migration applied, named by the variables."""
    monkeypatch.setenv("DATABASE_URL", "file:books.db")
    monkeypatch.setenv("EVERLOG_MIGRATIONS_DIR", str(project))
    assert everlog("up", "--to", shop.FIRST).code == 0
    return here / "books.db"
