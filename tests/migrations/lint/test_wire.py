"""Each rule of the groups wire, json and loss: a change that breaks it, and no other rule."""

import pytest

from everlog.migrations.lint.lint import lint
from tests.migrations.project import Project, line_of

NAMED = "string faa = 1; string name = 2;"
BEFORE = f"""{NAMED}
  int32 alt = 3;
  oneof place {{ string city = 4; string county = 5; }}
  string zone = 6;
  enum Kind {{ OPEN = 0; SHUT = 1; HALF = 2; reserved 7, 9 to 11; reserved "GONE"; }}
  Kind kind = 7;
  message Runway {{ int32 length = 1; string surface = 2; }}
  repeated Runway runways = 8;
  reserved 20, 30 to 39;
  reserved "old";
"""


def found(project: Project, before: str, after: str) -> list[tuple[str, int]]:
    """Return ids and lines of lint's findings in the second of two models."""
    project.add("before", fields=before)
    model = project.add("after", fields=after, files={"testdata.py": ""}) / "model.proto"
    code = model.parent / "__init__.py"
    if "string name" not in after:
        code.write_text(code.read_text().replace('NAME = field("name", 2, STRING)\n', ""))
    findings = lint(project.build().path)
    assert {finding.file for finding in findings} <= {str(model)}, findings
    return [(finding.id, finding.line) for finding in findings]


@pytest.mark.parametrize(
    ("was", "now", "expected", "near"),
    [
        ("  int32 alt = 3;\n", "", ["wire/field-removed"], "message Airport"),
        ("int32 alt = 3;", "string alt = 3;", ["wire/field-type"], "string alt"),
        ("int32 alt = 3;", "sint32 alt = 3;", ["wire/field-type"], "sint32 alt"),
        ("int32 alt = 3;", "uint32 alt = 3;", ["wire/field-type"], "uint32 alt"),
        ("int32 alt = 3;", "repeated int32 alt = 3;", ["wire/field-cardinality"], "repeated int32"),
        ("repeated Runway runways", "Runway runways", ["wire/field-cardinality"], "Runway runways"),
        ("string county = 5; }", "}\n string county = 5;", ["wire/field-oneof"], "string county = 5"),
        ("reserved 20, 30 to 39;", "reserved 30 to 39;", ["wire/reserved-removed"], "message Airport"),
        ("30 to 39;", "30 to 34, 36 to 39;", ["wire/reserved-removed"], "message Airport"),
        ("reserved 20, 30", "string new = 20;\n  reserved 30", ["wire/number-reused"], "string new"),
        ("HALF = 2;", "", ["wire/enum-value-removed"], "enum Kind"),
        ("reserved 7, 9 to 11;", "reserved 9 to 11;", ["wire/reserved-removed"], "enum Kind"),
        ("reserved 7, 9", "NEW = 7; reserved 9", ["wire/number-reused"], "NEW = 7"),
        ("string surface = 2;", "", ["wire/field-removed"], "message Runway"),
        ("int32 length = 1;", "fixed32 length = 1;", ["wire/field-type"], "fixed32 length"),
        ("int32 alt = 3;", "int64 alt = 3;", ["json/field-type"], "int64 alt"),
        ("int32 alt = 3;", "int32 feet = 3;", ["wire/number-taken"], "int32 feet"),
        ("int32 alt = 3;", 'int32 feet = 3; reserved "alt";', ["json/field-name"], "int32 feet"),
        ("int32 alt = 3;", 'int32 alt = 3 [json_name = "feet"];', ["json/field-name"], "json_name"),
        ("HALF = 2;", "AJAR = 2;", ["wire/number-taken"], "AJAR = 2"),
        ("HALF = 2;", 'AJAR = 2; reserved "HALF";', ["json/enum-value-name"], "AJAR = 2"),
        ("HALF = 2;", "HALF = 2; AJAR = 3;", [], ""),
        ('reserved "old";', "", ["json/reserved-removed"], "message Airport"),
        ('reserved "GONE";', "", ["json/reserved-removed"], "enum Kind"),
        ("HALF = 2; reserved", "reserved 2,", ["json/name-not-reserved"], "enum Kind"),
        ("HALF = 2;", 'reserved 2; reserved "HALF";', [], ""),
        ("int32 alt = 3;", 'reserved 3; reserved "alt";', ["loss/field-removed"], "message Airport"),
        (
            "int32 alt = 3;",
            "reserved 3;",
            ["json/name-not-reserved", "loss/field-removed"],
            "message Airport",
        ),
        ("int32 alt = 3;", "reserved 3; int64 alt = 12;", ["loss/field-removed"], "message Airport"),
        ("oneof place", "oneof where", [], ""),
        (
            "string zone = 6;",
            "oneof other { string zone = 6; string utc = 13; }",
            ["wire/field-presence"],
            "string zone",
        ),
        ("string zone = 6;", "optional string zone = 6;", ["wire/field-presence"], "optional string zone"),
        ("int32 length = 1;", "optional int32 length = 1;", ["wire/field-presence"], "optional int32 length"),
    ],
)
def test_what_a_change_of_the_model_breaks_is_found_at_its_line(
    project: Project, was: str, now: str, expected: list[str], near: str
) -> None:
    assert BEFORE.count(was) == 1
    found_here = found(project, BEFORE, BEFORE.replace(was, now))
    line = line_of(project.folders[1] / "model.proto", near) if near else 0
    assert found_here == [(id, line) for id in expected]


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ("string zone", "''"),
        ("bytes zone", "b''"),
        ("int64 zone", "0"),
        ("double zone", "0.0"),
        ("bool zone", "false"),
        ("Kind zone", "OPEN"),
    ],
)
def test_a_change_of_presence_says_what_it_means_for_rows(project: Project, field: str, default: str) -> None:
    fields = f"{NAMED}\n enum Kind {{ OPEN = 0; }}\n "
    for name, own in (("mine", f"optional {field}"), ("theirs", field), ("again", f"optional {field}")):
        project.add(name, fields=f"{fields}{own} = 6;", files={"testdata.py": ""})
    gone, back = lint(project.build().path)
    assert (gone.id, gone.severity, back.id) == ("wire/field-presence", "warning", "wire/field-presence")
    assert gone.file.endswith("_theirs/model.proto")
    assert f"rows of table airports that have it unset are read as {default}, " in gone.text
    assert back.file.endswith("_again/model.proto")
    assert back.text.endswith(f"rows of table airports in which it is {default} have it unset from now on")


