"""The Dockerfile of examples/operate: its commands, run without Docker on a read-only root."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.console.served import fetch
from tests.examples.test_proxies import free_port

OPERATE = Path(__file__).parents[2] / "examples" / "operate"
FILE = (OPERATE / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")

# In a mount namespace of its own: everything is read-only but the volume and /tmp.
READ_ONLY = """
set -e
mount --bind / /
mount --bind "$1" /mnt
mount -t tmpfs -o size=64m tmpfs /tmp
mount -o remount,bind,ro /
shift
! touch /everlog-test 2>/dev/null
exec "$@"
"""


def instruction(name: str) -> list[str]:
    """Return the words of an instruction in exec form, of the last stage."""
    last = FILE.rpartition("\nFROM ")[2]
    (found,) = re.findall(rf"^{name} +.*?(\[.*\])$", last, re.MULTILINE)
    words: list[str] = ast.literal_eval(found)
    return words


def test_the_image_is_unprivileged_and_runs_no_shell() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", FILE, re.MULTILINE)
    assert [stage for _, stage in stages] == ["build", ""]
    last = FILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "pip" not in last
    assert instruction("ENTRYPOINT")[:2] == ["everlog", "serve"]
    assert "--timeout=" in last


def test_the_compose_file_uses_the_image_s_user_volume_and_port() -> None:
    text = (OPERATE / "compose.yaml").read_text(encoding="utf-8")
    for line in ("read_only: true", 'user: "10001:10001"', "- data:/data", "cap_drop: [ALL]", "- /tmp:"):
        assert line in text
    assert '"7420:7420"' in text
    assert "EXPOSE 7420" in FILE


def can_mount() -> bool:
    if shutil.which("unshare") is None or os.getuid():
        return False
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh", "/var", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.long
def test_its_command_serves_on_a_read_only_root(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("this process cannot mount")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    Database(data / "shop.db").close()
    port = free_port()
    words = [*instruction("ENTRYPOINT"), *instruction("CMD")]
    words = [word.replace("/data/", "/mnt/").replace("0.0.0.0:7422", f"127.0.0.1:{port}") for word in words]
    words = [word.replace("127.0.0.1:7420", "127.0.0.1:0") for word in words]
    assert words.pop(0) == "everlog"
    check = [word.replace("7422", str(port)) for word in instruction("HEALTHCHECK")]
    program = [sys.executable, "-B", "-m", "everlog.console"]
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh", str(data)]
    if shutil.which("setpriv") is not None:  # root without the right to write everywhere
        inside += ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    variables = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [*inside, *program, *words], stdout=subprocess.PIPE, text=True, env=variables, cwd="/"
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Serving: everlog+insecure://")
            assert fetch(f"http://127.0.0.1:{port}/readyz")[0] == 200
            done = subprocess.run(
                [*program, *check[1:]], capture_output=True, text=True, check=False, env=variables, cwd="/"
            )
            assert (done.returncode, done.stdout) == (0, f"Ready: http://127.0.0.1:{port}\n"), done.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
