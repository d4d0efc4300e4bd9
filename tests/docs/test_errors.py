import re
from pathlib import Path

import everlog

PAGE = Path(__file__).parent.parent.parent / "docs" / "errors.md"


def test_every_error_has_a_section_and_no_other() -> None:
    public = [getattr(everlog, name) for name in everlog.__all__]
    errors = [found for found in public if isinstance(found, type) and issubclass(found, everlog.Error)]
    classes = sorted(found.__name__ for found in errors if found is not everlog.Error)
    sections = re.findall(r"^### (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sections) == classes


def test_reasons_of_a_cursor_error_are_those_of_the_code() -> None:
    root = Path(__file__).parent.parent.parent
    code = "".join(path.read_text(encoding="utf-8") for path in (root / "feed").rglob("*.py"))
    reasons = set(re.findall(r'\bwhy="(\w+)"', code))
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert reasons
    assert set(rows) == reasons | {"why"}  # the head of the table
