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
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from everlog.rpc.address import PORT
from everlog.store.database import Database
from everlog.store.rocks import ownership
from tests.console.cli.test_systemd import Manager, started
from tests.docs.session import Session, blocks
from tests.store.models import ITEMS

PAGE = Path(__file__).parent.parent.parent / "docs" / "deployment.md"
ROOT = PAGE.parent.parent
SYSTEMD = ROOT / "examples" / "operate" / "systemd"


@pytest.mark.long
def test_the_page_about_deployment_does_what_it_says(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.follow(PAGE)
    assert len([block for block in blocks(PAGE) if block.language == "console"]) == 4


def unit(name: str) -> configparser.ConfigParser:
    """Return a unit of systemd; of keys that occur more than once, the last."""
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    found.read(SYSTEMD / name)
    return found


def test_the_units_of_systemd_start_reload_and_stop_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = unit("everlog.service")["Service"]
    monkeypatch.chdir(tmp_path)
    Database(tmp_path / "shop.db").close()
    (tmp_path / "tokens").write_text("ann Qm5xd2VydHk\n")
    (tmp_path / "tokens").chmod(0o400)
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/everlog")
    assert words == ["serve", "--config", "/etc/everlog/serve.toml"]
    config = tmp_path / "serve.toml"
    config.write_text((SYSTEMD / "serve.toml").read_text().replace("127.0.0.1:7422", "127.0.0.1:0"))
    name, value = service["Environment"].split("=")
    manager = Manager(str(tmp_path / "notify"))
    host, _, port = unit("everlog.socket")["Socket"]["ListenStream"].rpartition(":")
    assert int(port) == PORT
    with (
        socket.create_server((host, 0)) as listening,
        started(
            *words[1:-1],
            str(config),
            sockets=(listening,),
            **{"NOTIFY_SOCKET": manager.address, name: value.replace("%d", str(tmp_path))},
        ) as serving,
    ):
        while "READY=1" not in manager.next():
            pass
        assert service["ExecReload"].split()[1:] == ["-HUP", "$MAINPID"]
        serving.send_signal(signal.SIGHUP)
        assert manager.next()[0] == "RELOADING=1"
        assert manager.next()[0] == "READY=1"
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0
    manager.close()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for path in SYSTEMD.glob("everlog.*"):  # a program that is here
        (tmp_path / path.name).write_text(
            path.read_text().replace("/opt/everlog/bin/everlog", sys.executable)
        )
    files = [str(path) for path in tmp_path.glob("everlog.*")]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(files) == 2


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
