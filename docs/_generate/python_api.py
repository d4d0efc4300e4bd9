"""The public names of the library, from their signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from _generate.markdown import escaped
from everlog.rpc import handles
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase

# The modules whose names are public, and what each is for.
FACES = {
    "everlog": "Open a database, read and write it.",
    "everlog.migrations": "What a migration's folder imports, and the calls behind the commands.",
    "everlog.testing": "Databases for tests ([testing](../testing.md)).",
    "everlog.consumers": "Followers and sinks ([following](../following.md)).",
    "everlog.audit": "Backup, restore and archive ([backup](../backup.md)).",
}
# Classes that their names do not lead to, with the heading that shows why.
BESIDE = {
    "everlog": (
        ("everlog.rpc.client.database", "RemoteDatabase"),
        *(("everlog.rpc.handles", handle) for handle in handles.__all__),
        ("everlog.audit.prover", "Prover"),
    )
}

# The calls of a database are those of both kinds. A name that one of the two lacks serves other modules.
SAME: dict[type, type] = {EmbeddedDatabase: RemoteDatabase, RemoteDatabase: EmbeddedDatabase}


def markdown() -> str:
    """The reference of the Python API, as Markdown."""
    return "\n".join(line for face, about in FACES.items() for line in _face(face, about))


def _face(name: str, about: str) -> Iterator[str]:
    module = import_module(name)
    public = {each: getattr(module, each) for each in module.__all__}
    for home, each in BESIDE.get(name, ()):
        public[each] = getattr(import_module(home), each)
    yield f"\n## {name}\n\n{about}\n"
    yield f"```{{py:module}} {name}\n```\n"
    functions = {key: value for key, value in public.items() if inspect.isfunction(value)}
    classes = {key: value for key, value in public.items() if inspect.isclass(value)}
    errors = [key for key, value in classes.items() if issubclass(value, Exception)]
    for key, function in functions.items():
        yield from _entry("function", f"{key}{_signature(function)}", inspect.getdoc(function), ":")
    for key, found in classes.items():
        if key not in errors:
            yield f"\n### {name}.{key}\n"
            yield from _class(key, found)
    if errors:
        yield f"\n### Errors of {name}\n"
        yield "Causes and remedies: [errors](../errors.md).\n"
        for key in errors:
            yield from _entry("exception", key, inspect.getdoc(classes[key]), ":")
    others = sorted(public.keys() - functions.keys() - classes.keys())
    if others:
        yield f"\n### Constants and type aliases of {name}\n"
        yield ", ".join(f"`{each}`" for each in others) + "\n"


def _class(name: str, found: type) -> Iterator[str]:
    members = _members(found)
    inner = [
        *_attributes(found),
        *(line for key, member in members for line in _member(key, member, "::")),
    ]
    yield from _entry("class", f"{name}{_signature(found)}", inspect.getdoc(found), ":::", inner)


def _members(found: type) -> list[tuple[str, Any]]:
    """The public methods and properties of a class, in the order of the source, its own first."""
    seen: dict[str, Any] = {}
    for base in found.__mro__:
        if base.__module__.startswith("everlog.") and not base.__module__.endswith("_pb2"):
            for key, member in vars(base).items():
                if _is_public(found, key) and _documented(member):
                    seen.setdefault(key, member)
    return list(seen.items())


def _is_public(found: type, key: str) -> bool:
    return not key.startswith("_") and hasattr(SAME.get(found, found), key)


def _documented(member: Any) -> bool:
    member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return inspect.isfunction(member) and bool(member.__doc__)


def _member(name: str, member: Any, fence: str) -> Iterator[str]:
    if isinstance(member, property):
        kind = _annotation(inspect.signature(member.fget).return_annotation) if member.fget else ""
        yield from _entry("property", name, inspect.getdoc(member), fence, options=[f":type: {kind}"])
        return
    kind = {classmethod: "classmethod", staticmethod: "staticmethod"}.get(type(member), "")
    function = getattr(member, "__func__", member)
    options = [f":{kind}:"] if kind else []
    signature = _signature(function, bound=kind != "staticmethod")
    yield from _entry("method", f"{name}{signature}", inspect.getdoc(function), fence, options=options)


def _attributes(found: type) -> Iterator[str]:
    """Annotated fields, with the comments above or behind them."""
    try:
        source = textwrap.dedent(inspect.getsource(found))
    except (OSError, TypeError):
        return
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.target.id.startswith("_") or (found in SAME and not _is_public(found, node.target.id)):
                continue
            comment = _above(lines, node.lineno - 1) or _behind(
                lines[node.end_lineno - 1 if node.end_lineno else 0]
            )
            kind = ast.unparse(node.annotation)
            yield from _entry("attribute", node.target.id, comment, "::", options=[f":type: {kind}"])


def _above(lines: list[str], number: int) -> str:
    found: list[str] = []
    while number and (line := lines[number - 1].strip()).startswith("#"):
        found.insert(0, line.lstrip("# "))
        number -= 1
    return " ".join(found)


def _behind(line: str) -> str:
    return line.partition("  # ")[2].strip()


def _entry(
    kind: str,
    signature: str,
    doc: str | None,
    fence: str,
    inner: list[str] | None = None,
    *,
    options: list[str] | None = None,
) -> Iterator[str]:
    """One directive of Sphinx's Python domain: methods stand in their class, in a longer fence."""
    bar = f"::{fence}"
    yield f"{bar}{{py:{kind}}} {signature}"
    yield from options or []
    yield ""
    yield _prose(doc or "")
    yield ""
    yield from inner or []
    yield f"{bar}\n"


def _prose(doc: str) -> str:
    """A docstring as Markdown. What is indented in it is drawn, or an example, and stays as it is."""
    return "\n".join(line if line.startswith("    ") else escaped(line) for line in doc.split("\n"))


class _Text:
    """An annotation or a default that is printed as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _signature(found: Any, *, bound: bool = True) -> str:
    """The arguments as they are written, without `self`; empty where a class has none."""
    try:
        signature = inspect.signature(found)
    except ValueError:
        return ""
    parameters = list(signature.parameters.values())
    if bound and parameters and parameters[0].name in {"self", "cls"}:
        parameters = parameters[1:]
    shown = [
        parameter.replace(annotation=_text(parameter.annotation), default=_default(parameter.default))
        for parameter in parameters
    ]
    gives = signature.empty if inspect.isclass(found) else _text(signature.return_annotation)
    return str(signature.replace(parameters=shown, return_annotation=gives))


def _text(annotation: Any) -> Any:
    return annotation if annotation is inspect.Signature.empty else _Text(_annotation(annotation))


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    if hasattr(annotation, "__forward_arg__"):
        return str(annotation.__forward_arg__)
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _default(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return default
    text = repr(default)
    return _Text("…" if text.startswith("<") else text)
