"""Lint: the command lint, which checks pending migrations."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import directory_of, is_remote, open_database
from everlog.console.cli.options import Renamed, Settings, common, pass_settings
from everlog.console.output import shown as shown_progress
from everlog.rpc.address import without_secrets
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.migrations import Finding

_FORMATS = ("text", "json", "sarif", "github")


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="Format of the findings; --json is --format json.  [default: text]",
)
@click.option("--no-db", is_flag=True, help="Check only the folders, without a database.")
@click.option(
    "--since-version",
    "since",
    cls=Renamed,
    was=("--since",),
    type=int,
    default=0,
    metavar="VERSION",
    help="Check only migrations newer than this one.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings as well.")
@common
@pass_settings
@click.pass_context
def lint(
    ctx: click.Context, settings: Settings, *, form: str | None, no_db: bool, since: int, strict: bool
) -> None:
    """Report what pending migrations break, lose or omit. Exit with 1 on errors.

    With a database, the real rows are checked, and applied migrations are skipped. docs/lint.md lists
    all rules, and how to ignore one with a reason.

    \b
    Examples:
      everlog lint
      everlog lint --no-db --strict --format github
      everlog -u everlog://db.example.com/flights lint --format sarif > lint.sarif
    """
    from everlog import migrations
    from everlog.migrations import Severity

    with ExitStack() as stack:
        db = None if no_db else _database(settings, stack)
        check = migrations.lint if db is None else db.migrations.lint
        progress = stack.enter_context(shown_progress())
        found = check(settings.migrations, since=since, ignored=form == "sarif", progress=progress)
    _print(
        found, form or ("json" if settings.json else "text"), "" if db is None else without_secrets(db.url)
    )
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(finding.severity in failing and finding.ignored is None for finding in found):
        ctx.exit(1)


def _database(settings: Settings, stack: ExitStack) -> AnyDatabase | None:
    """The database that was named; None if there is none, and nobody asked for one by --url."""
    try:
        url = settings.url
    except OpenError:
        return None
    if settings.url_given is None and not is_remote(url) and not directory_of(url).exists():
        return None
    db = open_database(settings, read_only=True)
    stack.callback(db.close)
    return db


def _print(found: list[Finding], form: str, url: str) -> None:
    from everlog.migrations.lint import formats

    base = Path.cwd()
    if form == "sarif":
        output.echo(formats.sarif(found, base), indent=True)
        return
    for finding in found:
        line: Any = {"text": formats.text, "github": formats.github}.get(form)
        if line is None:
            output.echo(formats.as_dict(finding, base))
        else:
            click.echo(line(finding, base))
    if form == "text":
        over = f"with the rows of {url}" if url else "without a database"
        click.echo(f"{formats.count(found).capitalize()} ({over})")
