from datetime import UTC, datetime
from pathlib import Path

import pytest

from everlog import SchemaError, migrations
from everlog.migrations.lint.lint import lint
from everlog.migrations.lint.rules import Finding
from everlog.store.database import Database
from tests.migrations.project import HEADER, Project, line_of

DATA = {"testdata.py": ""}
BY_NAME = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
MORE = "string faa = 1; string name = 2; string city = 3;"


def ids(findings: list[Finding]) -> list[str]:
    return [finding.id for finding in findings]


def test_the_example_is_clean() -> None:
    assert lint("flights.migrations", now=datetime(2026, 3, 1, tzinfo=UTC)) == []


def test_a_clean_package_has_no_findings(project: Project) -> None:
    project.add("first")
    project.add("second", fields=MORE, files=DATA)
    assert lint(project.build().path) == []


def test_no_package_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no directory"):
        lint(tmp_path / "nothing")


def test_each_folder_that_does_not_load_is_a_finding_and_hides_no_other(project: Project) -> None:
    project.add("first")
    broken = project.add("second", code="1 +") / "__init__.py"
    wrong = project.add("third", code='CITY = field("name", 2, INT32)') / "__init__.py"
    last = project.add("fourth", fields="bytes faa = 1; string name = 2;", files=DATA) / "__init__.py"
    last.write_text(last.read_text().replace('"faa", 1, STRING', '"faa", 1, BYTES'))
    project.build()
    bad_name = project.path / "v2026_nope"
    bad_name.mkdir()
    (bad_name / "x").touch()
    twin = project.add("twin", version=20260101000003)
    unbuilt = project.add("unbuilt", version=20260101000009)
    package = project.add("package", version=20260101000010) / "model.proto"
    package.write_text(package.read_text().replace("v20260101000010", "v1"))
    found = {(finding.id, finding.file, finding.line) for finding in lint(project.path)}
    assert found == {
        ("load/refused", str(broken), line_of(broken, "1 +")),
        ("load/refused", str(wrong), line_of(wrong, "CITY")),
        ("wire/field-type", str(project.folders[3] / "model.proto"), 6),
        ("load/refused", str(bad_name / "__init__.py"), 1),
        ("load/refused", str(twin / "__init__.py"), 1),
        ("load/not-built", str(unbuilt / "model.proto"), 1),
        ("load/refused", str(package), line_of(package, "package")),
    }


def test_another_key_is_found_and_what_follows_is_still_looked_at(project: Project) -> None:
    project.add("first")
    second = project.add("second", table='Table("airports", Airport, key=NAME)') / "__init__.py"
    project.add("third", table='Table("airports", Airport, key=NAME)', fields=f"{MORE} reserved 7;")
    project.add(
        "fourth",
        table='Table("airports", Airport, key=NAME)',
        fields="string faa = 1; string name = 2; reserved 3; reserved 7; reserved 'city';",
        files=DATA,
    )
    findings = lint(project.build().path)
    assert ids(findings) == ["change/key", "loss/field-removed"]
    assert (findings[0].file, findings[0].line) == (str(second), line_of(second, "AIRPORTS ="))
    assert "changes from (faa) to (name)" in findings[0].text


def test_what_is_dropped_is_a_warning(project: Project, db: Database) -> None:
    project.add("first", table=BY_NAME, files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"})
    migrations.apply(db, project.build().path)
    project.add("second", drop=', drop=["airports.by_name"]', files=DATA)
    third = project.add("third", drop=', drop=["airports"]', files=DATA) / "__init__.py"
    third.write_text(f'{HEADER}\nMIGRATION = Migration(tables=[], drop=["airports"])\n')
    findings = lint(project.build().path, db)
    assert ids(findings) == ["loss/index-dropped", "loss/table-dropped"]
    assert "with its 1 row" in findings[1].text
    assert {str(finding.severity) for finding in findings} == {"warning"}


def test_an_index_under_another_name_is_not_lost(project: Project) -> None:
    project.add("first", table=BY_NAME)
    gone = ', drop=["airports.by_name"]'
    project.add("second", table=BY_NAME.replace("by_name", "by_title"), drop=gone, files=DATA)
    assert lint(project.build().path) == []


def test_presence_of_what_an_index_holds_is_found(project: Project) -> None:
    project.add("first", table=BY_NAME)
    fields = "string faa = 1;\n  optional string name = 2;"
    model = project.add("second", table=BY_NAME, fields=fields, files=DATA) / "model.proto"
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.line) == ("wire/index-presence", line_of(model, "optional"))


