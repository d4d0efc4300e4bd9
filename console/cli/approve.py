"""Approve: the commands propose, approve, reject and migrations (proposals, show, cancel)."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Settings, common, pass_settings, writes
from everlog.console.output import show_progress
from everlog.store.errors import quantity

if TYPE_CHECKING:
    from everlog.migrations.details import Details
    from everlog.migrations.proposal import Event, Proposal


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
        output.echo(output.proposal_dict(proposal))
        return
    plan = proposal.plan
    click.echo(f"{str(proposal.state).capitalize()}: {proposal.short}, migration to {plan.to_version}")
    if proposal.url:
        click.echo(f"  {proposal.url}")


@click.group()
@common
def migrations() -> None:
    """Show migrations and their proposals, or cancel a running migration.

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
            output.echo(output.proposal_dict(one))
        else:
            _print_proposals(one, verbose=settings.verbose)


@migrations.command()
@click.argument("version", type=int)
@common
@pass_settings
def show(settings: Settings, *, version: int) -> None:
    """Show one migration: files, tables, bootstrap rows, and what happened to it.

    VERSION is its timestamp. An applied migration is shown as the log has it. --verbose prints the
    text of the files; --json prints everything.

    \b
    Examples:
      everlog migrations show 20260105093000
      everlog -u everlog://db.example.com/flights migrations show 20260105093000 --json | jq .events
    """
    with open_database(settings, read_only=True) as db:
        found = db.migrations.show(version)
    if settings.json:
        output.echo(output.details_dict(found))
    else:
        _print_details(found, verbose=settings.verbose)


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
    _print_events(proposal.events)
    if proposal.url:
        click.echo(f"          {proposal.url}")


def _print_events(events: Iterable[Event]) -> None:
    for event in events:
        words = [f"{event.seq:>8}", output.moment(event.time_ns), event.step]
        words += [word for word in (event.actor, event.reason, event.error) if word]
        words += ["(despite errors)"] if event.despite_errors else []
        words += [f"({event.proof})"] if event.actor else []
        click.echo("  ".join(words))


def _print_details(found: Details, *, verbose: bool) -> None:
    where = {"log": "as the log has it", "folder": "as it is on disk", "proposal": "as it was proposed"}
    click.echo(f"{found.title}{f', {where[found.origin]}' if found.origin else ''}")
    for table in found.tables:
        click.echo(f"  table {table.name}: {table.model}, key {', '.join(table.key)}")
        for index in table.indexes:
            kind = "unique index" if index.unique else "index"
            click.echo(f"    {kind} {index.name} on {', '.join(index.fields)}")
    for name in found.drops:
        click.echo(f"  drops or renames {name}")
    for rows in found.bootstrap:
        click.echo(f"  {quantity(rows.rows, 'bootstrap row')} in {rows.table}")
    if found.problem:
        click.echo(f"  tables and bootstrap rows are not shown: {found.problem}")
    for file in found.files:
        why = f" (not shown: {file.missing})" if file.content is None else ""
        click.echo(f"  {file.path}{why}")
        if verbose and (text := found.file(file.path)) is not None:
            click.echo(indent(text, "    "))
    _print_events(found.events)
