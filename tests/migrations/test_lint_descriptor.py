"""Rule json/format, and other rules that concern only JSON."""

import pytest

from everlog.migrations.compatible import allows_json
from everlog.migrations.lint.lint import lint
from tests.migrations.project import Project, line_of

MODEL = """enum Kind { %s
  OPEN = 0; }
message Airport { %s
  string faa = 1;
  string name = 2;
  Kind kind = 4;
  message Runway { %s
    int32 length = 1; }
  Runway runway = 5;
}
"""
LEGACY = "option features.json_format = LEGACY_BEST_EFFORT;"
ALLOW = "option features.json_format = ALLOW;"
BEFORE = MODEL % ("", "", "")


def _found(project: Project, before: str, after: str, *, syntax: str = 'edition = "2023";') -> list[str]:
    """Return the rules that the second model breaks, and the texts of the lines."""
    for name, model in (("before", before), ("after", after)):
        proto = project.add(name, model=model, files={"testdata.py": ""}) / "model.proto"
        words = 'edition = "2023";' if name == "before" else syntax
        proto.write_text(proto.read_text().replace('syntax = "proto3";', words))
    lines = (project.folders[1] / "model.proto").read_text().splitlines()
    return [f"{finding.id} {lines[finding.line - 1].strip()}" for finding in lint(project.build().path)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (BEFORE, []),
        (MODEL % (LEGACY, "", ""), [f"json/format enum Kind {{ {LEGACY}"]),
        (MODEL % ("", "", LEGACY), [f"json/format message Runway {{ {LEGACY}"]),
        (
            MODEL % ("", LEGACY, ""),
            [f"json/format message Airport {{ {LEGACY}", "json/format message Runway {"],
        ),
        (MODEL % ("", LEGACY, ALLOW), [f"json/format message Airport {{ {LEGACY}"]),
        (f"{LEGACY}\n{MODEL % (ALLOW, ALLOW, '')}", []),
        (
            f"{LEGACY}\n{BEFORE}",
            [
                "json/format enum Kind {",
                "json/format message Airport {",
                "json/format message Runway {",
            ],
        ),
    ],
)
def test_a_model_that_is_no_longer_sure_to_be_json_is_found(
    project: Project, after: str, expected: list[str]
) -> None:
    assert _found(project, BEFORE, after) == expected


def test_a_model_that_becomes_sure_to_be_json_breaks_nothing(project: Project) -> None:
    assert _found(project, f"{LEGACY}\n{BEFORE}", BEFORE) == []


def test_a_model_in_proto2_is_best_effort(project: Project) -> None:
    optional = BEFORE.replace("  string", "  optional string").replace("  Kind", "  optional Kind")
    optional = optional.replace("  Runway", "  optional Runway").replace("  int32", "  optional int32")
    ids = {line.split()[0] for line in _found(project, BEFORE, optional, syntax='syntax = "proto2";')}
    assert ids == {"json/format", "wire/enum-closed"}
    (one, two) = project.load()
    assert [allows_json(migration.tables[0].model.DESCRIPTOR) for migration in (one, two)] == [True, False]


def test_a_repeated_message_that_becomes_a_map_is_the_same_in_rows_and_other_json(project: Project) -> None:
    fields = "string faa = 1; string name = 2;\n"
    pairs = f"{fields} message Note {{ string key = 1; string value = 2; }}\n repeated Note notes = 3;"
    project.add("before", fields=pairs)
    project.add("after", fields=f"{fields} map<string, string> notes = 3;", files={"testdata.py": ""})
    (finding,) = lint(project.build().path)
    assert (finding.id, finding.line) == (
        "json/field-type",
        line_of(project.folders[1] / "model.proto", "notes"),
    )


def test_a_field_that_is_required_from_now_on_breaks_rows_without_it(project: Project) -> None:
    before = "message Airport {\n  string faa = 1;\n  string name = 2;\n}\n"
    required = "  int32 alt = 3 [features.field_presence = LEGACY_REQUIRED];\n}"
    found = _found(project, before, before.replace("}", required))
    assert [line.split()[0] for line in found] == ["wire/field-required"]
