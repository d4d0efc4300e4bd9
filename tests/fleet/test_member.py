"""A database as a member: embedded, and on a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from everlog import migrations
from everlog.audit.archive import archive
from everlog.feed import cursor
from everlog.fleet.member import FleetMember
from everlog.fleet.protocol import Order, Phase, Target, Verb
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

ID, LATER = (bytes([number]) * 16 for number in (1, 2))
START, END = 20260101000000, 20260101000001


class Joined:
    """A database with three rows, and the member that a fleet sees, perhaps through a server."""

    def __init__(
        self, airports: Airports, db: EmbeddedDatabase, seen: EmbeddedDatabase | RemoteDatabase
    ) -> None:
        self.airports, self.db, self.seen = airports, db, seen
        self.member = FleetMember(seen)
        holding = self.member.holding()
        assert (holding.version, holding.phase) == (START, Phase.IDLE)
        self.target = Target(db.uuid, START, END, holding.folder_digest, hold=True)

    def order(self, verb: Verb, fence: int = 2, decision_id: bytes = ID) -> tuple[Phase, str]:
        """Give an order. A member without a memory reports the same."""
        report = self.member.obey(Order(decision_id, fence, verb, self.target))
        again = FleetMember(self.seen).report()
        if report.phase is not Phase.IDLE:
            assert (again.phase, again.decision_id, again.refusal) == (
                report.phase,
                report.decision_id,
                report.refusal,
            )
        return report.phase, report.refusal


@pytest.fixture(params=["embedded", "server"])
def joined(request: pytest.FixtureRequest, project: Project, tmp_path: Any) -> Iterator[Joined]:
    with EmbeddedDatabase(tmp_path / "db") as db, ExitStack() as stack:
        airports = Airports(project, db, 3)
        db.folders = airports.path
        seen: EmbeddedDatabase | RemoteDatabase = db
        if request.param == "server":
            server = stack.enter_context(Server({"db": db}, migrations={"db": str(airports.path)}))
            seen = stack.enter_context(RemoteDatabase(server.url("db")))
        yield Joined(airports, db, seen)
        assert list(db.admin.check()) == []


def test_a_member_commits_and_contracts(joined: Joined) -> None:
    assert joined.order(Verb.COMMIT) == (Phase.IDLE, "")
    assert joined.order(Verb.PREPARE) == (Phase.PREPARED, "")
    assert joined.order(Verb.PREPARE) == (Phase.PREPARED, "")
    assert joined.order(Verb.COMMIT) == (Phase.COMMITTED, "")
    assert joined.member.holding().version == END
    assert joined.order(Verb.ABORT) == (Phase.COMMITTED, "")
    assert joined.order(Verb.CONTRACT) == (Phase.CONTRACTED, "")
    assert joined.order(Verb.COMMIT) == (Phase.CONTRACTED, "")
    log = [(entry.actor, entry.reason) for entry in joined.seen.past.log(kind="migration", after=3)]
    assert log[-2:] == [
        ("fleet", f"COMMIT of run {cursor.name(ID)}"),
        ("fleet", f"CONTRACT of run {cursor.name(ID)}"),
    ]


def test_a_member_aborts(joined: Joined) -> None:
    hashes = joined.db.admin.hashes()
    assert joined.order(Verb.PREPARE) == (Phase.PREPARED, "")
    assert joined.order(Verb.ABORT, fence=1) == (Phase.PREPARED, "")
    assert joined.order(Verb.ABORT, decision_id=LATER) == (Phase.PREPARED, "")
    assert joined.order(Verb.ABORT) == (Phase.ABORTED, "")
    assert joined.order(Verb.PREPARE) == (Phase.ABORTED, "")
    assert joined.db.admin.hashes() == hashes
    assert joined.order(Verb.PREPARE, 3, LATER) == (Phase.PREPARED, "")
    assert joined.order(Verb.ABORT, 3, LATER) == (Phase.ABORTED, "")


def test_an_order_to_abort_ends_a_build(joined: Joined) -> None:
    joined.member = FleetMember(joined.seen, rate=20)
    with ThreadPoolExecutor(1) as pool:
        build = pool.submit(joined.member.obey, Order(ID, 2, Verb.PREPARE, joined.target))
        until = time.monotonic() + 60
        while joined.member.report().phase is Phase.IDLE:
            assert time.monotonic() < until
        assert joined.order(Verb.PREPARE)[0] in {Phase.PREPARING, Phase.PREPARED}  # by the first thread
        assert joined.order(Verb.ABORT)[0] is Phase.ABORTED
        assert build.result(60).phase is Phase.ABORTED
    assert joined.order(Verb.PREPARE)[0] is Phase.ABORTED


def test_a_refusal_before_anything_is_built_is_recorded_with_its_reason(joined: Joined) -> None:
    migrations.apply(joined.db, joined.airports.path)
    joined.target = Target(joined.db.uuid, END, END, joined.target.folder_digest)
    phase, refusal = joined.order(Verb.PREPARE)
    assert (phase, refusal) == (Phase.ABORTED, "no migration is pending, so there is none to prepare")
    assert joined.order(Verb.PREPARE) == (phase, refusal)


def test_a_refusal_by_the_rows_has_no_row_in_it(joined: Joined) -> None:
    joined.db.put(joined.airports.old, joined.airports.old.model(faa="B", name="Plato"))
    phase, refusal = joined.order(Verb.PREPARE)
    assert phase is Phase.ABORTED
    assert "fails for row" in refusal
    assert "Plato" not in refusal


def test_another_version_and_other_folders_are_refused_without_a_record(joined: Joined) -> None:
    head = joined.db.head
    joined.target = Target(joined.db.uuid, START, END, b"\x00" * 32)
    phase, refusal = joined.order(Verb.PREPARE)
    assert (phase, refusal[:36], joined.db.head) == (Phase.IDLE, "expected folders with digest 0000000", head)
    joined.target = Target(joined.db.uuid, END, END, b"")
    assert joined.order(Verb.PREPARE) == (Phase.IDLE, f"expected version {END}, found {START}")


def test_a_vote_that_was_archived_is_still_reported(joined: Joined, tmp_path: Any) -> None:
    assert joined.order(Verb.PREPARE) == (Phase.PREPARED, "")
    archive(joined.db, tmp_path / "archive")
    (tmp_path / "archive").rename(tmp_path / "unmounted")
    assert joined.order(Verb.PREPARE) == (Phase.PREPARED, "")
    assert joined.order(Verb.COMMIT) == (Phase.COMMITTED, "")
    (tmp_path / "unmounted").rename(tmp_path / "archive")
