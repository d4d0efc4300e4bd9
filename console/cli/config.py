"""Config: the commands config and completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from everlog.console import output
from everlog.console.cli.options import Settings, common, pass_settings
from everlog.rpc.address import without_secrets
from everlog.store import environment
from everlog.store.errors import Error, OpenError

HIDDEN = "(set, not shown)"
SHELLS = ("bash", "zsh", "fish")


@click.command()
@common
@pass_settings
def config(settings: Settings) -> None:
    """Print each setting with its value and its source: flag, environment, a file such as .env, or
    default.

    Secrets are hidden. Unknown variables that start with EVERLOG_ are reported.

    \b
    Examples:
      everlog config
      everlog -u file:flights.db --env-file production.env config --json
    """
    flags = {
        settings.env: settings.url_given,
        "EVERLOG_MIGRATIONS_DIR": settings.migrations_given,
        "EVERLOG_SCHEMA_FILE": settings.schema_given,
    }
    defaults = {"EVERLOG_MIGRATIONS_DIR": settings.migrations}
    names = {settings.env: "URL of the database", **{k: v.purpose for k, v in environment.SETTINGS.items()}}
    for name, purpose in names.items():
        value, source = flags.get(name), "flag"
        if value is None:
            value, source = environment.variable(name), environment.source(name)
        if not value and not source:
            value, source = defaults.get(name, ""), "default"
        value = _public(name, value, is_url=name == settings.env)
        if settings.json:
            output.echo({"setting": name, "value": value, "source": source, "purpose": purpose})
        else:
            click.echo(f"{name:29} {value or '-':30} {source:12} {purpose}")


def _public(name: str, value: str, *, is_url: bool) -> str:
    setting = environment.SETTINGS.get(name)
    if value and setting is not None and setting.secret:
        return HIDDEN
    if not value or not (is_url or name == "DATABASE_URL"):
        return value
    try:
        return without_secrets(value)
    except OpenError:  # an invalid URL, which may contain a secret
        return HIDDEN


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@common
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

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
    except RuntimeError as error:  # bash is too old, or not installed
        raise Error(str(error)) from None
    click.echo(source)
