"""Handles: each protocol of `everlog.rpc.handles` against both implementations, and what is kept out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from everlog.migrations.local import LocalMigrations
from everlog.rpc import handles
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.migrations import RemoteMigrations
from everlog.rpc.embedded import EmbeddedDatabase

# handle: its protocol, the embedded and the remote implementation
HANDLES: dict[str, tuple[type, type, type]] = {
    "migrations": (handles.Migrations, LocalMigrations, RemoteMigrations),
}


def calls(protocol: type) -> Iterator[str]:
    for name, value in vars(protocol).items():
        if not name.startswith("_") or name in ("__getitem__", "__iter__"):
            assert value.__doc__, f"{protocol.__name__}.{name} says what it does"
            yield name


def arguments(of: type, name: str) -> list[tuple[str, Any, Any]] | None:
    """Names, kinds and defaults; None: a property."""
    found = inspect.getattr_static(of, name)
    if not inspect.isfunction(found):
        return None
    return [(one.name, one.kind, one.default) for one in inspect.signature(found).parameters.values()]


@pytest.mark.parametrize("handle", HANDLES)
def test_a_handle_has_the_same_calls_on_both_databases(handle: str) -> None:
    protocol, embedded, remote = HANDLES[handle]
    names = list(calls(protocol))
    assert names
    for name in names:
        expected = arguments(protocol, name)
        for implementation in (embedded, remote):
            assert arguments(implementation, name) == expected, f"{implementation.__name__}.{name}"
    for implementation in (embedded, remote):
        more = {name for name in vars(implementation) if not name.startswith("_")} - {*names}
        assert not more - MORE.get(implementation, set()), f"{implementation.__name__}: {sorted(more)}"


# Calls of one implementation alone, with the reason.
MORE: dict[type, set[str]] = {}


@pytest.mark.parametrize("face", [EmbeddedDatabase, RemoteDatabase], ids=lambda one: one.__name__)
def test_a_database_offers_every_handle(face: type) -> None:
    for handle in HANDLES:
        assert inspect.getattr_static(face, handle, None) is not None, handle
