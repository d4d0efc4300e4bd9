"""Fixtures for the network's tests: a database, and certificates to serve it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from tests.conformance.database_case import open_case

HERE = Path(__file__).parent
TLS = Tls(HERE / "certificate.pem", HERE / "key.pem")  # of localhost and 127.0.0.1, self-signed


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with open_case("file", tmp_path) as case:
        yield case.embedded
