"""Scaffold: create the folder of a new migration by copying the newest.

    newest folder ─▶ model.proto, its package renamed                                       ─▶ new folder
                     __init__.py, without completed work: `drop`, `rename`, `transforms`, …
                     testdata.py, helpers

Not copied: bootstrap data, which the older migration already wrote; tests, which belong to that migration;
comments that ignore a finding of lint, whose reasons belong to it as well; generated code. The very first
folder comes from a template, a table with two fields.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import shutil
import tokenize
from datetime import UTC, datetime, timedelta
from pathlib import Path

from everlog.migrations.build import write_sums
from everlog.migrations.folder import SOURCE, Folder, Root, Source, find_or_make, folders
from everlog.migrations.lint.source import without_ignores
from everlog.store.errors import SchemaError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_DONE = ("drop", "rename", "transforms", "up", "down")
_NOT_COPIED = shutil.ignore_patterns(
    "bootstrap*", "tests", "test_*.py", "*_pb2.py", "*_pb2.pyi", "__pycache__", ".*", "*~"
)

_COOKIE = re.compile(r"[ \t\f]*#.*?coding[:=]")
# Names that the templates use: a table gets a different one.
_TAKEN = {"MIGRATION", "STRING", "Fields", "Index", "Migration", "Table", "ID", "NAME"}
_TAKEN |= {"Iterator", "Random", "Row", *keyword.kwlist}

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
"""Test rows: the same for the same seed, and more for a larger scale."""

from collections.abc import Iterator
from random import Random

from everlog.migrations import Row

from . import {constant}, {model}


def rows(random: Random, scale: int) -> Iterator[Row]:
    for number in range(100 * scale):
        yield {constant}, {model}(id=f"{{number:06}}", name=random.choice(["ann", "bob", "eve"]))
'''


def new(name: str, source: Source = SOURCE, *, now: datetime | None = None) -> Path:
    """Create the folder of a new migration, and its line in `everlog.sum`. Return its path.

    Edit it, then run `build`. A missing `source` is created if it is a path. The timestamp is `now` in UTC,
    or one second after the newest migration, whichever is later. Raises SchemaError for a name that is not a
    lower-case identifier.
    """
    if not _NAME.fullmatch(name):
        raise SchemaError(
            f"expected a migration name in a-z, 0-9 and _, such as create_airports; found {name!r}",
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
    write_sums(root, folders(root))
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
    text = declared.sub(rf"\g<1>{app}.v{version}\2", model.read_text(encoding="utf-8-sig"), count=1)
    model.write_text(text, encoding="utf-8")
    for file in (one for one in path.rglob("*") if one.suffix in {".py", ".proto"}):
        said = file.read_text(encoding="utf-8", errors="surrogateescape")
        kept = without_ignores(said, file.suffix)
        if kept != said:
            file.write_text(kept, encoding="utf-8", errors="surrogateescape")


def _constants(newest: Folder, name: str) -> str:
    """Return the newest folder's code with a new title, without completed work.

    That is `drop`, `rename`, `transforms`, `up` and `down`, the code that only those need, and imports from
    older folders.
    """
    file = newest.path / "__init__.py"
    code = _utf8(newest, file)
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise newest.error(f"SyntaxError: {error.msg}", error.lineno or 1, file) from error
    cuts: list[tuple[int, int, bytes]] = []
    done: list[ast.keyword] = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if _called(call) == "Migration":
            for argument in (item for item in call.keywords if item.arg in _DONE):
                cuts.append(_argument(code, call, argument))
                done.append(argument)
    gone = _Statements(newest, tree, done).gone()
    names = {name for node in gone for name in _bound(node)}
    for node in tree.body:
        if node in gone:
            cuts.append(_statement(code, tree, node))
        elif "__all__" in _bound(node) and isinstance(node, ast.Assign | ast.AugAssign):
            cuts += _elements(code, node.value, names)
    if ast.get_docstring(tree) is not None:
        cuts.append((*_span(code, tree.body[0]), f'"""{_title(name)}"""'.encode()))
    for start, end, text in sorted(cuts, reverse=True):
        code = code[:start] + text + code[end:]
    return code.decode()


def _utf8(newest: Folder, file: Path) -> bytes:
    """Return the code as UTF-8 without a byte order mark, with Unix line ends."""
    raw = file.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding).removeprefix("\ufeff")
    except (SyntaxError, UnicodeDecodeError) as error:
        raise newest.error(f"cannot be read as Python: {error}", file=file) from error
    if encoding not in {"utf-8", "utf-8-sig"}:
        first, second, rest = (*text.split("\n", 2), "", "")[:3]
        kept = [line for line in (first, second) if _COOKIE.match(line) is None]
        text = "\n".join([*kept, rest])
    return text.replace("\r\n", "\n").replace("\r", "\n").encode()


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


class _Statements:
    """The statements of a folder's code, and the names that each of them binds and uses."""

    def __init__(self, newest: Folder, tree: ast.Module, done: list[ast.keyword]) -> None:
        self._newest = newest
        self._body = tree.body
        self._uses = {node: _used(node, done) for node in tree.body}
        self._by_done = {name for argument in done for name in _used(argument, [])}

    def gone(self) -> set[ast.stmt]:
        """Return the statements that a copy omits. No remaining statement uses them."""
        needed = self._reached({"MIGRATION"} | _asked_for(self._newest.path))
        gone = {node for node in self._body if node not in needed and self._is_older(node)}
        while more := {one for one in self._body if one not in needed | gone and self._depends(one, gone)}:
            gone |= more
        only = {
            node
            for node in self._reached(self._by_done) - needed - gone
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
        }
        while kept := {node for node in only if self._is_used(node, only | gone)}:
            only -= kept
        return gone | only

    def _reached(self, names: set[str]) -> set[ast.stmt]:
        """Return the statements that bind these names, and all statements that those use."""
        found: set[ast.stmt] = set()
        while more := {node for node in self._body if node not in found and _bound(node) & names}:
            found |= more
            names = names.union(*(self._uses[node] for node in more))
        return found

    def _depends(self, node: ast.stmt, gone: set[ast.stmt]) -> bool:
        return "__all__" not in _bound(node) and any(self._uses[node] & _bound(one) for one in gone)

    def _is_used(self, node: ast.stmt, without: set[ast.stmt]) -> bool:
        return any(self._uses[user] & _bound(node) for user in self._body if user not in without)

    def _is_older(self, node: ast.stmt) -> bool:
        """Whether a statement only imports from other folders of migrations."""
        if isinstance(node, ast.If) and not node.orelse:
            return all(self._is_older(one) for one in node.body)
        package = self._newest.package.rpartition(".")[0]
        if isinstance(node, ast.ImportFrom):
            return node.level > 1 or (node.module or "").startswith(f"{package}.v")
        return isinstance(node, ast.Import) and all(one.name.startswith(f"{package}.v") for one in node.names)


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    for one in ast.walk(node):
        if isinstance(one, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in one.names}
    return names


