"""Every option of `everlog serve` as flag, key and variable, from the command line's own definitions."""

from __future__ import annotations

from importlib import import_module

import click

from _generate.markdown import cell

MAIN = "everlog.console.cli.main"
CONFIG = "everlog.console.cli.serve_config"


def markdown() -> str:
    """The table of settings, as Markdown."""
    config = import_module(CONFIG)
    lines = ["| flag | key | variable | |", "|---|---|---|---|"]
    for param in config.settable(import_module(MAIN).command("serve")):
        key, what = config.key_of(param), "databases, by name"
        flag = "`NAME=URL`"
        if isinstance(param, click.Option):
            flag, what = f"`--{key}`", str(param.help).partition("  [")[0]
        shown = "" if param.name in config.NOT_IN_FILE else f"`{key}`"
        lines.append(f"| {flag} | {shown} | `{config.variable_of(param)}` | {cell(what)} |")
    return "\n".join(lines)
