from pathlib import Path

import pytest

from everlog import SchemaError, migrations
from everlog.migrations.build import sum_lines, write_sums
from everlog.migrations.folder import Folder, find, folders
from tests.migrations.project import Project

PAGE = Path(__file__).parents[2] / "docs" / "format.md"


@pytest.fixture
def summed(project: Project) -> Project:
    """Return two migrations, and their sums."""
    project.add("one")
    project.add("two")
    root = find(project.build().path)
    write_sums(root, folders(root))
    project.load()
    return project


def file(project: Project) -> Path:
    return project.path / "everlog.sum"


def test_new_and_build_keep_the_file_up_to_date(project: Project) -> None:
    first = migrations.new("one", project.path)
    assert file(project).read_text().startswith(f"{first.name} ")
    (first / "__init__.py").write_text((first / "__init__.py").read_text() + "# more\n")
    written = migrations.build(project.path)
    assert [path.name for path in written] == ["model_pb2.py", "model_pb2.pyi", "everlog.sum"]
    migrations.load(project.path)
    assert migrations.build(project.path) == []
    migrations.new("two", project.path)
    assert len(file(project).read_text().splitlines()) == 2


def test_a_sum_is_made_of_all_before_it(summed: Project) -> None:
    before = file(summed).read_text().splitlines()
    (summed.folders[0] / "note.txt").write_text("a remark")
    with pytest.raises(SchemaError, match=r"everlog\.sum:1: folder \w+_one was edited"):
        summed.load()
    migrations.build(summed.path)
    after = file(summed).read_text().splitlines()
    assert [line.split()[0] for line in after] == [line.split()[0] for line in before]
    assert not {*before} & {*after}
    summed.load()


def test_what_only_tests_is_not_summed(summed: Project) -> None:
    (summed.folders[0] / "testdata.py").write_text("def rows(random, scale): return []\n")
    summed.load()


def test_a_folder_that_came_or_went_is_told_with_the_line(summed: Project) -> None:
    summed.add("three")
    migrations.build(summed.path)
    summed.load()
    summed.folders[2].rename(summed.path.parent / "aside")
    with pytest.raises(SchemaError, match=r"everlog\.sum:3: folder \w+_three is missing; restore it"):
        summed.load()
    (summed.path.parent / "aside").rename(summed.folders[2])
    file(summed).write_text("".join(f"{line}\n" for line in file(summed).read_text().splitlines()[:2]))
    with pytest.raises(SchemaError, match=r"everlog\.sum:3: folder \w+_three is not in this file"):
        summed.load()


def test_a_conflict_of_two_branches_is_told_as_one(summed: Project) -> None:
    one, two = file(summed).read_text().splitlines()
    file(summed).write_text(
        f"{one}\n<<<<<<< mine\n{two}\n=======\nv20260101000001_other 00\n>>>>>>> theirs\n"
    )
    with pytest.raises(SchemaError, match=r"everlog\.sum:2: two branches each added a migration"):
        summed.load()


def test_the_page_s_example_is_right(tmp_path: Path) -> None:
    path = tmp_path / "v20260105093000_one"
    path.mkdir()
    (path / "__init__.py").write_text("MIGRATION = 1\n")
    (path / "model.proto").write_text('syntax = "proto3";\n')
    (line,) = sum_lines([Folder(path, "m.one", 20260105093000, "one")])
    assert f"`{line.split()[1]}`" in PAGE.read_text(encoding="utf-8")
