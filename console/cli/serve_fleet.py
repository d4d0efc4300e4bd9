"""Serve fleet: the options of serve for a fleet: as its coordinator, and as a process with members.

--fleet DATABASE    this database of the server is the ledger; its migrations are everlog's own
--fleet-checked     runs need a plan that was approved; --approver names who may
--fleet-check WHAT  asked after each wave that is checked: a URL, or a command
--join URL          all other databases are members of the fleet whose ledger URL names
"""

from __future__ import annotations

import http.client
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import click
import msgspec

from everlog.console.cli.options import Duration, Settings, add_options, refuse_idle
from everlog.console.cli.serve_migrate import packages_of
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.fleet.approvals import PlanApprovals
    from everlog.fleet.hub import Hub
    from everlog.fleet.runner import Hook
    from everlog.migrations.approval.approval import Approval
    from everlog.migrations.proposal import Rules
    from everlog.rpc.embedded import EmbeddedDatabase

F = TypeVar("F", bound=Callable[..., Any])


def fleet_options(command: F) -> F:
    """Add the options for fleets to `serve`."""
    return add_options(command, _OPTIONS)


def check_fleet(how: Mapping[str, Any]) -> None:
    """Raise UsageError for options that have no effect, or exclude each other."""
    if how["fleet"] is None:
        refuse_idle("fleet_accept", "fleet_checked", "fleet_check", when="without --fleet")
    if how["fleet_check"] is None:
        refuse_idle("fleet_check_timeout", when="without --fleet-check")
    if how["join"] is None:
        refuse_idle("join_name", "join_labels", "join_rate", when="without --join")
    elif how["migrate"] is not None:
        raise click.UsageError(
            "expected --join without --migrate: the coordinator of the fleet decides about migrations"
        )


@contextmanager
def in_fleet(
    databases: Mapping[str, EmbeddedDatabase],
    sources: dict[str, str],
    rules: Rules,
    *,
    fleet: str | None,
    fleet_accept: bool,
    fleet_checked: bool,
    fleet_check: str | None,
    fleet_check_timeout: float,
    join: str | None,
    join_name: str,
    join_labels: str,
    join_rate: float | None,
) -> Iterator[dict[str, Hub]]:
    """Coordinate the fleet of the ledger, and make the other databases members, in the block. Yield the
    coordinators by database. `sources`: the migrations by database. `rules`: who may approve plans. Raises
    MigrationError for a ledger that was restored, forked or replaced."""
    with ExitStack() as stack:
        hubs = {}
        if fleet is not None:
            hook = hook_of(fleet_check, fleet_check_timeout) if fleet_check else None
            hub = _coordinated(
                databases, fleet, accept=fleet_accept, checked=fleet_checked, rules=rules, hook=hook
            )
            hubs[fleet] = hub
            stack.callback(hubs[fleet].close)
        if join is not None:
            from everlog.rpc.client.join import default_name, labels_of
            from everlog.rpc.client.join import join as join_fleet

            labels = labels_of(join_labels)
            for name, db in databases.items():
                if name == fleet:
                    continue
                db.folders = sources.get(name, db.folders)
                named = f"{join_name}/{name}" if join_name else default_name(name)
                stack.callback(join_fleet(join, db, name=named, labels=labels, rate=join_rate))
        yield hubs


def ruled(approvals: Mapping[str, Approval], hubs: Mapping[str, Hub]) -> list[Approval | PlanApprovals]:
    """Return the approvals of a server, of its migrations and of its fleet's plans."""
    return [*approvals.values(), *(hub.approvals for hub in hubs.values())]


def sources_of(
    settings: Settings,
    packages: tuple[str, ...],
    named: Mapping[str, Any],
    fleet: str | None,
    *,
    needed: bool,
) -> dict[str, str]:
    """Return the package of each database that has one. That of the ledger is everlog's own. Raises OpenError
    as `packages_of`, and for an unknown ledger."""
    from everlog.fleet.ledger import SOURCE

    if fleet is not None and fleet not in named:
        raise OpenError(f"--fleet {fleet}: this server has no database {fleet!r}; it has: {', '.join(named)}")
    found = packages_of(settings, packages, [name for name in named if name != fleet], needed=needed)
    return found if fleet is None else found | {fleet: SOURCE}


