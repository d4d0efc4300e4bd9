"""Words of messages that are common to all modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everlog.store.errors import quantity
from everlog.store.rocks.errors import translate

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("audit", "console", "consumers", "feed", "fleet", "migrations", "rpc", "store")
NOUN = "(?:rows|records|commits|tables|keys|versions|entries|segments)"
PLURAL = re.compile(r'(?<!the first )(?<!at most )\{[^{}"]*\} ' + rf"{NOUN}\b")
# The number is above 1, or the word is a verb.
EXCEPT = (
    "{looked:,} rows have the values",
    "{found.corrected:,} records that the clock",
    "{count} keys of forgotten persons are",
)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows")]
)
def test_a_quantity_has_its_noun_in_the_right_number(number: int, expected: str) -> None:
    assert quantity(number, "row") == expected


def test_a_plural_can_be_irregular() -> None:
    assert (quantity(1, "entry", "entries"), quantity(7, "entry", "entries")) == ("1 entry", "7 entries")


def test_messages_have_no_plural_after_a_number_that_may_be_one() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (found := PLURAL.search(line)) and not any(one in line for one in EXCEPT)
    ]
    assert wrong == [], "use `quantity`"


def test_an_error_of_a_reader_names_the_file_and_not_its_temporary_link(tmp_path: Path) -> None:
    file = tmp_path / "x.db" / "db" / "000012.sst"
    linked = tmp_path / "everlog-reading-abc" / "db"
    linked.mkdir(parents=True)
    (linked / file.name).symlink_to(file)
    found = translate(Exception(f"IO error: While open a file: {linked / file.name}: Permission denied"), "x")
    assert str(found) == f"x: IO error: While open a file: {file}: Permission denied"
