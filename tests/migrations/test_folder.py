from pathlib import Path

import pytest

from everlog import SchemaError
from everlog.migrations.folder import find, folders
from tests.migrations.project import Project


def test_folders_are_found_oldest_first_with_version_and_name(project: Project) -> None:
    project.add("second", version=20260102000000)
    project.add("first", version=20260101000000)
    found = folders(find(project.path))
    assert [(folder.version, folder.name) for folder in found] == [
        (20260101000000, "first"),
        (20260102000000, "second"),
    ]
    assert found[0].package == f"{project.app}.migrations.v20260101000000_first"


@pytest.mark.parametrize(
    "name",
    ["20260101000000_x", "v2026_x", "v20261301000000_x", "v20260101000000_X", "v20260101000000", "notes"],
)
def test_a_bad_name_is_refused_with_the_form_of_a_good_one(project: Project, name: str) -> None:
    folder = project.path / name
    folder.mkdir()
    (folder / "model.proto").touch()
    with pytest.raises(SchemaError, match="expected a folder name v<YYYYMMDDHHMMSS>") as caught:
        folders(find(project.path))
    assert caught.value.where == str(folder)


def test_two_with_one_timestamp_are_refused_and_both_named(project: Project) -> None:
    project.add("ours", version=20260101000000)
    project.add("theirs", version=20260101000000)
    with pytest.raises(SchemaError, match=r"timestamp 20260101000000: \w+_ours and \w+_theirs"):
        folders(find(project.path))


@pytest.mark.parametrize("above", ["", "outer", "outer/middle"])
def test_a_directory_above_the_migrations_is_refused_as_missing_ones(
    project: Project, tmp_path: Path, above: str
) -> None:
    project.add()
    here = tmp_path / "project" / above
    here.mkdir(parents=True)
    project.path.rename(here / "migrations")
    with pytest.raises(SchemaError, match="contains no migrations, but") as caught:
        folders(find(tmp_path / "project"))
    assert caught.value.facts["missing"]  # the command exits with 2


@pytest.mark.parametrize("missing", ["__init__.py", "model.proto"])
def test_a_folder_without_its_files_is_refused(project: Project, missing: str) -> None:
    folder = project.add()
    (folder / missing).unlink()
    with pytest.raises(SchemaError, match=f"expected a file {missing}"):
        folders(find(project.path))


def test_what_a_version_control_system_leaves_behind_is_no_folder(project: Project) -> None:
    (project.path / "v20260101000000_gone" / "__pycache__").mkdir(parents=True)
    (project.path / "__pycache__").mkdir()
    (project.path / ".idea").mkdir()
    (project.path / "README.md").touch()
    assert folders(find(project.path)) == []


def test_a_package_is_found_by_its_name_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project.path.parents[1]))
    assert find(f"{project.app}.migrations") == find(project.path) == find(str(project.path))


@pytest.mark.parametrize("source", ["nowhere.migrations", "nowhere", "no/where", Path("nowhere"), "bisect"])
def test_what_is_neither_package_nor_directory_is_said(source: str | Path) -> None:
    with pytest.raises(SchemaError, match=f"{source}"):
        find(source)


def test_a_directory_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    (tmp_path / "my-migrations").mkdir()
    with pytest.raises(SchemaError, match="'my-migrations' is not an identifier"):
        find(tmp_path / "my-migrations")


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("syntax = 'proto3';", "found no package", 1),
        ("\n\npackage flights.v1;", "expected `package flights.v20260101000000;`", 3),
        ("package v20260101000000;", "expected `package <app>.v20260101000000;`", 1),
        ('package a.v20260101000000;\nimport "b.proto";', "imports 'b.proto'; expected only google/", 2),
    ],
)
def test_a_model_that_is_not_of_this_version_is_refused_with_its_line(
    project: Project, text: str, said: str, line: int
) -> None:
    model = project.add(version=20260101000000) / "model.proto"
    model.write_text(text)
    (folder,) = folders(find(project.path))
    with pytest.raises(SchemaError) as caught:
        _ = folder.proto_package
    assert said in str(caught.value)
    assert caught.value.where == f"{model}:{line}"
