"""Lint of migrations that rewrite rows, or rename tables."""

from everlog import migrations
from everlog.migrations.lint.lint import lint
from everlog.store.database import Database
from tests.migrations.project import HEADER, Project, line_of

DATA = {"testdata.py": "", "test_it.py": ""}
ROWS = "faa,name\nJFK,John Kennedy\nLGA,Fiorello Guardia\n"
CODE = """\
    from ..v20260101000000_first.model_pb2 import Airport as AirportV1

    FIRST = field("first", 3, STRING)


    def up(old: AirportV1) -> Airport:
        first, last = old.name.split(" ")
        return Airport(faa=old.faa, first=first, last=last)


    def down(new: Airport) -> AirportV1:
        return AirportV1(faa=new.faa, name=f"{new.first} {new.last}")
    """
FIELDS = "string faa = 1; string first = 3; string last = 4;"
UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_first", FIRST, unique=True),))'


def _add(project: Project, *, down: str = ", down", table: str = UNIQUE, **files: str) -> None:
    project.add("first", files={"bootstrap_airports.csv": ROWS})
    code = project.add(
        "second",
        fields=FIELDS,
        code=CODE,
        table=table,
        drop=f", transforms=[Transform(AIRPORTS, AirportV1, up{down})]",
        files={**DATA, **files},
    )
    init = code / "__init__.py"
    init.write_text(init.read_text().replace('NAME = field("name", 2, STRING)\n', ""))


def test_a_model_may_be_any_where_rows_are_rewritten(project: Project, db: Database) -> None:
    _add(project)
    migrations.apply(db, project.build().path, to=20260101000000)
    assert lint(project.path, db) == []


def test_the_same_change_without_a_transform_breaks(project: Project) -> None:
    project.add("first")
    init = project.add("second", fields=FIELDS, files=DATA) / "__init__.py"
    init.write_text(init.read_text().replace('NAME = field("name", 2, STRING)\n', ""))
    (finding,) = lint(project.build().path)
    assert finding.id == "wire/field-removed"


def test_rows_are_compared_as_they_will_be(project: Project, db: Database) -> None:
    _add(project)
    (first, _) = project.build().load()
    migrations.apply(db, project.path, to=first.version)
    db.put(first.tables[0], first.tables[0].model(faa="JST", name="John Murtha"))
    (finding,) = lint(project.path, db)
    assert finding.id == "data/not-unique"
    assert (
        "row airports/JST has the same first in the unique index by_first as row airports/JFK" in finding.text
    )


def test_a_row_that_up_does_not_take_is_found_and_named(project: Project, db: Database) -> None:
    _add(project, table='Table("airports", Airport, key=FAA)')
    (first, second) = project.build().load()
    migrations.apply(db, project.path, to=first.version)
    db.put(first.tables[0], first.tables[0].model(faa="TEB", name="Teterboro"))
    (finding,) = lint(project.path, db)
    init = second.folder.path / "__init__.py"
    assert (finding.id, finding.line) == ("data/transform", line_of(init, "old.name.split"))
    assert "airports/TEB: ValueError (at " in finding.text
    assert "Old" not in finding.text


def test_a_transform_without_a_way_back_or_tests_is_told(project: Project) -> None:
    _add(project, down="")
    (project.folders[1] / "test_it.py").unlink()
    findings = [finding for finding in lint(project.build().path) if not finding.id.startswith("data/")]
    assert [finding.id for finding in findings] == ["change/no-down", "test/no-tests"]


def test_a_table_of_another_name_is_told_and_its_rows_are_found(project: Project, db: Database) -> None:
    project.add("first", files={"bootstrap_airports.csv": "faa,name\nJFK,same\nLGA,same\n"})
    migrations.apply(db, project.build().path)
    init = project.add("second", files=DATA) / "__init__.py"
    init.write_text(
        f"{HEADER}\nINDEX = Index('by_name', NAME, unique=True)\n"
        "FIELDS = Table('fields', Airport, key=FAA, indexes=(INDEX,))\n"
        "MIGRATION = Migration(tables=[FIELDS], rename={'airports': 'fields'})\n"
    )
    findings = lint(project.build().path, db)
    assert [finding.id for finding in findings] == ["data/not-unique", "change/table-renamed"]
    assert "row fields/LGA has the same name" in findings[0].text
