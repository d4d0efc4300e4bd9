"""The limits page names constants that exist, in the modules that it names, and their values."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROW = re.compile(r"((?:`[A-Z_]+`(?:, )?)+) in `([\w/]+\.py)`")


def test_every_constant_is_in_its_module() -> None:
    found = ROW.findall((ROOT / "docs" / "limits.md").read_text(encoding="utf-8"))
    assert len(found) > 20
    wrong = [
        f"{name} in {path}"
        for names, path in found
        for name in re.findall(r"`(\w+)`", names)
        if not re.search(
            rf"^[\w, ]*\b{name}\b[\w, :]* = ", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert not wrong


def test_a_row_of_a_table_has_the_value_of_its_constant() -> None:
    """A row with two constants for one figure has their sum."""
    wrong = []
    for line in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8").splitlines():
        values = {
            name: getattr(importlib.import_module(f"everlog.{path[:-3].replace('/', '.')}"), name)
            for names, path in ROW.findall(line)
            if line.startswith("|")
            for name in re.findall(r"`(\w+)`", names)
        }
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        for name, value in numbers.items():
            said = {f"{one:,}" for one in (value, sum(numbers.values()))}
            said |= {
                f"{one / unit:g} {letter}i"
                for one in (value, sum(numbers.values()))
                for unit, letter in ((1 << 10, "K"), (1 << 20, "M"))
            }
            if not any(re.search(rf"(?<![\d,.]){re.escape(one)}(?![\d.])", line) for one in said):
                wrong.append(f"{name} is {value:,}: {line}")
    assert not wrong
