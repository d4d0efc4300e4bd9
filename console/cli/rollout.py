"""Rollout: the commands fleet rollout: plans that are carried out in waves.

start ─▶ waves, with a pause, a check and an approval between them ─▶ finished
         │ a failure, stop ─▶ stopped ─ roll-back ─▶ rolled back
approve ─┘
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import output
from everlog.console.cli.fleet_plans import ledger, survey_option
from everlog.console.cli.options import Duration, Settings, common, pass_settings, writes
from everlog.console.cli.top import plain
from everlog.console.output import show_progress
from everlog.store.errors import MigrationError, quantity

if TYPE_CHECKING:
    from everlog.fleet.runner import Carried

LOOK_S = 0.25  # between two looks at a rollout
HEADER = ("WAVE", "MEMBERS", "BEGUN", "UPGRADED", "FAILED")

digest_argument = click.argument("digest", default="", required=False)


@click.group()
@common
def rollout() -> None:
    """Carry out a plan in waves: one member first, then 5 %, 25 %, and the rest, or as --waves says.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet rollout start 1f4c09 --check --pause 10m
      everlog -u everlog://fleet.example.com/ledger fleet rollout status
    """


@rollout.command()
@click.argument("digest")
@click.option(
    "--waves",
    default="1,5%,25%,rest",
    show_default=True,
    metavar="WAVES",
    help="Numbers, shares, `by LABEL`, selectors; separated by commas, or by semicolons.",
)
@click.option(
    "--pause", type=Duration(), default=None, metavar="DURATION", help="Wait so long between two waves."
)
@click.option(
    "--check", is_flag=True, help="Between two waves, run checks.py at the members, and the server's check."
)
@click.option("--approval", is_flag=True, help="Between two waves, wait for `fleet rollout approve`.")
@click.option(
    "--deadline",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Abort a wave unless its members have voted within this time.",
)
@survey_option
@click.option("--detach", is_flag=True, help="Return as soon as the rollout has begun.")
@writes
@common
@pass_settings
def start(
    settings: Settings,
    /,
    digest: str,
    *,
    waves: str,
    pause: float | None,
    check: bool,
    approval: bool,
    deadline: float,
    detach: bool,
    **how: Any,
) -> None:
    """Begin to carry out the plan with this DIGEST, or its first six digits (`fleet plan --for-waves`).

    A wave is upgraded in unison, all of its members or none. If a migration cannot wait for a decision, its
    members are upgraded one by one. A failure stops the rollout. The command returns when the rollout waits
    for approval or has ended; the coordinator continues it without the command.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet rollout start 1f4c09 --waves canary,10%,rest
      everlog -u everlog://fleet.example.com/ledger fleet rollout start 1f4c09 --waves "by region" --approval
    """
    from everlog.fleet.waves import words_of

    with ledger(settings) as db:
        with show_progress() as progress:
            begun = db.fleet.start_rollout(
                digest,
                words_of(waves),
                pause_s=pause or 0.0,
                check=check,
                approval=approval,
                deadline_s=deadline,
                progress=progress,
                **how,
            )
        settings.resume = "the rollout continues; `everlog fleet rollout status` shows it"
        _follow(settings, db, begun, detach=detach)


@rollout.command()
@digest_argument
@common
@pass_settings
def status(settings: Settings, *, digest: str) -> None:
    """Show the rollout with this DIGEST, by default the newest: each wave, and what it waits for.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet rollout status
      everlog -u everlog://fleet.example.com/ledger fleet rollout status 1f4c09 --json | jq .state
    """
    with ledger(settings) as db:
        _show(settings, _chosen(db, digest))


@rollout.command()
@digest_argument
@click.option("--detach", is_flag=True, help="Return at once.")
@writes
@common
@pass_settings
def approve(settings: Settings, *, digest: str, detach: bool, actor: str, reason: str) -> None:
    """Approve that the next wave of a rollout begins, by default of the newest.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet rollout approve --actor ann --reason "all is quiet"
    """
    with ledger(settings) as db:
        found = _chosen(db, digest)
        wave = found.rollout.wave + 1
        done = db.fleet.approve_wave(found.digest.hex(), wave, actor=actor, reason=reason)
        _follow(settings, db, done, detach=detach)


@rollout.command()
@digest_argument
@writes
@common
@pass_settings
def stop(settings: Settings, *, digest: str, actor: str, reason: str) -> None:
    """Stop a rollout, by default the newest: no other wave and no other member begins.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet rollout stop --reason "customers complain"
    """
    with ledger(settings) as db:
        found = _chosen(db, digest)
        _show(settings, db.fleet.stop_rollout(found.digest.hex(), actor=actor, reason=reason))


@rollout.command("roll-back")
@digest_argument
@click.option("--detach", is_flag=True, help="Return at once.")
@writes
@common
@pass_settings
def roll_back(settings: Settings, *, digest: str, detach: bool, actor: str, reason: str) -> None:
    """Roll back the upgraded members of a rollout that has stopped or finished, the last wave first; by
    default of the newest. Needs --reason.

    Rows are converted by `down`, if the migration rewrote them. Again it tries those that failed.

    \b
    Examples:
      everlog -u everlog://fleet.example.com/ledger fleet rollout roll-back --reason "prices are wrong"
    """
    with ledger(settings) as db:
        found = _chosen(db, digest)
        done = db.fleet.roll_back(found.digest.hex(), actor=actor, reason=reason)
        _follow(settings, db, done, detach=detach)


def _chosen(db: Any, digest: str) -> Carried:
    """Return the rollout with a digest, or the newest. Raises MigrationError."""
    found: list[Carried] = db.fleet.rollouts(digest)
    if not found:
        raise MigrationError("the fleet has no rollout; `everlog fleet rollout start` begins one")
    return found[-1]


def _follow(settings: Settings, db: Any, found: Carried, *, detach: bool) -> None:
    """Print each change of a rollout until it waits for approval or has ended. Raises MigrationError if it
    was stopped, or a member was not rolled back."""
    from everlog.fleet.waves import ENDS, RolloutState

    said = ""
    while True:
        line = _line(found)
        if line != said and not settings.json:
            click.echo(line)
        said, state = line, found.rollout.state
        if detach or state is RolloutState.WAITING or state in ENDS:
            break
        time.sleep(LOOK_S)
        found = _chosen(db, found.digest.hex())
    if settings.json:
        output.echo(told_rollout(found))
    names = found.planned.names
    failed = "; ".join(f"{names[member]}: {why}" for member, why in found.rollout.failed[:3])
    if state is RolloutState.STOPPED or (state is RolloutState.RETURNED and found.rollout.failed):
        raise MigrationError(f"the rollout is {state}: {failed or found.rollout.reason}")


def _show(settings: Settings, found: Carried) -> None:
    if settings.json:
        output.echo(told_rollout(found))
        return
    names, one = found.planned.names, found.rollout
    click.echo(_line(found))
    failed = dict(one.failed)
    rows = [
        (
            str(number),
            str(len(wave)),
            str(sum(member in one.begun for member in wave)),
            str(sum(member in one.upgraded for member in wave)),
            str(sum(member in failed for member in wave)),
        )
        for number, wave in enumerate(one.waves, 1)
    ]
    for line in output.columns([HEADER, *rows], HEADER):
        click.echo(line)
    for member, why in one.failed:
        click.echo(plain(f"failed: {names[member]}: {why}"))


def _line(found: Carried) -> str:
    """Return a rollout in a line."""
    one, plan = found.rollout, found.plan
    words = [
        f"rollout of plan {found.digest.hex()[:12]} to {plan.migration.title}: {one.state}",
        f"wave {one.wave + 1} of {len(one.waves)}",
        f"{len(one.upgraded)} of {quantity(plan.totals.members, 'member')} upgraded",
        *([f"{len(one.failed)} failed"] if one.failed else []),
        *([found.waits_for] if found.waits_for else []),
        *([one.reason] if one.reason else []),
    ]
    return plain(", ".join(words))


def told_rollout(found: Carried) -> dict[str, Any]:
    """Return a rollout in the form of --json."""
    names, one = found.planned.names, found.rollout
    failed = dict(one.failed)
    return {
        "digest": found.digest.hex(),
        "to": found.plan.to_version,
        "state": str(one.state),
        "wave": one.wave + 1,
        "waits_for": found.waits_for or None,
        "reason": one.reason or None,
        "until_ns": one.until_ns or None,
        "gate": msgspec.to_builtins(one.gate),
        "waves": [
            [
                {
                    "database": member,
                    "name": names[member],
                    "begun": member in one.begun,
                    "upgraded": member in one.upgraded,
                    "failed": failed.get(member),
                }
                for member in wave
            ]
            for wave in one.waves
        ],
    }
