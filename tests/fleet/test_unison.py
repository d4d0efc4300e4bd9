"""Three databases on disk, from their surveys to the end of a run: in unison, and in waves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from everlog import MigrationError, migrations
from everlog.fleet import waves
from everlog.fleet.approvals import PlanApprovals
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.drift import drift
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.member import FleetMember
from everlog.fleet.plan import changes, draft
from everlog.fleet.protocol import Order, Phase
from everlog.fleet.rollouts import RolloutStore, settle
from everlog.fleet.survey import Survey, survey
from everlog.fleet.waves import Gate, RolloutState, Task, due, split
from everlog.rpc.embedded import EmbeddedDatabase
from tests.fleet.test_ledger import DEADLINE_NS, RUN, db, mark
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["db", "mark", "project"]

START, END = 20260101000000, 20260101000001


class Shops:
    """Three shops with rows, and the coordinator of their fleet, which needs approval."""

    def __init__(
        self, shops: list[EmbeddedDatabase], airports: Airports, ledger: EmbeddedDatabase, mark: Path
    ):
        self.shops, self.airports = shops, airports
        store = LedgerStore(ledger, mark)
        self.approvals, self.rollouts = PlanApprovals(store), RolloutStore(store, checked=True)
        self.coordinator = FleetCoordinator(store, checked=True)
        self.coordinator.take_over()
        self.members = {shop.uuid: FleetMember(shop) for shop in shops}

    def surveys(self) -> list[Survey]:
        return [survey(shop, name=f"shop-{number}") for number, shop in enumerate(self.shops, 1)]

    def versions(self) -> list[int]:
        return [one.version for one in self.surveys()]

    def deliver(self, orders: Iterable[Order]) -> set[Phase]:
        """Deliver orders and reports until none is left. Return the last phases."""
        queue, phases = list(orders), dict[bytes, Phase]()
        for order in queue:
            report = self.members[order.target.database].obey(order)
            phases[report.database] = report.phase
            queue += self.coordinator.receive(report)
        return set(phases.values())


@pytest.fixture
def shops(project: Project, tmp_path: Path, db: EmbeddedDatabase, mark: Path) -> Iterator[Shops]:
    with ExitStack() as stack:
        opened = [stack.enter_context(EmbeddedDatabase(tmp_path / f"shop-{number}")) for number in (1, 2, 3)]
        airports = Airports(project, opened[0], 3)
        for shop in opened:
            shop.folders = airports.path
            if shop is not opened[0]:
                migrations.apply(shop, airports.path, to=START)
                shop.load(airports.old, [airports.old_row(number) for number in range(3)])
        yield Shops(opened, airports, db, mark)
        for shop in opened:
            assert list(shop.admin.check()) == []


def test_a_plan_is_carried_out_in_unison(shops: Shops) -> None:
    plan = draft(shops.surveys(), hold=True)
    shops.approvals.propose(plan, actor="ann")
    shops.approvals.approve(plan.digest.hex(), shops.surveys(), actor="bob", reason="reviewed")
    orders = shops.coordinator.start(
        RUN, plan.targets(), deadline_ns=DEADLINE_NS, digest=plan.digest, actor="ann"
    )
    assert shops.deliver(orders) == {Phase.COMMITTED}
    assert shops.versions() == [END] * 3
    assert shops.deliver(shops.coordinator.contract(RUN)) == {Phase.CONTRACTED}
    surveys = shops.surveys()
    assert [group.differences for group in drift(surveys)] == [()]
    assert sorted(changes(plan, surveys)) == [
        f"shop-{number} moved: it is at version {END} instead of {START}" for number in (1, 2, 3)
    ]
    with pytest.raises(MigrationError, match="none of 3 members has a pending migration"):
        draft(surveys)


def test_a_row_that_comes_after_the_plan_makes_it_stale(shops: Shops) -> None:
    plan = draft(shops.surveys())
    shops.approvals.propose(plan, actor="ann")
    shops.shops[1].put(shops.airports.old, shops.airports.old.model(faa="B", name="Plato"))
    with pytest.raises(MigrationError, match=r"is stale: shop-2: .* fails for .*; plan again") as raised:
        shops.approvals.approve(plan.digest.hex(), shops.surveys(), actor="bob", reason="reviewed")
    assert "Plato" not in str(raised.value)
    with pytest.raises(MigrationError, match=r"1 member of 3 cannot be upgraded in unison .*: shop-2: "):
        draft(shops.surveys())


def test_waves_stop_and_those_done_are_rolled_back(shops: Shops) -> None:
    surveys = shops.surveys()
    plan = draft(surveys, hold=True, unison=False)
    shops.approvals.propose(plan, actor="ann")
    shops.approvals.approve(plan.digest.hex(), surveys, actor="bob", reason="reviewed")
    rollout = shops.rollouts.begin(plan.digest, split(surveys, ("1", "rest")), gate=Gate(approval=True))
    change = partial(shops.rollouts.change, plan.digest)
    (task,) = due(rollout)
    canary = next(target for target in plan.targets() if str(plan.members[0].database) == task.members[0])
    change(partial(waves.began, members=task.members))
    orders = shops.coordinator.start(RUN, [canary], deadline_ns=DEADLINE_NS, digest=plan.digest)
    assert shops.deliver(orders) == {Phase.COMMITTED}
    run = shops.coordinator.run(RUN)
    assert run is not None
    rollout = change(partial(settle, run=run, now_ns=0))
    assert (rollout.state, [one.task for one in due(rollout)]) == (RolloutState.WAITING, [Task.APPROVE])
    change(partial(waves.stop, reason="too slow"))
    assert sorted(shops.versions()) == [START, START, END]
    rollout = change(waves.roll_back)
    (task,) = due(rollout)
    shop = next(one for one in shops.shops if one.uuid == canary.database)
    shop.migrations.rollback(actor="ann", reason="too slow")
    rollout = change(partial(waves.returned, member=task.members[0]))
    assert (rollout.state, shops.versions()) == (RolloutState.RETURNED, [START] * 3)
