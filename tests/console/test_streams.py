"""Closed, full or interrupted standard output, error and input of the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everlog.console.cli.main import READERS, run
from everlog.console.cli.options import Settings
from everlog.console.output import Streams
from everlog.store.database import Database
from tests.console import shop
from tests.console.conftest import Run

EVERLOG = f"{sys.executable} -m everlog.console"


@contextmanager
def descriptor(number: int, to: str) -> Iterator[None]:
    """Return a descriptor for a stream that is `full`, `unread` (a pipe without a reader), or `null`."""
    kept = os.dup(number)
    if to == "unread":
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open({"full": "/dev/full", "null": "/dev/null"}[to], os.O_WRONLY)
    os.dup2(theirs, number)
    os.close(theirs)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def ended(*words: object, output: str = "null", error: str = "null") -> int:
    """Return the exit code of a command line with these streams."""
    with descriptor(1, output), descriptor(2, error):
        streams = Streams()
        with streams.installed():
            return run([str(word) for word in words], Settings(), streams)


def shell(script: str) -> tuple[int, str, str]:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("output", "code"), [("unread", 141), ("full", 1)])
def test_work_is_finished_though_nobody_reads_and_the_code_is_not_zero(
    one: Path, output: str, code: int
) -> None:
    assert ended("up", output=output) == code
    with Database(one, create=False, read_only=True) as db:
        assert db.schema.version == shop.SECOND
    assert ended("up") == 0


@pytest.mark.parametrize("error", ["unread", "full"])
def test_standard_error_that_cannot_be_written_changes_nothing(one: Path, error: str) -> None:
    assert ended("up", error=error) == 0
    assert ended("get", "books", "nobody", 1, error=error) == 1


@pytest.mark.parametrize("words", [("log",), ("scan", "books"), ("export", "books"), ("dump",), ("--help",)])
def test_what_only_prints_stops_when_nobody_reads(books: Path, words: tuple[str, ...]) -> None:
    os.environ["EVERLOG_SCHEMA_FILE"] = "-"
    assert ended(*words) == 0
    assert ended(*words, output="unread") == 141
    assert ended(*words, output="full") == 1


def test_a_command_that_only_prints_never_stops_one_that_works() -> None:
    assert not READERS & {"up", "migrate", "import", "rollback", "archive", "backup", "forget", "follow"}


def test_a_script_that_pipes_stops_where_its_command_could_not_print(one: Path) -> None:
    script = f"set -euo pipefail; {EVERLOG} up | true; echo deployed"
    code, out, _ = shell(script)
    with Database(one, create=False, read_only=True) as db:
        assert db.schema.version == shop.SECOND
    assert (code, out) in {(141, ""), (0, "deployed\n")}  # `true` may end after the line was written
    code, out, _ = shell(f"set -euo pipefail; {EVERLOG} log | head -n1 >/dev/null; echo done")
    assert (code, out) in {(141, ""), (0, "done\n")}


@pytest.mark.long
def test_streams_that_are_closed_at_the_start_are_no_place_for_a_database(one: Path) -> None:
    closed = f"{EVERLOG} up <&- >&- 2>&-"
    assert shell(closed)[0] == 1
    assert shell(f"{EVERLOG} check")[0] == 0
    assert shell(f"{EVERLOG} status >&-") == (
        1,
        "",
        "error: standard output could not be written: it is closed\n",
    )
    assert shell(f"{EVERLOG} status 2>&-")[0] == 0
    code, _, said = shell(f"{EVERLOG} import books - --format csv <&-")
    assert (code, said) == (1, "error: standard input: it is closed\n")


def test_a_question_without_standard_input_is_not_answered(everlog: Run, one: Path) -> None:
    code, _, said = shell(f"{EVERLOG} drop <&-")
    assert code == 1
    assert "confirm with --yes" in said
    assert one.exists()


def test_streams_that_do_not_block_are_waited_for(books: Path) -> None:
    """Programs that share a pipe may have made it non-blocking: ssh and Node.js do."""
    rows = "".join(
        f'{{"isbn":"9-{number}","volume":1,"title":"{"x" * 300}"}}\n' for number in range(2000)
    ).encode()
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    command = [sys.executable, "-m", "everlog.console", "import", "books", "-", "--format", "jsonl"]
    with subprocess.Popen(command, stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reads:
        os.close(ours)
        with os.fdopen(theirs, "wb") as file:
            for at in range(0, len(rows), 100_000):
                file.write(rows[at : at + 100_000])
                file.flush()
        out, err = reads.communicate(timeout=60)
    assert (reads.returncode, b"Imported: 2,000 rows" in out) == (0, True), err
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    command = [sys.executable, "-m", "everlog.console", "export", "books", "-", "--format", "jsonl"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE) as writes:
        os.close(theirs)
        with os.fdopen(ours, "rb") as file:
            lines = file.read(1 << 16)  # a full pipe, and more when it is read
            lines += file.read()
        _, err = writes.communicate(timeout=60)
    assert (writes.returncode, err) == (0, b"")
    assert lines.count(b"\n") == 2001
