"""Killed while the master key is rotated: the same settings open the database, and the same call resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.store.crypto import key_store
from everlog.store.crypto.master_key import LocalMaster, Successive
from everlog.store.errors import OpenError
from tests.store.people import MASTER, OTHER_MASTER, PATIENTS, open_people, patient

ROOT = Path(__file__).parents[2]

DIES = """
import os, signal, sys
from pathlib import Path
from everlog.store.crypto import vault
from everlog.store.crypto.key_store import KeyStore
from tests.store.people import *

path, where, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
vault.EACH = 10
call, calls = getattr(KeyStore, where), 0

def die(*given):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*given)

db = open_people(path)
setattr(KeyStore, where, die)
db.people.rotate_key(OTHER_MASTER)
"""


@pytest.mark.parametrize(
    ("where", "number", "left"),
    [
        ("put_wrapped", 1, 52),
        ("sync", 1, 52),
        ("put", 1, 52),
        ("put", 25, 28),
        ("put_wrapped", 2, 1),  # that of a person who was added later
        ("put_wrapped", 3, 0),
    ],
)
def test_a_change_that_was_killed_is_gone_on_with(tmp_path: Path, where: str, number: int, left: int) -> None:
    path, next_key = tmp_path / "db", tmp_path / "next.key"
    next_key.write_bytes(OTHER_MASTER)
    with open_people(path) as db:
        db.load(PATIENTS, [patient(n, f"s-{n}") for n in range(50)])
    words = [sys.executable, "-c", DIES, str(path), where, str(number)]
    died = subprocess.run(words, cwd=ROOT, env=os.environ, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    either = Successive(LocalMaster(MASTER), next_key)
    with open_people(path, master_key=either) as db:
        assert len(list(db.scan(PATIENTS))) == 50
        db.put(PATIENTS, patient(50, "s-50"))
        assert db.people.rotate_key(OTHER_MASTER) == left
        assert db.people.rotate_key(OTHER_MASTER) == 0
        assert list(db.admin.check()) == []
    with open_people(path, master_key=OTHER_MASTER) as db:
        assert len(list(db.scan(PATIENTS))) == 51
    with pytest.raises(OpenError, match="these keys are under another master key"):
        open_people(path)
    raw = (path / "KEYS").read_bytes()
    assert sorted(raw[at] for at in key_store.WRAPPED_AT) == [key_store.NONE, key_store.IN_USE]
