"""Clocks of servers and clients that disagree: remote writes work, whatever time either shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.clock import Clock
from tests.conformance.database_case import AIRPORTS, FLIGHTS, VERSION, airport, migrate

DAY_S = 86_400
DAY_NS = DAY_S * 10**9

PUT = """
import sys
import everlog
from tests.conformance.database_case import AIRPORTS, airport
with everlog.open(sys.argv[1]) as db:
    db.put(AIRPORTS, airport(sys.argv[2]))
"""


def put_elsewhere(url: str, faa: str, clock: str) -> None:
    """Write a row in a process with another clock."""
    command = [shutil.which("faketime") or "", "-m", "-f", clock, sys.executable, "-c", PUT, url, faa]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(Path.cwd())})


def made(path: Path) -> None:
    with EmbeddedDatabase(path) as db:
        migrate(db, VERSION, AIRPORTS, FLIGHTS)


def test_after_a_commit_of_a_clock_that_was_ahead_a_server_takes_writes_and_ends_rows(tmp_path: Path) -> None:
    made(tmp_path / "db")
    ahead = Clock(wall=lambda: time.time_ns() + 3 * DAY_NS)
    with EmbeddedDatabase(tmp_path / "db", clock=ahead) as db:
        db.put(AIRPORTS, airport("JFK"))
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}) as server,
        RemoteDatabase(server.url("x")) as client,
    ):
        one, hour = client.put(AIRPORTS, airport("LGA")), time.time_ns() + 3600 * 10**9
        between = time.time_ns()
        client.put(AIRPORTS, airport("EWR"), expires=hour)
        assert client.admin.expire() == 0
        assert client.at(time=time.time_ns()).seq == one.seq + 1
        assert [row.faa for row in client.at(time=time.time_ns()).scan(AIRPORTS)] == ["EWR", "JFK", "LGA"]
        assert client.at(time=between).seq == one.seq
        copied = client.admin.rebuild_into(tmp_path / "copy", time=between)
        assert copied == db.admin.hashes(seq=one.seq)
        found = client.admin.status().clock
        assert found.ahead_s == pytest.approx(3 * DAY_S, abs=600)
        assert found.corrected == 0
        seq = client.admin.correct_clock(reason="NTP was down")
        assert client.admin.status().clock.corrected == seq == db.head
        assert db.log.commit(seq).reason == "NTP was down"
        assert client.put(AIRPORTS, airport("BOS")).seq == seq + 1


@pytest.mark.parametrize("off_s", [None, -DAY_S - 60, DAY_S])
def test_the_clock_of_a_client_decides_nothing(tmp_path: Path, off_s: int | None) -> None:
    made(tmp_path / "db")
    born_s = 0.0 if off_s is None else time.time() + off_s
    raw = bytearray(uuid.uuid4().bytes)
    raw[:6], raw[6] = int(born_s * 1000).to_bytes(6, "big"), 0x70 | raw[6] & 0x0F
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}) as server,
        RemoteDatabase(server.url("x")) as client,
    ):
        first, again = (client.put(AIRPORTS, airport("JFK"), commit_id=bytes(raw)) for _ in range(2))
        assert first.seq == again.seq == db.head


@pytest.mark.long
@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime (apt install faketime)")
def test_processes_with_other_clocks_write_one_database(tmp_path: Path) -> None:
    made(tmp_path / "db")
    put_elsewhere(f"file:{tmp_path / 'db'}", "A", "+3d")
    with EmbeddedDatabase(tmp_path / "db") as db, Server({"x": db}) as server:
        assert db.admin.status().clock.ahead_s > 2 * DAY_S
        for faa, clock in (("B", "@1970-01-02 00:00:00"), ("C", "-1d"), ("D", "+1d")):
            put_elsewhere(server.url("x"), faa, clock)
        assert [row.faa for row in db.at(time=time.time_ns()).scan(AIRPORTS)] == ["A", "B", "C", "D"]
