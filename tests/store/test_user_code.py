"""Errors of user code are quoted in words of its source, never in values of rows."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from everlog.store.environment import read_file
from everlog.store.errors import Error, RowError
from everlog.store.user_code import is_users, literal, private, words

SECRET = "Quasimodo"
CODE = """
from everlog.store.errors import RowError

class Refused(Exception):
    pass

class Silent(Exception):
    def __str__(self):
        return 1 / 0

def text(value): raise ValueError(f"bad {value}, sorry")
def unknown(value): raise ValueError(value)
def own(value): raise RowError(f"bad {value}, sorry")
def named(value): raise type(value, (Refused,), {})("x")
def silent(value): raise Silent(value)
def group(value): raise ExceptionGroup(value, [ValueError(value)])
"""
QUOTED = {
    "text": "ValueError: bad …, sorry",
    "unknown": "ValueError",
    "own": "RowError: bad …, sorry",
    "named": "Refused: x",
    "silent": "Silent",
    "group": "ExceptionGroup",
}


@pytest.mark.parametrize("name", QUOTED)
def test_an_error_is_quoted_without_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / f"user_code_{name}.py"
    file.write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = import_module(file.stem)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        getattr(module, name)(SECRET)
    assert words(caught.value, str(file)) == QUOTED[name]
    assert is_users(caught.value)
    assert private(caught.value)  # whatever the error does


def test_an_error_of_everlog_is_known_by_its_place() -> None:
    with pytest.raises(Error) as caught:
        raise RowError("x")
    assert is_users(caught.value)
    with pytest.raises(Error) as caught:
        read_file(Path("nowhere"), "the key")
    assert not is_users(caught.value)


def test_a_template_fits_a_long_text_in_linear_time(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text('raise ValueError(f"{a} {b} {c} {d} {e} bad")\nraise ValueError(f"x{a}y")\n')
    spaces = " " * 1_000_000
    assert literal(spaces, str(file)) == ""
    assert literal(f"{spaces}bad", str(file)) == "… … … … … bad"
    assert [literal(one, str(file)) for one in ("xy", "x1y", "axy", "xyb")] == ["x…y", "x…y", "", ""]
