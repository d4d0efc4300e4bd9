"""A fleet of real processes and files whose coordinator and members are killed: all or none, nothing lost."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.feed import cursor
from everlog.fleet.member import FleetMember
from everlog.fleet.migrations.v20261130120000_create_ledger import RUNS
from everlog.fleet.protocol import Decision, Order, Phase, Run, Target
from everlog.rpc.embedded import EmbeddedDatabase
from tests.fleet import processes
from tests.fleet.processes import Killed, Process
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

ID = b"\x01" * 16
START, END = 20260101000000, 20260101000001
ROWS, ROUNDS_MAX, POINTS_MAX = 100, 60, 60
NAMES = ("north", "south", "west")
COORDINATOR = "coordinator"


class Base:
    """Three databases at the first version, to copy."""

    def __init__(self, project: Project, path: Path) -> None:
        self.path = path
        self.hashes: dict[str, Any] = {}
        self.plan: dict[str, Target] = {}
        for name in NAMES:
            with EmbeddedDatabase(path / name) as db:
                if name == NAMES[0]:
                    self.airports = Airports(project, db, ROWS)
                else:
                    migrations.apply(db, project.path, to=START)
                    rows = range(ROWS)
                    db.load(self.airports.old, [self.airports.old_row(number) for number in rows])
                db.folders = project.path
                digest = FleetMember(db).holding().folder_digest
                self.plan[name] = Target(db.uuid, START, END, digest, hold=name == "south")
                self.hashes[name] = db.admin.hashes()

    def make_unfit(self) -> None:
        """Write a row that does not fit the second version into the database that gets its orders last, so
        that the others have voted before."""
        last = max(NAMES, key=lambda name: self.plan[name].database)
        with EmbeddedDatabase(self.path / last) as db:
            db.put(self.airports.old, self.airports.old.model(faa="B", name="Plato"))
            self.hashes[last] = db.admin.hashes()


@pytest.fixture
def base(project: Project, tmp_path: Path) -> Base:
    return Base(project, tmp_path / "base")


class Fleet:
    """The processes of a fleet. `point_of` returns where a process kills itself, each time it is started."""

    def __init__(self, base: Base, path: Path, point_of: Callable[[str], str]) -> None:
        self.base, self.path, self.point_of = base, path, point_of
        self.kills = self.takeovers = self.written = 0
        self.rows: dict[str, set[str]] = {name: set() for name in NAMES}
        shutil.copytree(base.path, path)
        self.running: dict[str, Process] = {name: self._begun(name) for name in (COORDINATOR, *NAMES)}

    def _begun(self, name: str) -> Process:
        point = self.point_of(name)
        if name == COORDINATOR:
            return Process(
                processes.coordinator, self.path / "ledger", self.path / "ledger.mark", point=point
            )
        return Process(processes.member, self.path / name, self.base.airports.path, point=point)

    def stop(self) -> None:
        for one in self.running.values():
            one.stop()

    def call(self, name: str, what: str, *args: Any, **named: Any) -> Any:
        """Call a process. If it is killed, start another and raise Killed."""
        try:
            return self.running[name](what, *args, **named)
        except Killed:
            self.kills += 1
            self.running[name].stop()
            self.running[name] = self._begun(name)
            if name == COORDINATOR:
                self.take_over()
            raise

    def take_over(self) -> None:
        with suppress(Killed):
            self.call(COORDINATOR, "take_over")
            self.takeovers += 1

    def upgrade(self) -> Run:
        """Start the run, and deliver orders and reports until it has ended."""
        self.take_over()
        for _ in range(ROUNDS_MAX):
            with suppress(Killed):
                run = self.call(COORDINATOR, "run", ID)
                if run is None:
                    plan, deadline_ns = list(self.base.plan.values()), time.time_ns() + 3_600_000_000_000
                    self.call(COORDINATOR, "start", ID, plan, deadline_ns=deadline_ns, actor="ann")
                elif not run.open_seats():
                    assert isinstance(run, Run)
                    return run
                for order in self.call(COORDINATOR, "retry"):
                    self.deliver(order)
        pytest.fail(f"the run has not ended after {self.kills} kills")

    def deliver(self, order: Order) -> None:
        name = next(name for name, target in self.base.plan.items() if target == order.target)
        if name == NAMES[0]:
            self.write(name)
        try:
            report = self.call(name, "obey", order)
        except Killed:
            report = self.call(name, "report")
        if name == NAMES[0]:
            self.write(name)
        self.call(COORDINATOR, "receive", report)

    def write(self, name: str) -> None:
        """Write a row, and note that it was acknowledged."""
        self.written += 1
        with suppress(Killed):
            self.call(name, "put", self.written)
            self.rows[name].add(f"W{self.written:05}")


def upgraded(fleet: Fleet) -> Decision:
    """Run it to its end; check the members and the ledger on disk. Return the decision."""
    try:
        run = fleet.upgrade()
    finally:
        fleet.stop()
    assert run.decision is not None
    for name in NAMES:
        check_member(fleet, name, run)
    with EmbeddedDatabase(fleet.path / "ledger") as db:
        assert list(db.admin.check()) == []
        decided = [int(version.row.decision) for version in db.history(RUNS, ID) if version.row is not None]
        outcome = [0] * decided.count(0) + [decided[0]] * (len(decided) - decided.count(0))
        assert decided[::-1] == outcome  # newest first: one decision, which stays
        reasons = [entry.reason for entry in db.past.log(kind="commit")]
        assert reasons.count(f"start run {cursor.name(ID)}") == 1
        assert reasons.count("takeover") >= fleet.takeovers
        for seat in run.seats:
            who = f"database {cursor.name(seat.target.database)} reports"
            assert sum(reason.startswith(who) for reason in reasons) >= 1
    return run.decision


def check_member(fleet: Fleet, name: str, run: Run) -> None:
    airports, seat = fleet.base.airports, run.seat(fleet.base.plan[name].database)
    assert seat is not None
    with EmbeddedDatabase(fleet.path / name) as db:
        db.folders = airports.path
        holding = FleetMember(db).holding()
        assert list(db.admin.check()) == []
        if run.decision is Decision.COMMIT:
            ended = Phase.COMMITTED if seat.target.hold else Phase.CONTRACTED
            assert (holding.phase, holding.version, seat.end) == (ended, END, ended)
            rows = {row.faa: row for row in db.scan(airports.new)}
            assert rows["A00005"] == airports.new_row(5)
        else:
            assert (holding.phase, holding.version, seat.end) == (Phase.ABORTED, START, Phase.ABORTED)
            rows = {row.faa: row for row in db.scan(airports.old)}
            if name != NAMES[0]:
                assert db.admin.hashes() == fleet.base.hashes[name]
        assert fleet.rows[name] <= rows.keys()
        assert sum(key.startswith("A") for key in rows) == ROWS


@pytest.mark.parametrize("decision", Decision)
def test_all_or_none_if_each_process_is_killed_after_each_of_its_commits(
    base: Base, tmp_path: Path, decision: Decision
) -> None:
    """A coordinator dies at the commit that follows its takeover, a member at each record of a migration."""
    if decision is Decision.ABORT:
        base.make_unfit()
    points = {COORDINATOR: "log write, after, 2"}
    fleet = Fleet(base, tmp_path / "fleet", lambda name: points.get(name, "migration, after, 1"))
    assert upgraded(fleet) is decision
    assert fleet.takeovers >= 6
    assert fleet.kills >= 12


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("decision", Decision)
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("who", "call"),
    [
        *itertools.product([COORDINATOR], ["log write", "sync", "rename"]),
        *itertools.product([NAMES[0], NAMES[-1]], ["log write", "sync", "migration"]),
    ],
)
def test_all_or_none_if_one_process_is_killed_at_any_point(  # noqa: PLR0917
    base: Base, tmp_path: Path, who: str, call: str, side: str, decision: Decision
) -> None:
    if decision is Decision.ABORT:
        base.make_unfit()
    for nth in range(1, POINTS_MAX):
        points = {who: f"{call}, {side}, {nth}"}
        fleet = Fleet(base, tmp_path / str(nth), lambda name, points=points: points.pop(name, ""))  # type: ignore[misc]
        assert upgraded(fleet) is decision
        shutil.rmtree(fleet.path)
        if not fleet.kills:
            assert nth > 1
            break
    else:
        pytest.fail(f"it was killed at each of {POINTS_MAX} points")
