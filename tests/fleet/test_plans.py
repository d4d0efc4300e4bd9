"""Plans of a fleet over real sockets: planned, approved by those who may, and started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from everlog import AccessError, MigrationError
from everlog.feed import cursor
from everlog.fleet.approvals import PlanState, ProposedPlan
from everlog.fleet.migrations.v20261130233000_add_proofs import PLANS, Plan
from everlog.fleet.protocol import Decision, Run
from everlog.migrations.proposal import Rules
from everlog.rpc.client.database import RemoteDatabase
from tests.fleet.test_transport import (
    END,
    START,
    Coordinator,
    airports,
    connected,
    coordinator,
    fleet,
    joined,
    made,
    when,
)
from tests.migrations.conftest import project
from tests.migrations.test_online import Airports
from tests.ports import reserved_port

__all__ = ["airports", "coordinator", "fleet", "project"]

ROLES = {"ann": ("migrator",), "bob": ("approver",), "eve": ("owner",), "shop": ("member",)}


@pytest.fixture
def checked(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator that needs approved plans, and knows its callers by tokens."""
    with reserved_port() as port:
        one = Coordinator(
            tmp_path / "ledger",
            port,
            hub={"checked": True, "rules": Rules(frozenset({"bob"}))},
            tokens={name: f"{name}-token" for name in ROLES},
            roles=ROLES,
        )
        yield one
        one.stop()


@pytest.fixture
def north(coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path) -> Iterator[Any]:
    with joined(coordinator, airports, made(airports, tmp_path / "north")) as db:
        when(fleet, connected("north"))
        yield db


def as_(name: str, coordinator: Coordinator) -> RemoteDatabase:
    return RemoteDatabase(f"{coordinator.url}?token={name}-token")


def test_a_plan_is_approved_and_started_by_those_who_may(
    checked: Coordinator, airports: Airports, tmp_path: Path
) -> None:
    url = f"{checked.url}?token=shop-token"
    with ExitStack() as stack:
        path = made(airports, tmp_path / "north")
        north = stack.enter_context(joined(checked, airports, path, fleet=url))
        ann, bob, eve, shop = (stack.enter_context(as_(name, checked)) for name in ROLES)
        status = when(ann.fleet, connected("north"))
        assert status.checked
        plan = ann.fleet.plan(reason="release 2")
        assert (plan.state, plan.proposed_by, plan.proposed_proof) == (PlanState.WAITING, "ann", "token")
        assert [(one.name, one.to_version) for one in plan.plan.members] == [("north", END)]
        for who, error, said in (
            (ann, AccessError, "ann lacks the right approve"),
            (shop, AccessError, "shop lacks the right approve"),
            (eve, MigrationError, f"eve may not approve {plan.short}; the approvers are: bob"),
        ):
            with pytest.raises(error, match=said):
                who.fleet.approve(plan.short, reason="looks good")
        with pytest.raises(AccessError, match="bob lacks the right propose"):
            bob.fleet.plan()
        with pytest.raises(MigrationError, match=r"waits for approval since ann .*`everlog fleet approve"):
            ann.fleet.upgrade(plan.short)
        with pytest.raises(MigrationError, match="expected a reason, found none"):
            bob.fleet.approve(plan.short, reason=" ")
        approved = bob.fleet.approve(plan.short, reason="looked at it")
        assert (approved.state, approved.decided_by, approved.decided_proof) == (
            PlanState.APPROVED,
            "bob",
            "token",
        )
        with pytest.raises(AccessError, match="bob lacks the right migrate"):
            bob.fleet.upgrade(plan.short)
        run = ann.fleet.upgrade(plan.short)
        when(ann.fleet, lambda found: found.runs and not found.runs[0].open_seats())
        assert north.schema.version == END
        (found,) = ann.fleet.plans()
        assert (found.state, found.decision_id) == (PlanState.STARTED, run.decision_id)
        assert ann.fleet.plans(plan.short)[0] == found
        with pytest.raises(MigrationError, match=r"was started as run .*, and cannot be started"):
            ann.fleet.upgrade(plan.short)
        with pytest.raises(MigrationError, match="was started as run"):
            bob.fleet.reject(plan.short, reason="too late")


