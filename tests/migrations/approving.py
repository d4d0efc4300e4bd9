"""A database with one applied and one pending migration, and helpers for its tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everlog import migrations
from everlog.migrations import Approval
from everlog.migrations.proposal import Proposal
from everlog.rpc.embedded import EmbeddedDatabase
from tests.migrations.project import Project

JFK = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"}
INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'


@contextmanager
def one_pending(project: Project, path: Path, table: str = INDEXED) -> Iterator[Approval]:
    """Yield a database whose second migration indexes the table of the first. It is checked at the end."""
    project.add("one", files=JFK)
    with EmbeddedDatabase(path) as db:
        migrations.apply(db, project.build().path)
        project.add("two", table=table)
        yield Approval(db, project.build().path, "airports")
    with EmbeddedDatabase(path) as again:
        assert list(again.admin.check()) == []


def proposed(approval: Approval, actor: str = "deploy") -> Proposal:
    found = approval.propose(actor=actor, reason="release 7")
    assert found is not None
    return found


def put(approval: Approval, faa: str, name: str) -> None:
    """Write an airport, in the applied version."""
    table = migrations.load(approval.source)[0].tables[0]
    approval.db.put(table, table.model(faa=faa, name=name))


def put_file(folder: Path, more: str) -> None:
    """Add text to the constants of a migration."""
    constants = folder / "__init__.py"
    constants.write_text(constants.read_text() + more)
