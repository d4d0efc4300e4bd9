"""Approve: pending migrations are proposed, and approved or rejected, by people."""

from __future__ import annotations

from typing import Any

import click

from everlog.console import deciding, text
from everlog.console.opening import open_database
from everlog.console.page import told
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, pass_settings, writes
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
        made = deciding.propose(db, settings, actor=actor, reason=reason)
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
        done = deciding.approve(db, settings, digest, progress=progress, **by)
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
        done = deciding.reject(db, settings, digest, **by)
    _print(settings, done)


def _print(settings: Settings, proposal: Proposal) -> None:
    if settings.json:
        text.echo(told(proposal))
        return
    plan = proposal.plan
    click.echo(f"{str(proposal.state).capitalize()}: {proposal.short}, migration to {plan.to_version}")
    if proposal.url:
        click.echo(f"  {proposal.url}")
