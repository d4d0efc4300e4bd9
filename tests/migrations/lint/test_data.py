import pytest

from everlog import migrations
from everlog.migrations.lint.lint import lint
from everlog.store.database import Database
from tests.migrations.project import Project, line_of
from tests.migrations.test_remake import Split

DATA = {"testdata.py": ""}
UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
ROWS = "faa,name\nJFK,Kennedy\nLGA,La Guardia\nEWR,Newark\n"


def test_rows_that_are_not_unique_are_counted_and_named(project: Project, db: Database) -> None:
    rows = "faa,name\n" + "".join(f"A{n},{'same' if n % 2 else n}\n" for n in range(1, 12))
    project.add("first", files={"bootstrap_airports.csv": rows})
    migrations.apply(db, project.build().path)
    code = project.add("second", table=UNIQUE, files=DATA) / "__init__.py"
    (finding,) = lint(project.build().path, db)
    assert (finding.id, finding.file, finding.line) == (
        "data/not-unique",
        str(code),
        line_of(code, "AIRPORTS ="),
    )
    assert "5 of 11 rows have the values of another row" in finding.text
    assert (
        "row airports/A11 has the same name in the unique index by_name as row airports/A1 has"
        in finding.text
    )
    assert finding.text.endswith("… 2 more")


def test_rows_that_are_unique_are_no_finding(project: Project, db: Database) -> None:
    project.add("first", files={"bootstrap_airports.csv": ROWS})
    migrations.apply(db, project.build().path)
    project.add("second", table=UNIQUE, files=DATA)
    assert lint(project.build().path, db) == []


def test_rows_without_a_value_are_never_equal(project: Project, db: Database) -> None:
    fields = "string faa = 1; optional string name = 2;"
    project.add("first", fields=fields, files={"bootstrap_airports.csv": "faa\nJFK\nLGA\n"})
    migrations.apply(db, project.build().path)
    project.add("second", fields=fields, table=UNIQUE, files=DATA)
    assert lint(project.build().path, db) == []


def test_without_a_database_a_new_unique_index_is_unchecked(project: Project) -> None:
    project.add("first")
    code = project.add("second", table=UNIQUE, files=DATA) / "__init__.py"
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.line) == ("data/unique-unchecked", line_of(code, "AIRPORTS ="))


def test_a_unique_index_of_a_new_table_needs_no_database(project: Project) -> None:
    project.add("first", table=UNIQUE, files=DATA)
    assert lint(project.build().path) == []


@pytest.mark.parametrize("with_db", [False, True])
def test_bootstrap_rows_that_are_not_unique_are_found(project: Project, db: Database, with_db: bool) -> None:
    rows = f"{ROWS}TEB,Newark\n"
    project.add("first", table=UNIQUE, files={**DATA, "bootstrap_airports.csv": rows})
    (finding,) = lint(project.build().path, db if with_db else None)
    assert finding.id == "data/bootstrap-not-unique"
    assert "row airports/TEB has the same name" in finding.text


def test_bootstrap_rows_are_compared_with_rows_that_are_there(project: Project, db: Database) -> None:
    project.add("first", table=UNIQUE)
    (first,) = project.build().load()
    migrations.apply(db, project.path)
    table = first.tables[0]
    db.put(table, table.model(faa="TEB", name="Newark"))
    project.add("second", table=UNIQUE, files={**DATA, "bootstrap_airports.csv": ROWS})
    (finding,) = lint(project.build().path, db)
    assert finding.id == "data/bootstrap-not-unique"
    assert lint(project.path) == []


def test_a_bootstrap_row_that_replaces_another_frees_its_value(project: Project, db: Database) -> None:
    project.add("first", table=UNIQUE, files={"bootstrap_airports.csv": ROWS})
    migrations.apply(db, project.build().path)
    rows = "faa,name\nEWR,Newark Liberty\nTEB,Newark\n"
    project.add("second", table=UNIQUE, files={**DATA, "bootstrap_airports.csv": rows})
    assert lint(project.build().path, db) == []
    assert [one.id for one in lint(project.path)] == ["data/bootstrap-replaced"]


def test_a_bootstrap_row_that_is_deleted_frees_its_value(project: Project, db: Database) -> None:
    project.add("first", table=UNIQUE, files={"bootstrap_airports.csv": ROWS})
    migrations.apply(db, project.build().path)
    bootstrap = """\
        from . import AIRPORTS, Airport

        def rows():
            yield AIRPORTS, Airport(faa="TEB", name="Newark")

        def deleted():
            yield AIRPORTS, "EWR"
        """
    project.add("second", table=UNIQUE, files={**DATA, "bootstrap.py": bootstrap})
    assert lint(project.build().path, db) == []
    assert [one.id for one in lint(project.path)] == ["data/bootstrap-replaced"]


