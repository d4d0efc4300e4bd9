"""Killed while a person is forgotten: the Notice decides; before it, nothing has happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.store.tables.projection import SHREDDED
from everlog.store.upkeep import check
from tests.store.people import PATIENTS, open_people, patient

ROOT = Path(__file__).parents[2]

DIES = """
import os, signal, sys
from pathlib import Path
from everlog.store.tx.committer import Committer
from everlog.store.rocks.engine import Engine
from everlog.store.crypto.key_store import KeyStore
from everlog.store.crypto.vault import Vault
from tests.store.people import *

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

path, where = Path(sys.argv[1]), sys.argv[2]
db = open_people(path)
if where == "before the record":
    Committer._write = die
elif where == "before the tables are on disk":
    Engine.flush = die
elif where == "before the zeros":
    Vault.forget = die
elif where == "before they are synced":
    KeyStore.sync = die
db.people.forget(PATIENTS, 1)
"""


@pytest.mark.parametrize(
    "where",
    ["before the record", "before the tables are on disk", "before the zeros", "before they are synced"],
)
def test_forgetting_happens_whole_or_not_at_all(tmp_path: Path, where: str) -> None:
    path = tmp_path / "db"
    with open_people(path) as db:
        for n in range(1, 20):
            db.put(PATIENTS, patient(n, f"s-{n % 3}", email=f"{n}@x"))
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(path), where], cwd=ROOT, env=os.environ, check=False, timeout=60
    )
    assert died.returncode == -signal.SIGKILL
    with open_people(path) as db:
        noticed = any(db.log.commit(seq).notice.kind == SHREDDED for seq in range(1, db.head + 1))
        assert noticed == (where != "before the record")
        key_id = db.log.commit(3).changes[0].key_id
        assert (key_id in (path / "KEYS").read_bytes()) == (not noticed)
        assert db.count(PATIENTS) == (12 if noticed else 19)
        assert list(db.admin.check()) == []
        assert db.admin.rebuild() == db.admin.hashes()


@pytest.mark.parametrize("where", ["before the tables are on disk", "before the zeros"])
def test_a_reader_finds_all_right_however_often_it_looks(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the tables are on disk, each reader deletes the rows again, which needs the destroyed key."""
    path = tmp_path / "db"
    with open_people(path) as db:
        for n in range(1, 20):
            db.put(PATIENTS, patient(n, f"s-{n % 3}", email=f"{n}@x"))
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(path), where], cwd=ROOT, env=os.environ, check=False, timeout=60
    )
    assert died.returncode == -signal.SIGKILL
    monkeypatch.setattr(check, "FORGETTING_S", 0.05)
    with open_people(path, read_only=True) as reader:
        for _ in range(3):
            found = list(reader.admin.check(deep=True))
            if where == "before the zeros":  # this happens only when it is next opened for writing
                assert len(found) == 1
                assert "KEYS has the keys of 1 forgotten person" in found[0]
            else:
                assert found == []
            assert len(list(reader.scan(PATIENTS.by_id))) == reader.count(PATIENTS) == 12
            reader.refresh()
