"""Without file descriptors or address space, calls end with an everlog error, which calls nothing damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.models import ITEMS, Item, open_flights

READS = """
import json, os, resource, sys
from everlog.audit.archive import LocalArchive
from everlog.store.database import Database
from everlog.store.errors import DiskError, Error
from everlog.store.rocks import manifest
path, spare = sys.argv[1], int(sys.argv[2])
db = Database(path, read_only=sys.argv[3] == "reader")
archive = LocalArchive(db)
reads = {
    "status": db.admin.status,
    "check": lambda: list(db.admin.check()),
    "backup": lambda: archive.backup(f"{path}-backup"),
    "move": lambda: archive.move(f"{path}-archive", keep_records=1),
    "listed": lambda: manifest.check_listed(db.path),
}
for name, read in reads.items():  # import what they need
    if name != "move":
        read()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for number in taken[:spare]:
    os.close(number)
said = {}
for name, read in reads.items():
    try:
        read()
        said[name] = "done"
    except Error as error:
        said[name] = f"{type(error).__name__}: {error}"
for number in taken[spare:]:
    os.close(number)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
assert list(db.admin.check()) == []
print(json.dumps(said))
db.close()
"""


@pytest.mark.parametrize("way", ["reader", "writer"])
@pytest.mark.parametrize("spare", [0, 1])
def test_reads_without_descriptors_name_the_cause(tmp_path: Path, spare: int, way: str) -> None:
    path = tmp_path / "db"
    with open_flights(path) as db:
        for number in range(9):
            db.put(ITEMS, Item(id=number))
    command = [sys.executable, "-c", READS, str(path), str(spare), way]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=100, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, said in found.items():
        assert said == "done" or "ReadOnlyError" in said or "oo many open files" in said, (name, said)
        assert "CorruptionError" not in said, (name, said)
    assert spare or (found["status"] != "done" and found["check"] != "done")


OPENS = """
import resource, sys
from everlog.store.database import Database
from everlog.store.errors import OpenError
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]) << 20,) * 2)
try:
    with Database(sys.argv[1]) as db:
        print("opened at", db.head)
except OpenError as error:
    print(error)
"""


def test_too_little_address_space_is_an_error_and_aborts_nothing(tmp_path: Path) -> None:
    with open_flights(tmp_path / "db") as db:
        head = db.head
    for limit, said in ((250, "raise `ulimit -v`"), (4000, f"opened at {head}")):
        command = [sys.executable, "-c", OPENS, str(tmp_path / "db"), str(limit)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    made = "import everlog; everlog.open(sys.argv[1], create=True).close()"
    script = OPENS.replace("with Database(sys.argv[1]) as db:", made).replace(
        'print("opened at", db.head)', ""
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "new"), "250"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "raise `ulimit -v`" in done.stdout, done.stderr
    assert not (tmp_path / "new").exists()


CONNECTS = """
import os, resource
import everlog
from everlog.store.errors import DiskError
import everlog.rpc.client.database
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 3, hard))
try:
    everlog.open("everlog+insecure://127.0.0.1:1/x")
except DiskError as error:
    print(error)
"""


def test_a_client_without_descriptors_gets_an_error_and_is_not_aborted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONNECTS], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "connecting to everlog+insecure://127.0.0.1:1/x: no file descriptors are left" in done.stdout
