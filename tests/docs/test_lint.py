import re
from pathlib import Path

from everlog.migrations.lint.rules import RULES

PAGE = (Path(__file__).parent.parent.parent / "docs" / "lint.md").read_text(encoding="utf-8")
RULE = re.compile(r"^### (\S+)\n\n\*\*(\w+)\.\*\* (.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)


def test_every_rule_is_on_the_page_in_order_with_its_severity() -> None:
    found = [(rule[1], rule[2]) for rule in RULE.finditer(PAGE)]
    assert found == [(rule.id, str(rule.severity)) for rule in RULES.values()]


def test_every_rule_on_the_page_says_how_to_mend_it() -> None:
    assert [rule[1] for rule in RULE.finditer(PAGE) if "\nFix: " not in rule[3]] == []


def test_every_group_is_on_the_page() -> None:
    groups = {rule.group for rule in RULES.values()}
    assert {group for group in groups if f"`{group}`" not in PAGE} == set()


def test_every_rule_that_the_page_compares_with_those_of_buf_is_one() -> None:
    table = PAGE[PAGE.index("| buf | everlog |") : PAGE.index("Of buf's stricter")]
    linked = re.findall(r"\[(\S+)\]\(#(\S+)\)", table)
    assert linked
    assert {id for id, _ in linked} <= RULES.keys()
    assert {anchor for id, anchor in linked if anchor != id.replace("/", "")} == set()
    compared = {id for id, _ in linked}
    ours = {
        "wire/enum-closed",
        "wire/field-presence",
        "wire/number-taken",
        "wire/number-reused",
        "wire/index-presence",
        "wire/incompatible",
    }
    assert {id for id in RULES if id.startswith(("wire/", "json/"))} - compared == ours
