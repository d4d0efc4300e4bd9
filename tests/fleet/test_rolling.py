"""Plans in waves over real sockets: waves, gates, failures and rollbacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from everlog import MigrationError, RowError
from everlog.console.cli.serve_fleet import hook_of
from everlog.fleet.runner import Carried, run_of_wave
from everlog.fleet.waves import RolloutState
from tests.fleet.test_transport import (
    END,
    START,
    WAIT_S,
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

__all__ = ["airports", "coordinator", "fleet", "project"]

NAMES = ("east", "north", "west")


@pytest.fixture
def members(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """Three members, by name."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(
                joined(coordinator, airports, made(airports, tmp_path / name), fleet_labels={"at": name})
            )
            for name in NAMES
        }
        when(fleet, connected(*NAMES))
        yield found


def until(fleet: Any, what: Callable[[Carried], Any]) -> Carried:
    """Wait until the newest rollout is as expected."""
    end = time.monotonic() + WAIT_S
    while not what(found := fleet.rollouts()[-1]):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    assert isinstance(found, Carried)
    return found


def state(*states: RolloutState) -> Callable[[Carried], bool]:
    return lambda found: found.rollout.state in states


def versions(members: dict[str, Any]) -> dict[str, int]:
    return {name: db.schema.version for name, db in members.items()}


def checks(airports: Airports, code: str) -> None:
    """Give the second migration checks, so that it cannot wait for a decision."""
    (airports.path / f"v{END}_two" / "checks.py").write_text(
        f"from .. import v{END}_two as two\n\n\ndef checks(db):\n    {code}\n"
    )


def test_waves_are_runs_with_gates_between_and_are_rolled_back(
    fleet: Any, members: dict[str, Any], airports: Airports
) -> None:
    plan = fleet.plan(waves=True, actor="ann")
    for digest, waves, error, said in (
        (plan.short, ("1",), RowError, "2 members would be in no wave"),
        ("123456", ("rest",), MigrationError, "expected the digest of a plan"),
    ):
        with pytest.raises(error, match=said):
            fleet.start_rollout(digest, waves)
    with pytest.raises(MigrationError, match=r"is for waves, .* `everlog fleet rollout start"):
        fleet.upgrade(plan.short)
    begun = fleet.start_rollout(plan.short, ("at=north", "rest"), pause_s=0.01, check=True, approval=True)
    assert begun.rollout.state is RolloutState.RUNNING
    with pytest.raises(MigrationError, match="was started in waves, and cannot be started"):
        fleet.start_rollout(plan.short)
    with pytest.raises(MigrationError, match="is running and cannot be rolled back: stop it first"):
        fleet.roll_back(plan.short, actor="ann", reason="too early")
    found = until(fleet, state(RolloutState.WAITING))
    assert versions(members) == {"east": START, "north": END, "west": START}
    assert (found.rollout.wave, len(found.rollout.upgraded)) == (0, 1)
    with pytest.raises(MigrationError, match="does not wait for approval after wave 2"):
        fleet.approve_wave(plan.short, 2, actor="ann")
    with pytest.raises(MigrationError, match="expected the name of the person who would approve wave 1"):
        fleet.approve_wave(plan.short, 1)
    fleet.approve_wave(plan.short, 1, actor="ann", reason="all is quiet")
    until(fleet, state(RolloutState.FINISHED))
    assert set(versions(members).values()) == {END}
    runs = fleet.status().runs
    assert [run.decision_id for run in runs] == [run_of_wave(plan.digest, wave) for wave in range(2)]
    fleet.roll_back(plan.short, actor="ann", reason="prices are wrong")
    found = until(fleet, state(RolloutState.RETURNED))
    assert (set(versions(members).values()), found.rollout.failed) == ({START}, ())
    assert sum(1 for _ in members["east"].scan(airports.old)) == 50
    again = fleet.plan()  # a new plan of the same members
    fleet.upgrade(again.short)
    when(fleet, lambda found: not any(run.open_seats() for run in found.runs))
    assert set(versions(members).values()) == {END}


