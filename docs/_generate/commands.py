"""Every command and option of `everlog`, from the command line's own definitions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

import click

from _generate.markdown import cell, escaped

MAIN = "everlog.console.cli.main"


def markdown() -> str:
    """The reference of the commands, as Markdown."""
    group: click.Group = import_module(MAIN).cli
    context = click.Context(group, info_name="everlog")
    shared = {name for name, _ in _options(group, context)}
    lines = ["## Options of every command", ""]
    lines += _table(_options(group, context))
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        lines += _command(command, f"everlog {name}", shared, 2)
    return "\n".join(lines)


def _command(command: click.Command, path: str, shared: set[str], level: int) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    yield f"\n{'#' * level} {path}\n"
    yield f"```text\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    yield from _help(command.help or "")
    own = [option for option in _options(command, context) if option[0] not in shared]
    yield from _table(own)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, f"{path} {name}", shared, level + 1)


def _help(text: str) -> Iterator[str]:
    """Paragraphs as Markdown; those that click does not wrap (marked by a backspace) as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            first, _, rest = paragraph.removeprefix("\b\n").partition("\n")
            if first.endswith(":"):
                yield f"{escaped(first)}\n"
            else:
                rest = f"{first}\n{rest}"
            yield f"```text\n{inspect.cleandoc(rest) if rest.startswith(' ') else rest}\n```\n"
        else:
            yield f"{escaped(' '.join(paragraph.split()))}\n"


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = (parameter.get_help_record(context) for parameter in command.params)
    return [record for record in records if record]


def _table(options: list[tuple[str, str]]) -> Iterator[str]:
    if options:
        yield "| option | |\n|---|---|"
        for name, text in options:
            escaped = name.replace("|", "\\|")
            yield f"| `{escaped}` | {cell(text)} |"
        yield ""