def test_rows_that_are_transformed_may_have_another_presence(project: Project) -> None:
    project.add("first", fields=f"{NAMED} optional string zone = 6;")
    project.add(
        "second",
        fields=f"{NAMED} string zone = 6;",
        code=f"""
        from ..{project.folders[0].name}.model_pb2 import Airport as Old

        def up(old: Old) -> Airport:
            return Airport(faa=old.faa, name=old.name, zone=old.zone if old.HasField("zone") else "?")
        """,
        drop=", transforms=[Transform(AIRPORTS, Old, up)]",
        files={"testdata.py": "", "test_up.py": ""},
    )
    assert [one.id for one in lint(project.build().path)] == ["change/no-down"]


def test_a_field_that_joins_others_in_a_oneof_is_found(project: Project) -> None:
    after = BEFORE.replace("  string zone = 6;\n", "").replace("county = 5;", "county = 5; string zone = 6;")
    assert [id for id, _ in found(project, BEFORE, after)] == ["wire/field-oneof"]


def test_more_than_one_mistake_in_a_model_is_found_at_once(project: Project) -> None:
    after = BEFORE.replace("int32 alt", "string alt").replace("string surface", "bytes surface")
    assert [id for id, _ in found(project, BEFORE, after)] == ["wire/field-type", "wire/field-type"]


def test_a_field_of_the_same_name_elsewhere_does_not_hide_the_line(project: Project) -> None:
    before = "string faa = 1; string name = 2;\n message A {\n int32 alt = 1; }\n A a = 3;\n int32 alt = 4;"
    after = before.replace("int32 alt = 4", "bytes alt = 4")
    assert found(project, before, after) == [("wire/field-type", 10)]


def test_required_fields_defaults_and_closed_enums_are_looked_at(project: Project) -> None:
    model = """enum Kind {{ OPEN = 0; SHUT = 1; }}
message Airport {{
  optional string faa = 1;
  optional string name = 2;
  {label} int32 alt = 3 [default = {default}];
  optional Kind kind = 4;
}}
"""
    for label, default in (("optional", 1), ("required", 2)):
        project.add(f"with_{label}", model=model.format(label=label, default=default))
    for folder in project.folders:
        proto = folder / "model.proto"
        proto.write_text(proto.read_text().replace('"proto3"', '"proto2"'))
    second = project.folders[1] / "model.proto"
    second.write_text(second.read_text().replace('syntax = "proto2";', 'edition = "2023";').replace(
        "required int32 alt = 3 [default = 2]",
        "int32 alt = 3 [default = 2, features.field_presence = LEGACY_REQUIRED]",
    ).replace("optional ", ""))  # fmt: skip
    (project.folders[1] / "testdata.py").touch()
    ids = [finding.id for finding in lint(project.build().path)]
    assert ids == ["wire/enum-closed", "wire/field-default", "wire/field-required"]


def test_what_nested_messages_hold_is_reached_through_maps(project: Project) -> None:
    before = f"{NAMED} message Note {{\n string text = 1; }} map<string, Note> notes = 3;"
    after = before.replace("string text", "bytes text")
    assert [id for id, _ in found(project, before, after)] == ["wire/field-type"]


def test_a_key_of_a_map_is_told_at_the_map(project: Project) -> None:
    before = f"{NAMED}\n map<string, int32> notes = 3;"
    after = before.replace("map<string, int32>", "map<string, bytes>")
    ids = found(project, before, after)
    assert [id for id, _ in ids] == ["wire/field-type"]
