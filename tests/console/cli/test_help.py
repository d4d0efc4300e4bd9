"""Every --help: starts in the imperative, ends with a full stop, repeats no word, and gives each default or
unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from everlog.console.cli.main import COMMANDS, cli
from everlog.console.cli.main import command as command_of
from everlog.console.cli.options import Common


def commands() -> Iterator[tuple[str, click.Command]]:
    """Return all commands by their words, including those of groups."""
    for name in COMMANDS:
        found = command_of(name)
        yield name, found
        if isinstance(found, click.Group):
            for inner, one in found.commands.items():
                yield f"{name} {inner}", one


each_command = pytest.mark.parametrize(
    "command", [one for _, one in commands()], ids=[name for name, _ in commands()]
)


def options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


@each_command
def test_a_help_starts_with_an_imperative_and_ends_its_sentence(command: click.Command) -> None:
    first = (command.help or "").split("\n\n")[0]
    word = first.split()[0]
    assert re.fullmatch(r"[A-Z][a-z]+", word), first
    assert not word.endswith("s"), f"expected an imperative, found {word!r}"
    assert first.rstrip().endswith((".", ".`"))


@each_command
def test_no_word_of_a_help_stands_twice_in_a_row(command: click.Command) -> None:
    sentences = (command.help or "").split("\b")[0]  # without the examples
    for text in (sentences, *(option.help or "" for option in options(command))):
        assert not re.search(r"\b([A-Za-z]+)\s+\1\b", text), text


@each_command
def test_each_option_has_a_sentence_and_a_value_its_unit_or_default(command: click.Command) -> None:
    for option in options(command):
        words = option.help or ""
        assert re.match(r"(?:With --[a-z-]+: )?[A-Z]", words), (option.opts, words)
        assert re.search(r"\.(?:  \[[^\]]+\])?$", words), (option.opts, words)
        if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
            assert option.metavar or "[default" in words or option.show_default, (option.opts, words)


@each_command
def test_the_actor_of_a_commit_may_come_from_the_environment(command: click.Command) -> None:
    for option in options(command):
        if "--actor" in option.opts and (option.help or "").startswith("Actor"):
            assert option.envvar == "EVERLOG_ACTOR"


@each_command
def test_a_help_describes_its_own_options_and_names_the_shared_ones(command: click.Command) -> None:
    context = click.Context(command, info_name=command.name, parent=click.Context(cli, info_name="everlog"))
    text = "".join(command.get_help(context).split())  # lines also break at hyphens
    described, _, named = text.partition("Optionsofeverycommand:")
    for option in options(command):
        word, shared = max(option.opts, key=len), isinstance(option, Common)
        assert (word in re.findall(r"--[a-z-]+", named.split(".")[0])) == shared, word
        words = (option.help or "").split("  [")[0]
        assert "".join(words.split()) in described or shared, word


def test_the_group_lists_each_command_with_its_summary() -> None:
    context = click.Context(cli, info_name="everlog")
    listed = cli.get_help(context)
    for name in COMMANDS:
        assert re.search(rf"^  {re.escape(name)} +[A-Z]", listed, re.MULTILINE), name