def test_rows_of_a_dropped_table_do_not_count(project: Project, db: Database) -> None:
    project.add("first", files={"bootstrap_airports.csv": "faa,name\nJFK,same\nLGA,same\n"})
    migrations.apply(db, project.build().path)
    second = project.add("second") / "__init__.py"
    second.write_text(
        'from everlog.migrations import Migration\nMIGRATION = Migration(tables=[], drop=["airports"])\n'
    )
    project.add("third", table=UNIQUE, files=DATA)
    assert [finding.id for finding in lint(project.build().path, db)] == ["loss/table-dropped"]


def test_bootstrap_rows_that_do_not_fit_are_told_with_file_and_line(project: Project) -> None:
    folder = project.add("first", files={**DATA, "bootstrap_airports.csv": "faa,nam\nJFK,Kennedy\n"})
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.file, finding.line) == (
        "load/bootstrap",
        str(folder / "bootstrap_airports.csv"),
        1,
    )


def test_a_bootstrap_row_without_its_key_is_told(project: Project) -> None:
    folder = project.add("first", files={**DATA, "bootstrap_airports.csv": "faa,name\n,Kennedy\n"})
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.file) == ("load/bootstrap", str(folder / "bootstrap_airports.csv"))
    assert "lacks its key field faa" in finding.text


def test_rows_that_are_made_anew_are_left_to_the_plan(project: Project, db: Database) -> None:
    split = Split(project, db)
    ids = [finding.id for finding in lint(split.path, db)]
    assert [id for id in ids if not id.startswith(("name/", "test/"))] == []


NAMES = "faa,name\nJFK,{}\nLGA,same\nEWR,{}\n"


@pytest.mark.parametrize("since", [0, 20260101000001])
def test_two_branches_that_bootstrap_one_row_differently_are_both_named(
    project: Project, db: Database, since: int
) -> None:
    project.add("base")
    project.add("mine", files={"bootstrap_airports.csv": NAMES.format("Kennedy", "Newark")})
    theirs = project.add(
        "theirs", files=DATA | {"bootstrap_airports.csv": NAMES.format("Idlewild", "Liberty")}
    )
    (finding,) = lint(project.build().path, since=since)
    assert (finding.id, finding.severity) == ("data/bootstrap-replaced", "warning")
    code = theirs / "__init__.py"
    assert (finding.file, finding.line) == (str(code), line_of(code, "MIGRATION ="))
    assert "_theirs differs from that of 20260101000001_mine for the same keys" in finding.text
    assert "airports/JFK; airports/EWR" in finding.text
    assert "LGA" not in finding.text

    text = code.read_text()
    code.write_text(f"{text.rstrip()}  # everlog: ignore[data/bootstrap-replaced] the names of today\n")
    assert not lint(project.path, since=since)
    code.write_text(text)

    migrations.apply(db, project.path, to=20260101000001)  # what is applied may be corrected
    assert not lint(project.path, db)


def test_a_row_that_only_adds_values_to_that_of_an_earlier_folder_is_no_finding(project: Project) -> None:
    project.add("first", files={"bootstrap_airports.csv": ROWS})
    fields = "string faa = 1; string name = 2; string zone = 3;"
    rows = "faa,name,zone\nJFK,Kennedy,EST\nLGA,La Guardia,EST\n"
    project.add("second", fields=fields, files=DATA | {"bootstrap_airports.csv": rows})
    assert not lint(project.build().path)


@pytest.mark.parametrize("deletes", ["mine", "theirs"])
def test_a_bootstrap_row_that_the_other_branch_deletes_is_named(project: Project, deletes: str) -> None:
    rows = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"}
    code = """\
        from . import AIRPORTS

        def rows():
            return []

        def deleted():
            yield AIRPORTS, "JFK"
        """
    for name in ("base", "mine", "theirs"):
        files = {} if name == "base" else {"bootstrap.py": code} if name == deletes else rows
        project.add(name, files=DATA | files)
    (finding,) = lint(project.build().path)
    assert finding.id == "data/bootstrap-replaced"
    assert finding.text.endswith("and replaces it: airports/JFK (deleted)")
