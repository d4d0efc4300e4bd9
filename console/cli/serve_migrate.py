"""Serve and migrate: how a server treats pending migrations when it starts.

(none)     nothing: clients apply them; a running migration gets its code, or is reported
auto       applies and notifies (everlog.migrations.approval.notify); then it serves
checked    proposes them, serves the current version, and applies them after approval; notifies, with a
           link to the console
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from everlog.console.cli.options import Identity, Settings, add_options
from everlog.console.output import show_progress
from everlog.migrations.folder import Root, find
from everlog.store.errors import Error, MigrationError, OpenError, SchemaError
from everlog.store.program_log import about

if TYPE_CHECKING:
    from everlog.migrations.approval.approval import Approval
    from everlog.migrations.approval.notify import Notifier, ServerEvents
    from everlog.migrations.proposal import Rules
    from everlog.rpc.embedded import EmbeddedDatabase

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("everlog")


class Migrated(NamedTuple):
    """The migrations of a server, by the names of its databases. `approvals`: of those whose migrations
    require approval. `problems`: why a migration in progress cannot continue; the previous version is
    served."""

    approvals: dict[str, Approval]
    notifier: Notifier
    problems: dict[str, str]


def migrating_options(command: F) -> F:
    """Add the options for pending migrations to `serve`."""
    return add_options(command, _OPTIONS)


def packages_of(
    settings: Settings, words: Sequence[str], databases: Iterable[str], *, needed: bool
) -> dict[str, str]:
    """Return the package of each database that has one. `needed`: each must have one.

    Raises OpenError for an unknown name, and for two packages with the same import name.
    """
    names, found, common = list(databases), dict[str, str](), ""
    for word in words:
        name, equals, package = word.partition("=")
        if not equals:
            name, package = "", word
        if (name in found) if name else bool(common):
            raise OpenError(
                f"expected one package of migrations for {name or 'all databases'}, found two; leave one out"
            )
        if name and name not in names:
            raise OpenError(
                f"--migrations {word}: this server has no database {name!r}; it has: {', '.join(names)}"
            )
        if not package:
            raise OpenError(f"--migrations {word}: expected NAME=PACKAGE or PACKAGE, found no package")
        if name:
            found[name] = package
        else:
            common = package
    if not words:
        here = len(names) == 1 and Path(settings.migrations).is_dir()  # ambiguous for several databases
        common = settings.migrations_or_none or (settings.migrations if needed or here else "")
    for name in names:
        if name not in found and common:
            found[name] = common
        elif name not in found and needed:
            raise OpenError(
                f"{name} has no migrations: expected --migrations {name}=PACKAGE, or --migrations PACKAGE"
                " for all databases, found neither; serve a database without migrations by another server"
            )
    _check_apart(found)
    return found


def _check_apart(found: dict[str, str]) -> None:
    """Raise OpenError for two directories with the same import name."""
    if len(set(found.values())) < 2:
        return
    roots = dict[str, Root]()
    for name, package in found.items():
        with suppress(SchemaError):  # loading reports a missing one
            roots[name] = find(package)
    for name, root in roots.items():
        for other, there in roots.items():
            if root.package == there.package and root.path != there.path:
                raise OpenError(
                    f"the migrations of {name} ({root.path}) and of {other} ({there.path}) have the same"
                    f" package name, {root.package}; put them into packages with different names, such as"
                    f" {name}.migrations and {other}.migrations (add an __init__.py to the directory above)"
                )


@contextmanager
def migrated(
    settings: Settings,
    databases: Mapping[str, EmbeddedDatabase],
    sources: Mapping[str, str],
    server: ServerEvents,
    *,
    link: Callable[[bytes], str] | None,
    migrate: str | None,
    actor: str,
    reason: str,
    hold: bool,
    rate: float | None,
    notify: tuple[str, ...],
    **checked: Any,
) -> Iterator[Migrated]:
    """Yield the approvals of the databases, the problems of others, and the notifier, which also reports
    about `server`. `link` returns the URL of a proposal in the console; None: there is no console.

    Raises MigrationError, SchemaError and LoadError for migrations that cannot be applied.
    """
    from everlog.migrations.approval.approval import Approval
    from everlog.migrations.approval.auto import AutoRun
    from everlog.migrations.approval.notify import Notifier

    with ExitStack() as stack:
        approvals = dict[str, Approval]()
        if migrate == "checked":
            approvals = _approvals(databases, sources, link, rules_of(checked))
        auto = databases if migrate == "auto" else {}
        runs = [AutoRun(db, sources[name], name) for name, db in auto.items()]
        told: list[AutoRun | Approval] = [*runs, *approvals.values()]
        notifier = Notifier(notify, told, server=server)
        for one in told:
            one.changed = notifier.wake
        stack.enter_context(notifier)
        if migrate == "auto":
            how: dict[str, Any] = {"actor": actor, "reason": reason, "hold": hold, "rate": rate}
            with show_progress() as progress:
                for run in runs:
                    for info in run.run(**how, progress=progress):
                        if not settings.json:
                            where = f"{run.name}: " if len(runs) > 1 else ""
                            click.echo(f"Applied: {where}{info.title} (commit {info.seq})")
                    if run.left_out:
                        click.echo(f"Not applied: {run.name}: {run.left_out}", err=True)
        problems = _attach(databases, sources) if migrate is None else {}
        for approval in approvals.values():
            approval.hold, approval.rate = hold, rate
            approval.prepare_or_report()
        yield Migrated(approvals, notifier, problems)


def _attach(databases: Mapping[str, EmbeddedDatabase], sources: Mapping[str, str]) -> dict[str, str]:
    """Load the code of each migration in progress, which writers need. Return the errors by database."""
    from everlog import migrations
    from everlog.migrations import in_progress

    problems = {}
    for name, db in databases.items():
        begun = in_progress.current_migration(db)
        if begun is None:
            continue
        try:
            found = migrations.load(sources[name]) if name in sources else []
            if begun.migration.version not in {one.version for one in found}:
                waits = in_progress.undecided(begun)
                raise MigrationError(
                    f"the folder of migration {begun.migration.version}_{begun.migration.name} is missing:"
                    " restore it (`everlog restore-folders`), "
                    + (
                        f"to write to its tables; {waits}"
                        if waits
                        else "or give it up with `everlog rollback`"
                    )
                )
            in_progress.attach(db, found)
        except (Error, OSError) as error:
            problems[name] = str(error)
            logger.error(  # noqa: TRY400  the message suffices
                "%s: the running migration cannot continue; version %d is served: %s",
                *(name, db.schema.version, error),
                extra=about("migration.unusable", database=name),
            )
    return problems


def rules_of(how: Mapping[str, Any]) -> Rules:
    """Return who may approve, by the options of `serve`."""
    from everlog.migrations.proposal import Rules

    return Rules(frozenset(how["approvers"]), how["approve_own"])


def _approvals(
    databases: Mapping[str, EmbeddedDatabase],
    sources: Mapping[str, str],
    link: Callable[[bytes], str] | None,
    rules: Rules,
) -> dict[str, Approval]:
    """Return the approvals of the databases."""
    from everlog.migrations.approval.approval import Approval

    return {
        name: Approval(db, sources[name], name, rules, link or (lambda _: ""))
        for name, db in databases.items()
    }


_OPTIONS = [
    click.option(
        "--migrate",
        type=click.Choice(["auto", "checked"]),
        help="Apply pending migrations at start (auto), or after approval (checked).",
    ),
    click.option(
        "--hold", is_flag=True, help="Also serve the previous version while and after rows are rewritten."
    ),
    click.option(
        "--rate",
        type=click.FloatRange(1),
        metavar="ROWS",
        help="Build at most N rows per second.  [default: no limit]",
    ),
    click.option(
        "--approver",
        "approvers",
        type=Identity(),
        multiple=True,
        metavar="WHO",
        help="Name of an approver; may be repeated.  [default: all; env: EVERLOG_APPROVERS]",
    ),
    click.option("--approve-own", is_flag=True, help="Let people approve their own proposals."),
    click.option(
        "--notify",
        multiple=True,
        metavar="URL",
        help="Apprise URL to notify of --migrate and of expiring certificates; may be repeated."
        "  [env: EVERLOG_NOTIFY]",
    ),
]