def _used(node: ast.AST, without: list[ast.keyword]) -> set[str]:
    """Return the names that a statement uses, including forward references, except in the arguments
    `without`.
    """
    names, todo = set[str](), [node]
    while todo:
        one = todo.pop()
        if one in without:
            continue
        if isinstance(one, ast.Name):
            names.add(one.id)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isidentifier():
            names.add(one.value)
        todo += ast.iter_child_nodes(one)
    return names


def _asked_for(folder: Path) -> set[str]:
    """Return the names that other files of the folder import from its `__init__.py`."""
    names: set[str] = set()
    for file in (one for one in folder.rglob("*.py") if one.name != "__init__.py"):
        if file.name.startswith(("bootstrap", "test_")) or file.parent.name == "tests":
            continue  # not copied
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is None:
                names |= {alias.name for alias in node.names}
    return names


def _statement(code: bytes, tree: ast.Module, node: ast.stmt) -> tuple[int, int, bytes]:
    """Return the cut for a statement with the comments directly above it.

    It is replaced by `pass` if another statement shares its lines.
    """
    start, end = _span(code, node)
    others = (one for one in tree.body if one is not node)
    if any(one.end_lineno == node.lineno or one.lineno == node.end_lineno for one in others):
        return start, end, b"pass"
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    lines = code.split(b"\n")
    while first > 1 and lines[first - 2].startswith(b"#") and not lines[first - 2].startswith(b"#!"):
        first -= 1
    start = sum(len(line) + 1 for line in lines[: first - 1])
    rest = re.match(rb"[^\n]*\n*", code[end:])  # a trailing comment, and blank lines
    return start, end + (rest.end() if rest else 0), b""


def _elements(code: bytes, value: ast.expr, names: set[str]) -> list[tuple[int, int, bytes]]:
    """Return the cuts for list elements that are among the names, each with the comma after it."""
    cuts = []
    for one in getattr(value, "elts", []):
        if isinstance(one, ast.Constant) and one.value in names:
            start, end = _span(code, one)
            comma = re.match(rb"\s*,\s*", code[end:])
            cuts.append((start, end + (comma.end() if comma else 0), b""))
    return cuts


def _argument(code: bytes, call: ast.Call, node: ast.keyword) -> tuple[int, int, bytes]:
    """Return the cut for an argument, from the end of the previous one; for the first, with the comma
    after it.
    """
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
    table = name.removeprefix("create_").removeprefix("add_").strip("_")[:63] or "items"
    table = table if table.isidentifier() else f"t_{table}"
    model = "".join(word.capitalize() for word in table.removesuffix("s").split("_")) or "Row"
    model = f"{model}Row" if model in _TAKEN else model
    constant = f"{table.upper()}_TABLE" if table.upper() in _TAKEN else table.upper()
    words = {
        "app": app,
        "version": version,
        "title": _title(name),
        "table": table,
        "constant": constant,
        "model": model,
    }
    path.mkdir()
    (path / "model.proto").write_text(_MODEL.format(**words), encoding="utf-8")
    (path / "__init__.py").write_text(_CONSTANTS.format(**words), encoding="utf-8")
    (path / "testdata.py").write_text(_TESTDATA.format(**words), encoding="utf-8")
