"""Catching up and exporting can be interrupted at any point, and resume there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from everlog.audit import prover, tree
from everlog.audit.export import Exported, export
from everlog.audit.prover import LocalProver
from everlog.audit.tree import Tree
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.audit.test_prover import signer_of
from tests.audit.test_tree import notes


def test_a_tree_that_was_killed_anywhere_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "EVERY", 256)  # small batches, so that there are many
    killed = []
    with Database(tmp_path / "db") as db:
        notes(db, 1400)

        def copy(at: Progress) -> None:
            if at.done % 512 == 0:
                db.engine.flush()
            killed.append(tmp_path / f"killed-{at.done}")
            shutil.copytree(db.path, killed[-1])  # the state that a kill would leave

        size = Tree(db).catch_up(copy)
        root = Tree(db).root(size)
    sizes = []
    for path in killed:
        with Database(path) as db:
            sizes.append(Tree(db).size)
            assert Tree(db).catch_up() == size
            assert Tree(db).root(size) == root
    assert len(set(sizes)) > 2, "some of it was there already"


def test_an_export_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    class EndedError(Exception):
        pass

    with Database(tmp_path / "db") as db:
        notes(db, 700)
        local = LocalProver(db)
        text, _ = prover.checkpoint(local, signer_of(db))
        export(local, text, tmp_path / "whole")
        for turn in range(1, 4):
            seen: list[Progress] = []

            def progress(at: Progress, turn: int = turn, seen: list[Progress] = seen) -> None:
                seen.append(at)
                if len(seen) == turn:
                    raise EndedError

            with pytest.raises(EndedError):
                export(local, text, tmp_path / "tiles", progress)
            assert not (tmp_path / "tiles" / "checkpoint").exists()
        assert export(local, text, tmp_path / "tiles") == Exported(701, 0)
    files = {
        file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*") if file.is_file()
    }
    assert all(
        (tmp_path / "tiles" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes() for file in files
    )
