"""Fleet: the command fleet: the members and runs of a fleet, whose ledger the URL names.

    everlog -u everlog://fleet.example.com/ledger fleet status
    everlog -u everlog://fleet.example.com/ledger fleet upgrade --select region=eu

Stragglers come first everywhere. `watch` draws a screen on a terminal, and prints lines elsewhere.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.fleet_plans import (
    approve,
    drift,
    ledger,
    plan,
    planned,
    plans,
    reject,
    select_option,
    show_plan,
    survey_option,
)
from everlog.console.cli.options import (
    Duration,
    Settings,
    common,
    pass_settings,
    refuse_idle,
    to_version,
    writes,
)
from everlog.console.cli.rollout import rollout
from everlog.console.cli.top import live, plain
from everlog.console.output import show_progress
from everlog.feed import cursor
from everlog.store.errors import MigrationError, UnavailableError, quantity
from everlog.store.schema.arguments import time_text

if TYPE_CHECKING:
    from everlog.fleet.approvals import ProposedPlan
    from everlog.fleet.protocol import Run
    from everlog.fleet.status import EndedRun, FleetStatus, MemberStatus

INTERVAL_MIN_S = 0.1
ENDED_SHOWN = 3
WIDTH = 160  # of lines that are not on a terminal
HEADER = ("MEMBER", "STATE", "VERSION", "ROWS", "RATE", "LEFT", "")
RIGHT = ("VERSION", "ROWS", "RATE", "LEFT")

run_argument = click.argument("run", default="", required=False)


@click.group()
@common
@pass_settings
def fleet(settings: Settings) -> None:
    """Upgrade many databases in unison, all or none. --url names the ledger of the fleet, at the server that
    coordinates it (`everlog serve --fleet`).

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet status
      everlog -u everlog://fleet.example.com/ledger fleet upgrade --reason "release 7"
    """


for command in (drift, plan, plans, approve, reject, rollout):
    fleet.add_command(command)


@fleet.command()
@common
@pass_settings
def status(settings: Settings) -> None:
    """Show the members, stragglers first, and the runs.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet status
      everlog -u everlog://fleet.example.com/ledger fleet status --json | jq '.members[0]'
    """
    from everlog.fleet.status import status_dict

    with ledger(settings) as db:
        found = db.fleet.status()
    if settings.json:
        output.echo(status_dict(found))
        return
    for line in page(found, WIDTH):
        click.echo(line)


@fleet.command()
@click.option(
    "--interval",
    type=Duration(),
    default="1s",
    show_default=True,
    metavar="DURATION",
    help="Shortest time between two screens or lines, at least 0.1 s.",
)
@click.option("--until-ended", is_flag=True, help="Stop when no run waits for a member.")
@common
@pass_settings
def watch(settings: Settings, *, interval: float, until_ended: bool) -> None:
    """Show the members and runs, and each change. On a terminal, q quits; elsewhere it prints a line for each
    change, or an object with --json.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet watch
      everlog -u everlog://fleet.example.com/ledger fleet watch --until-ended > run.log
    """
    interval = max(INTERVAL_MIN_S, interval)
    with ledger(settings) as db:
        if sys.stdout.isatty() and not (settings.json or os.environ.get("CI")):
            _live(db, interval, until_ended=until_ended)
            return
        follow_runs(settings, db, interval, run=None, until_ended=until_ended)


@fleet.command()
@click.argument("digest", default="", required=False)
@select_option
@to_version("Version to upgrade to.  [default: the oldest that is pending anywhere]")
@click.option("--hold", is_flag=True, help="Also serve the previous version, until `fleet contract`.")
@click.option(
    "--deadline",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Abort unless all members have voted by then.",
)
@survey_option
@click.option("--detach", is_flag=True, help="Return as soon as the run has started.")
@click.option("--yes", is_flag=True, help="Do not ask before the new plan is started.")
@writes
@common
@pass_settings
def upgrade(
    settings: Settings,
    *,
    digest: str,
    select: str,
    to: int | None,
    hold: bool,
    deadline: float,
    survey_s: float,
    detach: bool,
    yes: bool,
    actor: str,
    reason: str,
) -> None:
    """Upgrade members in unison: each builds its new tables beside the live ones and votes; then all of them
    are switched, or none. DIGEST is that of a plan, or its first six digits. Without it the selected members
    are planned first, the plan is shown, and the command asks, or needs --yes.

    The members are surveyed again. A plan that is stale is refused, with what has changed.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet upgrade 1f4c09 --reason "release 7"
      everlog -u everlog://fleet.example.com/ledger fleet upgrade --select region=eu --hold --yes
    """
    by = {"actor": actor, "reason": reason}
    if digest:
        refuse_idle("select", "to", "hold", "yes", when="beside a DIGEST: the plan has it")
    with ledger(settings) as db:
        if not digest:
            _check_unchecked(db.fleet.status())
            made = planned(settings, db, select=select, to=to, hold=hold, survey_s=survey_s, **by)
            if not settings.json:
                show_plan(settings, made)
            _ask(made, yes=yes)
            digest = made.digest.hex()
        with show_progress() as progress:
            run = db.fleet.upgrade(digest, deadline_s=deadline, survey_s=survey_s, progress=progress, **by)
        if not settings.json:
            count = quantity(len(run.seats), "member")
            click.echo(f"Started: run {cursor.name(run.decision_id)} of {count}")
        if detach:
            _show_run(settings, run)
            return
        settings.resume = (
            f"run {cursor.name(run.decision_id)} continues; `everlog fleet watch` shows it, `everlog fleet"
            " abort` ends it"
        )
        ended = follow_runs(settings, db, INTERVAL_MIN_S, run=run.decision_id, until_ended=True)
    assert ended is not None
    check_committed(ended)


@fleet.command()
@run_argument
@writes
@common
@pass_settings
def abort(settings: Settings, *, run: str, actor: str, reason: str) -> None:
    """Abort a RUN at all its members, by default the undecided run. A decided run cannot be aborted.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet abort --reason "not on a Friday"
    """
    with ledger(settings) as db:
        found = _run(db.fleet.status(), run, "undecided", lambda one: one.decision is None)
        done = db.fleet.abort(found, actor=actor, reason=reason)
    if not settings.json:
        click.echo(f"Aborted: run {cursor.name(done.decision_id)}")
    _show_run(settings, done)


@fleet.command()
@click.argument("member")
@click.option("--forget", is_flag=True, help="Forget the member: its name is free, and its alarm ends.")
@writes
@common
@pass_settings
def remove(settings: Settings, *, member: str, forget: bool, actor: str, reason: str) -> None:
    """Remove a MEMBER, by name, from the undecided run. The run is aborted at this member, and continues
    at the others. With --forget, forget a member that is gone, or accept its database after an alarm.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet remove shop-7 --reason "unreachable"
      everlog -u everlog://fleet.example.com/ledger fleet remove shop-7 --forget
    """
    with ledger(settings) as db:
        found = db.fleet.status()
        known = next((one for one in found.members if one.report.name == member), None)
        if known is None:
            raise MigrationError(f"the fleet has no member {member}; `everlog fleet status` lists them")
        decision_id = None
        if not forget:
            decision_id = _run(found, "", "undecided", lambda one: one.decision is None)
        run = db.fleet.remove(known.report.database, decision_id=decision_id, actor=actor, reason=reason)
    if not settings.json:
        where = f" from run {cursor.name(run.decision_id)}" if run else ""
        click.echo(f"{'Removed' if run else 'Forgot'}: member {member}{where}")
    if run is not None:
        _show_run(settings, run)


@fleet.command()
@run_argument
@writes
@common
@pass_settings
def contract(settings: Settings, *, run: str, actor: str, reason: str) -> None:
    """Stop serving the previous version at all members of a RUN, by default the newest committed one.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet contract --reason "all clients are new"
    """
    from everlog.fleet.status import outcome

    with ledger(settings) as db:
        found = _run(db.fleet.status(), run, "committed", lambda one: outcome(one) == "committed")
        done = db.fleet.contract(found, actor=actor, reason=reason)
    if not settings.json:
        click.echo(f"Contracting: run {cursor.name(done.decision_id)}")
    _show_run(settings, done)


def _check_unchecked(found: FleetStatus) -> None:
    """Raise MigrationError if a run needs a plan that was approved."""
    if found.checked:
        raise MigrationError(
            "runs of this fleet need approval, and nothing was done: `everlog fleet plan` proposes a plan,"
            " `everlog fleet approve DIGEST --reason WHY` approves it, and `everlog fleet upgrade DIGEST`"
            " starts it"
        )


def _ask(made: ProposedPlan, *, yes: bool) -> None:
    """Ask before a plan is started. Raises MigrationError without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise MigrationError(
            f"plan {made.short} was proposed and not started; start it with `everlog fleet upgrade"
            f" {made.short}`, or confirm with --yes"
        )
    click.confirm(f"Upgrade {quantity(made.plan.totals.members, 'member')}?", abort=True, err=True)


