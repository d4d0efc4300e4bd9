"""Sources: folders of migrations as the pages show them: files with colours, diffs, findings in place.

    text ─▶ tokens of Pygments ─▶ lines ─┬─▶ listing: with numbers, and findings below their lines
                                         └─▶ diff: with the model before it

Invariants
  (1) every line is escaped; colours are classes of the stylesheet;
  (2) the size of a page does not depend on the size of a folder: long files are cut, with a mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from pygments.lexer import Lexer  # type: ignore[import-untyped]
from pygments.lexers.dsls import ProtoBufLexer  # type: ignore[import-untyped]
from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]
from pygments.token import Comment, Keyword, Name, Number, String, Token  # type: ignore[import-untyped]

from everlog.migrations.details import Details, ShownFile
from everlog.migrations.proposal import FindingEntry
from everlog.store.errors import quantity

LINES_MAX, LINE_CHARS_MAX, COLOURED_MAX = 1000, 2000, 64 << 10
CONTEXT, COLUMNS_MAX, CELL_CHARS = 3, 12, 80
LOOKS = (
    (Comment, "cm"),
    (String.Doc, "cm"),
    (String, "st"),
    (Number, "nu"),
    (Keyword, "kw"),
    (Name.Decorator, "kw"),
    (Name.Function, "fn"),
    (Name.Class, "fn"),
)
MODEL = "model.proto"
KINDS = {"error": "danger", "warning": "waiting", "info": "info"}  # the worst first


class Row(NamedTuple):
    """A line of a diff or a listing. `kind`: add, del, gap, note or empty; `old` and `new` are its numbers in
    both files, 0: it is not in it."""

    kind: str
    old: int
    new: int
    html: Markup
    severity: str = ""


def lines_of(text: str, path: str) -> list[Markup]:
    """Return the lines of a file, with colours where its kind is known."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    lexer = _lexer(path) if len(text) <= COLOURED_MAX else None
    if lexer is None:
        return [escape(line[:LINE_CHARS_MAX]) for line in text.split("\n")]
    found = [Markup()]
    for kind, value in lexer.get_tokens(text):
        look = next((name for token, name in LOOKS if kind in token), "") if kind is not Token.Text else ""
        for number, part in enumerate(value.split("\n")):
            if number:
                found.append(Markup())
            if part:
                found[-1] += Markup('<span class="{}">{}</span>').format(look, part) if look else escape(part)
    return found


def _lexer(path: str) -> Lexer | None:
    if path.endswith((".py", ".pyi")):
        return PythonLexer(stripnl=False, ensurenl=False)
    return ProtoBufLexer(stripnl=False, ensurenl=False) if path.endswith(".proto") else None


def listing(text: str, path: str, findings: Sequence[FindingEntry] = ()) -> list[Row]:
    """Return the lines of a file, each followed by its findings."""
    shown = lines_of(text, path)
    return list(_annotated((Row("", 0, at, line) for at, line in enumerate(shown[:LINES_MAX], 1)), findings))


def diff(before: str, after: str, path: str, findings: Sequence[FindingEntry] = ()) -> list[Row]:
    """Return a unified diff of two files, with the findings of the second."""
    old, new = before.splitlines(), after.splitlines()
    old_shown, new_shown = lines_of(before, path), lines_of(after, path)
    found = list[Row]()
    for group in SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT):
        if found:
            found.append(Row("gap", 0, 0, Markup("⋯")))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                found += [
                    Row("", i + 1, j + 1, new_shown[j])
                    for i, j in zip(range(i1, i2), range(j1, j2), strict=True)
                ]
                continue
            found += [Row("del", i + 1, 0, old_shown[i]) for i in range(i1, i2)]
            found += [Row("add", 0, j + 1, new_shown[j]) for j in range(j1, j2)]
    return list(_annotated(found[: 2 * LINES_MAX], findings))


def _annotated(rows: Iterable[Row], findings: Sequence[FindingEntry]) -> Iterator[Row]:
    for row in rows:
        yield row
        for one in findings:
            if row.new and one.line == row.new:
                words = Markup("<strong>{}</strong> {} {}").format(one.id, one.text, one.fix)
                yield Row("note", 0, 0, words, one.severity)


def folder(details: Details, before: Details | None, findings: Iterable[FindingEntry] = ()) -> dict[str, Any]:
    """Return a folder for its template. `before`: the previous migration; `findings` are those of lint in any
    folder."""
    prefix = f"v{details.title}/"
    own = [one for one in findings if one.file.startswith(prefix)]
    by_path = {file.path: [one for one in own if one.file == prefix + file.path] for file in details.files}
    model, previous = details.file(MODEL), before.file(MODEL) if before is not None else None
    return {
        "title": details.title,
        "anchor": f"m{details.version}",
        "before": before.title if before is not None and previous is not None else "",
        "model": diff(previous or "", model, MODEL, by_path.get(MODEL, ())) if model is not None else [],
        "tables": _tables(details, before),
        "drops": details.drops,
        "bootstrap": [_rows(one.table, one.rows, one.first, sealed=one.sealed) for one in details.bootstrap],
        "problem": details.problem,
        "origin": details.origin,
        "files": [_file(details, one, by_path[one.path]) for one in details.files],
    }


def _tables(details: Details, before: Details | None) -> list[dict[str, Any]]:
    """Return the declared tables, each with what is new since the previous migration."""
    was = {one.name: one for one in before.tables} if before is not None else {}
    found = []
    for one in details.tables:
        old = was.get(one.name)
        known = {index.name: index for index in old.indexes} if old is not None else {}
        found.append(
            {
                "table": one,
                "new": bool(was) and old is None,
                "indexes": [(index, bool(was) and known.get(index.name) != index) for index in one.indexes],
            }
        )
    return found


def _rows(table: str, count: int, first: Sequence[str], *, sealed: bool) -> dict[str, Any]:
    """Return the first bootstrap rows of a table, in columns."""
    rows: list[dict[str, Any]] = [json.loads(one) for one in first]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {
        "table": table,
        "rows": count,
        "sealed": sealed,
        "columns": columns[:COLUMNS_MAX],
        "hidden": max(0, len(columns) - COLUMNS_MAX),
        "cells": [[_cell(row.get(name)) for name in columns[:COLUMNS_MAX]] for row in rows],
    }


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= CELL_CHARS else f"{text[:CELL_CHARS]}…"


def _file(details: Details, file: ShownFile, findings: Sequence[FindingEntry]) -> dict[str, Any]:
    text = details.file(file.path)
    words = f"It is not shown: {file.missing}." if file.missing else "It is not text."
    size = file.size or len(file.content or b"")
    count = len((text or "").splitlines())
    return {
        "path": file.path,
        "sha256": file.sha256,
        "size": size,
        "rows": [] if text is None else listing(text, file.path, findings),
        "words": words if text is None else "",
        "more": max(0, count - LINES_MAX),
        "lines": quantity(count, "line") if text is not None else "",
        "findings": len(findings),
        "worst": next((KINDS[one] for one in KINDS if any(each.severity == one for each in findings)), ""),
    }
