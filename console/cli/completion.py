"""Completion: what makes a shell complete commands, options and names of tables."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from everlog.console.cli.options import common
from everlog.store.errors import Error

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@common
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Prints the script that teaches a shell to complete `everlog`.

    \b
    Examples:
      eval "$(everlog completion bash)"                        in ~/.bashrc
      eval "$(everlog completion zsh)"                         in ~/.zshrc
      everlog completion fish > ~/.config/fish/completions/everlog.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    try:
        source = kind(ctx.find_root().command, {}, "everlog", "_EVERLOG_COMPLETE").source()
    except RuntimeError as error:  # bash that is too old, or not there
        raise Error(str(error)) from None
    click.echo(source)
