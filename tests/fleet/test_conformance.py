"""A database carries out orders as the protocol says: one walk through both, compared after each order."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import MigrationError, migrations
from everlog.fleet import protocol
from everlog.fleet.protocol import Holding, Member, Order, Phase, Target, Verb
from everlog.migrations import DecisionState, prepared
from everlog.proto import log_pb2
from everlog.store.database import Database
from tests.migrations.conftest import db, project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["db", "project"]

EARLIER, ID, LATER = (bytes([number]) * 16 for number in (1, 2, 3))
FOLDERS = b"\x0f"
PHASES = {
    DecisionState.PREPARING: Phase.PREPARING,
    DecisionState.PREPARED: Phase.PREPARED,
    DecisionState.COMMITTED: Phase.COMMITTED,
    DecisionState.ABORTED: Phase.ABORTED,
}


class Both:
    """A database, and the pair of values that the protocol has for it."""

    def __init__(self, airports: Airports) -> None:
        self.db, self.path = airports.db, airports.path
        start, end = 20260101000000, 20260101000001
        self.target = Target(self.db.uuid, start, end, FOLDERS)
        self.holding, self.member = Holding(start, FOLDERS), Member(self.target.database)

    def order(self, verb: Verb, fence: int, decision_id: bytes = ID) -> tuple[Phase, bool]:
        """Give both an order. Return the phase afterwards, and whether the database refused the order."""
        step = protocol.obey(self.holding, self.member, Order(decision_id, fence, verb, self.target))
        refused = self._in_database(verb, decision_id, fence)
        if step.member.target is not None:
            step = (
                protocol.failed(step.holding, step.member, refused)
                if "fails for row" in refused
                else protocol.built(step.holding, step.member)
            )
        self.holding, self.member = step.holding, step.member
        assert self._found() == (self.holding.phase, self.holding.version)
        return self.holding.phase, refused != ""

    def _in_database(self, verb: Verb, decision_id: bytes, fence: int) -> str:
        """Return why the database refused the order, or an empty string."""
        try:
            if verb is Verb.PREPARE:
                migrations.prepare(self.db, decision_id, self.path, fence=fence, hold=True)
            elif verb is Verb.COMMIT:
                migrations.commit_prepared(self.db, decision_id, fence=fence)
            elif verb is Verb.ABORT:
                migrations.abort_prepared(self.db, decision_id, fence=fence)
            elif verb is Verb.CONTRACT:
                migrations.complete(self.db)
        except MigrationError as error:
            return str(error)
        return ""

    def _found(self) -> tuple[Phase, int]:
        """Return the phase and the version that the database has, in the run that the protocol holds."""
        run = self.holding.decision_id
        found = prepared.decision(self.db, run) if run else None
        phase = PHASES[found.state] if found else Phase.IDLE
        if phase is Phase.COMMITTED and not self.db.schema.is_online:
            phase = Phase.CONTRACTED
        steps = (log_pb2.Migration.SWITCHED, log_pb2.Migration.FINISHED)
        records = [record.migration for record in self.db.migration_records()]
        versions = [one.version for one in records if one.step in steps]
        return phase, versions[-1]


@pytest.fixture
def both(project: Project, db: Database) -> Both:
    return Both(Airports(project, db, 3))


DONE, REFUSED = False, True
Walk = list[tuple[Verb, int, bytes, Phase, bool]]

WALKS: dict[str, Walk] = {
    "commit": [
        (Verb.COMMIT, 2, ID, Phase.IDLE, REFUSED),
        (Verb.CONTRACT, 2, ID, Phase.IDLE, REFUSED),
        (Verb.PREPARE, 2, ID, Phase.PREPARED, DONE),
        (Verb.PREPARE, 2, ID, Phase.PREPARED, DONE),
        (Verb.PREPARE, 3, LATER, Phase.PREPARED, REFUSED),
        (Verb.COMMIT, 3, LATER, Phase.PREPARED, REFUSED),
        (Verb.CONTRACT, 3, ID, Phase.PREPARED, REFUSED),
        (Verb.PREPARE, 4, ID, Phase.PREPARED, DONE),
        (Verb.COMMIT, 3, ID, Phase.PREPARED, REFUSED),
        (Verb.ABORT, 3, ID, Phase.PREPARED, REFUSED),
        (Verb.COMMIT, 4, ID, Phase.COMMITTED, DONE),
        (Verb.COMMIT, 4, ID, Phase.COMMITTED, DONE),
        (Verb.PREPARE, 4, ID, Phase.COMMITTED, DONE),
        (Verb.ABORT, 4, ID, Phase.COMMITTED, REFUSED),
        (Verb.PREPARE, 2, EARLIER, Phase.COMMITTED, REFUSED),
        (Verb.ABORT, 2, EARLIER, Phase.COMMITTED, REFUSED),
        (Verb.CONTRACT, 4, ID, Phase.CONTRACTED, DONE),
        (Verb.ABORT, 4, ID, Phase.CONTRACTED, REFUSED),
        (Verb.COMMIT, 4, ID, Phase.CONTRACTED, DONE),
    ],
    "abort": [
        (Verb.PREPARE, 2, ID, Phase.PREPARED, DONE),
        (Verb.ABORT, 2, ID, Phase.ABORTED, DONE),
        (Verb.ABORT, 2, ID, Phase.ABORTED, DONE),
        (Verb.PREPARE, 2, ID, Phase.ABORTED, REFUSED),
        (Verb.COMMIT, 2, ID, Phase.ABORTED, REFUSED),
        (Verb.CONTRACT, 2, ID, Phase.ABORTED, REFUSED),
        (Verb.PREPARE, 3, LATER, Phase.PREPARED, DONE),
        (Verb.PREPARE, 2, ID, Phase.PREPARED, REFUSED),
        (Verb.COMMIT, 3, LATER, Phase.COMMITTED, DONE),
    ],
    "abort before it is prepared": [
        (Verb.ABORT, 2, ID, Phase.ABORTED, DONE),
        (Verb.PREPARE, 2, ID, Phase.ABORTED, REFUSED),
        (Verb.COMMIT, 2, ID, Phase.ABORTED, REFUSED),
        (Verb.PREPARE, 1, EARLIER, Phase.ABORTED, REFUSED),
        (Verb.PREPARE, 3, LATER, Phase.PREPARED, DONE),
        (Verb.ABORT, 3, LATER, Phase.ABORTED, DONE),
    ],
}


@pytest.mark.parametrize("name", WALKS)
def test_a_database_carries_out_orders_as_the_protocol_says(name: str, both: Both) -> None:
    for verb, fence, decision_id, phase, refused in WALKS[name]:
        found: tuple[Any, ...] = both.order(verb, fence, decision_id)
        assert (verb, fence, *found) == (verb, fence, phase, refused)


def test_a_build_that_fails_ends_the_run_in_both(project: Project, db: Database) -> None:
    airports = Airports(project, db, 3)
    db.put(airports.old, airports.old.model(faa="B", name="Plato"))
    both = Both(airports)
    assert both.order(Verb.PREPARE, 2) == (Phase.ABORTED, REFUSED)
    assert "fails for row" in both.holding.reason
    assert both.order(Verb.PREPARE, 2) == (Phase.ABORTED, REFUSED)
    assert both.order(Verb.ABORT, 2) == (Phase.ABORTED, DONE)
    found = prepared.decision(db, ID)
    assert found is not None
    assert "Plato" not in found.error
    assert "fails for row" in found.error
