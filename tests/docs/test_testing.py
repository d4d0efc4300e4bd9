"""The tests of docs/testing.md run, on the example's migrations."""

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]


def test_the_tests_of_the_page_pass(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    tests, without_pytest = (
        next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if first in code)
        for first in ("def test_airports", "with at_version")
    )
    body = "".join(f"    {line}\n" for line in without_pytest.splitlines())
    pytester.makepyfile(test_page=f"{tests}\n\ndef test_without_pytest():\n{body}")
    pytester.makeini(f"[pytest]\npythonpath = {ROOT / 'examples'}\neverlog_migrations = flights.migrations\n")
    pytester.runpytest_inprocess("test_page.py").assert_outcomes(passed=5)
