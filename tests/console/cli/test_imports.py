"""The imports of each command, which take most of its time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.migrations.project import Project

SEEN = """
import atexit, sys
def tell():
    sys.stderr.write("modules: " + " ".join(sys.modules))
atexit.register(tell)
from everlog.console.__main__ import main
main()
"""

# Each of the second kind is needed by some commands, but not by those that only show state.
HEAVY = {"click", "google.protobuf", "msgspec", "rocksdict", "everlog.console.cli.main", "importlib.metadata"}
SELDOM = {
    "asyncio",
    "email",
    "everlog.rpc.server.server",
    "faker",
    "fsspec",
    "google.protobuf.compiler.plugin_pb2",
    "grpc",
    "grpc_tools",
    "importlib.metadata",
    "importlib.resources",
    "numpy",
    "sqlite3",
    "subprocess",
    "tqdm",
    "zipfile",
}
# importlib.invalidate_caches of these versions imports them.
BY_PYTHON = (
    {"email", "importlib.metadata", "importlib.resources", "zipfile"}
    if sys.version_info >= (3, 12)
    else set[str]()
)


def modules(at: Path, *args: str) -> tuple[str, set[str]]:
    """Return the output of a command, and the modules that it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN, *args], cwd=at, capture_output=True, text=True, check=False
    )
    _, _, names = done.stderr.rpartition("modules: ")
    assert done.returncode == 0, done.stderr
    return done.stdout, set(names.split())


def test_the_version_is_told_without_imports(tmp_path: Path) -> None:
    said, found = modules(tmp_path, "--version")
    assert said.startswith("everlog 0.")
    assert not found & HEAVY


def test_status_and_up_import_nothing_that_they_do_not_need(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.add()
    project.build()
    place = ["-u", f"file:{tmp_path / 'x.db'}", "-d", str(project.path)]
    modules(tmp_path, *place, "up")
    for command in ("up", "status"):
        said, found = modules(tmp_path, *place, command)
        assert said
        assert found & SELDOM <= BY_PYTHON, command
