"""Approve: the commands propose, approve, reject and migrations (log, cancel)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Settings, common, pass_settings, writes
from everlog.console.output import show_progress
from everlog.console.web.proposal import told
from everlog.migrations.proposal import Proposal

if TYPE_CHECKING:
    from everlog.migrations.proposal import Proposal


@click.command()
@writes
@common
@pass_settings
def propose(settings: Settings, *, actor: str, reason: str) -> None:
    """Propose the pending migrations for approval.

    A server started with --migrate checked proposes them itself. Use this command to propose again
    after a rejection or a failure.

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
@click.option("--despite-errors", is_flag=True, help="Approve a plan with errors; needs --reason.")
@writes
@common
@pass_settings
def approve(settings: Settings, /, digest: str, **by: Any) -> None:
    """Approve a proposal, and apply it.

    DIGEST is the digest of the plan you reviewed, or its first six digits. The approval is refused,
    with the difference, if anything has changed since. It is also refused for a plan with errors, such
    as two rows with the same unique value, unless --despite-errors is given.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights approve 1f4c09 --reason "looked at it with bob"
    """
    settings.resume = (
        "the approved migration continues where the database is; `everlog migrations proposals` shows its"
        " state"
    )
    with open_database(settings) as db, show_progress() as progress:
        done = db.migrations.approve(digest, progress=progress, **by)
    _print(settings, done)


@click.command()
@click.argument("digest")
@writes
@common
@pass_settings
def reject(settings: Settings, /, digest: str, **by: Any) -> None:
    """Reject a proposal.

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
    """List proposed migrations and their outcome, or cancel a running migration.

    \b
    Examples:
      everlog migrations proposals --verbose
      everlog migrations cancel --actor ann --reason "it slows the shop down"
    """


@migrations.command()
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="PROPOSALS",
    help="Print only the newest N proposals.  [default: all]",
)
@common
@pass_settings
def proposals(settings: Settings, *, limit: int | None) -> None:
    """List proposals, oldest first: who proposed and decided, when, why, and the outcome.

    --verbose prints the steps of each plan; --json prints one object for each proposal.

    \b
    Examples:
      everlog migrations proposals
      everlog -u everlog://db.example.com/flights migrations proposals --limit 1 --json | jq .state
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
    """Cancel the running migration, and restore the previous state.

    The migration may be running in a server, or have stopped. The log records who cancelled it and why.
    A restart does not apply it again. Where migrations need approval, only approvers can cancel.

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
