"""Forks: what they share with their origin, and what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.audit import archive, backup, prover, restore
from everlog.audit.prover import LocalProver
from everlog.store.database import Database
from everlog.store.errors import Error
from tests.audit.test_auditing import made, problems
from tests.audit.test_prover import signer_of
from tests.audit.test_tree import notes


@pytest.mark.parametrize("trimmed", ["", "archive", "gone"])
def test_a_fork_has_another_tree_than_its_origin_and_checkpoints_of_its_own(
    tmp_path: Path, trimmed: str
) -> None:
    first = made(tmp_path / "db", 30)
    with Database(tmp_path / "db") as db:
        backup(db, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "fork", fork=True)
    with Database(tmp_path / "fork", idempotency_s=0) as db:
        notes(db, 5)
        if trimmed:
            archive(db, tmp_path / "archive", keep_records=10)
        if trimmed == "gone":
            (tmp_path / "archive").rename(tmp_path / "away")
            (tmp_path / "fork" / "ARCHIVE").unlink()
    with Database(tmp_path / "fork") as db:
        local = LocalProver(db)
        assert problems(db) == []
        with pytest.raises(Error, match="no checkpoint in the log covers record 30: sign one"):
            prover.prove(local, 30)
        prover.checkpoint(local, signer_of(db))
        assert problems(db) == []
        assert prover.prove(local, 35).leaf_index == 34
        assert len(local.kept(0)) == 1
        (found,) = problems(db, checkpoints=[first])
        assert f"checkpoint of {first.origin}, the database that this one was forked from" in found
