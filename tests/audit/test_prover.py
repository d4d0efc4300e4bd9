"""The prover: checkpoints in the log, and proofs that need only a public key to verify."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.audit import proof, prover
from everlog.audit.merkle import leaf_hash
from everlog.audit.note import Signer
from everlog.audit.proof import Checkpoint
from everlog.audit.prover import LocalProver
from everlog.audit.tree import KIND, Tree
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError, Error, PreconditionError, ReadOnlyError
from everlog.store.keys import SEQ
from tests.audit.test_tree import notes


def signer_of(db: Database) -> Signer:
    return Signer.generate(prover.origin_of(LocalProver(db)))


def test_a_checkpoint_is_kept_in_the_log_if_it_says_something_new(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 10)
        signer, local = signer_of(db), LocalProver(db)
        text, new = prover.checkpoint(local, signer)
        assert new
        assert db.head == 12
        notice = db.log.commit(12).notice
        assert (notice.kind, notice.subject, notice.detail) == (KIND, signer.name, text.encode())
        assert proof.open_checkpoint(text, signer.verifier).size == 11
        assert prover.checkpoint(local, signer) == (text, False)
        other = Signer.generate(signer.name)
        assert prover.checkpoint(local, other)[1]  # of another key, so it is a new one
        assert prover.checkpoint(local, other)[1] is False
        assert prover.checkpoint(local, signer) == (text, False)  # only checkpoints were added since
        assert db.head == 13
        notes(db, 1)
        assert prover.checkpoint(local, signer)[1]
        assert [one.size for one in local.kept(0)] == [11, 12, 14]


def test_a_record_is_proven_by_the_newest_checkpoint_that_covers_it(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 300)
        signer = signer_of(db)
        with pytest.raises(Error, match="no checkpoint in the log covers record 7"):
            prover.prove(LocalProver(db), 7)
        prover.checkpoint(LocalProver(db), signer)
        found = prover.prove(LocalProver(db), 7)
        assert found.record[:2] == b"\x08\x07"
        again = proof.parse(found.text())
        assert isinstance(again, proof.Inclusion)
        again.verify(proof.open_checkpoint(again.note, signer.verifier))
        with pytest.raises(Error, match="covers record 302"):
            prover.prove(LocalProver(db), 302)
        with Database(tmp_path / "db", read_only=True) as reader:
            assert prover.prove(LocalProver(reader), 7) == found
            with pytest.raises(Error, match=r"no checkpoint in the log that .* signed covers record 7"):
                prover.prove(LocalProver(reader), 7, by=Signer.generate(signer.name).verifier)
            with pytest.raises(ReadOnlyError):
                prover.checkpoint(LocalProver(reader), Signer.generate("a"))


def test_a_log_is_proven_to_go_on_from_a_checkpoint_that_was_kept_elsewhere(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 10)
        signer, local = signer_of(db), LocalProver(db)
        earlier = proof.open_checkpoint(prover.checkpoint(local, signer)[0], signer.verifier)
        notes(db, 700)
        prover.checkpoint(local, signer)
        found = prover.prove_from(local, earlier.size)
        later = proof.open_checkpoint(found.note, signer.verifier)
        found.verify(earlier, later)
        assert prover.prove_from(local, 0).hashes == []
        with pytest.raises(Error, match="no checkpoint"):
            prover.prove_from(local, later.size + 1)
        with pytest.raises(CursorError, match="that of the checkpoint, 11"):
            prover.prove_from(local, 12, earlier.sign(signer))


@pytest.mark.parametrize("seq", [2, 256, 257, 300, 511, 600])
def test_nothing_is_proven_of_a_record_that_was_altered_in_place(tmp_path: Path, seq: int) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 700)
        prover.checkpoint(LocalProver(db), signer_of(db))
        commit = db.log.commit(seq)
        commit.ClearField("checksum")
        commit.notice.subject += " indeed"
        db.engine.append_record(SEQ.pack(seq), record.frame(commit))
    with Database(tmp_path / "db", read_only=True) as db:
        local = LocalProver(db)
        named = f"record {seq} of the log differs from the one from which the tree was made"
        for first in (0, 100, 650, 701):
            with pytest.raises(CorruptionError, match=named):
                prover.prove_from(local, first)
        with pytest.raises(CorruptionError, match=named):
            prover.prove(local, seq)
        assert prover.prove(local, 400), "its own record is what it was"
        assert prover.prove_from(local, 650, check=False).hashes


def test_a_checkpoint_of_another_log_is_not_kept(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 3)
        signer = signer_of(db)
        for size in (3, 9):
            with pytest.raises(PreconditionError, match="is not one of this log"):
                LocalProver(db).keep(Checkpoint(signer.name, size, b"x" * 32).sign(signer))
        assert db.head == 4


def bogus(db: Database, origin: str, name: str = "") -> str:
    """Return a checkpoint with the right root and an invalid signature, also under another key's name."""
    size, root = LocalProver(db).head()
    signed = Checkpoint(origin, size, root).sign(Signer.generate(name or origin))
    LocalProver(db).keep(signed)
    return signed


def test_a_proof_goes_by_a_checkpoint_of_the_log_itself_though_a_newer_one_says_another(
    tmp_path: Path,
) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 10)
        signer, local = signer_of(db), LocalProver(db)
        text, _ = prover.checkpoint(local, signer)
        bogus(db, "example.com/other")
        for found in (prover.prove(local, 7), prover.prove_from(local, 7)):
            assert found.note == text
        assert "example.com/other" in prover.prove(local, 7, origin="example.com/other").note
        with pytest.raises(Error, match="no checkpoint in the log covers record 7"):
            prover.prove(local, 7, origin="example.com/none")


def test_a_proof_by_a_key_passes_over_what_that_did_not_sign(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 10)
        signer, local = signer_of(db), LocalProver(db)
        text, _ = prover.checkpoint(local, signer)
        forged = bogus(db, signer.name)
        size, root = local.head()
        mimic = forged.rpartition("\n\n")[2].split()[2]
        named = Checkpoint(signer.name, size, root).text() + f"\n— {signer.name} "
        local.keep(named + text.rpartition("\n\n")[2].split()[2] + "\n")  # its signature, for another text
        local.keep(named + mimic + "\n")
        assert prover.prove(local, 7).note != text
        found = prover.prove(local, 7, by=signer.verifier)
        assert found.note == text
        found.verify(proof.open_checkpoint(found.note, signer.verifier))


def test_entries_are_those_of_the_records(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 700)
        tree = Tree(db)
        tree.catch_up()
        entries = b"".join(LocalProver(db).entries(256, 690))
        leaves = [leaf_hash(entries[at : at + 32]) for at in range(0, len(entries), 32)]
        assert b"".join(leaves) == tree.leaves(256, 690)
