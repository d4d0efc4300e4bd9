"""Fleet plans: the commands of fleet that survey the members, and plan and approve their upgrades.

drift                   surveys, compared with each other
plan                    surveys ─▶ a plan, which is printed and proposed
plans                   those that were proposed
approve, reject         a decision about one; `fleet upgrade` starts it
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Duration, Settings, common, pass_settings, to_version, writes
from everlog.console.cli.top import plain
from everlog.console.output import show_progress
from everlog.feed import cursor
from everlog.rpc.address import is_url, without_secrets
from everlog.store.errors import MigrationError, OpenError, quantity

if TYPE_CHECKING:
    from everlog.fleet.approvals import ProposedPlan
    from everlog.fleet.drift import Group
    from everlog.fleet.members_file import Surveyed
    from everlog.fleet.plan import FleetPlan, Refusal

NAMES_SHOWN = 20  # of members, in a line
SLOWEST = 10  # members that a plan shows without --verbose
HEADER = ("MEMBER", "VERSION", "ROWS", "TIME", "WAITS", "DISK")

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
@to_version("Version to upgrade to.  [default: the oldest that is pending anywhere]")
@click.option("--hold", is_flag=True, help="Also serve the previous version, until `fleet contract`.")
@click.option("--for-waves", "waves", is_flag=True, help="Also of migrations that no vote can hold.")
@survey_option
@writes
@common
@pass_settings
def plan(settings: Settings, /, **how: Any) -> None:
    """Plan the upgrade of members by one migration: each is surveyed, its rows are tried, time and disk are
    estimated. Prints the plan and proposes it; `fleet upgrade DIGEST` starts it.

    It is refused, with all reasons, if a member cannot be upgraded. --verbose shows all members.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet plan
      everlog -u everlog://fleet.example.com/ledger fleet plan --select region=eu --for-waves
    """
    with ledger(settings) as db:
        made = planned(settings, db, **how)
    show_plan(settings, made)


@click.command()
@click.argument("digest", default="", required=False)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="PLANS",
    help="Print only the newest N plans.  [default: all]",
)
@common
@pass_settings
def plans(settings: Settings, *, digest: str, limit: int | None) -> None:
    """List the plans that were proposed, the newest last, or show the one with this DIGEST or its first six
    digits.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet plans
      everlog -u everlog://fleet.example.com/ledger fleet plans 1f4c09 --verbose
      everlog -u everlog://fleet.example.com/ledger fleet plans --limit 1 --json | jq .state
    """
    with ledger(settings) as db:
        found = db.fleet.plans(digest, limit=limit)
    for one in found:
        if digest or settings.json:
            show_plan(settings, one)
        else:
            what = _of(one.plan)
            click.echo(plain(f"{one.short}  {one.state}: {what}, proposed by {_who(one)}{_decided(one)}"))


@click.command()
@click.argument("digest")
@click.option("--despite-errors", is_flag=True, help="Approve a plan in which lint found errors.")
@survey_option
@writes
@common
@pass_settings
def approve(settings: Settings, /, digest: str, **how: Any) -> None:
    """Approve a plan. DIGEST is that of the plan that you reviewed, or its first six digits.

    The members are surveyed again. The approval is refused, with what has changed, if the plan is stale.
    --reason is needed.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet approve 1f4c09 --reason "looked at it with bob"
    """
    with ledger(settings) as db, show_progress() as progress:
        done = db.fleet.approve(digest, progress=progress, **how)
    _show_decision(settings, done)


@click.command()
@click.argument("digest")
@writes
@common
@pass_settings
def reject(settings: Settings, /, digest: str, **by: Any) -> None:
    """Reject a plan that was not started. --reason is needed.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet reject 1f4c09 --reason "not on a Friday"
    """
    with ledger(settings) as db:
        done = db.fleet.reject(digest, **by)
    _show_decision(settings, done)


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


def planned(settings: Settings, db: Any, *, select: str, **how: Any) -> ProposedPlan:
    """Plan and propose an upgrade. Raises MigrationError after it has printed the members that cannot be
    upgraded."""
    try:
        with show_progress() as progress:
            made: ProposedPlan = db.fleet.plan(select, progress=progress, **how)
            return made
    except MigrationError as error:
        refused: list[Refusal] = error.facts.get("refusals", [])
        if not refused:
            raise
        if settings.json:
            output.echo({"refusals": [told_problem(one) for one in refused]})
        for one in refused if not settings.json else ():
            click.echo(plain(f"refused: {one}"))
        raise


def show_plan(settings: Settings, found: ProposedPlan) -> None:
    """Print a plan that was proposed."""
    if settings.json:
        output.echo(told_plan(found))
        return
    what, totals = found.plan, found.plan.totals
    click.echo(plain(f"{str(found.state).capitalize()}: plan {found.short}, {_of(what)}{_decided(found)}"))
    for step in what.migration.steps:
        click.echo(plain(f"  {step}"))
    for one in what.findings:
        click.echo(plain(f"  {one.severity}: {one.file}:{one.line}: {one.text} [{one.id}]"))
    slowest = sorted(what.members, key=lambda one: (-one.seconds, one.name))
    shown = slowest if settings.verbose else slowest[:SLOWEST]
    rows = [
        (
            one.name,
            str(one.from_version),
            f"{one.rows:,}",
            output.span(one.seconds),
            output.span(one.waits_s),
            output.size(one.bytes),
        )
        for one in shown
    ]
    click.echo("")
    for line in output.columns([HEADER, *rows], HEADER[1:]):
        click.echo(plain(line))
    if len(shown) < totals.members:
        click.echo(f"and {totals.members - len(shown):,} faster ones (--verbose)")
    click.echo(
        f"in all {quantity(totals.rows, 'row')}, {output.span(totals.seconds)}, the slowest"
        f" {output.span(totals.longest_s)}, {output.size(totals.bytes)} of disk"
    )
    for member in what.members:
        if member.unheld:
            click.echo(plain(f"{member.name} is upgraded without a vote: {member.unheld}"))


def _of(plan: FleetPlan) -> str:
    """Return what a plan does, in words."""
    how = "in unison" if plan.unison else "in waves"
    held = ", serving two versions" if plan.hold else ""
    return f"{quantity(plan.totals.members, 'member')} to {plan.migration.title} {how}{held}"


def _who(found: ProposedPlan) -> str:
    from everlog.store.tx.transaction import marked

    return f"{found.proposed_by or 'an unnamed caller'}{marked(found.proposed_proof)}"


def _decided(found: ProposedPlan) -> str:
    """Return who decided about a plan and what became of it, as a clause."""
    from everlog.store.tx.transaction import marked

    by = f", decided by {found.decided_by}{marked(found.decided_proof)}" if found.decided_by else ""
    why = f" ({found.reason})" if found.reason else ""
    run = f", run {cursor.name(found.decision_id)}" if found.decision_id else ""
    return by + why + run


def _show_decision(settings: Settings, found: ProposedPlan) -> None:
    if settings.json:
        output.echo(told_plan(found))
        return
    click.echo(plain(f"{str(found.state).capitalize()}: plan {found.short}, {_of(found.plan)}"))


def told_plan(found: ProposedPlan) -> dict[str, Any]:
    """Return a plan that was proposed in the form of --json."""
    return {
        "digest": found.digest.hex(),
        "state": str(found.state),
        "proposed_by": found.proposed_by,
        "proposed_proof": found.proposed_proof,
        "decided_by": found.decided_by or None,
        "decided_proof": found.decided_proof or None,
        "reason": found.reason,
        "despite_errors": found.despite_errors,
        "run": cursor.name(found.decision_id) if found.decision_id else None,
        "plan": msgspec.to_builtins(found.plan),
    }


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
