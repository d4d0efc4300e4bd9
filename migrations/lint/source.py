"""Lint source: positions in a model.proto, and comments that ignore findings.

    text ─▶ tokens ─▶ lines   "Airport"          the message
                              "Airport.name"     a field of it, an enum value, or a oneof
                              "Airport.Place"    a nested message
                    ─▶ comments

The positions come from the text alone, without protoc. Validating the text is protoc's task: here everything
that looks like a declaration is one. The grammar: https://protobuf.com/docs/language-spec.

    NAME = field("name", 2, STRING)  # everlog: ignore[wire/field-type] rows were never written
    // everlog: ignore[loss/field-removed, json/field-name] unread since May
    message Airport {

A comment after code applies to its own line; a comment on a line of its own applies to the next line of code.
Comments without a reason, with an unknown rule, or that ignore nothing are findings themselves.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from google.protobuf.descriptor import EnumValueDescriptor

from everlog.migrations.lint.rules import RULES, Findings

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>[\w.]+)
      | (?P<mark>[^\s\w])""",
    re.VERBOSE | re.DOTALL,
)
_OPENS = {"message", "enum", "oneof", "extend", "group"}


class Comment(NamedTuple):
    """A comment; `alone` if nothing else is on its line."""

    line: int
    text: str
    alone: bool


