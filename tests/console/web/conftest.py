from __future__ import annotations

from collections.abc import Iterator

import pytest

from everlog.console.web import commit, load, rows
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.testing import at_version
from tests.console.web.visitor import Visitor, console_of

SOURCE = "flights.migrations"
TOKENS = {"ann": "token-of-ann", "bob": "token-of-bob", "carl": "token-of-carl"}
ROLES = {"ann": ("owner",), "bob": ("reader",)}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages read for a minute: what they read in a short time is less on a slow machine."""
    for module, name in ((commit, "READ_S"), (rows, "READ_S"), (load, "CHECK_S")):
        monkeypatch.setattr(module, name, 60.0)


@pytest.fixture
def flights() -> Iterator[EmbeddedDatabase]:
    """Yield the database of the example, with test data."""
    with at_version(source=SOURCE, testdata=True) as db:
        assert isinstance(db, EmbeddedDatabase)
        yield db


@pytest.fixture
def open_console(flights: EmbeddedDatabase) -> Iterator[Visitor]:
    """Yield a visitor of the console of a server without tokens."""
    with console_of({"flights": flights}) as web:
        yield Visitor(web.url)


@pytest.fixture
def console(flights: EmbeddedDatabase) -> Iterator[Visitor]:
    """Yield a visitor, not signed in, of the console of a server with tokens."""
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES) as web:
        yield Visitor(web.url)
