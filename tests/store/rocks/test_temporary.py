"""Temporary directories: removed with their process, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.rocks.files import Temporary, sweep

READER = """
import sys
from everlog.store.database import Database
db = Database(sys.argv[1], read_only=True)
print("open", flush=True)
sys.stdin.read()
"""
MEMORY = """
import sys
import everlog
db = everlog.open("memory:")
print(db.path, flush=True)
sys.stdin.read()
"""


def left(directory: Path) -> list[Path]:
    return sorted(directory.glob("everlog-reading-*"))


def test_it_is_there_until_it_is_removed(tmp_path: Path) -> None:
    one = Temporary("x-", tmp_path)
    (one.path / "file").touch()
    assert sweep(tmp_path, "x-") == []
    assert one.path.is_dir()
    one.remove()
    one.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_has_any_more_is_swept_and_nothing_else(tmp_path: Path) -> None:
    held = Temporary("x-", tmp_path)
    gone, stays = tmp_path / "x-killed", tmp_path / "y-killed"  # unlocked, as after the end of their process
    for path in (gone, stays):
        path.mkdir()
    (tmp_path / "x-file").touch()
    (tmp_path / "x-link").symlink_to(stays)
    assert sweep(tmp_path, "x-") == [gone]
    assert held.path.is_dir()
    assert stays.is_dir()
    held.remove()


ENDS = """
import os, sys
from everlog.store.rocks.files import Temporary
kept = Temporary("x-", sys.argv[1])
if os.fork() == 0:
    kept.remove()
    sys.exit(0)
os.wait()
(kept.path / "file").touch()
raise KeyboardInterrupt
"""


def test_a_process_that_is_interrupted_leaves_none(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr.endswith("\nKeyboardInterrupt\n")  # so the child did not remove it
    assert "FileNotFoundError" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_swept_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    made: list[Path] = []
    mkdtemp = tempfile.mkdtemp

    def swept(prefix: str, dir: Path) -> str:  # noqa: A002  as tempfile calls it
        made.append(Path(mkdtemp(prefix=prefix, dir=dir)))
        if len(made) == 1:
            assert sweep(dir, prefix) == made
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    one = Temporary("x-", tmp_path)
    assert one.path == made[1]
    assert sweep(tmp_path, "x-") == []
    one.remove()


def test_a_reader_that_was_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    path, scratch = tmp_path / "db", tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    Database(path).close()
    words = [sys.executable, "-c", READER, str(path)]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        return process

    with start() as killed, start() as lives:
        dead = left(scratch)
        killed.kill()
        killed.wait()
        assert left(scratch) == dead  # its process was killed
        with start() as third:
            assert len(left(scratch)) == 2
            assert len({*left(scratch), *dead}) == 3
            third.communicate()
        lives.communicate()


def test_a_database_in_memory_does_not_outlive_a_killed_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MEMORY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        process.kill()
    assert path.is_dir()
    with subprocess.Popen(
        [sys.executable, "-c", MEMORY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not path.exists()
        process.communicate()
