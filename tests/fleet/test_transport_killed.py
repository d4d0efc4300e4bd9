"""A fleet of real processes over real sockets: the coordinator and members are killed, and each run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.fleet.protocol import Decision, Phase
from everlog.fleet.status import FleetStatus
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.fleet import targets
from everlog.rpc.embedded import EmbeddedDatabase
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.ports import reserved_port

__all__ = ["project"]

START, END = 20260101000000, 20260101000001
ROWS, WAIT_S = 50, 60.0
NAMES = ("north", "south", "west")
MEMBER = """
import sys
import everlog
path, source, url, name = sys.argv[1:]
with everlog.open(path, migrations=source, fleet=url, fleet_name=name):
    print("open", flush=True)
    sys.stdin.read()
"""


class Processes:
    """A coordinator and its members, each a process that can be killed and started again."""

    def __init__(self, airports: Airports, path: Path, port: int) -> None:
        self.airports, self.path = airports, path
        self.address, self.url = f"127.0.0.1:{port}", ""
        self._running: dict[str, subprocess.Popen[str]] = {}
        with EmbeddedDatabase(path / "ledger"):
            pass
        for name in NAMES:
            with EmbeddedDatabase(path / name) as db:
                migrations.apply(db, airports.path, to=START)
                db.load(airports.old, [airports.old_row(number) for number in range(ROWS)])
        self.start("ledger")

    def start(self, name: str) -> None:
        if name == "ledger":
            serve = f"serve ledger=file:{self.path / name} --fleet ledger --listen {self.address}"
            words = ["-m", "everlog.console", "--json", *serve.split()]
        else:
            words = ["-c", MEMBER, str(self.path / name), str(self.airports.path), self.url, name]
        process = self._running[name] = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "EVERLOG_TOKEN": ""},
        )
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, f"{name} did not start"
        if name == "ledger":
            self.url = said.split('"')[3]

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self._running.pop(name)
        process.send_signal(how)
        process.communicate(timeout=WAIT_S)

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)


@pytest.fixture
def processes(project: Project, tmp_path: Path) -> Iterator[Processes]:
    with EmbeddedDatabase(tmp_path / "first") as db:
        airports = Airports(project, db, ROWS)
    with reserved_port() as port:
        found = Processes(airports, tmp_path, port)
        yield found
        found.stop()


def when(fleet: Any, what: Callable[[FleetStatus], Any]) -> FleetStatus:
    """Wait until the status is as expected, also while the coordinator is started again."""
    until, found = time.monotonic() + WAIT_S, fleet.status()
    while not what(found):
        assert time.monotonic() < until, found
        time.sleep(0.02)
        found = fleet.status()
    assert isinstance(found, FleetStatus)
    return found


def connected(found: FleetStatus) -> set[str]:
    return {one.report.name for one in found.members if one.connected}


def phases(found: FleetStatus) -> dict[str, Phase]:
    return {one.report.name: one.report.phase for one in found.members}


def check(processes: Processes, ended: Phase) -> None:
    """Check each member on disk."""
    processes.stop()
    for name in NAMES:
        with EmbeddedDatabase(processes.path / name) as db:
            assert list(db.admin.check()) == []
            assert db.schema.version == (END if ended is Phase.CONTRACTED else START)
            table = processes.airports.new if ended is Phase.CONTRACTED else processes.airports.old
            assert sum(1 for _ in db.scan(table)) == ROWS


@pytest.mark.long
@pytest.mark.timeout(300)
def test_all_commit_if_members_are_killed_after_their_votes_and_the_coordinator_after_its_decision(
    processes: Processes,
) -> None:
    for name in NAMES:
        processes.start(name)
    with RemoteDatabase(processes.url) as db:
        plan = targets(when(db.fleet, lambda found: connected(found) == set(NAMES)))
        processes.kill("west")  # unreachable before its vote
        when(db.fleet, lambda found: connected(found) == {"north", "south"})
        run = db.fleet.start(plan)
        when(db.fleet, lambda found: list(phases(found).values()).count(Phase.PREPARED) == 2)
        processes.kill("north")  # after its vote
        processes.kill("ledger")  # before the decision: the votes are in the ledger
        processes.start("ledger")
        found = when(db.fleet, lambda found: connected(found) == {"south"})
        assert found.epoch > 2
        assert found.runs[0].decision is None
        processes.start("west")
        when(db.fleet, lambda found: found.runs[0].decision is Decision.COMMIT)
        processes.kill("ledger")  # after the decision, before north has it
        processes.start("north")
        processes.start("ledger")
        found = when(db.fleet, lambda found: not found.runs[0].open_seats())
        assert found.runs[0].decision_id == run.decision_id
        assert {seat.end for seat in found.runs[0].seats} == {Phase.CONTRACTED}
    check(processes, Phase.CONTRACTED)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_coordinator_that_is_killed_shows_the_runs_that_ended(processes: Processes) -> None:
    processes.start("north")
    with RemoteDatabase(processes.url) as db:
        plan = targets(when(db.fleet, lambda found: connected(found) == {"north"}))
        stale = [replace(plan[0], folder_digest=b"other")]
        runs = []
        for targeted, decision in ((stale, Decision.ABORT), (plan, Decision.COMMIT)):
            runs.append(db.fleet.start(targeted, actor="ann", reason="release 2").decision_id)
            when(db.fleet, lambda found: found.ended and found.ended[-1].decision_id == runs[-1])
            assert db.fleet.status().runs[-1].decision is decision
        processes.kill("ledger")
        processes.start("ledger")
        found = db.fleet.status()
    assert found.runs == []
    refused, upgraded = found.ended
    assert [refused.decision_id, upgraded.decision_id] == runs
    assert (refused.outcome, refused.members, refused.upgraded) == ("aborted", 1, 0)
    assert refused.why.startswith("expected folders")
    assert (upgraded.outcome, upgraded.members, upgraded.upgraded) == ("contracted", 1, 1)
    assert {(one.actor, one.reason) for one in found.ended} == {("ann", "release 2")}
    assert refused.started_ns <= refused.ended_ns <= upgraded.started_ns <= upgraded.decided_ns


@pytest.mark.long
@pytest.mark.timeout(300)
def test_all_abort_at_the_deadline_if_a_member_is_unreachable(processes: Processes) -> None:
    for name in NAMES:
        processes.start(name)
    with RemoteDatabase(processes.url) as db:
        plan = targets(when(db.fleet, lambda found: connected(found) == set(NAMES)))
        processes.kill("west")
        when(db.fleet, lambda found: connected(found) == {"north", "south"})
        db.fleet.start(plan, deadline_s=3.0)
        found = when(db.fleet, lambda found: found.runs[0].decision)
        assert found.runs[0].decision is Decision.ABORT
        processes.kill("south")  # with an order to abort on its way, or carried out
        processes.start("west")
        processes.start("south")
        found = when(db.fleet, lambda found: not found.runs[0].open_seats())
    check(processes, Phase.ABORTED)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pause_s", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_all_or_none_if_each_process_is_killed_at_any_moment_of_a_run(
    processes: Processes, pause_s: float
) -> None:
    """Each is killed after a pause that ends in another phase each time."""
    for name in NAMES:
        processes.start(name)
    with RemoteDatabase(processes.url) as db:
        plan = targets(when(db.fleet, lambda found: connected(found) == set(NAMES)))
        db.fleet.start(plan)
        for name in (*NAMES, "ledger"):
            time.sleep(pause_s)
            processes.kill(name)
            processes.start(name)
        found = when(db.fleet, lambda found: found.ended and connected(found) == set(NAMES))
        assert {one.report.version for one in found.members} == {END}
        assert [(run.outcome, run.upgraded) for run in found.ended] == [("contracted", len(NAMES))]
    check(processes, Phase.CONTRACTED)
