"""Helper: a second process of a bench: a server, a remote writer, or a process to be killed.

    with Helper("benchmarks.bare:serve", folder=…) as server:
        port = server.hear()["port"]
        server.say({"write": 2000})

The processes exchange lines of JSON over the helper's standard input and output.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 30


class Helper:
    """A helper process, started by the constructor. It ends when its input is closed, at the end of the
    block."""

    def __init__(self, function: str, **facts: Any) -> None:
        self._name = function
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.helper", function, json.dumps(facts)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, words: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Return its next line. Raises RuntimeError if it ended without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def ask(self, words: Any) -> Any:
        self.say(words)
        return self.hear()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT_S if kind is None else 1)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()


class Starter:
    """The process that started this helper."""

    def say(self, words: Any) -> None:
        print(json.dumps(words), flush=True)

    def hear(self) -> Any:
        """Return its next line; None at the end of the input."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None


def main(function: str, facts: str) -> None:
    module, _, name = function.partition(":")
    getattr(import_module(module), name)(Starter(), **json.loads(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
