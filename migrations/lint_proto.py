"""Lint proto: where things are in a model.proto, found in its text alone, without protoc.

    text ─▶ tokens ─▶ lines   "Airport"          the message
                              "Airport.name"     a field of it, a value of an enum, or a oneof
                              "Airport.Place"    a message in it
                    ─▶ comments

What a text must be like is protoc's to say: here whatever looks like a declaration is one. The
grammar: https://protobuf.com/docs/language-spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import EnumValueDescriptor

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
    """The text of a model.proto: `lines` of what it declares by full name without the package."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self.comments: list[Comment] = []
        self._text = text
        self._scopes: list[str | None] = []  # None: what is in it belongs to the scope around it
        statement: list[tuple[str, int]] = []
        skipped = 0  # how deep in the options of a field, or in a value with braces
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
        """The line of a declaration, or that of the nearest one around it; 1 if there is none."""
        name = full_name
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return self.lines.get(name, 1)

    def line_of(self, descriptor: Any) -> int:
        """The line of a message, field, enum or value, by its descriptor."""
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
    """As `package.Message.name`; a value of an enum is in its enum here, not beside it."""
    owner = _enum_of(descriptor)
    return str(descriptor.full_name) if owner is None else f"{owner.full_name}.{descriptor.name}"


def descriptor_file(descriptor: Any) -> Any:
    """The file in which something is declared."""
    return (_enum_of(descriptor) or descriptor).file


def _enum_of(descriptor: Any) -> Any:
    """The enum that a value belongs to; None for what is no value of one."""
    return descriptor.type if isinstance(descriptor, EnumValueDescriptor) else None