def _coordinated(
    databases: Mapping[str, EmbeddedDatabase],
    name: str,
    *,
    accept: bool,
    checked: bool,
    rules: Rules,
    hook: Hook | None,
) -> Hub:
    from everlog import migrations
    from everlog.fleet.hub import Hub
    from everlog.fleet.ledger import SOURCE

    db = databases[name]
    if db.scratch is not None:
        raise OpenError(
            f"--fleet {name}: expected a database on disk, which keeps the decisions, found memory:"
        )
    migrations.apply(db, SOURCE)
    made = Hub(db, db.path.with_name(f"{db.path.name}.mark"), checked=checked, rules=rules, hook=hook)
    made.start(accept=accept)
    return made


def hook_of(what: str, timeout_s: float) -> Hook:
    """Return the check of a wave: a URL that is posted to, or a command that runs without a shell. Both
    receive JSON: plan, to, wave, waves, members. With a status of 2xx, or the exit code 0, the rollout
    continues. Raises OpenError for an invalid URL or command."""
    if what.startswith(("http://", "https://")):
        parts = urlsplit(what)
        if not parts.hostname:
            raise OpenError(f"--fleet-check: expected a URL as http://HOST/PATH, found {what!r}")
        return lambda about: _post(parts, about, timeout_s)
    try:
        words = shlex.split(what)
    except ValueError as error:
        raise OpenError(f"--fleet-check: expected a command, found {what!r}: {error}") from None
    return lambda about: _execute(words, about, timeout_s)


def _post(parts: SplitResult, about: Mapping[str, object], timeout_s: float) -> str:
    """Post to a URL. Return why the check failed, or an empty string."""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with closing(kind(parts.netloc.rpartition("@")[2], timeout=timeout_s)) as connection:
            connection.request(
                "POST", target, msgspec.json.encode(about), {"Content-Type": "application/json"}
            )
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{where} cannot be reached: {error}"
    return "" if 200 <= status < 300 else f"{where} answered {status}"


def _execute(words: list[str], about: Mapping[str, object], timeout_s: float) -> str:
    """Run a command. Return why the check failed, or an empty string."""
    shown = shlex.join(words)
    try:
        done = subprocess.run(
            words, input=msgspec.json.encode(about), timeout=timeout_s, check=False, stdout=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"the check `{shown}` has not ended within {timeout_s:g} s"
    except OSError as error:
        return f"the check `{shown}` cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else f"the check `{shown}` ended with {done.returncode}"


_OPTIONS = [
    click.option(
        "--fleet",
        metavar="DATABASE",
        help="Coordinate a fleet; DATABASE of this server is its ledger (`everlog fleet`).",
    ),
    click.option(
        "--fleet-accept",
        is_flag=True,
        help="Coordinate also if the ledger was restored or moved, and may lack decisions.",
    ),
    click.option(
        "--fleet-checked",
        is_flag=True,
        help="Upgrade the fleet only by plans that were approved (--approver).",
    ),
    click.option(
        "--fleet-check",
        metavar="URL|COMMAND",
        help="Ask this after each wave that is checked (`fleet rollout start --check`).",
    ),
    click.option(
        "--fleet-check-timeout",
        type=Duration(),
        default="30s",
        show_default=True,
        metavar="DURATION",
        help="Longest wait for its answer.",
    ),
    click.option(
        "--join",
        metavar="URL",
        help="Make the databases members of the fleet with this ledger.  [env: EVERLOG_FLEET]",
    ),
    click.option(
        "--join-name",
        default="",
        metavar="NAME",
        help="Members are named NAME/DATABASE.  [default: this machine; env: EVERLOG_FLEET_NAME]",
    ),
    click.option(
        "--join-labels",
        default="",
        metavar="LABELS",
        help="Labels of the members, as region=eu,tenant=42.  [env: EVERLOG_FLEET_LABELS]",
    ),
    click.option(
        "--join-rate",
        type=click.FloatRange(1),
        metavar="ROWS",
        help="Build at most N rows per second in a member.  [default: no limit; env: EVERLOG_FLEET_RATE]",
    ),
]