def _run(found: FleetStatus, given: str, word: str, fits: Any) -> bytes:
    """Return the id of a run: the given one, or the newest that fits. Raises MigrationError."""
    if given:
        try:
            return uuid.UUID(given).bytes
        except ValueError:
            raise MigrationError(f"expected the UUID of a run, found {given!r}") from None
    run = next((one for one in reversed(found.runs) if fits(one)), None)
    if run is None:
        raise MigrationError(f"the fleet has no run that is {word}; nothing was done")
    return run.decision_id


def _show_run(settings: Settings, run: Run) -> None:
    from everlog.fleet.status import run_dict

    if settings.json:
        output.echo(run_dict(run))


def check_committed(run: Run | EndedRun) -> None:
    """Raise MigrationError if a run was aborted, with the reasons."""
    from everlog.fleet.protocol import Decision
    from everlog.fleet.status import EndedRun

    if run.decision is Decision.COMMIT:
        return
    if isinstance(run, EndedRun):
        reasons = [run.why] if run.why else []
    else:
        reasons = [
            f"database {cursor.name(seat.target.database)}: {seat.reason}"
            for seat in run.seats
            if seat.reason
        ]
    why = "; ".join(reasons[:3]) or "its deadline has passed, or an operator aborted it"
    raise MigrationError(
        f"run {cursor.name(run.decision_id)} was aborted, and no member was upgraded: {why}",
        decision_id=run.decision_id.hex(),
    )


