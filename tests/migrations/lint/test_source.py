from pathlib import Path

import pytest

from everlog.migrations.lint.source import ProtoText

ROOT = Path(__file__).parents[3]
TEXT = """\
syntax = "proto3";  // message Nothing {
package app.v1;
/* message Nothing {
   string in_a_comment = 1; */
option (app.big) = { a: 1; b: { c: "}" } };
message Airport {
  reserved 4 to 6, 9;
  reserved "old = 3";
  option deprecated = true;
  string faa = 1;
  map<string, Place> places = 2;
  repeated app.v1.Airport
    near = 3 [
      deprecated = true, (app.note) = { text: "x; y = 9" }
    ];
  message Place { double lat = 1; enum Kind { OPEN = 0;
      SHUT = -1; } }
  oneof code { string icao = 7;
    int32 number = 8; }
}
enum Size { SMALL = 0; }
"""
LINES = {
    "Airport": 6,
    "Airport.faa": 10,
    "Airport.places": 11,
    "Airport.near": 13,
    "Airport.Place": 16,
    "Airport.Place.lat": 16,
    "Airport.Place.Kind": 16,
    "Airport.Place.Kind.OPEN": 16,
    "Airport.Place.Kind.SHUT": 17,
    "Airport.code": 18,
    "Airport.icao": 18,
    "Airport.number": 19,
    "Size": 21,
    "Size.SMALL": 21,
}


def test_what_is_declared_is_found_at_its_line_and_nothing_else() -> None:
    assert ProtoText(TEXT).lines == LINES


def test_what_is_not_there_is_at_the_nearest_that_is() -> None:
    text = ProtoText(TEXT)
    assert text.line("Airport.Place.gone") == LINES["Airport.Place"]
    assert text.line("Gone.gone") == 1


def test_comments_are_found_with_their_lines() -> None:
    found = [(comment.line, comment.alone) for comment in ProtoText(TEXT).comments]
    assert found == [(1, False), (3, True)]


@pytest.mark.parametrize(
    "text", ["", "}", "message", "message {", "}}{{", "= ;", '"', "enum A { B = 0 [", "[{]"]
)
def test_a_text_that_is_no_model_is_read_to_its_end(text: str) -> None:
    assert set(ProtoText(text).lines) <= {"A", "A.B"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("proto/*.proto")), ids=lambda path: path.name)
def test_every_line_that_is_found_has_the_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    wrong = [
        name for name, line in ProtoText(text).lines.items() if name.rpartition(".")[2] not in lines[line - 1]
    ]
    assert wrong == []
