"""The exported tree: files for third-party tools, which are updated, but never with another history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from everlog.audit import merkle, proof, prover
from everlog.audit.auditing import Audit
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
            sizes.append((done.size, done.before))
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
            CorruptionError, match="a checkpoint of 11 records with which this log does not begin"
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
            export(LocalProver(db), signed(db, signer), where.where, verify=False)
        assert where.checkpoint() == first
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(CorruptionError, match="expected 64 bytes"):
            where.root(proof.open_checkpoint(first, signer.verifier).size)
        file.unlink()
        with pytest.raises(CorruptionError, match="no such file"):
            where.tile(1, 0, 2)


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[tuple[Database, str]]:
    """Return a database of 602 records, exported at 301 and at 601 to `tiles`, and the newest checkpoint."""
    with Database(tmp_path / "db") as db:
        signer = signer_of(db)
        notes(db, 300)
        export(LocalProver(db), signed(db, signer), tmp_path / "tiles")
        notes(db, 299)
        text = signed(db, signer)
        export(LocalProver(db), text, tmp_path / "tiles")
        yield db, text


def faults(where: Path, text: str) -> list[str]:
    """Return the problems that an audit finds in the directory alone."""
    there = proof.read(text.rpartition("\n\n")[0] + "\n")
    directory = Directory(where)
    found = list(directory.problems(there.size))
    return found or ([] if directory.root(there.size) == there.root else ["another root"])


def flipped(where: Path, text: str, step: int) -> tuple[int, list[str]]:
    """Flip a bit of each `step`-th byte of every file except the checkpoint; return the number, and the
    undetected ones.
    """
    count, missed = 0, []
    for file in sorted(where.rglob("*")):
        if not file.is_file() or file.name == "checkpoint":
            continue
        data = file.read_bytes()
        for at in range(count % step, len(data), step):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            file.write_bytes(changed)
            count += 1
            if not faults(where, text):
                missed.append(f"{file} {at}")
        file.write_bytes(data)
    return count, missed


def test_a_bit_of_any_file_that_was_flipped_is_found(tmp_path: Path, exported: tuple[Database, str]) -> None:
    assert faults(tmp_path / "tiles", exported[1]) == []
    count, missed = flipped(tmp_path / "tiles", exported[1], 211)
    assert count > 200
    assert missed == []


@pytest.mark.long
def test_a_bit_of_many_more_bytes_that_was_flipped_is_found(
    tmp_path: Path, exported: tuple[Database, str]
) -> None:
    assert flipped(tmp_path / "tiles", exported[1], 17)[1] == []


def test_files_that_are_gone_cut_or_strange_are_named(tmp_path: Path, exported: tuple[Database, str]) -> None:
    db, text = exported
    where = tmp_path / "tiles"
    needed = ["tile/0/000", "tile/0/001", "tile/0/002.p/89", "tile/1/000.p/2"]
    needed += ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/89"]
    for name in needed:
        data = (where / name).read_bytes()
        for change in (None, data[:-1], data[:-32], b"", data + b"x", data + data[:32]):
            if change is None:
                (where / name).unlink()
            else:
                (where / name).write_bytes(change)
            assert any(str(where / name) in one for one in faults(where, text)), (name, change)
            (where / name).write_bytes(data)
    for name in (
        "tile/0/003",
        "tile/0/002.p/90",
        "tile/entries/x001/000",
        "tile/0/0",
        "note",
        "tile/0/000.new",
    ):
        (where / name).parent.mkdir(exist_ok=True, parents=True)
        (where / name).write_bytes(b"x" * 32)
        (found,) = faults(where, text)
        assert found.startswith(f"{where / name} is not part of the tree of 601 records")
        (where / name).unlink()
    (where / "tile/0/001.p/45").unlink()  # of an earlier size, which the standard allows
    assert faults(where, text) == []
    assert list(Audit(db, tiles=where).problems()) == []


@pytest.mark.parametrize("grown", [False, True])
def test_run_again_it_mends_what_was_changed_and_tells(
    tmp_path: Path, exported: tuple[Database, str], grown: bool
) -> None:
    db, text = exported
    where = tmp_path / "tiles"
    before = {file: file.read_bytes() for file in where.rglob("*") if file.is_file()}
    changed = ["tile/0/000", "tile/0/001.p/45", "tile/entries/001", "tile/entries/002.p/89"]
    for name in changed:
        data = bytearray((where / name).read_bytes())
        data[7] ^= 4
        (where / name).write_bytes(data)
    (where / "tile/entries/000").unlink()
    (where / "tile/0/004.new").write_bytes(b"half")
    (where / "note").write_text("mine")
    if grown:
        notes(db, 300)
        text = signed(db, signer_of(db))
    done = export(LocalProver(db), text, where)
    assert set(done.repaired) == {*changed, "tile/entries/000", "tile/0/004.new"}
    assert done.strange == ("note",)
    (where / "note").unlink()
    assert faults(where, text) == []
    kept = {file: file.read_bytes() for file in before if file.name != "checkpoint"}
    assert kept == {file: data for file, data in before.items() if file.name != "checkpoint"}
    again = export(LocalProver(db), text, where)
    assert (again.repaired, again.strange) == ((), ())


def test_a_bundle_that_was_changed_is_named_by_an_audit(
    tmp_path: Path, exported: tuple[Database, str]
) -> None:
    db, _ = exported
    file = tmp_path / "tiles/tile/entries/001"
    data = bytearray(file.read_bytes())
    data[34 * 10 + 5] ^= 1
    file.write_bytes(data)
    found = next(Audit(db, tiles=tmp_path / "tiles").problems())
    assert found.startswith(f"record 267 has one hash in {file} and another in ")


def test_a_byte_of_the_checkpoint_that_was_changed_is_found_by_the_key(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        signer = signer_of(db)
        data = signed(db, signer).encode()
    proof.open_checkpoint(data.decode(), signer.verifier)
    for at in range(len(data)):
        for bit in (1, 128):
            changed = bytearray(data)
            changed[at] ^= bit
            with pytest.raises(CorruptionError):
                proof.open_checkpoint(changed.decode(errors="surrogateescape"), signer.verifier)


def test_a_checkpoint_that_was_changed_is_named_and_the_remedy_works(
    tmp_path: Path, exported: tuple[Database, str]
) -> None:
    db, text = exported
    where = tmp_path / "tiles"
    file = where / "checkpoint"
    kept = file.read_bytes()
    origin = kept.index(b"\n")
    for changed in (
        b"x" + kept[1:],  # another log's
        kept[: origin - 1] + b"x" + kept[origin:],
        kept[:-1],
        kept + b"x",
        b"",
    ):
        file.write_bytes(changed)
        (found,) = Audit(db, tiles=where).problems()
        assert str(file) in found
        with pytest.raises(CorruptionError, match=f"{file}: .* Remove that file and run this again"):
            export(LocalProver(db), text, where)
        file.unlink()
        export(LocalProver(db), text, where)
        assert file.read_bytes() == kept
        assert list(Audit(db, tiles=where).problems()) == []