def test_a_table_that_was_dropped_may_come_again_in_another_shape(project: Project) -> None:
    project.add("first")
    second = project.add("second") / "__init__.py"
    second.write_text(f'{HEADER}\nMIGRATION = Migration(tables=[], drop=["airports"])\n')
    third = project.add("third", fields="int32 faa = 1; string name = 2;", files=DATA) / "__init__.py"
    third.write_text(third.read_text().replace('"faa", 1, STRING', '"faa", 1, INT32'))
    assert ids(lint(project.build().path)) == ["loss/table-dropped"]


@pytest.mark.parametrize(
    ("was", "now", "id", "near"),
    [
        ('"airports"', '"airPorts"', "name/table", "AIRPORTS ="),
        ('"by_name"', '"byName"', "name/table", "AIRPORTS ="),
        ("AIRPORTS", "Airports", "name/constant", "Airports ="),
        ("FAA", "faa", "name/constant", "faa ="),
    ],
)
def test_names_are_as_the_language_has_them(project: Project, was: str, now: str, id: str, near: str) -> None:
    code = project.add("first", table=BY_NAME, files=DATA) / "__init__.py"
    code.write_text(code.read_text().replace(was, now))
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.file, finding.line) == (id, str(code), line_of(code, near))


def test_names_of_the_model_are_looked_at_once_where_they_appear(project: Project) -> None:
    fields = f"{MORE} string zoneName = 4; enum kind {{ Open = 0; }}\n message note_text {{}}"
    model = project.add("first", fields=fields) / "model.proto"
    project.add("second", fields=fields, files=DATA)
    findings = lint(project.build().path)
    assert sorted(ids(findings)) == ["name/enum-value", "name/field", "name/message", "name/message"]
    assert {finding.file for finding in findings} == {str(model)}
    assert {finding.line for finding in findings if "note_text" in finding.text} == {line_of(model, "note_")}


def test_missing_test_data_of_the_newest_is_told_and_no_more(project: Project) -> None:
    project.add("first")
    code = project.add("second", fields=MORE) / "__init__.py"
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.severity, finding.file) == ("test/no-data", "info", str(code))


def test_folders_up_to_a_version_can_be_left_out(project: Project) -> None:
    project.add("first", fields="string faa = 1; string name = 2; string cityName = 3;")
    project.add("second", fields="string faa = 1; string name = 2; string cityName = 3;", files=DATA)
    assert ids(lint(project.build().path)) == ["name/field"]
    assert lint(project.path, since=20260101000000) == []


def test_a_timestamp_in_the_future_is_found(project: Project) -> None:
    project.add("first", version=20260105000000)
    project.add("second", version=20260107000000, files=DATA)
    now = datetime(2026, 1, 5, 12, tzinfo=UTC)
    (finding,) = lint(project.build().path, now=now)
    assert (finding.id, finding.file) == ("history/future", str(project.folders[1] / "__init__.py"))


def test_what_the_database_says_of_the_folders_is_found(project: Project, db: Database) -> None:
    first = project.add("first", version=20260101000000) / "__init__.py"
    project.add("second", version=20260103000000, files=DATA)
    migrations.apply(db, project.build().path)
    assert lint(project.path, db) == []
    late = project.add("late", version=20260102000000) / "__init__.py"
    first.write_text(f"{first.read_text()}EDITED = True\n")
    project.build()
    findings = lint(project.path, db)
    assert [(finding.id, finding.file) for finding in findings] == [
        ("history/edited", str(first)),
        ("history/out-of-order", str(late)),
    ]
    assert findings[0].line == line_of(first, "EDITED")
    assert findings[0].text.endswith("__init__.py")


def test_the_folder_of_an_applied_migration_that_is_gone_is_found(project: Project, db: Database) -> None:
    first = project.add("first")
    project.add("second", files=DATA)
    migrations.apply(db, project.build().path)
    first.rename(first.with_name("_gone"))
    assert ids(lint(project.path, db)) == ["history/missing"]


def test_what_is_applied_is_not_found_again(project: Project, db: Database) -> None:
    project.add("first", fields="string faa = 1; string name = 2; string cityName = 3;", files=DATA)
    migrations.apply(db, project.build().path)
    assert lint(project.path, db) == []
    assert ids(lint(project.path)) == ["name/field"]


def test_whatever_load_refuses_is_an_error(project: Project) -> None:
    project.add("first")
    code = project.add("second", drop=', drop=["planes"]', files=DATA) / "__init__.py"
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.file, finding.line) == ("load/refused", str(code), line_of(code, "MIGRATION"))
    assert "drops table 'planes'" in finding.text
