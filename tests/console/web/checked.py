"""A server whose pending migration waits for approval, its console, and the project of its migrations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from everlog import migrations
from everlog.migrations import Approval, Rules
from everlog.migrations.approval.notify import Notifier
from everlog.migrations.proposal import Proposal
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import quantity
from tests.console.web.visitor import console_of
from tests.migrations.project import Project

FIRST, SECOND = 20260101000000, 20260101000001
NAMES = {"ann": "owner", "bob": "approver", "carl": "reader", "dora": "owner", "eve": "auditor"}
TOKENS = {name: f"token-of-{name}" for name in NAMES}
ROLES = {name: (role,) for name, role in NAMES.items()}
FIELDS = "string faa = 1; string name = 2;"
WIDER = "string faa = 1; string name = 2; // <b>how it is called</b>\n  string city = 3;"
UP = """
from {app}.migrations.v20260101000000_create_airports.model_pb2 import Airport as Before

CITY = field("city", 3, STRING)


def up(old: Before) -> Airport:
    return Airport(faa=old.faa, name=old.name, city="a city")


def down(new: Airport) -> Before:
    return Before(faa=new.faa, name=new.name)
"""


def written(project: Project, *, index: str = 'Index("by_city", CITY)') -> Path:
    """Write a project of two migrations: the second converts all rows, and adds an index and a row."""
    project.add(fields=FIELDS, files={"bootstrap_airports.csv": "faa,name\nJFK,<i>Kennedy</i>\n"})
    project.add(
        "add_cities",
        fields=WIDER,
        code=UP.format(app=project.app),
        table=f'Table("airports", Airport, key=FAA, indexes=({index},))',
        drop=", transforms=[Transform(AIRPORTS, Before, up, down)]",
        files={"bootstrap_airports.csv": "faa,name,city\nEWR,Newark,Newark\n"},
    )
    return project.build().path


class Waiting(NamedTuple):
    """The console's URL, the database, its approvals, and its project."""

    url: str
    db: EmbeddedDatabase
    approval: Approval
    path: Path

    def proposal(self) -> Proposal:
        return self.approval.proposals()[-1]

    @property
    def page(self) -> str:
        return f"/migrations/{self.proposal().digest.hex()}"


@contextlib.contextmanager
def waiting(
    project: Project,
    *,
    approvers: Iterable[str] = (),
    rows: int = 20,
    rate: float | None = None,
    hold: bool = False,
    notify: Iterable[str] = (),
    tokens: Mapping[str, str] | None = TOKENS,
    **how: Any,
) -> Iterator[Waiting]:
    """Serve a database at the first version, with the second one proposed by `deploy`."""
    path = written(project, **how)
    with EmbeddedDatabase(project.path.parent / "db") as db:
        migrations.apply(db, path, to=FIRST, actor="deploy", reason="release 6")
        table = migrations.load(path)[0].tables[0]
        db.load(table, (table.model(faa=f"A{n:05}", name=f"Airport {n}") for n in range(rows)))
        approval = Approval(db, path, "airports", Rules(frozenset(approvers)), hold=hold, rate=rate)
        served: dict[str, Any] = {
            "migrations": {"airports": str(path)},
            "approvals": {"airports": approval},
            "actor": "deploy",
            "reason": f"release 7 of {quantity(rows, 'row')}",
            **({"tokens": tokens, "roles": ROLES} if tokens else {}),
        }
        with console_of({"airports": db}, **served) as web, Notifier(list(notify), [approval]) as notifier:
            approval.link, approval.changed = web.link, notifier.wake
            approval.propose()  # once the server has done so, which it does in the background
            yield Waiting(web.url, db, approval, path)
    with EmbeddedDatabase(project.path.parent / "db") as again:
        assert list(again.admin.check()) == []
