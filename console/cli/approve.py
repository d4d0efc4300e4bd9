"""Approve: pending migrations are proposed, and approved or rejected, by people.

Migrations: proposals, decisions and outcomes, and the cancellation of a running migration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Settings, common, pass_settings, writes
from everlog.console.output import shown
from everlog.console.web.proposal import told
from everlog.migrations.proposal import Proposal

if TYPE_CHECKING:
    from everlog.migrations.proposal import Proposal


@click.command()
@writes
@common
@pass_settings
def propose(settings: Settings, *, actor: str, reason: str) -> None:
    """Proposes the pending migrations, for somebody to approve.

    A server that was started with --migrate checked does so by itself; this proposes again what was
    rejected or has failed.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights propose --reason "the index is needed after all"
    """
    with open_database(settings) as db:
        made = db.migrations.propose(actor=actor, reason=reason)
    if made is None:
        if not settings.json:
            click.echo("Nothing to propose: the database is up to date")
        return
    _print(settings, made)


@click.command()
@click.argument("digest")
@click.option(
    "--despite-errors", is_flag=True, help="Though the plan has errors; --reason says why that is right."
)
@writes
@common
@pass_settings
def approve(settings: Settings, /, digest: str, **by: Any) -> None:
    """Approves a proposal, and has it applied.

    DIGEST is that of the plan that you were shown, or its first six digits. If anything has changed
    since, the approval is refused with the difference. It is also refused for a plan with errors: findings of
    lint, as two rows with one unique value, or steps that would fail.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights approve 1f4c09 --reason "looked at it with bob"
    """
    settings.resume = (
        "what was approved goes on where the database is; `everlog migrations log` tells how far"
    )
    with open_database(settings) as db, shown() as progress:
        done = db.migrations.approve(digest, progress=progress, **by)
    _print(settings, done)


@click.command()
@click.argument("digest")
@writes
@common
@pass_settings
def reject(settings: Settings, /, digest: str, **by: Any) -> None:
    """Rejects a proposal: it is not applied.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights reject 1f4c09 --reason "not on a Friday"
    """
    with open_database(settings) as db:
        done = db.migrations.reject(digest, **by)
    _print(settings, done)


def _print(settings: Settings, proposal: Proposal) -> None:
    if settings.json:
        output.echo(told(proposal))
        return
    plan = proposal.plan
    click.echo(f"{str(proposal.state).capitalize()}: {proposal.short}, migration to {plan.to_version}")
    if proposal.url:
        click.echo(f"  {proposal.url}")


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
        found = db.migrations.proposals()
    for one in found[-limit:] if limit else found:
        if settings.json:
            output.echo(told(one))
        else:
            _print_proposals(one, verbose=settings.verbose)


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
        done = db.migrations.cancel(actor=actor, reason=reason)
    if settings.json:
        output.echo({"version": done.version, "name": done.name, "seq": done.seq})
    else:
        click.echo(f"Cancelled: {done.title}{f' (commit {done.seq})' if done.seq else ''}")


def _print_proposals(proposal: Proposal, *, verbose: bool) -> None:
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
        words = [f"{event.seq:>8}", output.moment(event.time_ns), event.step]
        words += [word for word in (event.actor, event.reason, event.error) if word]
        words += ["(despite errors)"] if event.despite_errors else []
        words += [f"({event.proof})"] if event.actor else []
        click.echo("  ".join(words))
    if proposal.url:
        click.echo(f"          {proposal.url}")
