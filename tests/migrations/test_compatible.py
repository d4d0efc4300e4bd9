import pytest

from everlog import SchemaError
from tests.migrations.project import Project, line_of


@pytest.mark.parametrize(
    "fields",
    [
        'string faa = 1; string title = 2; reserved "name"; int32 alt = 3;',
        'string faa = 1; string title = 2 [json_name = "name"]; int32 alt = 3;',
        "string faa = 1; string name = 2; reserved 3;",
        "string faa = 1; string name = 2; int64 alt = 3;",
        "string faa = 1; string name = 2; optional int32 alt = 3;",
        "string faa = 1; string name = 2; int32 alt = 3; message Note { string text = 1; } Note note = 4;",
    ],
)
def test_a_change_that_no_row_can_break_is_taken(project: Project, fields: str) -> None:
    project.add("before", fields="string faa = 1; string name = 2; int32 alt = 3;")
    code = project.add("after", fields=fields) / "__init__.py"
    if "title" in fields:
        code.write_text(code.read_text().replace('field("name"', 'field("title"'))
    assert len(project.build().load()) == 2


NAMED = "string faa = 1; string name = 2;"
HELD = f"{NAMED} reserved 9;"


@pytest.mark.parametrize(
    ("fields", "said", "at"),
    [
        (HELD, "no longer has alt = 3", "message Airport"),
        (
            f"{HELD}\n  string alt = 3;",
            "is a string, but rows of table airports hold alt = 3 as an int32",
            "string alt",
        ),
        (f"{HELD}\n  repeated int32 alt = 3;", "is a repeated int32", "repeated"),
        (f"{HELD}\n  sint32 alt = 3;", "is a sint32", "sint32"),
        (f"{NAMED} int32 alt = 3;\n  string old = 9;", "takes number 9, which was reserved", "string old"),
        (f"{NAMED} int32 alt = 3;", "no longer reserves 9", "message Airport"),
    ],
)
def test_a_change_that_would_misread_rows_is_refused_with_its_line(
    project: Project, fields: str, said: str, at: str
) -> None:
    project.add("before", fields="string faa = 1; string name = 2; int32 alt = 3; reserved 9;")
    model = project.add("after", fields=fields) / "model.proto"
    project.build()
    with pytest.raises(SchemaError) as caught:
        project.load()
    assert said in str(caught.value)
    assert caught.value.where == f"{model}:{line_of(model, at)}"


def test_nested_messages_are_held_to_the_same_rules(project: Project) -> None:
    before = (
        "string faa = 1; string name = 2; message Place { double lat = 1; Place near = 2; } Place place = 3;"
    )
    project.add("before", fields=before)
    project.add("after", fields=before.replace("double lat", "float lat"))
    project.build()
    with pytest.raises(SchemaError, match=r"Place\.lat = 1 is a float"):
        project.load()


def test_presence_of_what_an_index_holds_stays_as_it_is(project: Project) -> None:
    table = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
    project.add("before", table=table)
    project.add("after", table=table, fields="string faa = 1;\n  optional string name = 2;")
    project.build()
    with pytest.raises(SchemaError, match="becomes `optional`, but index by_name"):
        project.load()


def test_presence_may_change_with_an_index_that_is_built_anew(project: Project) -> None:
    table = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
    project.add("before", table=table)
    project.add(
        "after",
        table=table.replace("by_name", "by_title"),
        drop=', drop=["airports.by_name"]',
        fields="string faa = 1; optional string name = 2;",
    )
    assert len(project.build().load()) == 2