def _live(db: Any, interval_s: float, *, until_ended: bool) -> None:
    """Draw the screen until the user quits, or after the last run with `until_ended`."""
    ended = False

    def draw(width: int) -> list[str] | None:
        nonlocal ended
        if ended:
            return None
        try:
            found = db.fleet.status()
        except UnavailableError as error:
            return [str(error)]
        ended = until_ended and not any(_is_open(run) for run in found.runs)
        return page(found, width)

    live(draw, interval_s)


def follow_runs(
    settings: Settings, db: Any, interval_s: float, *, run: bytes | None, until_ended: bool
) -> Run | EndedRun | None:
    """Print each change, of one run and its members or of all, until the user stops, or `until_ended`. Return
    the run."""
    from everlog.fleet.status import status_dict

    before: dict[str, str] = {}
    for found in db.fleet.watch(interval_s=interval_s):
        runs = [one for one in found.runs if run is None or one.decision_id == run]
        if run is not None and not runs:
            ended: EndedRun | None = next((one for one in found.ended if one.decision_id == run), None)
            if ended is not None:  # the coordinator has restarted
                return ended
            continue
        if settings.json:
            output.echo(status_dict(found))
        else:
            chosen = {seat.target.database for one in runs for seat in one.seats}
            members = [one for one in found.members if run is None or one.report.database in chosen]
            now = _lines_by_name(found.problem, runs, members)
            for name, line in now.items():
                if before.get(name) != line:
                    click.echo(line)
            before = now
        if until_ended and not any(_is_open(one) for one in runs):
            return runs[-1] if runs else None
    return None


def _lines_by_name(problem: str, runs: list[Run], members: list[MemberStatus]) -> dict[str, str]:
    found = {"": f"not coordinated: {problem}"} if problem else {}
    for one in members:
        row = [word for word in _row(one)[1:] if word]
        found[one.report.name] = plain(f"{one.report.name}: {', '.join(row)}")
    for run in runs:
        found[run.decision_id.hex()] = _line(run)
    return found


def _is_open(run: Run) -> bool:
    from everlog.fleet.status import waits_for

    return run.decision is None or any(waits_for(run, seat) for seat in run.seats)


def page(found: FleetStatus, width: int) -> list[str]:
    """Return the lines of one screen."""
    up = sum(one.connected for one in found.members)
    lines = [f"{quantity(len(found.members), 'member')}, {up:,} connected"]
    if found.problem:
        lines.append(f"not coordinated: {found.problem}")
    lines += [_line(run) for run in reversed(found.runs)]
    listed = {run.decision_id for run in found.runs}
    earlier = [run for run in reversed(found.ended) if run.decision_id not in listed]
    lines += [_ended_line(run) for run in earlier[:ENDED_SHOWN]]
    if found.members:
        lines += ["", *output.columns([HEADER, *map(_row, found.members)], RIGHT)]
    return [plain(line)[:width].rstrip() for line in lines]


def _line(run: Run) -> str:
    """Return a run in a line."""
    from everlog.fleet.status import outcome

    name, word = cursor.name(run.decision_id), outcome(run)
    seats = [seat for seat in run.seats if not seat.removed]
    voted, ended = sum(seat.vote is not None for seat in seats), sum(seat.end is not None for seat in seats)
    if run.decision is None:
        until = time_text(run.deadline_ns)
        return f"run {name}: {word}, {voted} of {quantity(len(seats), 'member')} voted, until {until}"
    return f"run {name}: {word}, {ended} of {quantity(len(seats), 'member')}"


def _ended_line(run: EndedRun) -> str:
    """Return a run that has ended in a line."""
    members = f"{run.upgraded:,} of {quantity(run.members, 'member')}"
    seconds = output.span((run.ended_ns - run.started_ns) / 1e9)
    line = f"run {cursor.name(run.decision_id)}: {run.outcome}, {members}"
    return f"{line}, ended {time_text(run.ended_ns)} after {seconds}{': ' if run.why else ''}{run.why}"


def _row(one: MemberStatus) -> tuple[str, ...]:
    from everlog.fleet.status import state_of

    report = one.report
    building = report.phase.value == "PREPARING" and report.total
    return (
        report.name,
        state_of(one),
        str(report.version or "-"),
        f"{report.rows:,} of {report.total:,}" if building else "",
        f"{report.rate:,.0f}/s" if building and report.rate else "",
        output.span(one.left_s) if building and one.left_s else "",
        one.alarm or report.error or report.waits_for or report.refusal,
    )
