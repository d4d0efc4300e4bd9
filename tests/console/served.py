"""A server in its own process, and its pages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


class Served:
    """A server process: its URL, that of its console, and the process."""

    def __init__(self, url: str, console: str, process: subprocess.Popen[str]) -> None:
        self.url, self.console, self.process = url, console, process

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body of a page."""
        return fetch(f"{self.console}{path}", **headers)

    def said(self, words: str = "") -> str:
        """Return the next line of its log with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"the log ended without {words!r}")

    def logged(self, event: str) -> dict[str, Any]:
        """Return the next event of this kind from its log, which is JSON."""
        found: dict[str, Any] = json.loads(self.said(f'"event":"{event}"'))
        return found

    def page(self, digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(f"/migrations/{digest}", Accept="application/json")[2])
        return found


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], str]:
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:  # noqa: S310  our own
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


@contextlib.contextmanager
def serving(
    *more: str, kill: bool = False, cwd: Path | None = None, log: bool = False, **variables: str
) -> Iterator[Served]:
    words = [sys.executable, "-m", "everlog.console", "serve", "--listen", "127.0.0.1:0", "--json", *more]
    if "checked" in more:
        words += ["--console", "127.0.0.1:0"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if log else None,
        text=True,
        cwd=cwd,
        env=os.environ | variables,
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            last: dict[str, str] = {}
            while "checked" in more and "console" not in last:  # after the lines of all databases
                last = json.loads(process.stdout.readline())
            yield Served(url, last.get("console", ""), process)
            if not kill:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
        finally:
            process.kill()
