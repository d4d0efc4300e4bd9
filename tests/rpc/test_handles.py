"""Handles: each protocol of `everlog.rpc.handles` against both implementations."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.audit.archive import LocalArchive
from everlog.audit.prover import LocalProver, Prover
from everlog.migrations.local import LocalMigrations
from everlog.rpc import handles
from everlog.rpc.client.access import RemoteAccess
from everlog.rpc.client.admin import RemoteAdmin, RemoteConsumers
from everlog.rpc.client.audit import RemoteArchive, RemoteProver
from everlog.rpc.client.history import RemotePast
from everlog.rpc.client.migrations import RemoteMigrations
from everlog.rpc.client.people import RemotePeople
from everlog.store.history.past import Past
from everlog.store.upkeep.access import Access
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.consumers import Consumers
from everlog.store.upkeep.people import People
from tests.conformance.database_case import open_case

ROOT = Path(__file__).parents[2]

# handle: its protocol, the embedded and the remote implementation
HANDLES: dict[str, tuple[type, type, type]] = {
    "access": (handles.Access, Access, RemoteAccess),
    "migrations": (handles.Migrations, LocalMigrations, RemoteMigrations),
    "consumers": (handles.Consumers, Consumers, RemoteConsumers),
    "past": (handles.Past, Past, RemotePast),
    "people": (handles.People, People, RemotePeople),
    "admin": (handles.Admin, Admin, RemoteAdmin),
    "proofs": (Prover, LocalProver, RemoteProver),
    "archive": (handles.Archive, LocalArchive, RemoteArchive),
}


def calls(protocol: type) -> Iterator[str]:
    for name, value in vars(protocol).items():
        if not name.startswith("_") or name in ("__getitem__", "__iter__"):
            assert value.__doc__, f"{protocol.__name__}.{name} says what it does"
            yield name


def arguments(of: type, name: str) -> list[tuple[str, Any, Any]] | None:
    """Return names, kinds and defaults; None: a property."""
    found = inspect.getattr_static(of, name)
    if not inspect.isfunction(found):
        return None
    return [(one.name, one.kind, one.default) for one in inspect.signature(found).parameters.values()]


@pytest.mark.parametrize("handle", HANDLES)
def test_a_handle_has_the_same_calls_on_both_databases(handle: str) -> None:
    protocol, embedded, remote = HANDLES[handle]
    names = list(calls(protocol))
    assert names
    for implementation in (embedded, remote):
        for name in names:
            expected = arguments(protocol, name)
            if expected is None:
                continue  # an attribute, possibly of the instance
            found = arguments(implementation, name)
            assert found is not None, f"{implementation.__name__}.{name}"
            more = MORE.get(f"{implementation.__name__}.{name}", set())
            same = [one for one in found if one[0] not in more]
            assert same == expected, f"{implementation.__name__}.{name}"


# Arguments of only one implementation.
MORE = {
    "LocalProver.keep": {"by"},  # a server signs with its own key
    "Consumers.register": {"permit"},  # by which a server decides about the name of another caller
}


def test_a_database_has_every_handle_with_every_call(tmp_path: Path) -> None:
    with open_case("remote", tmp_path) as case:
        for db in (case.embedded, case.db):
            for handle, (protocol, _, _) in HANDLES.items():
                found = getattr(db, handle)
                for name in calls(protocol):
                    assert hasattr(found, name), f"{type(db).__name__}.{handle}.{name}"


def modules(*rooms: str) -> Iterator[tuple[Path, ast.Module]]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_the_console_asks_no_database_of_which_kind_it_is() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, module in modules("console")
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and "Database" in ast.unparse(node.args[1])
    ]
    assert found == []


# Base classes from the rooms that a class of rpc/ may have: it is a subtype of them, everywhere.
BASES = {"Writer", "Fair", "Snapshot", "Transaction", "Database"}


def test_databases_and_services_are_composed() -> None:
    """No class of rpc/ inherits from two, nor from one that only provides methods."""
    found, known = [], classes() - BASES
    for path, module in modules("rpc"):
        for node in ast.walk(module):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            own = bases & known
            if own or len(node.bases) > 1 + any("Generic" in base for base in bases):
                found.append(f"{path}:{node.lineno} {node.name} inherits from {', '.join(sorted(bases))}")
    assert found == []


def classes() -> set[str]:
    """Return the names of the classes of these rooms."""
    return {
        node.name
        for _, module in modules("store", "audit", "migrations", "feed", "rpc")
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    }
