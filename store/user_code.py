"""User code: quote errors of transforms, checks and bootstrap functions without values of rows.

    raise ValueError("no first name")        text is in the source       ─▶ ValueError: no first name
    raise ValueError(f"bad {row.name}")      a template of the source    ─▶ ValueError: bad …
    raise ValueError(row.name)               unknown text                ─▶ ValueError

Invariants
  (1) the log, plans and notifications quote errors of user code in words of its source, never in values of
      rows: only `Error.private` has the whole text, and nothing stores or sends it.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from everlog.store.errors import Error

HIDDEN = "…"  # replaces a value


class MisuseError(TypeError):
    """Raised for a wrong value returned by user code; its text has no values of rows."""


def place(function: Callable[..., Any], error: BaseException | None = None) -> str:
    """Return ` (at file:line)` of a failure in the user's file, or of the function; empty if unknown."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    line = code.co_firstlineno
    for frame in traceback.extract_tb(error.__traceback__) if error is not None else ():
        if frame.filename == code.co_filename:
            line = frame.lineno or line
    return f" (at {'/'.join(Path(code.co_filename).parts[-2:])}:{line})"


def words(error: BaseException, *files: str) -> str:
    """Return the type of an error, and its text as far as it occurs in a `raise` in these files."""
    name, text = type_name(error), _text(error)
    if isinstance(error, MisuseError):
        return f"{TypeError.__name__}: {text}"
    if isinstance(error, TypeError) and " takes " in text and not _inside(error, files):
        return f"{name}: {text}"  # the call itself failed
    for file in files:
        if quoted := literal(text, file, raised=True):
            return f"{name}: {quoted}"
    return name


def type_name(error: BaseException) -> str:
    """Return the name of an error's type, or of its first base that a module defines: a name that was made
    while the code ran may be a value."""
    return next(kind.__name__ for kind in type(error).__mro__ if _is_defined(kind))


def is_users(error: BaseException) -> bool:
    """Whether a statement outside of everlog raised the error: its text may have values, even in an
    everlog.Error."""
    where = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        where = str(frame.f_globals.get("__name__", ""))
    return not where.startswith("everlog.")


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception out of user code is not its fault, but must pass: KeyboardInterrupt, and what
    Python raised to end the code, such as the GeneratorExit of a generator that is closed.

    `sys.exit()` in user code is a fault: it must not end a server, nor `up` with exit code 0.
    """
    if isinstance(error, (Exception, SystemExit)):
        return False
    return isinstance(error, KeyboardInterrupt) or not is_users(error)


def is_fault(error: BaseException) -> bool:
    """Whether an exception out of user code is a fault of that code. Others must pass: interrupts, and errors
    that everlog raised itself while it was called."""
    return not is_interrupt(error) and (not isinstance(error, Error) or is_users(error))


def literal(text: str, file: str, *, raised: bool = False) -> str:
    """Return a text as far as a source file contains it, with `…` for each value; empty if it does not.

    `raised`: search `raise` statements only.
    """
    found = ""
    for parts in _templates(file, raised):
        shown = HIDDEN.join(parts)
        if any(part.strip() for part in parts) and len(shown) > len(found) and _fits(text, parts):
            found = shown
    return found


def private(error: BaseException) -> str:
    """Return the whole text of an error, for `Error.private`."""
    return f"{type(error).__name__}: {_text(error)}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as raised:
        if is_interrupt(raised):
            raise
        return ""


def _is_defined(kind: type) -> bool:
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _fits(text: str, parts: list[str]) -> bool:
    """Whether a text consists of these parts, with anything between them. Takes linear time."""
    if len(parts) == 1:
        return text == parts[0]
    first, *between, last = parts
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in between:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _inside(error: BaseException, files: tuple[str, ...]) -> bool:
    """Whether code in these files raised the error."""
    return any(frame.filename in files for frame in traceback.extract_tb(error.__traceback__))


@lru_cache(maxsize=64)
def _parsed(file: str, _changed_ns: int) -> ast.Module:
    return ast.parse(Path(file).read_bytes())


def _templates(file: str, raised: bool) -> Iterator[list[str]]:
    """Yield the texts in a source file, each as its parts between values."""
    try:
        module = _parsed(file, Path(file).stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError):
        return
    roots: list[ast.AST] = (
        [one for one in ast.walk(module) if isinstance(one, ast.Raise)] if raised else [module]
    )
    for node in (node for root in roots for node in ast.walk(root)):
        if isinstance(node, ast.JoinedStr):
            parts = [""]
            for value in node.values:
                if isinstance(value, ast.Constant):
                    parts[-1] += str(value.value)
                else:
                    parts.append("")
            yield parts
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield [node.value]
