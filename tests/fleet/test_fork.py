"""A member whose process forks: its children, which inherit the database and the stream, are no members."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from everlog.fleet.protocol import Decision, Phase
from everlog.rpc.client.fleet import targets
from everlog.rpc.server import fleet as service
from tests.fleet.test_transport import (
    END,
    Coordinator,
    airports,
    connected,
    coordinator,
    ends,
    fleet,
    made,
    when,
)
from tests.migrations.conftest import project
from tests.migrations.test_online import Airports

__all__ = ["airports", "coordinator", "fleet", "project"]

MEMBER = """
import os, signal, sys, threading
import everlog
from everlog.rpc.client import join

path, source, url = sys.argv[1:]
db = everlog.open(path, migrations=source, fleet=url, fleet_name="north")
membership = join._memberships.known[url]
sys.stdin.readline()
child = os.fork()
if not child:
    signal.alarm(120)
    found = [thread.name for thread in threading.enumerate()]
    assert found == ["MainThread"], found
    assert not join._memberships.known and not membership._seats
    try:
        db.admin.status()
    except everlog.ClosedError:
        pass
    else:
        raise AssertionError("the database is open in the child")
    print("child", os.getpid(), flush=True)
    signal.pause()
os.waitpid(child, 0)
"""


def test_a_child_of_a_member_neither_reports_nor_obeys_and_does_not_hold_its_stream(
    coordinator: Coordinator, fleet: Any, airports: Airports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SILENT_S", 1e6)  # only the end of its connection ends a stream
    path = made(airports, tmp_path / "north")

    words = [sys.executable, "-c", MEMBER, str(path), str(airports.path), coordinator.url]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        plan = targets(when(fleet, connected("north")))
        print(file=parent.stdin, flush=True)
        word, child = parent.stdout.readline().split()
        assert word == "child"
        try:
            run = fleet.start(plan)
            found = when(fleet, lambda found: not found.runs[0].open_seats())
            assert found.runs[0].decision is Decision.COMMIT
            assert ends(found) == {run.seats[0].target.database: Phase.CONTRACTED}
            now = [(one.report.name, one.report.version, one.alarm) for one in found.members]
            assert now == [("north", END, "")]
            parent.kill()
            assert parent.wait(60) == -signal.SIGKILL
            when(fleet, lambda found: not found.members[0].connected)
        finally:
            os.kill(int(child), signal.SIGKILL)  # it was alive
