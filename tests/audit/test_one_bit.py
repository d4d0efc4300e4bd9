"""One flipped bit in one file of a closed database is detected and located, or has no effect.

More of them: EVERLOG_TORTURE_S=600 make test ARGS="tests/audit/test_one_bit.py"
"""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from everlog.audit import proof, prover
from everlog.audit.auditing import Audit
from everlog.audit.proof import Checkpoint
from everlog.audit.prover import LocalProver
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.tables.hashing import TableHash
from tests.audit.test_prover import signer_of
from tests.store.models import AIRPORTS, ITEMS, Item, airport, open_flights

FLIPS = 12
TORTURE_S = float(os.environ.get("EVERLOG_TORTURE_S", "0"))
PLACE = re.compile(
    r"record \d|first \d+ records|block|tile|table|row|index|/db/|\.sst|\.log|EVERLOG|HEAD|CURRENT|MANIFEST"
)


class There(NamedTuple):
    """The state of an undamaged database."""

    path: Path
    checkpoint: Checkpoint
    hashes: dict[str, TableHash]
    records: bytes


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> There:
    path = tmp_path_factory.mktemp("one-bit") / "db"
    with open_flights(path, durability="os") as db:
        for number in range(400):
            with db.transaction() as tx:
                tx.put(ITEMS, Item(id=number % 250, text=f"text {number} " * 9, n=number))
                tx.put(AIRPORTS, airport(f"A{number % 40}", f"city {number}"))
        signer = signer_of(db)
        db.log.sync()
        text, _ = prover.checkpoint(LocalProver(db), signer)
        db.log.sync()
        LocalProver(db).head()  # so that the tree also has the last record
        hashes, records = db.admin.hashes(), db.log.read(0, 1 << 30)[0]
    return There(path, proof.open_checkpoint(text, signer.verifier), hashes, records)


def flipped(there: There, to: Path, chance: random.Random) -> str:
    """Copy the database with one flipped bit, anywhere in its bytes; return the place."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(there.path, to)
    files = sorted(file for file in to.rglob("*") if file.is_file() and file.stat().st_size)
    if chance.random() < 0.5:  # most bytes are in few files, but each file matters
        file = chance.choice(files)
    else:
        file = chance.choices(files, [file.stat().st_size for file in files])[0]
    raw = bytearray(file.read_bytes())
    at, bit = chance.randrange(len(raw)), chance.randrange(8)
    raw[at] ^= 1 << bit
    file.write_bytes(raw)
    return f"bit {bit} of byte {at} of {file.relative_to(to)}"


def told(path: Path, there: There) -> list[str]:
    """Return the problems that an audit finds; if none, check that all data is unchanged."""
    try:
        db = Database(path, create=False, read_only=True)
    except Error as error:
        return [str(error)]
    with db:
        looked = Audit(db, checkpoints=[there.checkpoint])
        try:
            problems = [*looked.problems(), *looked.tables()]
        except Error as error:
            return [str(error)]
        if not problems:
            assert db.log.read(0, 1 << 30)[0] == there.records
            assert db.admin.hashes() == there.hashes
        return problems


@pytest.mark.timeout(120 + TORTURE_S)
def test_it_is_told_where_or_it_lies_in_unused_space(there: There, tmp_path: Path) -> None:
    seed = int(os.environ.get("EVERLOG_SEED", random.randrange(1 << 32)))
    print(f"EVERLOG_SEED={seed}")  # noqa: T201  to run it again
    chance = random.Random(seed)
    until = time.monotonic() + TORTURE_S
    done = harmless = 0
    assert told(there.path, there) == []
    while done < FLIPS or time.monotonic() < until:
        where = flipped(there, tmp_path / "db", chance)
        problems = told(tmp_path / "db", there)
        done += 1
        harmless += not problems
        assert not problems or PLACE.search(problems[0]), f"{where}: says no place: {problems[0]}"
    print(f"{done} flips, {done - harmless} told, {harmless} in unused space")  # noqa: T201
