from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import MigrationError
from everlog.migrations.testing.template import EMPTY, Templates, clone
from everlog.store.database import Database
from tests.migrations.project import Project

TESTDATA = """
    from . import AIRPORTS, Airport

    def rows(random, scale):
        for number in range(10 * scale):
            yield AIRPORTS, Airport(faa=f"{number:04}", name=str(random.random()))
    """


@pytest.fixture
def templates(project: Project) -> Iterator[Templates]:
    project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"})
    project.add("two", files={"bootstrap_airports.csv": "faa,name\nEWR,Newark\n", "testdata.py": TESTDATA})
    made = Templates(project.build().path)
    yield made
    made.close()


def names(templates: Templates, path: Path) -> list[str]:
    """Check a database and return the keys of its rows."""
    with Database(path) as db:
        (migration,) = (one for one in templates.migrations if one.version == db.schema.version)
        found = [row.faa for row in db.scan(migration.tables[0])]
        assert list(db.admin.check()) == []
        return found


def test_a_clone_is_at_the_version_with_its_bootstrap_rows(templates: Templates, tmp_path: Path) -> None:
    one, two = templates.migrations
    assert names(templates, templates.clone(tmp_path / "a", one.version)) == ["JFK"]
    assert names(templates, templates.clone(tmp_path / "b")) == ["EWR", "JFK"]
    with Database(templates.clone(tmp_path / "c", EMPTY)) as db:
        assert db.schema.version == 0
    with Database(templates.clone(tmp_path / "d", two.version)) as db:
        assert [record.migration.version for record in db.migration_records()] == [one.version, two.version]


def test_test_data_comes_at_its_scale_and_seed(templates: Templates, tmp_path: Path) -> None:
    assert len(names(templates, templates.clone(tmp_path / "a", scale=3))) == 30 + 2
    with Database(templates.clone(tmp_path / "b", scale=1, seed=1)) as db:
        other = db.admin.hashes()
    with Database(templates.clone(tmp_path / "c", scale=1, seed=2)) as db:
        assert db.admin.hashes() != other


def test_what_is_done_to_a_clone_is_done_to_no_other(templates: Templates, tmp_path: Path) -> None:
    table = templates.migrations[1].tables[0]
    with Database(templates.clone(tmp_path / "a", scale=1)) as db:
        for row in list(db.scan(table)):
            with db.transaction() as tx:
                tx.delete(table, row.faa)
        db.admin.rebuild()
    assert names(templates, tmp_path / "a") == []
    assert len(names(templates, templates.clone(tmp_path / "b", scale=1))) == 12


def test_a_template_is_built_once(
    templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates.clone(tmp_path / "a", scale=1)
    monkeypatch.setattr("everlog.migrations.testing.template.Database", None)
    assert len(names(templates, templates.clone(tmp_path / "b", scale=1))) == 12


def test_large_files_are_linked_where_they_can_be(tmp_path: Path) -> None:
    (tmp_path / "a" / "db").mkdir(parents=True)
    for name in ("000009.sst", "MANIFEST-000005", "LOCK", "LOG.old.1"):
        (tmp_path / "a" / "db" / name).write_text(name)
    clone(tmp_path / "a", tmp_path / "b")
    links = {path.name: path.stat().st_nlink for path in (tmp_path / "b" / "db").iterdir()}
    assert links == {"000009.sst": 2, "MANIFEST-000005": 1}


def test_a_version_that_is_not_there_or_has_no_test_data_is_said(
    templates: Templates, tmp_path: Path
) -> None:
    with pytest.raises(MigrationError, match=r"no migration 7; the versions are: 0, 20260101000000, "):
        templates.clone(tmp_path / "a", 7)
    with pytest.raises(MigrationError, match="has no test data; create"):
        templates.clone(tmp_path / "b", templates.migrations[0].version, scale=1)


def test_templates_that_were_removed_are_built_again(templates: Templates, tmp_path: Path) -> None:
    templates.clone(tmp_path / "a")
    templates.close()
    assert names(templates, templates.clone(tmp_path / "b")) == ["EWR", "JFK"]
