"""Migrations log: what was proposed, who decided, why, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from everlog.console import deciding, text
from everlog.console.opening import open_database
from everlog.console.page import told
from everlog.console.settings import Settings, common, pass_settings

if TYPE_CHECKING:
    from everlog.migrations.proposal import Proposal


@click.group()
@common
def migrations() -> None:
    """What has become of proposed migrations.

    \b
    Examples:
      everlog migrations log --verbose
    """


@migrations.command()
@click.option("--limit", type=click.IntRange(1), metavar="PROPOSALS", help="The newest so many.")
@common
@pass_settings
def log(settings: Settings, *, limit: int | None) -> None:
    """Lists proposals, oldest first: who proposed and decided, when, why, and what became of it.

    --verbose prints the steps of each plan; --json everything, an object a proposal.

    \b
    Examples:
      everlog migrations log
      everlog -u everlog://db.example.com/flights migrations log --limit 1 --json | jq .state
    """
    with open_database(settings, read_only=True) as db:
        found = deciding.proposals(db)
    for one in found[-limit:] if limit else found:
        if settings.json:
            text.echo(told(one))
        else:
            _print(one, verbose=settings.verbose)


def _print(proposal: Proposal, *, verbose: bool) -> None:
    plan = proposal.plan
    click.echo(
        f"{proposal.short}  {proposal.state}: from {plan.from_version or 'nothing'} to {plan.to_version}"
    )
    if verbose:
        for migration in plan.migrations:
            click.echo(f"    {migration.title}")
            for step in migration.steps:
                click.echo(f"      {step.text}")
        for one in plan.findings:
            click.echo(f"    {one.severity}: {one.file}:{one.line}: {one.text} [{one.id}]")
    for event in proposal.events:
        words = [f"{event.seq:>8}", text.moment(event.time_ns), event.step]
        words += [word for word in (event.actor, event.reason, event.error) if word]
        click.echo("  ".join(words))
    if proposal.url:
        click.echo(f"          {proposal.url}")
