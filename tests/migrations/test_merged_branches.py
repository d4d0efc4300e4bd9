"""Two branches that each change a table, merged: no change of either is lost silently."""

from __future__ import annotations

import re

import pytest

from everlog import SchemaError, migrations
from everlog.migrations.build import RULES
from everlog.store.database import Database
from tests.migrations.project import Project

BY_NAME = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
WITH_TTL = 'Table("airports", Airport, key=FAA, ttl=__import__("datetime").timedelta(days={days}))'
PLAIN = 'Table("airports", Airport, key=FAA)'
FIELDS = "string faa = 1; string name = 2;"
KIND = "enum Kind {{ NONE = 0; {value} = 1; }} Kind kind = 3;"


def after_folders_of_before(project: Project) -> None:
    """Remove the edition of the rules from the generated code, as earlier versions wrote it."""
    for path in project.path.glob("*/model_pb2.py"):
        path.write_text(re.sub(r"^# (Rules|File): .*\n", "", path.read_text(), flags=re.MULTILINE))


def test_an_index_goes_only_where_the_folder_says_so(project: Project, db: Database) -> None:
    project.add("base")
    project.add("mine", table=BY_NAME)
    theirs = project.add("theirs", table=BY_NAME.replace("by_name", "by_faa").replace("NAME", "FAA"))
    project.build()
    said = (
        r"_theirs/__init__.py:\d+: index by_name of airports over \(name\) is not declared here, but .*_mine"
    )
    with pytest.raises(SchemaError, match=said):
        migrations.plan(db, project.path)
    (finding,) = [one for one in migrations.lint(project.path) if one.id == "change/undeclared"]
    assert (str(finding.severity), finding.file) == ("error", str(theirs / "__init__.py"))


def test_an_index_that_the_folder_names_goes(project: Project, db: Database) -> None:
    project.add("mine", table=BY_NAME)
    project.add("theirs", drop=', drop=["airports.by_name"]')
    migrations.apply(db, project.build().path)
    assert not db.schema.tables["airports"].indexes


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (
            {"table": BY_NAME},
            {"table": BY_NAME.replace("NAME)", "NAME, unique=True)")},
            "declared differently",
        ),
        ({"table": BY_NAME}, {"table": BY_NAME.replace("NAME)", "FAA)")}, "declared differently here"),
        ({"table": WITH_TTL.format(days=1)}, {"table": PLAIN}, "the ttl of airports is not declared here"),
        (
            {"table": WITH_TTL.format(days=1)},
            {"table": WITH_TTL.format(days=9)},
            "the ttl of airports changes",
        ),
        ({}, {"table": PLAIN.replace("airports", "airfields")}, 'add `rename={"airports": "airfields"}`'),
        (
            {},
            {"drop": ', drop=["airports.by_nmae"]'},
            "names airports.by_nmae, but the migration drops or changes",
        ),
        ({"fields": f"{FIELDS} string city = 3;"}, {}, "no longer has city = 3"),
        (
            {"fields": f"{FIELDS} string city = 3;"},
            {"fields": f"{FIELDS} string zip = 3;"},
            "takes number 3, under which rows of table airports hold city",
        ),
        (
            {"fields": f"{FIELDS} string city = 3;"},
            {"fields": f"{FIELDS} int32 city = 3;"},
            "are? a? ?.*but rows of table airports hold city = 3|is an int32",
        ),
        (
            {"fields": f"{FIELDS} {KIND.format(value='OPEN')}"},
            {"fields": f"{FIELDS} {KIND.format(value='SHUT')}"},
            "SHUT of .*Kind takes number 1, under which rows of table airports hold OPEN",
        ),
        (
            {"fields": f"{FIELDS} oneof place {{ string city = 3; string town = 4; }}"},
            {"fields": f"{FIELDS} string city = 3; string town = 4;"},
            "is no longer in a oneof",
        ),
    ],
)
def test_what_two_branches_do_to_one_table_is_an_error(
    project: Project, mine: dict[str, str], theirs: dict[str, str], said: str
) -> None:
    project.add("base", fields=FIELDS)
    project.add("mine", **mine)  # type: ignore[arg-type]
    project.add("theirs", **theirs)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=said):
        project.build().load()
    assert "error" in {str(one.severity) for one in migrations.lint(project.path)}


def test_what_is_named_in_drop_or_known_by_its_old_name_goes(project: Project, db: Database) -> None:
    project.add("base", table=WITH_TTL.format(days=1), fields=f"{FIELDS} string city = 3; string town = 4;")
    project.add(
        "next",
        table=WITH_TTL.format(days=2),
        fields=f'{FIELDS} string place = 3; reserved "city"; string village = 4 [json_name = "town"];',
        drop=', drop=["airports.ttl"]',
    )
    migrations.apply(db, project.build().path)
    assert db.schema.tables["airports"].ttl_ns == 2 * 86_400 * 10**9


def test_an_index_over_a_field_that_is_removed_goes_with_it(project: Project, db: Database) -> None:
    city = 'CITY = field("city", 3, STRING)'
    table = 'Table("airports", Airport, key=FAA, indexes=(Index("by_city", CITY),))'
    project.add("base", fields=f"{FIELDS} string city = 3;", code=city, table=table)
    project.add("next", fields=f"{FIELDS} reserved 3;")
    migrations.apply(db, project.build().path)
    assert not db.schema.tables["airports"].indexes


def test_folders_of_before_that_dropped_an_index_silently_still_load(project: Project, db: Database) -> None:
    project.add("one", table=BY_NAME)
    code = project.add("two", fields="string faa = 1; string title = 2;") / "__init__.py"
    code.write_text(code.read_text().replace('field("name"', 'field("title"'))
    project.build()
    after_folders_of_before(project)
    migrations.build(project.path)  # lists the files, and keeps the rules
    assert RULES not in {migration.rules for migration in project.load()}
    migrations.apply(db, project.path)
    assert not db.schema.tables["airports"].indexes