class ProtoText:
    """The text of a model.proto. `lines`: the lines of its declarations, by full name without the package."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self.comments: list[Comment] = []
        self._text = text
        self._scopes: list[str | None] = []  # None: its content belongs to the enclosing scope
        statement: list[tuple[str, int]] = []
        skipped = 0  # depth inside the options of a field, or a value in braces
        for word, line in self._tokens():
            if skipped or word == "[" or (word == "{" and statement[:1] and statement[0][0] == "option"):
                skipped += (word in {"[", "{"}) - (word in {"]", "}"})
            elif word == "{":
                self._open(statement)
                statement = []
            elif word == "}":
                if self._scopes:
                    self._scopes.pop()
                statement = []
            elif word == ";":
                self._declare(statement)
                statement = []
            else:
                statement.append((word, line))

    def line(self, full_name: str) -> int:
        """Return the line of a declaration, or of the nearest enclosing one, or 1."""
        name = full_name
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return self.lines.get(name, 1)

    def line_of(self, descriptor: Any) -> int:
        """Return the line of a message, field, enum or value, by its descriptor."""
        package = descriptor_file(descriptor).package
        return self.line(full_name(descriptor).removeprefix(f"{package}."))

    def _tokens(self) -> Iterator[tuple[str, int]]:
        line, at = 1, 0
        for found in _TOKEN.finditer(self._text):
            line += self._text.count("\n", at, found.start())
            at = found.start()
            if found.lastgroup == "comment":
                start = self._text.rfind("\n", 0, at) + 1
                self.comments.append(Comment(line, found[0], not self._text[start:at].strip()))
            else:
                yield found[0], line

    def _open(self, statement: list[tuple[str, int]]) -> None:
        words = [word for word, _ in statement]
        kind = next((at for at, word in enumerate(words) if word in _OPENS), None)
        if kind is None or kind + 1 >= len(words):
            self._scopes.append(None)
            return
        name, line = statement[kind + 1]
        self._note(name, line)
        self._scopes.append(name if words[kind] in {"message", "enum"} else None)

    def _declare(self, statement: list[tuple[str, int]]) -> None:
        words = [word for word, _ in statement]
        if "=" in words and words[0] not in {"option", "syntax", "edition"}:
            at = words.index("=")
            if at:
                self._note(*statement[at - 1])

    def _note(self, name: str, line: int) -> None:
        scope = [part for part in self._scopes if part]
        self.lines.setdefault(".".join([*scope, name]), line)


def full_name(descriptor: Any) -> str:
    """Return the name as `package.Message.name`; an enum value is inside its enum here, not beside it."""
    owner = _enum_of(descriptor)
    return str(descriptor.full_name) if owner is None else f"{owner.full_name}.{descriptor.name}"


def descriptor_file(descriptor: Any) -> Any:
    """Return the file that declares a descriptor."""
    return (_enum_of(descriptor) or descriptor).file


def _enum_of(descriptor: Any) -> Any:
    """Return the enum of a value; None for anything else."""
    return descriptor.type if isinstance(descriptor, EnumValueDescriptor) else None


_IGNORE = re.compile(r"everlog:\s*ignore\[([^\]]*)\][ \t:-]*(.*?)\s*(?:\*/)?$", re.DOTALL)
REASONED = {"person/removed"}  # ignored only with a reason
_GENERATED = re.compile(r"_pb2(_grpc)?\.py$")


class _Ignore(msgspec.Struct):
    """One rule id in one comment."""

    file: str
    line: int  # of the comment
    covers: int
    id: str
    reason: str
    used: bool = False


def set_aside_ignored(found: Findings, folders: Iterable[Path]) -> None:
    """Move the ignored findings of these folders aside, and add findings about the comments. Read-only."""
    ignores = [ignore for folder in folders for ignore in _of_folder(folder)]
    by_place: dict[tuple[str, int, str], _Ignore] = {(i.file, i.covers, i.id): i for i in ignores}
    kept = []
    for finding in found.found:
        ignore = by_place.get((finding.file, finding.line, finding.id))
        if (
            ignore is None
            or not RULES[finding.id].ignorable
            or not (ignore.reason or finding.id not in REASONED)
        ):
            kept.append(finding)
        else:
            ignore.used = True
            found.ignored.append(msgspec.structs.replace(finding, ignored=ignore.reason))
    found.found = kept
    broken = {str(Path(finding.file).parent) for finding in kept if finding.id.startswith("load/")}
    for ignore in ignores:
        _judge(ignore, found, whole=str(Path(ignore.file).parent) not in broken)


def without_ignores(text: str, suffix: str) -> str:
    """Return the text of a `.py` or `.proto` without comments that ignore findings, which concern another
    change.

    The rest of such a comment stays.
    """
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    for comment in reversed(_comments(text, suffix)):
        ignore = _IGNORE.search(comment.text)
        if ignore is None:
            continue
        line = starts[comment.line - 1]
        at = text.index(comment.text, line)
        if not comment.text.startswith("/*"):  # it ends at the end of its line
            at = text.find("\n", line) if "\n" in text[line:] else len(text)
            at -= len(comment.text)
        end, close = at + len(comment.text), "*/" if comment.text.startswith("/*") else ""
        said = comment.text[: ignore.start()].rstrip()
        if said.strip("#/* "):
            text = f"{text[:at]}{said}{f' {close}' if close else ''}{text[end:]}"
        elif comment.alone and text[end : end + 1] in {"\n", ""}:
            text = text[:line] + text[end + 1 :]
        else:
            text = text[:at].rstrip(" \t") + text[end:]
    return text


def _judge(ignore: _Ignore, found: Findings, *, whole: bool) -> None:
    where, rule = f"{ignore.file}:{ignore.line}", RULES.get(ignore.id)
    if rule is None:
        found.add("ignore/unknown", where, f"unknown rule {ignore.id!r}")
    elif not rule.ignorable:
        found.add("ignore/unknown", where, f"{ignore.id} cannot be ignored: fix it")
    elif not ignore.used and whole and not rule.depends:
        found.add("ignore/unused", where, f"line {ignore.covers} has no finding {ignore.id}")
    if rule is not None and not ignore.reason:
        found.add("ignore/no-reason", where, f"{ignore.id} is ignored without a reason")


def _of_folder(folder: Path) -> Iterator[_Ignore]:
    for path in sorted(folder.iterdir()):
        if path.suffix not in {".py", ".proto"} or _GENERATED.search(path.name):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if "everlog:" not in text:
            continue
        comments = _comments(text, path.suffix)
        alone = {comment.line for comment in comments if comment.alone}
        lines = text.splitlines()
        for comment in comments:
            for match in _IGNORE.finditer(comment.text):
                covers = _next(comment.line, alone, lines) if comment.alone else comment.line
                for id in match[1].split(","):
                    yield _Ignore(str(path.resolve()), comment.line, covers, id.strip(), match[2])


def _comments(text: str, suffix: str) -> list[Comment]:
    return ProtoText(text).comments if suffix == ".proto" else list(_python(text))


def _next(line: int, alone: set[int], lines: list[str]) -> int:
    line += 1
    while line <= len(lines) and (line in alone or not lines[line - 1].strip()):
        line += 1
    return line


def _python(text: str) -> Iterator[Comment]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                line, column = token.start
                yield Comment(line, token.string, not token.line[:column].strip())
    except (tokenize.TokenError, SyntaxError):
        return  # it does not load either, which is reported
