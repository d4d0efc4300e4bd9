"""Migrations: proposals, decisions and outcomes, and the cancellation of a running migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from everlog.console import deciding, text
from everlog.console.opening import open_database
from everlog.console.page import told
from everlog.console.settings import Settings, common, pass_settings, writes

if TYPE_CHECKING:
    from everlog.migrations.proposal import Proposal


@click.group()
@common
def migrations() -> None:
    """Lists proposed migrations and their outcome, and cancels a running one.

    \b
    Examples:
      everlog migrations log --verbose
      everlog migrations cancel --actor ann --reason "it slows the shop down"
    """


@migrations.command()
@click.option("--limit", type=click.IntRange(1), metavar="PROPOSALS", help="The newest so many.")
@common
@pass_settings
def log(settings: Settings, *, limit: int | None) -> None:
    """Lists proposals, oldest first: who proposed and decided, when, why, and the outcome.

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


@migrations.command()
@writes
@common
@pass_settings
def cancel(settings: Settings, *, actor: str, reason: str) -> None:
    """Cancels the running migration.

    It may run in a server, or have stopped on its way. The database is then as it was before the
    migration; the log says who cancelled it and why. A restart does not apply it again. Where migrations
    need approval, only approvers may cancel.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights migrations cancel --reason "it slows the shop down"
    """
    with open_database(settings) as db:
        done = deciding.cancel(db, settings, actor=actor, reason=reason)
    if settings.json:
        text.echo({"version": done.version, "name": done.name, "seq": done.seq})
    else:
        click.echo(f"Cancelled: {done.title}{f' (commit {done.seq})' if done.seq else ''}")


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
        words += ["(despite errors)"] if event.despite_errors else []
        words += [f"({event.proof})"] if event.actor else []
        click.echo("  ".join(words))
    if proposal.url:
        click.echo(f"          {proposal.url}")
