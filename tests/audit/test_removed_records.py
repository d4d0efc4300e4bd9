"""What a trimmed log states about its archived records is compared with checkpoints, proofs and tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.audit import proof, prover
from everlog.audit.archive import archive
from everlog.audit.archived import attach
from everlog.audit.auditing import Audit
from everlog.audit.export import export
from everlog.audit.proof import Checkpoint, Inclusion
from everlog.audit.prover import LocalProver
from everlog.audit.tree import Tree
from everlog.store import record
from everlog.store.database import Database
from everlog.store.keys import SEQ
from tests.audit.test_auditing import problems
from tests.audit.test_prover import signer_of
from tests.audit.test_tree import notes
from tests.store.models import ITEMS, declare


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """Return a log of 320 records, with a schema in the second, of which 282 were archived."""
    with Database(tmp_path / "db", idempotency_s=0) as database:
        declare(database, ITEMS)
        notes(database, 318)
        yield database


def known(db: Database, to: Path) -> tuple[Checkpoint, Inclusion]:
    """Return a checkpoint and a proof of records that are archived afterwards, and their tiles."""
    local, signer = LocalProver(db), signer_of(db)
    text = prover.checkpoint(local, signer)[0]
    export(local, text, to / "tiles")
    found = proof.open_checkpoint(text, signer.verifier), prover.prove(local, 7)
    notes(db, 40)
    archive(db, to / "archive", keep_records=30)
    return found


def kept(db: Database, change: bool) -> None:
    """Store another record 2, with a valid checksum."""
    side = db.engine.side("kept")
    assert side is not None
    if change:
        commit = record.decode(side[0].get(SEQ.pack(2)) or b"", 2)
        commit.ClearField("checksum")
        commit.actor = "mallory"
        side[0][SEQ.pack(2)] = record.frame(commit)


@pytest.mark.parametrize("changed", [False, True])
def test_records_that_were_kept_are_those_in_the_archive(db: Database, tmp_path: Path, changed: bool) -> None:
    known(db, tmp_path)
    kept(db, changed)
    expected = ["record 2, which was kept when the log was trimmed, differs from the archived one"]
    assert problems(db) == expected * changed


@pytest.mark.parametrize("changed", [False, True])
def test_records_that_were_kept_are_those_of_the_tree(db: Database, tmp_path: Path, changed: bool) -> None:
    known(db, tmp_path)
    kept(db, changed)
    db.log.trimmed.older = None
    expected = ["record 2, which was kept when the log was trimmed, differs from the archived one"]
    assert problems(db) == expected * changed


@pytest.mark.parametrize("archived", [False, True])
def test_a_base_with_another_schema_is_found_out(db: Database, tmp_path: Path, archived: bool) -> None:
    known(db, tmp_path)
    base = db.log.beginning()
    base.ClearField("checksum")
    base.base.schema.tables[0].name = "thing"
    db.engine.append_record(SEQ.pack(base.seq), record.frame(base))
    if not archived:
        db.log.trimmed.older = None
    (found,) = problems(db)
    assert "the schema of the log's Base differs from" in found


def test_a_base_of_other_records_is_found_out(db: Database, tmp_path: Path) -> None:
    known(db, tmp_path)
    base = db.log.beginning()
    base.ClearField("checksum")
    base.base.tree_frontier[0] = b"x" * 32
    db.engine.append_record(SEQ.pack(base.seq), record.frame(base))
    assert any("the Base of the log is not of the first" in one for one in problems(db))
    db.log.trimmed.older = None
    assert any("the tree over what was archived" in one for one in problems(db))


def test_what_is_known_of_records_that_are_not_at_hand_is_traced_to_the_base(
    db: Database, tmp_path: Path
) -> None:
    checkpoint, shown = known(db, tmp_path)
    db.log.trimmed.older = None
    assert db.log.oldest > checkpoint.size
    tiles = tmp_path / "tiles"
    assert problems(db, checkpoints=[checkpoint], tiles=tiles, against=shown) == []
    assert problems(db, against=LocalProver(db)) == []
    (found,) = problems(db, checkpoints=[checkpoint._replace(root=b"x" * 32)])
    assert found.startswith(f"the first {checkpoint.size} records, which were archived, differ from those of")
    (found,) = problems(db, against=shown._replace(record=shown.record + b"x"))
    assert found.startswith("record 7 is a fork: two different records have this seq")


NOT_LOOKED_AT = "were archived and could not be verified; later records are verified"


def test_where_the_archive_cannot_be_reached_the_rest_is_audited(db: Database, tmp_path: Path) -> None:
    checkpoint, shown = known(db, tmp_path)
    archive_at, base = tmp_path / "archive", db.log.trimmed.base
    archive_at.rename(tmp_path / "away")
    attach(db)
    looked = Audit(db, checkpoints=[checkpoint], tiles=tmp_path / "tiles", against=shown)
    first, second = looked.problems()
    assert first.startswith("record 1 was archived and cannot be read back: there is no directory")
    assert second.startswith(f"records 1 to {base} {NOT_LOOKED_AT}")
    assert (looked.after, looked.seq) == (base, db.head)
    assert looked.root == LocalProver(db).head()[1]
    rewritten = db.log.commit(base + 5)
    rewritten.ClearField("checksum")
    rewritten.notice.subject += " indeed"
    db.engine.append_record(SEQ.pack(base + 5), record.frame(rewritten))
    found = problems(db, checkpoints=[checkpoint._replace(root=b"x" * 32)])
    assert len(found) == 5, "the two, the checkpoint, the tree: its root, and the record"
    assert any(
        f"the first {checkpoint.size} records, which were archived, differ from those" in one for one in found
    )
    assert any(f"record {base + 5} differs from the one in the tree" in one for one in found)


def test_where_a_segment_is_gone_what_was_before_it_is_audited_as_well(db: Database, tmp_path: Path) -> None:
    to = tmp_path / "archive"
    for last in (100, 200, 300):
        archive(db, to, keep_records=db.head - last)
    (gone,) = to.glob("*101-*.zst")
    gone.unlink()
    attach(db)
    found = problems(db, against=LocalProver(db))
    assert gone.name in found[0]
    assert [one for one in found if one.startswith(f"records 101 to 300 {NOT_LOOKED_AT}")]
    assert all(gone.name in one for one in found if NOT_LOOKED_AT not in one), found
    assert problems(db)[1:] == [one for one in found if NOT_LOOKED_AT in one]


def test_what_cannot_be_compared_is_said_to_be_so(db: Database, tmp_path: Path) -> None:
    checkpoint, shown = known(db, tmp_path)
    db.log.trimmed.older = None
    Tree(db).forget()
    found = problems(db, checkpoints=[checkpoint], against=shown)
    assert len(found) == 4, "the two records that were kept, the checkpoint, the proof"
    assert all("and cannot be verified" in one for one in found)
