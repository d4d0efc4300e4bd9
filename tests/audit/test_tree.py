"""The tree over a database's records: it catches up, and a tree that does not match the log is detected."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.audit import merkle
from everlog.audit.merkle import leaf_of
from everlog.audit.prover import LocalProver
from everlog.audit.tiles import WIDTH, Growing, Tiles, full_width, path
from everlog.audit.tree import KIND, Tree
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError
from everlog.store.record import unframe


def notes(db: Database, count: int, kind: str = "test") -> None:
    """Write records without any other effect."""
    for number in range(count):

        def about(commit: log_pb2.Commit, number: int = number) -> None:
            commit.notice.CopyFrom(log_pb2.Notice(kind=kind, subject=str(number)))

        db.core.commit(db.transaction(durability="os"), about)
    db.log.sync()


def reference(db: Database, size: int) -> merkle.Nodes:
    leaves = [leaf_of(unframe(framed, seq)) for seq, framed in db.log.scan(0, size)]

    def node(level: int, index: int) -> bytes:
        return merkle.perfect(b"".join(leaves[index << level : (index + 1) << level]))

    return node


def test_it_catches_up_bit_by_bit_and_proves_every_record(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        tree, size = Tree(db), 0
        for more in (0, 3, 251, 1, 1, 300):
            notes(db, more)
            size = tree.catch_up()
            assert size == db.head
            assert tree.root(size) == merkle.root(reference(db, size), size)
        nodes = reference(db, size)
        for seq in (1, 2, 255, 256, 257, 512, size):
            assert tree.inclusion(seq, size) == merkle.inclusion(nodes, seq - 1, size)
        for first in (0, 1, 3, 255, 256, 257, 512, size):
            assert tree.root(first) == merkle.root(nodes, first)
            assert tree.consistency(first, size) == merkle.consistency(nodes, first, size)
            assert tree.leaf(max(first, 1)) == nodes(0, max(first - 1, 0))


def test_it_is_there_again_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 400)
        Tree(db).catch_up()
        root = Tree(db).root(401)
    with Database(tmp_path / "db") as db:
        assert Tree(db).size == 401
        notes(db, 200)
        assert Tree(db).catch_up() == 601
        assert Tree(db).root(401) == root
        assert Tree(db).root(601) == merkle.root(reference(db, 601), 601)


def test_a_reader_beside_a_writer_catches_up_in_memory(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 300)
        Tree(db).catch_up()
        db.engine.flush()
        notes(db, 300)
        with Database(tmp_path / "db", read_only=True) as reader:
            tree = Tree(reader)
            assert tree.catch_up() == 601
            assert tree.root(601) == merkle.root(reference(db, 601), 601)
            assert tree.inclusion(7, 601) == merkle.inclusion(reference(db, 601), 6, 601)
            notes(db, 100)
            Tree(db).catch_up()
            db.engine.flush()
            reader.refresh()
            assert tree.catch_up() == 701
            assert tree.root(701) == merkle.root(reference(db, 701), 701)
            notes(db, 100)
            reader.refresh()
            assert tree.catch_up() == 801
            assert tree.consistency(601, 801) == merkle.consistency(reference(db, 801), 601, 801)


def test_a_tree_of_another_log_is_found_out(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 5)
        Tree(db).catch_up()
        found = db.engine.side("tree")
        assert found is not None
        tile = found[0].get(bytes(9)) or b""
        found[0][bytes(9)] = tile[:-1] + bytes((tile[-1] ^ 1,))
        with pytest.raises(CorruptionError, match="record 6 of the log differs from the one"):
            Tree(db).catch_up()
        Tree(db).forget()
        assert Tree(db).catch_up() == 6


def test_a_tree_that_is_ahead_of_the_log_is_found_out(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 5)
    shutil.copytree(tmp_path / "db", tmp_path / "ahead")
    with Database(tmp_path / "ahead") as ahead:
        notes(ahead, 300)
        Tree(ahead).catch_up()
        found = ahead.engine.side("tree")
        assert found is not None
        stored = list(found[0].items())
    with Database(tmp_path / "db") as db:
        found = db.engine.side("tree")
        assert found is not None
        for key, value in stored:
            found[0][key] = value
        with pytest.raises(CorruptionError, match="the tree is over 306 records, but the log ends at 6"):
            Tree(db).catch_up()


def test_a_place_outside_is_refused(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        tree = Tree(db)
        tree.catch_up()
        with pytest.raises(CursorError, match="from 1 to the size of the tree, 1,"):
            tree.inclusion(2, 1)
        with pytest.raises(CursorError, match="from 0 to that of the tree, 1, found 2"):
            tree.root(2)
        with pytest.raises(CursorError, match="earlier size"):
            tree.consistency(2, 1)


def test_checkpoints_in_the_log_are_noted(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 3, KIND)  # of that kind, but not checkpoints

        def about(commit: log_pb2.Commit) -> None:
            commit.notice.CopyFrom(log_pb2.Notice(kind=KIND, detail=b"origin\n2\nroot\n"))

        db.core.commit(db.transaction(), about)
        Tree(db).catch_up()
        assert Tree(db).signed(0) == [(2, 5)]
        assert Tree(db).signed(3) == []
        with Database(tmp_path / "db", read_only=True) as reader:
            tree = Tree(reader)
            tree.catch_up()
            assert tree.signed(1) == [(2, 5)]


def none(*_: int) -> bytes:
    return b""


@settings(max_examples=20)
@given(st.lists(st.integers(0, 600), max_size=6))
def test_tiles_that_grow_are_those_of_a_tree_made_at_once(steps: list[int]) -> None:
    leaves = [merkle.leaf_hash(number.to_bytes(4, "big")) for number in range(sum(steps))]
    tiles: Tiles = {}
    growing = Growing(0, none)
    for step in steps:
        growing = Growing(growing.size, lambda level, index, width: tiles[level, index][: width * 32])
        tiles.update(growing.add(b"".join(leaves[growing.size : growing.size + step])))
    whole = Growing(0, none).add(b"".join(leaves))
    assert tiles == whole
    assert all(
        len(tile) // 32 == min(WIDTH, full_width(len(leaves), level) - index * WIDTH)
        for (level, index), tile in whole.items()
    )


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((0, 0), "tile/0/000"),
        ((0, 1234067), "tile/0/x001/x234/067"),
        ((1, 999, 17), "tile/1/999.p/17"),
        (("entries", 1000, 1), "tile/entries/x001/000.p/1"),
    ],
)
def test_paths_are_those_of_the_specification(args: tuple[int, int], expected: str) -> None:
    assert path(*args) == expected


def test_a_tree_that_is_thrown_away_while_it_is_read_is_made_anew(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 700)
        tree = Tree(db)
        size = tree.catch_up()
        nodes = reference(db, size)
        reads: list[tuple[Callable[[], object], object]] = [
            (lambda: tree.root(size), merkle.root(nodes, size)),
            (lambda: tree.inclusion(7, size), merkle.inclusion(nodes, 6, size)),
            (lambda: tree.consistency(300, size), merkle.consistency(nodes, 300, size)),
            (lambda: tree.leaf(300), nodes(0, 299)),
            (lambda: tree.leaves(256, 300), tree.leaves(256, 300)),
            (lambda: LocalProver(db).kept(0), []),
        ]
        for read, expected in reads:
            Tree(db).forget()
            assert read() == expected


@pytest.mark.long
def test_no_proof_is_wrong_while_others_throw_the_tree_away(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        notes(db, 700)
        tree = Tree(db)
        size = tree.catch_up()
        expected = tree.root(size), tree.inclusion(7, size)
        wrong, done = list[str](), threading.Event()

        def reading() -> None:
            try:
                while not done.is_set():
                    if (tree.root(size), tree.inclusion(7, size)) != expected:
                        wrong.append("another")
            except Exception as error:  # noqa: BLE001  the test reports it
                wrong.append(repr(error))

        readers = [threading.Thread(target=reading) for _ in range(3)]
        for reader in readers:
            reader.start()
        for _ in range(30):
            Tree(db).forget()
            Tree(db).catch_up()
        done.set()
        for reader in readers:
            reader.join()
        assert wrong == []
