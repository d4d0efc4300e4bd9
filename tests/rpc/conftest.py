"""Fixtures for the network's tests: a database, and certificates to serve it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server.server import Server
from tests.conformance.database_case import open_case
from tests.migrations.project import Project

HERE = Path(__file__).parent
TLS = Tls(HERE / "certificate.pem", HERE / "key.pem")  # of localhost and 127.0.0.1, self-signed


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with open_case("file", tmp_path) as case:
        yield case.embedded


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """Yield a database without tables, which is checked when it is closed."""
    with EmbeddedDatabase(tmp_path / "db") as db:
        yield db
        assert list(db.admin.check()) == []


@pytest.fixture
def remote(empty: EmbeddedDatabase, project: Project) -> Iterator[RemoteDatabase]:
    """Yield a client of a server that has the empty database and the folders of the module's `project`."""
    with (
        Server({"x": empty}, migrations={"x": str(project.path)}) as server,
        RemoteDatabase(server.url("x")) as remote,
    ):
        yield remote
