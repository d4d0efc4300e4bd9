"""Rollouts of real processes: the coordinator and members are killed, and each wave comes to its end once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from everlog.fleet.protocol import Phase
from everlog.fleet.runner import Carried
from everlog.fleet.waves import RolloutState
from everlog.rpc.client.database import RemoteDatabase
from tests.fleet.test_transport_killed import (
    END,
    NAMES,
    WAIT_S,
    Processes,
    check,
    connected,
    processes,
    project,
    when,
)

__all__ = ["processes", "project"]


def until(fleet: Any, state: RolloutState) -> Carried:
    end = time.monotonic() + WAIT_S
    while (found := fleet.rollouts()[-1]).rollout.state is not state:
        assert time.monotonic() < end, found
        time.sleep(0.02)
    assert isinstance(found, Carried)
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("voted", [True, False])
@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_a_rollout_survives_the_kill_of_each_process_at_any_moment(
    processes: Processes, *, voted: bool, pause_s: float
) -> None:
    """Each is killed after a pause that ends in another step each time."""
    if not voted:
        path = Path(processes.airports.path) / f"v{END}_two" / "checks.py"
        path.write_text("def checks(db):\n    yield from ()\n")
    for name in NAMES:
        processes.start(name)
    with RemoteDatabase(processes.url) as db:
        when(db.fleet, lambda found: connected(found) == set(NAMES))
        plan = db.fleet.plan(waves=True)
        assert plan.plan.unheld is not voted
        db.fleet.start_rollout(plan.short, ("name=north", "1", "rest"), pause_s=0.1, check=True)
        for name in ("ledger", "north", "ledger", "west"):
            time.sleep(pause_s)
            processes.kill(name)
            processes.start(name)
        found = until(db.fleet, RolloutState.FINISHED)
        assert (len(found.rollout.upgraded), found.rollout.failed) == (3, ())
    check(processes, Phase.CONTRACTED)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_rollback_survives_the_kill_of_the_coordinator(processes: Processes) -> None:
    for name in NAMES:
        processes.start(name)
    with RemoteDatabase(processes.url) as db:
        when(db.fleet, lambda found: connected(found) == set(NAMES))
        plan = db.fleet.plan(waves=True)
        db.fleet.start_rollout(plan.short, ("1", "rest"))
        until(db.fleet, RolloutState.FINISHED)
        db.fleet.roll_back(plan.short, actor="ann", reason="prices are wrong")
        for name in ("ledger", "south", "ledger"):
            processes.kill(name)
            processes.start(name)
        found = until(db.fleet, RolloutState.RETURNED)
        assert (found.rollout.upgraded, found.rollout.failed) == (frozenset(), ())
    check(processes, Phase.ABORTED)  # at the first version, with its rows
