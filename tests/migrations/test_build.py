import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from everlog import SchemaError, migrations
from tests.migrations.project import Project, line_of


def test_what_is_missing_or_stale_is_generated_and_nothing_else(project: Project) -> None:
    first = project.add()
    assert migrations.build(project.path) == [first / "model_pb2.py", first / "model_pb2.pyi"]
    assert migrations.build(project.path) == []
    second = project.add("more")
    assert migrations.build(project.path) == [second / "model_pb2.py", second / "model_pb2.pyi"]
    model = first / "model.proto"
    model.write_text(model.read_text() + "// more\n")
    assert [path.parent for path in migrations.build(project.path)] == [first, first]
    assert len(migrations.build(project.path, force=True)) == 4


def test_a_model_that_is_not_built_is_found_before_it_is_imported(project: Project) -> None:
    folder = project.add()
    with pytest.raises(
        SchemaError, match=r"model_pb2.py is not generated yet; run `everlog build`"
    ) as caught:
        project.load()
    assert caught.value.where == f"{folder / 'model.proto'}:1"


def test_a_model_that_was_changed_since_it_was_built_is_found(project: Project) -> None:
    folder = project.add()
    project.build()
    model = folder / "model.proto"
    model.write_text(model.read_text().replace("name = 2", "title = 2"))
    with pytest.raises(SchemaError, match="generated from another version of this file; run `everlog build`"):
        project.load()


def test_a_model_that_protoc_refuses_is_said_with_its_line_and_nothing_is_written(project: Project) -> None:
    project.add(version=20260101000000)
    bad = (
        project.add("bad", version=20260102000000, fields="string faa = 1;\n  text name = 2;") / "model.proto"
    )
    with pytest.raises(SchemaError, match='"text" is not defined') as caught:
        project.build()
    assert caught.value.where == f"{bad}:{line_of(bad, 'text name')}"
    assert not list(project.path.glob("*/model_pb2.py"))


def test_a_model_may_import_what_comes_with_protobuf(project: Project) -> None:
    model = """\
import "google/protobuf/timestamp.proto";

message Airport {
  string faa = 1;
  string name = 2;
  google.protobuf.Timestamp opened = 3;
}
"""
    project.add(model=model, code='OPENED = field("opened", 3, TIMESTAMP)')
    (migration,) = project.build().load()
    assert migration.tables[0].model.DESCRIPTOR.full_name == f"{project.app}.v20260101000000.Airport"


def test_a_file_that_was_not_packed_is_named(project: Project) -> None:
    folder = project.add(files={"bootstrap_airports.csv": "faa\nJFK\n", "helpers.py": "", "testdata.py": ""})
    project.build()
    (folder / "testdata.py").unlink()
    project.load()
    rows = folder / "bootstrap_airports.csv"
    rows.rename(folder.parent.parent / "aside")
    with pytest.raises(SchemaError, match=r"bootstrap_airports\.csv is missing, .*; restore it") as caught:
        project.load()
    assert caught.value.where == f"{rows}:1"
    assert migrations.build(project.path) == [folder / "model_pb2.py"]
    project.load()


def test_a_package_that_is_in_two_places_or_in_an_archive_is_told(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add()
    project.build()
    for place in ("one", "two"):
        (tmp_path / place / "twofold" / "migrations").mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path / place)
    with pytest.raises(SchemaError, match=r"has more than one directory: .*one.*; pass the path of one"):
        migrations.load("twofold.migrations")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for path in sorted(project.path.parent.rglob("*")):
            archive.write(path, f"packed_{path.relative_to(tmp_path).as_posix()}")
    monkeypatch.syspath_prepend(tmp_path / "packed.zip")
    with pytest.raises(SchemaError, match="cannot be read from an archive; unpack it"):
        migrations.load(f"packed_{project.app}.migrations")


def test_another_package_of_the_same_name_first_on_the_path_is_named(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add()
    project.build()
    other = tmp_path / "other" / project.app
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    monkeypatch.syspath_prepend(other.parent)
    with pytest.raises(SchemaError, match=f"is imported from {other}, not from {project.path.parent}"):
        project.load()


def test_it_builds_without_a_path_from_anywhere_and_into_odd_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a:b=c, d 'e' ü"
    odd.mkdir()
    project = Project(odd)
    folder = project.add(
        model='import "google/protobuf/timestamp.proto";\nmessage Airport { string faa = 1; }'
    )
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "python").symlink_to(sys.executable)  # no tool's script is beside it
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("TMPDIR", str(odd))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("PATH")
    assert migrations.build(project.path) == [folder / "model_pb2.py", folder / "model_pb2.pyi"]
    assert "class Airport" in (folder / "model_pb2.pyi").read_text()
