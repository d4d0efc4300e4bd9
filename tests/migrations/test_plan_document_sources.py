from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import CorruptionError
from everlog.migrations import Approval
from everlog.migrations import proposal as room
from tests.migrations.approving import one_pending, proposed
from tests.migrations.project import Project


@pytest.fixture
def approval(project: Project, tmp_path: Path) -> Iterator[Approval]:
    with one_pending(project, tmp_path / "db") as approval:
        yield approval


def test_a_proposal_has_the_files_of_its_folders_as_they_were(approval: Approval, project: Project) -> None:
    folder = project.folders[-1]
    before = {path: (folder / path).read_bytes() for path in ("__init__.py", "model.proto")}
    proposed(approval)
    (folder / "__init__.py").write_text("# edited\n")
    (found,) = approval.proposals()
    assert found.sources == {folder.name: before}
    assert found.plan.migrations[0].files.keys() == before.keys()


def test_the_largest_are_left_out_where_all_are_too_large(
    approval: Approval, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.folders[-1]
    small = (folder / "model.proto").stat().st_size
    monkeypatch.setattr(room, "BYTES_MAX", small + 100)
    assert proposed(approval).sources == {folder.name: {"model.proto": (folder / "model.proto").read_bytes()}}


def test_a_file_that_is_not_what_was_shown_is_damage(approval: Approval) -> None:
    found = proposed(approval)
    for file in found.kept:
        if file.path.endswith("model.proto"):
            file.content += b"\n"
    with pytest.raises(
        CorruptionError, match=r"model\.proto, stored with a proposal, is corrupt: expected the SHA-256"
    ):
        _ = found.sources
