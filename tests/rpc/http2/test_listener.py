"""Connections at the limit of open files: they wait, the database continues, and the log stays short."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import everlog
from tests.conformance.database_case import FLIGHTS, flight


def test_sockets_without_a_descriptor_wait_and_commits_go_on(tmp_path: Path) -> None:
    command = (
        f"ulimit -n 64; exec {sys.executable} -m tests.rpc.serving {tmp_path / 'x'} 0 2>{tmp_path / 'log'}"
    )
    with (
        subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with everlog.open(f"everlog+insecure://127.0.0.1:{port}/x") as db:
            idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
            for number in range(20):
                db.put(FLIGHTS, flight(number))
            assert db.count(FLIGHTS) == 20
            for one in idle:
                one.close()
            with everlog.open(f"everlog+insecure://127.0.0.1:{port}/x", timeout=60) as other:
                assert other.count(FLIGHTS) == 20
        said = [
            line for line in (tmp_path / "log").read_text().splitlines() if "new connections wait" in line
        ]
        assert len(said) == 1
        assert "ulimit -n" in said[0]
