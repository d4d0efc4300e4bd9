"""Commands that messages and help texts name exist, with their options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from everlog.console.cli.main import COMMANDS, cli, command

ROOT = Path(__file__).parents[3]
ROOMS = ("store", "audit", "migrations", "feed", "fleet", "rpc", "consumers", "console")
_COMMAND = re.compile(r"`everlog ((?:-[-a-z]+ \S+ )*)([^`]+)`")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][-a-z]*")
_GIVEN = "\N{HORIZONTAL ELLIPSIS}"  # stands for a value in an f-string


def named(source: str) -> Iterator[str]:
    """Yield the texts of a module."""
    inner: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inner.update(node.values)
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else _GIVEN for one in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            yield node.value


def commands() -> Iterator[str]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            source = file.read_text(encoding="utf-8")
            if "`everlog " not in source:
                continue
            for text in named(source):
                for found in _COMMAND.finditer(text):
                    yield " ".join("".join(found.groups()).split())


def options(one: click.Command) -> set[str]:
    return {word for param in one.params for word in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_that_a_message_names_exists(line: str) -> None:
    words = [word for word in line.split() if not word.startswith("-")]
    verb = next((word for word in words if word in COMMANDS), "")
    if not verb:
        assert line == "--help" or words[0] in {"COMMAND", "NAME", _GIVEN}, line
        return
    one, known = command(verb), options(cli)
    known |= options(one) | {"--help"}
    if isinstance(one, click.Group):
        for word in words:
            if word in one.commands:
                known |= options(one.commands[word])
    for option in _OPTION.findall(line):
        assert option in known, f"`everlog {line}`: {verb} has no option {option}"
