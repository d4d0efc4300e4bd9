from pathlib import Path

from everlog.console.cli.lint import as_github, as_sarif, as_text, count_findings
from everlog.migrations import Finding, Severity

HERE = Path("/somewhere/app")
FINDING = Finding(
    f"{HERE}/a, b:c/model.proto", 7, "wire/field-type", Severity.ERROR, "100%\nof it, all: gone", "fix it"
)
ELSEWHERE = Finding("/elsewhere/ü.py", 1, "test/no-data", Severity.INFO, "none", "write it")


def test_text_is_a_place_and_a_sentence_on_one_line_and_the_fix_below() -> None:
    assert as_text(ELSEWHERE, HERE) == "/elsewhere/ü.py:1: info: none [test/no-data]\n    fix: write it"
    assert as_text(FINDING, HERE).startswith("a, b:c/model.proto:7: error: ")


def test_what_would_end_an_annotation_is_escaped() -> None:
    assert as_github(FINDING, HERE) == (
        "::error file=a%2C b%3Ac/model.proto,line=7,title=wire/field-type"
        "::100%25%0Aof it, all: gone. Fix: fix it"
    )
    assert as_github(ELSEWHERE, HERE).startswith("::notice file=/elsewhere/ü.py,line=1,")


def test_sarif_has_paths_as_uris_and_levels_of_its_own() -> None:
    (run,) = as_sarif([FINDING, ELSEWHERE], HERE)["runs"]
    inside, outside = run["results"]
    assert inside["locations"][0]["physicalLocation"]["artifactLocation"] == {
        "uri": "a%2C%20b%3Ac/model.proto",
        "uriBaseId": "%SRCROOT%",
    }
    uri = outside["locations"][0]["physicalLocation"]["artifactLocation"]
    assert uri == {"uri": "file:///elsewhere/%C3%BC.py"}
    assert (inside["level"], outside["level"]) == ("error", "note")


def test_a_count_tells_what_there_is() -> None:
    assert count_findings([]) == "nothing found"
    assert count_findings([FINDING, FINDING, ELSEWHERE]) == "2 errors, 1 info"
