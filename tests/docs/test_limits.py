"""The limits page names constants that exist, in the modules that it names."""

from __future__ import annotations

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
