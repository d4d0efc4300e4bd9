from everlog import migrations
from everlog.migrations.lint.lint import lint
from everlog.store.database import Database
from tests.migrations.project import Project, line_of

DATA = {"testdata.py": ""}
BEFORE = "string faa = 1; string name = 2; int32 alt = 3;"


def _lint(project: Project, fields: str) -> list[tuple[str, int]]:
    project.add("before", fields=BEFORE)
    project.add("after", fields=fields, files=DATA)
    return [(finding.id, finding.line) for finding in lint(project.build().path)]


def test_a_comment_with_a_reason_ignores_a_finding_of_its_line(project: Project) -> None:
    fields = (
        "string faa = 1; string name = 2;\n sint32 alt = 3; // everlog: ignore[wire/field-type] never set\n"
    )
    # The rule is ignored, but the package still does not load.
    assert _lint(project, fields) == [("load/refused", 7)]


def test_a_comment_that_stands_alone_is_for_the_next_line(project: Project) -> None:
    fields = """string faa = 1; string name = 2;
  // everlog: ignore[json/field-name] nobody reads it as JSON
  // Feet above the sea.

  int32 feet = 3;
  reserved "alt";
"""
    assert _lint(project, fields) == []


def test_one_comment_ignores_more_than_one_rule(project: Project) -> None:
    fields = (
        "string faa = 1; string name = 2;\n"
        "/* everlog: ignore[json/field-name, json/field-type] all read it anew */\n"
        ' int64 feet = 3; reserved "alt";'
    )
    assert _lint(project, fields) == []


def test_a_comment_in_python_ignores_a_finding(project: Project) -> None:
    code = project.add("first", files=DATA) / "__init__.py"
    text = code.read_text().replace("AIRPORTS", "airports")
    code.write_text(
        text.replace("airports = Table(", "# everlog: ignore[name/constant] as it was\nairports = Table(")
    )
    assert lint(project.build().path) == []


def test_a_comment_without_a_reason_is_a_finding_instead(project: Project) -> None:
    fields = (
        'string faa = 1; string name = 2; reserved "alt";\n'
        " int32 feet = 3; // everlog: ignore[json/field-name]\n"
    )
    assert _lint(project, fields) == [("ignore/no-reason", 7)]


def test_a_comment_that_ignores_nothing_is_a_finding(project: Project) -> None:
    fields = f"{BEFORE}\n // everlog: ignore[json/field-name] it was so\n string city = 4;"
    assert _lint(project, fields) == [("ignore/unused", 7)]


def test_rules_that_there_are_not_and_that_cannot_be_ignored_are_findings(project: Project) -> None:
    fields = (
        f"{BEFORE} // everlog: ignore[wire/nothing] a reason\n"
        " // everlog: ignore[load/refused] a reason\n string city = 4;"
    )
    assert _lint(project, fields) == [("ignore/unknown", 6), ("ignore/unknown", 7)]


def test_what_depends_on_the_run_may_be_ignored_for_the_runs_that_find_it(
    project: Project, db: Database
) -> None:
    project.add("first")
    migrations.apply(db, project.build().path)
    unique = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
    code = project.add("second", table=unique, files=DATA) / "__init__.py"
    text = code.read_text()
    code.write_text(
        text.replace("AIRPORTS =", "# everlog: ignore[data/unique-unchecked] checked by hand\nAIRPORTS =")
    )
    assert lint(project.build().path) == []
    assert lint(project.path, db) == []


def test_text_that_is_no_comment_ignores_nothing(project: Project) -> None:
    code = project.add("first", files=DATA) / "__init__.py"
    code.write_text(f'{code.read_text()}\nHELP = """# everlog: ignore[wire/nothing] a reason"""\n')
    assert lint(project.build().path) == []
    assert line_of(code, "HELP")
