"""A coordinator with its console, and simulated members: their reports are real, their databases are not."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from everlog import migrations
from everlog.console.web.server import WebServer
from everlog.fleet.hub import Hub
from everlog.fleet.ledger import SOURCE
from everlog.fleet.protocol import Phase, Target
from everlog.fleet.status import MemberReport
from everlog.rpc.embedded import EmbeddedDatabase
from tests.console.web.visitor import console_of

START, END = 20260105093000, 20260112093000
FOLDERS = bytes(range(32))
TOKENS = {"ann": "token-of-ann", "bob": "token-of-bob"}
ROLES = {"ann": ("owner",), "bob": ("reader", "operator")}


class Process:
    """The stream of a process with members, which says nothing."""

    def __init__(self, database: bytes) -> None:
        self.process, self.left = database, False
        self.peer = f"10.0.{database[0]}.{database[1]}:{40_000 + database[2]}"

    def send(self, **_: Any) -> None: ...
    def end(self, why: str) -> None: ...


class Fleet(NamedTuple):
    """A fleet with its console."""

    hub: Hub
    db: EmbeddedDatabase
    url: str
    web: WebServer

    @property
    def ledger_url(self) -> str:
        """The URL that members join."""
        return f"everlog+insecure://{self.web.server.target}/ledger"

    def join(self, names: Iterable[str], **labels: str) -> list[MemberReport]:
        """Connect members, each in its own process."""
        found = []
        for name in names:
            id = uuid.uuid5(uuid.NAMESPACE_DNS, name).bytes
            found.append(
                MemberReport(name, id, labels, 7, 1, START, END, 1, FOLDERS, release="0.1.0", compared=7)
            )
            self.say(found[-1])
        return found

    def say(self, report: MemberReport, **what: Any) -> MemberReport:
        """Report for a member, with these changes."""
        said = msgspec.structs.replace(report, **what)
        self.hub.receive(Process(report.database), [said])
        return said

    def leave(self, report: MemberReport) -> None:
        """End the connection of a member."""
        link = Process(report.database)
        self.hub.receive(link, [report])
        self.hub.leave(link)

    def start(self, members: Sequence[MemberReport], *, hold: bool = False) -> bytes:
        """Start a run of these members."""
        id = uuid.uuid5(uuid.NAMESPACE_DNS, f"run {len(self.hub.status().runs)}").bytes
        plan = [Target(one.database, START, END, FOLDERS, hold) for one in members]
        self.hub.begin(id, plan, deadline_s=3600, actor="ann", reason="release 2; ticket 4711")
        return id

    def prepared(self, report: MemberReport, run: bytes, **what: Any) -> MemberReport:
        """Vote for a member."""
        return self.say(report, phase=Phase.PREPARED, decision_id=run, fence=self.hub.status().epoch, **what)


@contextlib.contextmanager
def fleet_of(
    path: Path,
    *,
    tokens: Mapping[str, str] = TOKENS,
    roles: Mapping[str, Sequence[str]] = ROLES,
    hub: Mapping[str, Any] = {},
) -> Iterator[Fleet]:
    """Coordinate a fleet with a ledger in this directory, and serve its console. `hub`: of Hub."""
    path.mkdir(exist_ok=True)
    with EmbeddedDatabase(path / "ledger.db") as db:
        migrations.apply(db, SOURCE)
        coordinator = Hub(db, path / "ledger.mark", **hub)
        coordinator.start()
        how: dict[str, Any] = {"tokens": tokens, "roles": roles if tokens else {}}
        try:
            with console_of({"ledger": db}, fleets={"ledger": coordinator}, **how) as web:
                yield Fleet(coordinator, db, web.url, web)
        finally:
            coordinator.close()
