"""The tree as files: what third-party tools read, brought up to date, never by another history."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from everlog.audit import merkle, proof, prover
from everlog.audit.export import Directory, export
from everlog.audit.note import Signer
from everlog.audit.prover import LocalProver
from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.record import unframe
from tests.audit.test_prover import signer_of
from tests.audit.test_tree import notes


def signed(db: Database, signer: Signer) -> str:
    return prover.checkpoint(LocalProver(db), signer)[0]


def test_it_is_brought_up_to_date_and_is_the_same_as_at_once(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        signer, sizes = signer_of(db), []
        for more in (5, 200, 260, 300):
            notes(db, more)
            done = export(LocalProver(db), signed(db, signer), tmp_path / "tiles")
            sizes.append(tuple(done))
        assert sizes == [(6, 0), (207, 6), (468, 207), (769, 468)]
        text = signed(db, signer)
        export(LocalProver(db), text, tmp_path / "at-once")
        for file in (tmp_path / "at-once").rglob("*"):
            if file.is_file():
                assert (
                    tmp_path / "tiles" / file.relative_to(tmp_path / "at-once")
                ).read_bytes() == file.read_bytes()
        records = [unframe(framed, seq) for seq, framed in db.log.scan(0, 769)]
    tree = tmp_path / "tiles" / "tile"
    assert (tree / "entries" / "000").read_bytes()[:34] == b"\x00\x20" + sha256(records[0]).digest()
    assert len((tree / "0" / "003.p" / "1").read_bytes()) == 32
    assert (tree / "1" / "000.p" / "3").read_bytes()[:32] == merkle.perfect((tree / "0" / "000").read_bytes())
    assert not list(tree.rglob("*.new"))


def test_bundles_hash_to_the_leaves(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 300)
        export(LocalProver(db), signed(db, signer_of(db)), tmp_path / "tiles")
    bundle = (tmp_path / "tiles/tile/entries/001.p/45").read_bytes()
    entries = [bundle[at + 2 : at + 34] for at in range(0, len(bundle), 34)]
    assert b"".join(map(merkle.leaf_hash, entries)) == (tmp_path / "tiles/tile/0/001.p/45").read_bytes()


def test_another_history_does_not_overwrite_it(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        signer = signer_of(db)
        notes(db, 5)
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    with Database(tmp_path / "db") as db:
        notes(db, 5)
        export(LocalProver(db), signed(db, signer), tmp_path / "tiles")
    before = (tmp_path / "tiles" / "checkpoint").read_bytes()
    with Database(tmp_path / "copy") as db:
        notes(db, 7)
        with pytest.raises(
            CorruptionError, match="a checkpoint of 11 records that this log does not begin with"
        ):
            export(LocalProver(db), signed(db, signer), tmp_path / "tiles")
    with (
        Database(tmp_path / "other") as db,
        pytest.raises(CorruptionError, match="name another directory"),
    ):
        export(LocalProver(db), signed(db, signer_of(db)), tmp_path / "tiles")
    assert (tmp_path / "tiles" / "checkpoint").read_bytes() == before


def test_a_tile_that_was_changed_is_found_before_the_checkpoint_is_written(tmp_path: Path) -> None:
    where = Directory(tmp_path / "tiles")
    with Database(tmp_path / "db") as db:
        signer = signer_of(db)
        notes(db, 600)
        first = signed(db, signer)
        export(LocalProver(db), first, where.where)
        file = where.where / "tile/1/000.p/2"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        notes(db, 3)
        with pytest.raises(CorruptionError, match="a tile was changed"):
            export(LocalProver(db), signed(db, signer), where.where)
        assert where.checkpoint() == first
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(CorruptionError, match="expected 64 bytes"):
            where.root(proof.open_checkpoint(first, signer.verifier).size)
        file.unlink()
        with pytest.raises(CorruptionError, match="no such file"):
            where.tile(1, 0, 2)