def test_only_the_coordinator_writes_the_ledger(checked: Coordinator) -> None:
    """An owner could forge an approval otherwise."""
    with as_("eve", checked) as eve:
        forged = Plan(digest=bytes(32), state=Plan.APPROVED, decided_by="bob")
        for write in (
            lambda: eve.put(PLANS, forged),
            lambda: eve.load(PLANS, [forged]),
            lambda: eve.migrations.rollback(reason="to begin again"),
            eve.migrations.apply,
        ):
            with pytest.raises(
                AccessError, match="is the ledger of a fleet, and only its coordinator writes"
            ):
                write()
        assert list(eve.scan(PLANS)) == []
        assert eve.fleet.plans() == []


def test_a_stale_plan_is_refused_with_what_has_changed(
    coordinator: Coordinator, fleet: Any, airports: Airports, north: Any, tmp_path: Path
) -> None:
    plan = fleet.plan("name!=away")
    assert plan.plan.selector == "name!=away"
    with pytest.raises(MigrationError, match="expected the digest of a plan, or at least its first 6"):
        fleet.upgrade("abcdef")
    with joined(coordinator, airports, made(airports, tmp_path / "west")):
        when(fleet, connected("north", "west"))
        with pytest.raises(MigrationError, match=rf"it is stale: west joined, at version {START}") as raised:
            fleet.upgrade(plan.short)
        assert len(raised.value.changes) == 1
        with pytest.raises(MigrationError, match=r"is not approved, because it is stale: west joined"):
            fleet.approve(plan.short, actor="bob", reason="looks good")
    when(fleet, lambda found: not connected("west")(found))
    with pytest.raises(MigrationError, match=r"1 member of 2 could not be surveyed, .* west: it is not conn"):
        fleet.upgrade(plan.short)
    fleet.remove(found_uuid(fleet, "west"))
    run = fleet.upgrade(plan.short, reason="release 2")
    found = when(fleet, lambda found: found.runs and not found.runs[0].open_seats())
    assert (found.runs[0].decision_id, found.runs[0].decision) == (run.decision_id, Decision.COMMIT)


def found_uuid(fleet: Any, name: str) -> bytes:
    found: bytes = next(one for one in fleet.status().members if one.report.name == name).report.database
    return found


def test_a_plan_names_all_members_that_cannot_be_upgraded(
    coordinator: Coordinator, fleet: Any, airports: Airports, north: Any, tmp_path: Path
) -> None:
    path = made(airports, tmp_path / "south")
    with joined(coordinator, airports, path) as south:
        south.put(airports.old, airports.old.model(faa="B", name="Plato"))
        when(fleet, connected("north", "south"))
        with joined(coordinator, airports, made(airports, tmp_path / "west")):
            when(fleet, connected("west"))
        when(fleet, lambda found: not connected("west")(found))
        with pytest.raises(MigrationError, match="2 members of 3 cannot be upgraded in unison") as raised:
            fleet.plan()
        assert [one.name for one in raised.value.refusals] == ["west", "south"]
        assert "1 of 51 rows" in raised.value.refusals[1].reason
    assert fleet.plans() == []


def test_of_two_operators_who_start_at_once_one_wins(fleet: Any, north: Any) -> None:
    plan: ProposedPlan = fleet.plan()
    made, barrier = list[Run | MigrationError](), threading.Barrier(2)

    def start() -> None:
        barrier.wait()
        try:
            made.append(fleet.upgrade(plan.short))
        except MigrationError as error:
            made.append(error)

    both = [threading.Thread(target=start) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    (run,) = (one for one in made if isinstance(one, Run))
    (error,) = (one for one in made if isinstance(one, MigrationError))
    assert any(
        said in str(error)
        for said in (
            f"was started as run {cursor.name(run.decision_id)}",
            "is undecided",
            "has not ended run",
            "moved",
        )
    )
