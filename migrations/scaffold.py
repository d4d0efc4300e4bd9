"""Scaffold: a new migration's folder, made by copying the newest.

    newest folder ─▶ model.proto, its package renamed   ─▶ new folder
                     __init__.py, without what is done: `drop`, `rename`, `transforms`, …
                     testdata.py, helpers

Not copied: bootstrap data, which the older migration has put there already; tests, which are of
that step; comments that ignore a finding of lint, which gave the reasons of that step; generated
code. The very first folder comes from a template, a table with two fields.
"""

from __future__ import annotations

import ast
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from everlog.migrations import sums
from everlog.migrations.folder import SOURCE, Folder, Root, Source, find_or_make, folders
from everlog.migrations.lint_ignores import without_ignores
from everlog.store.errors import SchemaError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CODE = ("transforms", "up", "down")  # with functions of their own
_DONE = ("drop", "rename", *_CODE)
_NOT_COPIED = shutil.ignore_patterns(
    "bootstrap*", "tests", "test_*.py", "*_pb2.py", "*_pb2.pyi", "__pycache__", ".*", "*~"
)

_MODEL = """\
syntax = "proto3";

package {app}.v{version};

message {model} {{
  string id = 1;
  string name = 2;
}}
"""

_CONSTANTS = '''\
"""{title}"""

from everlog.migrations import STRING, Fields, Index, Migration, Table

from .model_pb2 import {model}

__all__ = ["MIGRATION", "{constant}", "{model}"]

field = Fields({model})
ID = field("id", 1, STRING)
NAME = field("name", 2, STRING)

{constant} = Table("{table}", {model}, key=ID, indexes=(Index("by_name", NAME),))

MIGRATION = Migration(tables=[{constant}])
'''

_TESTDATA = '''\
"""Rows to test with: the same for the same seed, more of them for a greater scale."""

from collections.abc import Iterator
from random import Random

from everlog.migrations import Row

from . import {constant}, {model}


def rows(random: Random, scale: int) -> Iterator[Row]:
    for number in range(100 * scale):
        yield {constant}, {model}(id=f"{{number:06}}", name=random.choice(["ann", "bob", "eve"]))
'''


def new(name: str, source: Source = SOURCE, *, now: datetime | None = None) -> Path:
    """Makes the folder of a new migration, and its line in `everlog.sum`, and returns its path. Edit
    it, then `build`.

    A `source` that is not there yet is made, if it is a path. The timestamp is that of `now` in
    UTC, or the second after the newest migration's, if that is later. Raises SchemaError for a
    name that is no identifier in lower case.
    """
    if not _NAME.fullmatch(name):
        raise SchemaError(
            f"expected the name of a migration in a-z, 0-9 and _, as create_airports; found {name!r}",
            name=name,
        )
    root = find_or_make(source)
    known = folders(root)
    newest = known[-1] if known else None
    version = _version(newest, now or datetime.now(UTC))
    path = root.path / f"v{version}_{name}"
    if newest is None:
        _write_first(path, root, version, name)
    else:
        _copy(newest, path, version, name)
    sums.write(root, folders(root))
    return path


def _version(newest: Folder | None, now: datetime) -> int:
    form = "%Y%m%d%H%M%S"
    time = now.astimezone(UTC)
    if newest is not None:
        last = datetime.strptime(str(newest.version), form).replace(tzinfo=UTC)
        time = max(time, last + timedelta(seconds=1))
    return int(time.strftime(form))


def _copy(newest: Folder, path: Path, version: int, name: str) -> None:
    package = newest.proto_package
    code = _constants(newest, name)
    shutil.copytree(newest.path, path, ignore=_NOT_COPIED)
    (path / "__init__.py").write_text(code, encoding="utf-8")
    model = path / "model.proto"
    app = package.rpartition(".")[0]
    declared = re.compile(rf"^([ \t]*package\s+){re.escape(package)}(\s*;)", re.MULTILINE)
    text = declared.sub(rf"\g<1>{app}.v{version}\2", model.read_text(encoding="utf-8"), count=1)
    model.write_text(text, encoding="utf-8")
    for file in (one for one in path.rglob("*") if one.suffix in {".py", ".proto"}):
        said = file.read_text(encoding="utf-8", errors="surrogateescape")
        kept = without_ignores(said, file.suffix)
        if kept != said:
            file.write_text(kept, encoding="utf-8", errors="surrogateescape")


def _constants(newest: Folder, name: str) -> str:
    """The newest folder's code, with a title of its own, and without what was done already: `drop`,
    `rename`, `transforms`, `up` and `down` with their functions, and what those import from older folders."""
    file = newest.path / "__init__.py"
    code = file.read_bytes().replace(b"\r\n", b"\n")
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise newest.error(f"SyntaxError: {error.msg}", error.lineno or 1, file) from error
    cuts: list[tuple[int, int, bytes]] = []
    used: set[str] = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id == "Migration":
            for argument in (item for item in call.keywords if item.arg in _DONE):
                cuts.append(_argument(code, call, argument))
                if argument.arg in _CODE:
                    used |= {node.id for node in ast.walk(argument) if isinstance(node, ast.Name)}
    for node in tree.body:
        is_older = isinstance(node, ast.ImportFrom) and node.level > 1
        if is_older or (isinstance(node, ast.FunctionDef) and node.name in used):
            start, end = _span(code, node)
            blank = re.match(rb"\n*", code[end:])
            cuts.append((start, end + (blank.end() if blank else 0), b""))
    if ast.get_docstring(tree) is not None:
        cuts.append((*_span(code, tree.body[0]), f'"""{_title(name)}"""'.encode()))
    for start, end, text in sorted(cuts, reverse=True):
        code = code[:start] + text + code[end:]
    return code.decode()


def _argument(code: bytes, call: ast.Call, node: ast.keyword) -> tuple[int, int, bytes]:
    """An argument, from the end of the one before it; the first one, with the comma behind it."""
    start, end = _span(code, node)
    others: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    before = [at for _, at in (_span(code, one) for one in others) if at < start]
    if before:
        return max(before), end, b""
    comma = re.match(rb"\s*,\s*", code[end:])
    return start, end + (comma.end() if comma else 0), b""


def _span(code: bytes, node: ast.stmt | ast.expr | ast.keyword) -> tuple[int, int]:
    starts = [0, *(found.end() for found in re.finditer(rb"\n", code))]
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _title(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()}."


def _write_first(path: Path, root: Root, version: int, name: str) -> None:
    app = root.package.partition(".")[0] if "." in root.package else root.path.parent.name
    app = app if app.isidentifier() and app.isascii() else "app"
    table = name.removeprefix("create_").removeprefix("add_")
    model = "".join(word.capitalize() for word in table.removesuffix("s").split("_")) or "Row"
    words = {
        "app": app,
        "version": version,
        "title": _title(name),
        "table": table,
        "constant": table.upper(),
        "model": model,
    }
    path.mkdir()
    (path / "model.proto").write_text(_MODEL.format(**words), encoding="utf-8")
    (path / "__init__.py").write_text(_CONSTANTS.format(**words), encoding="utf-8")
    (path / "testdata.py").write_text(_TESTDATA.format(**words), encoding="utf-8")
