"""Audits: the log is unchanged, or the first changed record is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from everlog.audit import proof, prover
from everlog.audit.archive import archive
from everlog.audit.auditing import Audit
from everlog.audit.backup import backup
from everlog.audit.export import export
from everlog.audit.known_hashes import BackupCopy
from everlog.audit.proof import Checkpoint
from everlog.audit.prover import LocalProver
from everlog.audit.tree import Tree
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import CorruptionError
from everlog.store.keys import SEQ
from tests.audit.test_prover import signer_of
from tests.audit.test_tree import notes
from tests.store.models import AIRPORTS, airport, open_flights


def problems(db: Database, **known: Any) -> list[str]:
    return list(Audit(db, **known).problems())


def rewrite(db: Database, seq: int) -> None:
    """Replace a record by another one with a valid checksum."""
    commit = db.log.commit(seq)
    commit.ClearField("checksum")
    commit.notice.subject += " indeed"
    db.engine.append_record(SEQ.pack(seq), record.frame(commit))


def made(path: Path, count: int = 600) -> Checkpoint:
    """Return a database with a tree, and its checkpoint."""
    with Database(path) as db:
        notes(db, count)
        signer = signer_of(db)
        return proof.open_checkpoint(prover.checkpoint(LocalProver(db), signer)[0], signer.verifier)


def test_a_log_is_what_it_was(tmp_path: Path) -> None:
    there = made(tmp_path / "db")
    with Database(tmp_path / "db", read_only=True) as db:
        looked = Audit(db, checkpoints=[there])
        assert list(looked.problems()) == []
        assert looked.seq == 602
        assert looked.root == LocalProver(db).head()[1]


def test_a_record_that_was_rewritten_is_found_by_a_checkpoint_and_named_by_the_tree(tmp_path: Path) -> None:
    there = made(tmp_path / "db")
    with Database(tmp_path / "db") as db:
        rewrite(db, 300)
    with Database(tmp_path / "db", read_only=True) as db:
        found = problems(db, checkpoints=[there])
        assert "record 300 differs from the one in the tree" in found[0]
        assert any("differ from those of the checkpoint of everlog/" in one for one in found)
        assert any("differ from those of the checkpoint in record 602" in one for one in found)
    with Database(tmp_path / "db") as db:
        Tree(db).forget()  # as an attacker would who rewrites history
        found = problems(db, checkpoints=[there])
        assert not any("the tree" in one for one in found)
        assert any("differ from those of the checkpoint of everlog/" in one for one in found)


def test_nothing_is_signed_that_contradicts_what_was_signed_before(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 20)
        signer = signer_of(db)
        prover.checkpoint(LocalProver(db), signer)
        rewrite(db, 7)
        Tree(db).forget()
        db.log._recent.clear()  # noqa: SLF001  the cache has the earlier records
        notes(db, 1)
        head = db.head
        with pytest.raises(CorruptionError, match="does not begin with the other"):
            prover.checkpoint(LocalProver(db), signer)
        assert db.head == head


def test_a_record_that_was_rewritten_is_named_by_tiles_that_were_kept(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 700)
        text = prover.checkpoint(LocalProver(db), signer_of(db))[0]
        export(LocalProver(db), text, tmp_path / "tiles")
        assert problems(db, tiles=tmp_path / "tiles") == []
        Tree(db).forget()
        rewrite(db, 300)
        rewrite(db, 650)
    with Database(tmp_path / "db", read_only=True) as db:
        found = problems(db, tiles=tmp_path / "tiles")
    assert "record 300 differs from the one in the tiles in" in found[0]
    assert not any("record 650" in one for one in found), "the first is named"


def test_tiles_that_are_not_those_of_their_checkpoint_prove_nothing(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 300)
        local, signer = LocalProver(db), signer_of(db)
        there = Checkpoint(signer.name, db.head, local.head()[1])
        rewrite(db, 200)
        Tree(db).forget()
        again = there._replace(root=local.head()[1])
        export(local, again.sign(signer), tmp_path / "tiles")
        (tmp_path / "tiles/checkpoint").write_text(there.sign(signer))  # signed earlier
        (found,) = problems(db, tiles=tmp_path / "tiles")
    assert f"with the root of the checkpoint beside them, {there.root.hex()}" in found


def test_a_tile_of_the_tree_that_was_changed_is_told_from_a_record(tmp_path: Path) -> None:
    made(tmp_path / "db")
    with Database(tmp_path / "db") as db:
        side = db.engine.side("tree")
        assert side is not None
        key = b"\x00" + SEQ.pack(1)
        tile = side[0].get(key) or b""
        side[0][key] = b"x" + tile[1:]
        assert problems(db) == [
            "the tree: expected tile 0/1 to have the hash that tile 1/0 gives, found another"
        ]


def test_a_log_that_lost_its_end_is_found_out(tmp_path: Path) -> None:
    there = made(tmp_path / "db")
    with Database(tmp_path / "short") as db:
        notes(db, 10)
        (found,) = problems(db, checkpoints=[there])
        assert found.startswith(
            f"the log {db.url} ends at record 11, but the checkpoint of {there.origin} is of 601"
        )
        assert "record 12 is the first that is missing" in found


def test_a_longer_copy_and_a_backup_name_the_record_that_is_missing(tmp_path: Path) -> None:
    made(tmp_path / "db", 300)
    shutil.copytree(tmp_path / "db", tmp_path / "short")
    with Database(tmp_path / "db") as db:
        notes(db, 20)
        backup(db, tmp_path / "backup")
        with Database(tmp_path / "short", read_only=True) as short:
            for other in (LocalProver(db), BackupCopy(str(tmp_path / "backup"))):
                (found,) = problems(short, against=other)
                assert found.startswith(
                    f"the log {short.url} ends at record 302, but the other copy is of 322 records"
                )
                assert "record 303 is the first that is missing" in found
        assert problems(db, against=BackupCopy(str(tmp_path / "backup"))) == []
        with Database(tmp_path / "short") as short:
            assert problems(db, against=LocalProver(short)) == []
            notes(short, 3)
        with Database(tmp_path / "short", read_only=True) as short:
            both = problems(short, against=BackupCopy(str(tmp_path / "backup")))
    assert "record 306 is the first that is missing" in both[0]
    assert "record 303 is a fork" in both[1]


def test_a_backup_that_was_changed_is_named(tmp_path: Path) -> None:
    made(tmp_path / "db", 50)
    with Database(tmp_path / "db") as db:
        backup(db, tmp_path / "backup")
        segment = next((tmp_path / "backup").glob("*.zst"))
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
        (found,) = problems(db, against=BackupCopy(str(tmp_path / "backup")))
    assert str(segment) in found


def test_a_reader_beside_a_writer_is_not_behind_it(tmp_path: Path) -> None:
    made(tmp_path / "db", 10)
    with Database(tmp_path / "db") as db, Database(tmp_path / "db", read_only=True) as reader:
        notes(db, 5)
        db.log.sync()
        assert problems(reader, against=LocalProver(db)) == []


def test_two_records_of_one_seq_are_a_fork(tmp_path: Path) -> None:
    made(tmp_path / "db", 300)
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    with Database(tmp_path / "db") as db, Database(tmp_path / "copy") as copy:
        notes(db, 2)
        assert problems(db, against=LocalProver(copy)) == []
        notes(copy, 2)
        (found,) = problems(db, against=LocalProver(copy))
        here, there = (Tree(one) for one in (db, copy))
        here.catch_up()
        assert found.startswith("record 303 is a fork: two different records have this seq")
        assert here.leaf(303).hex() in found
        assert there.leaf(303).hex() in found

        prover.checkpoint(LocalProver(copy), signer_of(copy))
        shown = prover.prove(LocalProver(copy), 303)
        (found,) = problems(db, against=shown)
        assert "record 303 is a fork" in found
        assert "of the proof" in found
        assert problems(copy, against=shown) == []


def test_of_a_trimmed_log_is_looked_at_what_is_there(tmp_path: Path) -> None:
    with Database(tmp_path / "db", idempotency_s=0) as db:
        notes(db, 600)
        local, signer = LocalProver(db), signer_of(db)
        there = proof.open_checkpoint(prover.checkpoint(local, signer)[0], signer.verifier)
        db.log.sync()
        export(local, local.kept(0)[0].note, tmp_path / "tiles")
        proven = prover.prove(local, 7)
        archive(db, tmp_path / "archive", keep_records=100)
        assert prover.prove(local, 7) == proven, "what was archived is proven as well"
        looked = Audit(db, checkpoints=[there])
        assert (list(looked.problems()), looked.after, looked.seq) == ([], 0, 602)
        Tree(db).forget()
        assert local.head() == (602, looked.root), "and the tree is rebuilt from it"
    with Database(tmp_path / "db") as db:  # without the archive
        looked = Audit(db, checkpoints=[there], tiles=tmp_path / "tiles", against=proven)
        assert (list(looked.problems()), looked.after, looked.seq) == ([], 502, 602)
        rewrite(db, 550)
    with Database(tmp_path / "db") as db:
        found = problems(db, checkpoints=[there], tiles=tmp_path / "tiles")
        assert any("record 550 differs from the one in the tiles" in one for one in found)
        assert any("differ from those of the checkpoint of" in one for one in found)
        Tree(db).forget()
        with pytest.raises(CorruptionError, match="archived"):
            Tree(db).catch_up()


def test_what_must_hold_between_records_is_looked_at(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 20)
        for seq, field, value in ((5, "time_ns", 1), (9, "schema", 7)):
            commit = db.log.commit(seq)
            commit.ClearField("checksum")
            setattr(commit, field, value)
            db.engine.append_record(SEQ.pack(seq), record.frame(commit))
        commit = db.log.commit(12)
        commit.ClearField("checksum")
        commit.changes.add(space=77, key=b"k")
        db.engine.append_record(SEQ.pack(12), record.frame(commit))
        db.log._recent.clear()  # noqa: SLF001  the cache has the earlier records
        assert problems(db) == [
            "record 5 is older than the record before it",
            "record 9 says that schema 7 is in force, but 0 is",
            "record 12 writes in space 77, which belongs to no table",
        ]


def test_a_link_to_another_version_of_a_row_than_the_last_is_found_out(tmp_path: Path) -> None:
    with open_flights(tmp_path / "db", AIRPORTS) as db:
        for city in "abcd":
            db.put(AIRPORTS, airport("JFK", city))
        last = db.head
        commit = db.log.commit(last)
        commit.ClearField("checksum")
        commit.changes[0].prior -= 1  # so that its history would skip a version
        db.engine.append_record(SEQ.pack(last), record.frame(commit))
        db.log._recent.clear()  # noqa: SLF001  the cache has the earlier records
        (found,) = Audit(db).tables()
    assert f"record {last} replaces the row of record {last - 2} in table airports" in found
    assert f"found that of record {last - 1}" in found


@pytest.mark.parametrize("damaged", [False, True])
def test_tables_are_compared_with_what_the_log_makes_of_them(tmp_path: Path, damaged: bool) -> None:
    with open_flights(tmp_path / "db", AIRPORTS) as db:
        with db.transaction() as tx:
            tx.put(AIRPORTS, airport("JFK"))
        if damaged:
            info = db.schema.tables["airports"]
            db.tables.flush()
            value = db.engine.get(info.row_prefix + b"JFK\x00\x01")
            db.engine.data[info.row_prefix + b"JFK\x00\x01"] = (value or b"") + b"\x0a\x01x"
        found = list(Audit(db).tables())
        assert any("table airports differs from what its log gives" in one for one in found) == damaged
        assert bool(found) == damaged
