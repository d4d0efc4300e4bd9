"""Fleet plans: the commands of fleet that survey the members, and plan and approve their upgrades.

drift                           surveys, compared with each other
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Duration, Settings, common, pass_settings
from everlog.console.cli.top import plain
from everlog.console.output import show_progress
from everlog.rpc.address import is_url, without_secrets
from everlog.store.errors import OpenError, quantity

if TYPE_CHECKING:
    from everlog.fleet.drift import Group
    from everlog.fleet.members_file import Surveyed
    from everlog.fleet.plan import Refusal

NAMES_SHOWN = 20  # of members, in a line

select_option = click.option(
    "--select",
    default="",
    metavar="SELECTOR",
    help="Only these members, as region=eu,!canary or name=shop-7.",
)
survey_option = click.option(
    "--survey-timeout",
    "survey_s",
    type=Duration(),
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="Longest wait for the members to describe themselves.",
)


def ledger(settings: Settings) -> Any:
    """Return the open ledger. Raises OpenError for a database that is not at a server."""
    if not is_url(settings.url):
        raise OpenError(
            "expected the ledger of a fleet at its server, everlog://HOST:PORT/DATABASE, found"
            f" {without_secrets(settings.url)}"
        )
    return open_database(settings)


@click.command()
@select_option
@click.option(
    "--members",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Compare the members in this file (TOML) instead of those of a coordinator.",
)
@survey_option
@common
@pass_settings
@click.pass_context
def drift(ctx: click.Context, settings: Settings, *, select: str, file: Path | None, survey_s: float) -> None:
    """Show members whose version, folders or schema differ from those of most, and edited or missing folders.
    Exit with 1 if there are any, or if a member cannot be surveyed.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet drift
      everlog fleet drift --members shops.toml --select region=eu
    """
    from everlog.fleet.drift import drift as drift_of

    surveyed = _surveyed(settings, select, file, survey_s)
    groups = drift_of(surveyed.surveys)
    if settings.json:
        output.echo(
            {
                "groups": [
                    {"version": one.version, "members": one.members, "differences": one.differences}
                    for one in groups
                ],
                "problems": [told_problem(one) for one in surveyed.problems],
            }
        )
    else:
        for group in groups:
            for line in _lines_of(group):
                click.echo(plain(line))
        for one in surveyed.problems:
            click.echo(plain(f"not surveyed: {one}"))
    if surveyed.problems or len(groups) > 1 or any(group.differences for group in groups):
        ctx.exit(1)


def _surveyed(settings: Settings, select: str, file: Path | None, survey_s: float) -> Surveyed:
    """Return the surveys of the members of a file, or of those that are connected with the coordinator."""
    from everlog.fleet.members_file import MemberSource, read_members, survey_all
    from everlog.fleet.selector import Selector
    from everlog.rpc.connect import open as open_at

    selector = Selector.parse(select)
    if file is None:
        with ledger(settings) as db, show_progress() as progress:
            found: Surveyed = db.fleet.survey(selector, deadline_s=survey_s, progress=progress)
            return found

    def opened(member: MemberSource) -> Any:
        return open_at(
            member.url,
            migrations=member.migrations or settings.migrations_or_none,
            migrate=False,
            create=False,
            fleet="",
        )

    return survey_all(read_members(file), opened, selector=selector)


def _lines_of(group: Group) -> list[str]:
    names = ", ".join(group.members[:NAMES_SHOWN])
    more = len(group.members) - NAMES_SHOWN
    count = quantity(len(group.members), "member")
    others = f" and {more:,} more" if more > 0 else ""
    lines = [f"{count} at version {group.version}: {names}{others}"]
    return lines + [f"  {one}" for one in group.differences]


def told_problem(one: Refusal) -> dict[str, Any]:
    """Return a member that was not surveyed, or cannot be upgraded, in the form of --json."""
    return {"database": one.database or None, "name": one.name, "problem": one.reason}
