import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from everlog import MigrationError, migrations
from everlog.migrations import State
from everlog.migrations.squash import recover
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_order import others
from tests.migrations.test_status import states

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
WITH_CITY = "string faa = 1; string name = 2; string city = 3; bytes logo = 4;"
NOW = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def three(project: Project) -> Project:
    project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"})
    project.add(
        "two",
        fields=WITH_CITY,
        table=INDEXED,
        files={"bootstrap_airports.csv": "faa,city,logo\nJFK,NYC,/wA=\n"},
    )
    project.add("three", fields=WITH_CITY, table=INDEXED)
    return project.build()


def folders(project: Project) -> list[str]:
    return sorted(path.name for path in project.path.iterdir() if path.name.startswith("v"))


def test_the_one_folder_makes_the_same_schema_and_rows(three: Project, db: Database, tmp_path: Path) -> None:
    migrations.apply(db, three.path)
    before = [row.SerializeToString() for row in db.scan(three.load()[2].tables[0])]
    done = migrations.squash("base", three.path, now=NOW)
    assert (done.version, [path.name for path in three.folders]) == (20260201000000, done.folded)
    assert folders(three) == ["v20260201000000_base"]
    (table,) = three.load()[0].tables
    with Database(tmp_path / "fresh") as fresh:
        migrations.apply(fresh, three.path)
        assert [row.SerializeToString() for row in fresh.scan(table)] == before
        assert [row.faa for row in fresh.scan(table.by_name, "Newark")] == ["EWR"]
    migrations.baseline(db, done.version, three.path)
    assert states(db, three) == [State.APPLIED]
    assert migrations.apply(db, three.path) == []
    assert [row.SerializeToString() for row in db.scan(table)] == before


def test_where_it_would_not_be_the_same_all_folders_are_as_they_were(three: Project) -> None:
    before = folders(three)
    newest = three.folders[2] / "__init__.py"
    newest.write_text(f"{newest.read_text()}\nif 'base' in __name__:\n    raise RuntimeError('not me')\n")
    with pytest.raises(
        MigrationError, match=r"the squashed folder cannot be applied, so no folder was changed: .*not me"
    ):
        migrations.squash("base", three.path, now=NOW)
    assert folders(three) == before
    assert not list(three.path.parent.glob(".squash-*"))
    assert not (three.path / "everlog.sum").exists()


def test_a_newest_folder_that_does_not_declare_every_table_is_told(project: Project) -> None:
    project.add("one")
    others(project, 20260101000001)
    project.build()
    with pytest.raises(
        MigrationError, match="20260101000001_others, does not declare airports, which older ones do"
    ):
        migrations.squash("base", project.path)
    assert len(folders(project)) == 2


@pytest.mark.long
def test_the_rows_of_both_databases_are_compared_one_by_one(project: Project) -> None:
    rows = "".join(f"A{number:05},{'x' * 10_000}\n" for number in range(8_000))
    project.add("one", files={"bootstrap_airports.csv": f"faa,name\n{rows}"})
    project.add("two")
    project.build()
    tracemalloc.start()
    try:
        migrations.squash("base", project.path, now=NOW)
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # the rows have 80 MB, and were held twice
    finally:
        tracemalloc.stop()
    assert folders(project) == ["v20260201000000_base"]


@pytest.mark.parametrize("stopped", ["build", "_prove"])
def test_the_next_squash_reverts_one_that_was_killed(three: Project, stopped: str) -> None:
    before, sources = folders(three), three.path.as_posix()
    code = (
        "import os; from everlog.migrations import squash as module;"
        " from everlog.migrations.squash import squash; import sys;"
        " module = sys.modules['everlog.migrations.squash'];"
        f" module.{stopped} = lambda *_: os._exit(9); squash('killed', {sources!r})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert folders(three) != before
    (left,) = three.path.parent.glob(".squash-*")
    newest = three.path / "v20260101000002_three" / "__init__.py"
    assert not newest.exists()
    recover(three.path)
    assert folders(three) == before
    assert not left.exists()
    assert newest.exists()
    done = migrations.squash("base", three.path, now=NOW)
    assert done.folded == before


def test_the_next_squash_completes_one_that_was_killed_after_its_proof(three: Project) -> None:
    before, sources = folders(three), three.path.as_posix()
    code = (
        "import os, shutil; from everlog import migrations; from pathlib import Path;"
        " rename = Path.rename; Path.rename = lambda *it: (rename(*it), os._exit(9));"
        f" migrations.squash('killed', {sources!r})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (left,) = three.path.parent.glob(".squash-*")
    assert sorted(path.name for path in (left / "proven").iterdir()) == before
    with pytest.raises(MigrationError, match="there is nothing to squash"):
        migrations.squash("base", three.path)
    assert [name.partition("_")[2] for name in folders(three)] == ["killed"]
    assert not left.exists()
