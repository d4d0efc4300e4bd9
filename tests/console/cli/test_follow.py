import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.console.conftest import Run


def test_a_database_is_followed_once_and_proven_equal(everlog: Run, books: Path, here: Path) -> None:
    everlog("testdata")
    ended = everlog("follow", "--to", "sqlite:mirror.sqlite", "--once", "--verify")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "Followed: sqlite:mirror.sqlite is at commit 4",
        "Equal: every table, rows and content hash",
    ]
    followed, compared = everlog(
        "follow", "--to", "sqlite:mirror.sqlite", "--once", "--verify", "--json"
    ).json
    assert followed == {"target": "sqlite:mirror.sqlite", "seq": 4, "commits": 0, "changes": 0}
    assert compared == {"target": "sqlite:mirror.sqlite", "seq": 4, "tables": ["books"], "differences": 0}


def test_a_value_that_was_changed_in_the_mirror_is_found(everlog: Run, books: Path, here: Path) -> None:
    everlog("follow", "--to", "sqlite:mirror.sqlite", "--once")
    with closing(sqlite3.connect(here / "mirror.sqlite")) as mirror:
        mirror.execute("UPDATE books SET title = 'Arrakis'")
        mirror.commit()
    ended = everlog("follow", "--to", "sqlite:mirror.sqlite", "--once", "--verify")
    assert ended.code == 1
    assert "books: has content hash" in ended.out
    _, difference, compared = everlog(
        "follow", "--to", "sqlite:mirror.sqlite", "--once", "--verify", "--json"
    ).json
    assert "books: has content hash" in difference["difference"]
    assert compared["differences"] == 1


def test_it_follows_beside_a_writing_process_until_it_is_stopped(
    everlog: Run, books: Path, here: Path
) -> None:
    mirror = here / "mirror.sqlite"
    words = [sys.executable, "-m", "everlog.console", "follow", "--to", f"sqlite:{mirror}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        try:
            until(lambda: position(mirror) == 3)
            assert everlog("testdata").code == 0
            until(lambda: position(mirror) == 4)
            follower.send_signal(signal.SIGTERM)
            out, err = follower.communicate(timeout=30)
        finally:
            follower.kill()
    assert (follower.returncode, err) == (0, "")
    assert out == f"Followed: sqlite:{mirror} is at commit 4\n"


def test_interrupted_it_says_how_to_go_on(everlog: Run, books: Path, here: Path) -> None:
    words = [sys.executable, "-m", "everlog.console", "follow", "--to", "sqlite:mirror.sqlite"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as follower:
        try:
            until(lambda: position(here / "mirror.sqlite") == 3)
            follower.send_signal(signal.SIGINT)
            _, err = follower.communicate(timeout=30)
        finally:
            follower.kill()
    assert follower.returncode == 130
    last = err.strip().splitlines()[-1]  # a progress line may come first
    assert last == "interrupted; the same command resumes exactly where it stopped"


def test_a_target_that_is_none_is_a_sentence(everlog: Run, books: Path) -> None:
    assert "expected a target such as sqlite:PATH" in everlog("follow", "--to", "mirror", "--once").err


def position(mirror: Path) -> int:
    if not mirror.exists():
        return 0
    with closing(sqlite3.connect(f"file:{mirror}?mode=ro", uri=True)) as reader:
        try:
            found = reader.execute("SELECT seq FROM _everlog").fetchone()
        except sqlite3.OperationalError:
            return 0
    return int(found[0]) if found else 0


def until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process does it, so there is no event to wait for


@pytest.mark.long
def test_a_locked_target_is_waited_for_and_that_is_said(everlog: Run, books: Path, here: Path) -> None:
    assert everlog("follow", "--to", "sqlite:mirror.sqlite", "--once").code == 0
    everlog("testdata")
    words = [sys.executable, "-m", "everlog.console", "follow", "--to", "sqlite:mirror.sqlite", "--once"]
    with closing(sqlite3.connect(here / "mirror.sqlite")) as mirror:
        mirror.execute("BEGIN IMMEDIATE")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stderr is not None
            assert follower.stderr.readline().startswith("waiting: sqlite:mirror.sqlite: SQLite refused to")
            mirror.rollback()
            out, _ = follower.communicate(timeout=60)
    assert (follower.returncode, out) == (0, "Followed: sqlite:mirror.sqlite is at commit 4\n")
