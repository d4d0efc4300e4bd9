"""A page of the docs as a session: its files are written, its commands run, their output compared.

    ```python file=app.py        a file of this name
    ```console                   $ command, followed by its output; with & it runs in the background

Values that differ in each run are on the page as they were once: times, durations, rates, sizes and hashes
only have to be of the same kind. A folder that `everlog new` creates has the time of the run in its name,
which is replaced by the page's time everywhere.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from tests.ports import reserved_port

BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDER = re.compile(r"v(\d{14})_(\w+)")
PORT = "7420"

VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"), "<time>"),
    (re.compile(r"\b[\d,.]+ ?(ms|seconds|s)\b"), "<duration>"),
    (re.compile(r"\b[\d,.]+ a second"), "<rate>"),
    (re.compile(r"(?: {2,})?\b[\d.]+ (B|kB|MB)\b"), "<size>"),  # in a column, too
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\bplan [0-9a-f]{12}\b"), "plan <digest>"),
    (re.compile(r"\b[0-9a-f]{16}(?:[0-9a-f]{48})?\b"), "<hash>"),
)


class Block(NamedTuple):
    language: str
    file: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield Block(found[1], found[2] or "", found[3], text.count("\n", 0, found.start()) + 1)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Return each command of a console block, and its output."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def alike(text: str) -> str:
    """Return the text without the parts that differ in each run."""
    for pattern, word in VARIES:
        text = pattern.sub(word, text)
    return text.strip()


class Session:
    """The commands and files of a page, executed in a separate folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._instead = {PORT: str(self._stack.enter_context(reserved_port()))}
        self._beside: list[subprocess.Popen[str]] = []
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self._environment = {**os.environ, "PATH": programs, "CI": "true", "COLUMNS": "100"}
        for name in ("DATABASE_URL", "EVERLOG_TOKEN", "EVERLOG_MIGRATIONS_DIR", "PYTHONPATH"):
            self._environment.pop(name, None)

    def follow(self, page: Path) -> None:
        for block in blocks(page):
            if block.file:
                path = self._directory / self._mine(block.file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._mine(block.text), encoding="utf-8")
            elif block.language == "console":
                for command, expected in commands(block):
                    found = self._run(self._mine(command))
                    self._learn(expected, found)
                    assert alike(found) == alike(self._mine(expected)), f"{page.name}:{block.line}: {command}"

    def _run(self, command: str) -> str:
        if command.endswith("&"):
            beside = subprocess.Popen(
                shlex.split(command.removesuffix("&")),
                cwd=self._directory,
                env=self._environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._beside.append(beside)
            assert beside.stdout is not None
            return beside.stdout.readline()
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _learn(self, expected: str, found: str) -> None:
        for page, here in zip(FOLDER.finditer(expected), FOLDER.finditer(found), strict=False):
            if page[2] == here[2]:
                self._instead.setdefault(page[1], here[1])

    def _mine(self, text: str) -> str:
        for page, here in self._instead.items():
            text = text.replace(page, here)
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for process in self._beside:
                process.terminate()
                process.communicate(timeout=30)
