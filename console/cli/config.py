"""Config: the commands config and completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from everlog.console import output
from everlog.console.cli.options import Settings, common, pass_settings
from everlog.console.cli.serve_config import (
    HIDDEN,
    PREFIX,
    Configured,
    settable,
    shown,
    variable_of,
)
from everlog.rpc.address import without_secrets
from everlog.store import environment
from everlog.store.errors import Error, OpenError

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.option(
    "--config",
    "file",
    envvar="EVERLOG_SERVE_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also check this file of `serve`, and show all options of `serve`.  [env: EVERLOG_SERVE_CONFIG]",
)
@common
@pass_settings
def config(settings: Settings, *, file: Path | None) -> None:
    """Print each setting with its value and its source: flag, environment, a file such as .env, or
    default.

    Options of `serve` follow: all of them with --config, otherwise those that variables set. Secrets are
    hidden. Unknown variables that start with EVERLOG_ are reported.

    \b
    Examples:
      everlog config
      everlog config --config serve.toml
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
    for setting, value, source, purpose in _serving(file):
        if settings.json:
            output.echo(
                {"setting": f"serve --{setting}", "value": value, "source": source, "purpose": purpose}
            )
        else:
            click.echo(f"{f'serve --{setting}':29} {value or '-':30} {source:12} {purpose}")


def _serving(file: Path | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, value, source and purpose of the options of `serve`. Raises Error for an invalid value."""
    from everlog.console.cli.serve import serve

    assert isinstance(serve, Configured)
    values = serve.values(["--config", str(file)] if file else [])
    for param in settable(serve):
        _, source = values.origins[str(param.name)]
        if param.name == "config" or not (
            file or (variable_of(param).startswith(PREFIX) and source != "default")
        ):
            continue  # the other variables are settings of several commands
        yield shown(param, values.origins[str(param.name)])


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
