import io

import pytest

from everlog.console.output import show_progress
from everlog.store.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    out = Terminal()
    with show_progress(out) as progress:
        for done in (0, 500, 1000):
            progress(Progress("load books", done, 1000))
    assert "load books: 100%" in out.getvalue()
    assert "1.00k/1.00k" in out.getvalue()


def test_elsewhere_lines_come_now_and_then_and_a_last_one() -> None:
    out = io.StringIO()
    with show_progress(out, every_s=0) as progress:
        progress(Progress("load books", 0, 1000))
        progress(Progress("load books", 1000, 1000))
        progress(Progress("load pages", 5, None, "pages"))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("load books: 0 of 1,000 rows, ")
    assert lines[-1].startswith("load pages: 5 pages, ")


def test_what_is_quick_says_nothing() -> None:
    out = io.StringIO()
    with show_progress(out) as progress:
        progress(Progress("load books", 1000, 1000))
    assert out.getvalue() == ""


def test_ci_has_no_bars_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    out = Terminal()
    with show_progress(out, every_s=0) as progress:
        progress(Progress("load books", 1, 2))
    assert "\r" not in out.getvalue()
