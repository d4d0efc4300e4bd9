"""Processes of the demo. Each is a separate program that can be killed.

server     everlog serve
follower   everlog follow --to sqlite:…
writer     flights.demo.writer
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_S = 30.0
LOOK_EVERY_S = 0.05


class Process:
    """A program that runs concurrently. Its output goes into a file."""

    def __init__(self, name: str, *words: str, directory: Path) -> None:
        self.name = name
        self._words = [sys.executable, "-m", *words]
        self._log = directory / f"{name}.log"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def kill(self) -> None:
        """Send SIGKILL: the program ends immediately."""
        assert self._running is not None
        self._running.kill()
        self._running.wait()

    def stop(self, *, interrupted: bool = False) -> None:
        """Send SIGTERM: the program finishes its current work and ends. `interrupted`: a terminal sends
        Ctrl-C to all programs, so this one may be ending already."""
        assert self._running is not None
        self._running.terminate()
        if self._running.wait(STOP_S) and not interrupted:
            self._failed()

    def wait(self) -> None:
        """Wait until it ends, which it should not: raise SystemExit then."""
        assert self._running is not None
        self._running.wait()
        self._failed()

    def check(self) -> None:
        """Raise SystemExit if it has ended unexpectedly."""
        if self._running is not None and self._running.poll() is not None:
            self._failed()

    def _failed(self) -> None:
        assert self._running is not None
        tail = self._log.read_text(errors="replace")[-2_000:]
        raise SystemExit(f"the {self.name} ended with exit code {self._running.returncode}:\n{tail}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None and self._running.poll() is None:
            self.kill()


def until(
    holds: Callable[[], bool],
    *processes: Process,
    timeout_s: float = 120.0,
    every_s: float = LOOK_EVERY_S,
) -> float:
    """Wait until a condition holds while the processes live, and return the seconds it took."""
    began = time.monotonic()
    while not holds():
        for process in processes:
            process.check()
        if time.monotonic() - began > timeout_s:
            raise SystemExit(f"no progress within {timeout_s:g} s; see the logs of the processes")
        time.sleep(every_s)
    return time.monotonic() - began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
