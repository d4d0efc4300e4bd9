"""Shared by all tests: how Hypothesis looks for examples, and a small disk."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No deadlines: a shared machine must not make a test fail.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A process that a shell starts in the background ignores interrupts, one under `nohup` hang-ups, and so do
# its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _killed_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the children of a test that fails. `with Popen(…)` would wait for them, even after a timeout."""
    ended = subprocess.Popen.__exit__

    def exits(child: subprocess.Popen[Any], kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            child.kill()
        ended(child, kind, *rest)

    monkeypatch.setattr(subprocess.Popen, "__exit__", exits)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 48 MB. Skipped for users who may not mount one."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    (path / "ballast").write_bytes(bytes(24 << 20))
    yield path
    subprocess.run(["umount", str(path)], check=True)
