"""The page on deployment: its sessions run here; its other statements are tested by the files below.

One writer, containers, moving, modes    tests/store/rocks/test_ownership.py
Fork, ending                             tests/store/test_process.py
Secrets                                  tests/console/cli/test_serve.py
"""

from __future__ import annotations

import configparser
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from everlog.store.database import Database
from everlog.store.rocks import ownership
from tests.docs.session import Session, blocks
from tests.store.models import ITEMS

PAGE = Path(__file__).parent.parent.parent / "docs" / "deployment.md"
ROOT = PAGE.parent.parent


@pytest.mark.long
def test_the_page_about_deployment_does_what_it_says(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.follow(PAGE)
    assert len([block for block in blocks(PAGE) if block.language == "console"]) == 4


def test_the_unit_of_systemd_starts_and_stops(tmp_path: Path) -> None:
    (unit,) = (block.text for block in blocks(PAGE) if block.language == "ini")
    service = configparser.ConfigParser(interpolation=None)
    service.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    service.read_string(unit)
    Database(tmp_path / "shop.db").close()
    tokens = tmp_path / "tokens"
    tokens.write_text("ann Qm5xd2VydHk\n")
    tokens.chmod(0o400)
    program, *words = shlex.split(service["Service"]["ExecStart"])
    assert program.endswith("/everlog")
    places = {"/var/lib/everlog": str(tmp_path), "${CREDENTIALS_DIRECTORY}": str(tmp_path)}
    for there, here in places.items():
        words = [word.replace(there, here) for word in words]
    command = [sys.executable, "-m", "everlog.console", *words, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith(b"Serving: ")
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0


def test_a_snapshot_of_one_moment_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    script = """
        import sys
        from everlog.store.database import Database
        from tests.store.models import ITEMS, Item, declare
        db = Database(sys.argv[1])
        declare(db, ITEMS)
        for number in range(10**9):
            db.put(ITEMS, Item(id=number))
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as writing:
        assert writing.stdout is not None
        while int(writing.stdout.readline()) < 200:
            pass
        writing.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writing.pid, os.WSTOPPED | os.WNOWAIT)
        shutil.copytree(tmp_path / "db", tmp_path / "snapshot")
        writing.kill()
        acknowledged = [200, *(int(line) for line in writing.stdout if line.endswith(b"\n"))]
    with Database(tmp_path / "snapshot") as db:
        assert not list(db.admin.check())
        assert db.get(ITEMS, max(acknowledged)) is not None
        assert db.count(ITEMS) >= max(acknowledged)


def test_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind = ownership.file_system(tmp_path)
    assert kind
    with caplog.at_level(logging.WARNING, "everlog"):
        Database(tmp_path / "db").close()
        assert not caplog.records
        monkeypatch.setattr(ownership, "NETWORK", (kind,))
        Database(tmp_path / "db", read_only=True).close()
        assert not caplog.records
        Database(tmp_path / "db").close()
    assert f"lies on a network file system ({kind})" in caplog.text


def test_readers_need_no_lock(tmp_path: Path) -> None:
    with (
        Database(tmp_path / "db"),
        Database(tmp_path / "db", read_only=True),
        Database(tmp_path / "db", read_only=True) as reader,
    ):
        assert reader.refresh() == 1
