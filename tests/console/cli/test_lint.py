from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.migrations.lint.rules import RULES
from tests.console import shop
from tests.console.cli.test_serve import serving
from tests.console.conftest import Run

THIRD = 20260301090000
_NUMBERS = count(1)
INDEX = ', indexes=(Index("by_name", TITLE, unique=True),)'


@pytest.fixture
def broken(project: Path, here: Path) -> Path:
    """Return the shop with one more migration, which removes a field and requires unique titles."""
    name = f"lint_shop{next(_NUMBERS)}"  # modules and models stay loaded in this process
    mine = here / name / "migrations"
    shutil.copytree(project, mine)
    (mine.parent / "__init__.py").touch()
    folder = mine / f"v{THIRD}_unique_titles"
    shutil.copytree(mine / f"v{shop.SECOND}_index_books", folder)
    model = shop.MODEL.format(version=THIRD).replace("  double price = 4;\n", "")
    model = model.replace("package shop", f"package {name}")
    (folder / "model.proto").write_text(model)
    code = shop.CONSTANTS.format(indexes=INDEX)
    code = code.replace("tables=[BOOKS]", 'tables=[BOOKS], drop=["books.by_title"]')
    (folder / "__init__.py").write_text(code)
    migrations.build(mine)
    return folder


def test_what_is_clean_ends_well(everlog: Run, project: Path) -> None:
    ended = everlog("-d", project, "lint", "--strict")
    assert (ended.code, ended.out) == (0, "Nothing found (without a database)\n")


def test_text_has_the_place_the_sentence_the_id_and_the_fix_and_ends_with_a_count(
    everlog: Run, broken: Path, here: Path
) -> None:
    ended = everlog("-d", broken.parent, "lint")
    assert ended.code == 1
    lines = ended.out.splitlines()
    model, name = (broken / "model.proto").relative_to(here), broken.parent.parent.name
    assert lines[2] == (
        f"{model}:13: error: {name}.v{THIRD}.Book no longer has price = 4, which rows of table books may"
        " contain [wire/field-removed]"
    )
    assert lines[3] == "    fix: add `reserved 4;`"
    assert lines[0].startswith(f"{broken.relative_to(here)}/__init__.py:8: warning: unique index by_name of")
    assert lines[-1] == "1 error, 1 warning (without a database)"


def test_warnings_fail_if_it_is_strict(everlog: Run, broken: Path) -> None:
    model = broken / "model.proto"
    model.write_text(
        model.read_text().replace("  uint64 sold", '  reserved 4; reserved "price";\n  uint64 sold')
    )
    migrations.build(broken.parent)
    words = ("-d", broken.parent, "lint", "--json")
    assert everlog(*words).code == 0
    strict = everlog(*words, "--strict")
    assert strict.code == 1
    assert [found["severity"] for found in strict.json] == ["warning", "warning"]
    assert everlog(*words, "--strict", "--since", THIRD).code == 0


def test_the_rows_of_a_database_are_looked_at_here_and_on_a_server(
    everlog: Run, books: Path, broken: Path, here: Path
) -> None:
    rows = here / "books.csv"
    rows.write_text("isbn,volume,title\n1,1,Dune\n2,1,Emma\n")
    assert everlog("import", "books", rows).code == 0
    model = broken / "model.proto"
    model.write_text(model.read_text().replace("Book {", "Book {\n  double price = 4;"))
    migrations.build(broken.parent)
    words = ("-d", broken.parent, "lint", "--json")
    (found, *_) = everlog(*words).json
    assert found["id"] == "data/not-unique"
    assert "1 of 3 rows" in found["text"]
    assert everlog(*words, "--no-db").json[0]["id"] == "data/unique-unchecked"
    with serving() as url:
        assert everlog("-u", url, *words).json == everlog("-u", url, *words).json == [found, *_]


def test_a_database_that_is_named_and_not_there_is_an_error(everlog: Run, project: Path) -> None:
    assert everlog("-u", "file:nothing.db", "-d", project, "lint").code == 1


def test_github_shows_findings_at_their_lines(everlog: Run, broken: Path, here: Path) -> None:
    lines = everlog("-d", broken.parent, "lint", "--format", "github").out.splitlines()
    model = (broken / "model.proto").relative_to(here)
    assert lines[1].startswith(f"::error file={model},line=13,title=wire/field-removed::lint_shop")
    assert lines[0].startswith("::warning file=")


def test_sarif_is_what_the_standard_asks_for(everlog: Run, broken: Path, here: Path) -> None:
    document = json.loads(everlog("-d", broken.parent, "lint", "--format", "sarif").out)
    check_sarif(document)
    (run,) = document["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(RULES)
    result = run["results"][1]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], result["level"]) == ("wire/field-removed", "error")
    assert (here / place["artifactLocation"]["uri"]) == broken / "model.proto"
    assert place["region"] == {"startLine": 13}


def test_sarif_has_what_is_ignored_as_suppressed_with_the_reason(everlog: Run, broken: Path) -> None:
    model = broken / "model.proto"
    said = "// everlog: ignore[loss/field-removed] no reader since May\nmessage Book {"
    text = model.read_text().replace("message Book {", f'{said}\n  reserved 4; reserved "price";')
    model.write_text(text)
    migrations.build(broken.parent)
    ended = everlog("-d", broken.parent, "lint", "--format", "sarif")
    document = json.loads(ended.out)
    check_sarif(document)
    found = {one["ruleId"]: one["suppressions"] for one in document["runs"][0]["results"]}
    assert found == {
        "data/unique-unchecked": [],
        "loss/field-removed": [{"kind": "inSource", "justification": "no reader since May"}],
    }
    words = ("-d", broken.parent, "lint")
    assert [one["id"] for one in everlog(*words, "--json").json] == ["data/unique-unchecked"]
    assert everlog(*words, "--strict", "--format", "sarif").code == 1


def test_what_is_ignored_fails_in_no_format(everlog: Run, broken: Path) -> None:
    model, init = broken / "model.proto", broken / "__init__.py"
    model.write_text(model.read_text().replace("Book {", "Book {\n  double price = 4;"))
    ignored = "# everlog: ignore[data/unique-unchecked] counted by hand\nBOOKS = "
    init.write_text(init.read_text().replace("BOOKS = ", ignored))
    migrations.build(broken.parent)
    for form in ("text", "json", "sarif", "github"):
        assert everlog("-d", broken.parent, "lint", "--strict", "--format", form).code == 0


def check_sarif(document: dict[str, Any]) -> None:
    """Check what SARIF 2.1.0 requires of the parts in use: sections 3.13 to 3.30, 3.35, and 3.49."""
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    assert set(document) == {"$schema", "version", "runs"}
    for run in document["runs"]:
        assert set(run) <= {"tool", "results", "columnKind"}
        driver = run["tool"]["driver"]
        assert driver["name"]
        for rule in driver["rules"]:
            assert set(rule) == {"id", "shortDescription", "help", "defaultConfiguration"}
            assert rule["shortDescription"]["text"]
            assert rule["help"]["text"]
            assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}
        for result in run["results"]:
            assert result["message"]["text"]
            assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
            assert result["level"] in {"none", "note", "warning", "error"}
            for suppression in result["suppressions"]:  # all results have it, or none
                assert set(suppression) <= {"kind", "justification"}
                assert suppression["kind"] in {"inSource", "external"}
                assert suppression.get("justification", "-")
            for location in result["locations"]:
                physical = location["physicalLocation"]
                assert not physical["artifactLocation"]["uri"].startswith("/")
                assert physical["region"]["startLine"] >= 1
