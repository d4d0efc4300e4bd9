"""Files that commands write: whole or not at all, private while they are partial, with one writer each."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from everlog.console.output import as_text, atomic_file
from everlog.store.errors import Error
from tests.console.conftest import Run

KILLED = """
import os, sys
from everlog.console.output import atomic_file
with atomic_file(sys.argv[1]) as out:
    out.write(b"half")
    out.flush()
    os.kill(os.getpid(), 9)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_part_is_private_and_the_file_has_the_mode_of_the_one_before(here: Path) -> None:
    before = os.umask(0o022)
    try:
        for expected in (0o644, 0o640):
            with atomic_file("rows.csv") as out:
                assert mode(here / "rows.csv.part") == 0o600
                out.write(b"rows")
            assert (mode(here / "rows.csv"), (here / "rows.csv").read_bytes()) == (expected, b"rows")
            (here / "rows.csv").chmod(0o640)
    finally:
        os.umask(before)
    assert [path.name for path in here.iterdir()] == ["rows.csv"]


def test_the_part_of_a_killed_run_is_private_and_the_next_run_takes_its_place(
    here: Path, everlog: Run, books: Path
) -> None:
    (here / "out.csv").write_text("before")
    (here / "out.csv.part").write_text("x" * 100_000)
    (here / "out.csv.part").chmod(0o644)  # as older versions left it
    assert subprocess.run([sys.executable, "-c", KILLED, "out.csv"], check=False).returncode == -9
    assert ((here / "out.csv.part").read_text(), mode(here / "out.csv.part")) == ("half", 0o600)
    assert (here / "out.csv").read_text() == "before"
    assert everlog("export", "books", "out.csv").code == 0
    assert (here / "out.csv").read_text().splitlines()[1].startswith("978-0,1,Dune")
    assert not (here / "out.csv.part").exists()


def test_what_fails_leaves_the_file_before_and_no_part(here: Path) -> None:
    (here / "rows.csv").write_text("before")

    def fail() -> None:
        with atomic_file("rows.csv") as out, as_text(out) as lines:
            lines.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in here.iterdir()] == ["rows.csv"]
    assert (here / "rows.csv").read_text() == "before"
    with pytest.raises(FileNotFoundError) as found, atomic_file("nowhere/rows.csv"):
        pass
    assert found.value.filename == "nowhere/rows.csv"


def test_two_writers_of_one_file_do_not_mix(here: Path) -> None:
    with atomic_file("rows.csv") as out:
        out.write(b"first")
        with pytest.raises(Error, match=r"rows\.csv is being written by another process"):
            atomic_file("rows.csv").__enter__()
    assert (here / "rows.csv").read_bytes() == b"first"


def test_a_link_stays_and_a_pipe_is_written_into(here: Path, everlog: Run, books: Path) -> None:
    (here / "link.csv").symlink_to("target.csv")
    assert everlog("export", "books", "link.csv").code == 0
    assert (here / "link.csv").is_symlink()
    assert "Dune" in (here / "target.csv").read_text()
    os.mkfifo(here / "pipe.csv")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((here / "pipe.csv").read_text()))
    reader.start()
    assert everlog("export", "books", "pipe.csv").code == 0
    reader.join(30)
    assert found == [(here / "target.csv").read_text()]
    assert stat.S_ISFIFO((here / "pipe.csv").stat().st_mode)