def test_a_member_that_fails_stops_the_rollout_and_its_wave_stays_as_it_was(
    fleet: Any, members: dict[str, Any], airports: Airports
) -> None:
    plan = fleet.plan(waves=True)
    members["west"].put(airports.old, airports.old.model(faa="B", name="Plato"))
    with pytest.raises(MigrationError, match=r"is stale: west: .*1 of 51 rows"):
        fleet.start_rollout(plan.short)
    members["west"].delete(airports.old, "B")
    fleet.start_rollout(plan.short, ("at=north", "rest"), approval=True)
    until(fleet, state(RolloutState.WAITING))
    members["west"].put(airports.old, airports.old.model(faa="B", name="Plato"))
    fleet.approve_wave(plan.short, 1, actor="ann")
    found = until(fleet, state(RolloutState.STOPPED))
    assert versions(members) == {"east": START, "north": END, "west": START}
    assert {found.planned.names[member] for member, _ in found.rollout.failed} == {"east", "west"}
    assert "fails for row" in found.rollout.reason
    with pytest.raises(MigrationError, match="does not wait for approval after wave 1"):
        fleet.approve_wave(plan.short, 1, actor="ann")


def test_members_that_cannot_wait_for_a_decision_are_upgraded_without_a_vote(
    fleet: Any, members: dict[str, Any], airports: Airports
) -> None:
    checks(airports, "if db.count(two.MIGRATION.tables[0]) > 50: yield 'too many airports'")
    with pytest.raises(MigrationError, match=r"3 members of 3 cannot .*checks.py is run at the switch"):
        fleet.plan()
    with pytest.raises(MigrationError, match=r"cannot wait for a decision .*; plan without hold"):
        fleet.plan(waves=True, hold=True)
    plan = fleet.plan(waves=True)
    assert plan.plan.unheld
    fleet.start_rollout(plan.short, ("at=north", "at=east", "rest"), check=True, approval=True)
    until(fleet, state(RolloutState.WAITING))
    assert versions(members) == {"east": START, "north": END, "west": START}
    assert fleet.status().runs == []
    fleet.approve_wave(plan.short, 1, actor="ann")
    until(fleet, lambda found: found.rollout.wave == 1 and found.rollout.state is RolloutState.WAITING)
    members["west"].put(airports.old, airports.old_row(99))
    fleet.approve_wave(plan.short, 2, actor="ann")
    found = until(fleet, state(RolloutState.STOPPED))
    assert versions(members) == {"east": END, "north": END, "west": START}
    assert "too many airports" in found.rollout.reason
    entry = list(members["north"].past.log(kind="migration"))[-1]
    assert (entry.actor, entry.reason) == ("fleet", f"wave 1 of 3 of plan {plan.short}")
    fleet.roll_back(plan.short, actor="ann", reason="too many airports")
    until(fleet, state(RolloutState.RETURNED))
    assert set(versions(members).values()) == {START}


def test_a_check_that_fails_stops_the_rollout(
    fleet: Any, members: dict[str, Any], airports: Airports
) -> None:
    """The check of the migration holds at the switch, and no longer when the wave is checked."""
    checks(airports, "if db.get(two.MIGRATION.tables[0], 'W00099'): yield 'an airport of tomorrow'")
    plan = fleet.plan(waves=True)
    fleet.start_rollout(plan.short, ("at=north", "rest"), pause_s=3600.0, check=True)
    until(fleet, state(RolloutState.PAUSING))
    with pytest.raises(MigrationError, match="does not wait for approval"):
        fleet.approve_wave(plan.short, 1, actor="ann")
    fleet.stop_rollout(plan.short, actor="ann", reason="not today")
    found = until(fleet, state(RolloutState.STOPPED))
    assert found.rollout.reason == "not today"
    assert versions(members) == {"east": START, "north": END, "west": START}
    again = fleet.plan("at!=north", waves=True)
    fleet.start_rollout(again.short, ("at=east", "rest"), check=True, approval=True)
    until(fleet, state(RolloutState.WAITING))


def test_the_check_of_the_server_decides(tmp_path: Path) -> None:
    asked = list[bytes]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204 if b'"wave":1' in asked[-1] else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hook = hook_of(f"http://127.0.0.1:{server.server_port}/health", 5.0)
        assert hook({"wave": 1}) == ""
        assert hook({"wave": 2}).endswith(f"127.0.0.1:{server.server_port}/health answered 503")
        server.shutdown()
    assert "cannot be reached" in hook({"wave": 1})
    assert hook_of("grep -q north", 5.0)({"members": ["north"]}) == ""
    assert hook_of("grep -q north", 5.0)({"members": ["west"]}) == "the check `grep -q north` ended with 1"
    assert "has not ended within 0.01 s" in hook_of("sleep 60", 0.01)({})
    assert "cannot be run" in hook_of(str(tmp_path / "nothing"), 5.0)({})
