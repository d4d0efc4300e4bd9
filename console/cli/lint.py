"""Lint: the command lint, which checks pending migrations, and the formats of its findings.

    text    file:line: error: sentence [id]   like compilers, so that terminals and editors find the place
    github  ::error file=…,line=…::sentence   annotations of a pull request (docs.github.com, "Workflow
                                              commands")
    sarif   one document                      SARIF 2.1.0, for code scanning (docs.oasis-open.org/sarif)
    json    one object a line

Paths are relative to the given directory if they are below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import directory_of, is_remote, open_database
from everlog.console.cli.options import Renamed, Settings, common, pass_settings
from everlog.console.output import show_progress
from everlog.migrations.lint.rules import RULES, Finding, Rule, Severity
from everlog.rpc.address import without_secrets
from everlog.store import VERSION
from everlog.store.errors import OpenError, quantity

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase


_FORMATS = ("text", "json", "sarif", "github")
_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="Format of the findings; --json is --format json.  [default: text]",
)
@click.option("--no-db", is_flag=True, help="Check only the folders, without a database.")
@click.option(
    "--since-version",
    "since",
    cls=Renamed,
    was=("--since",),
    type=int,
    default=0,
    metavar="VERSION",
    help="Check only migrations newer than this one.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings as well.")
@common
@pass_settings
@click.pass_context
def lint(
    ctx: click.Context, settings: Settings, *, form: str | None, no_db: bool, since: int, strict: bool
) -> None:
    """Report what pending migrations break, lose or omit. Exit with 1 on errors.

    With a database, the real rows are checked, and applied migrations are skipped. docs/lint.md lists
    all rules, and how to ignore one with a reason.

    \b
    Examples:
      everlog lint
      everlog lint --no-db --strict --format github
      everlog -u everlog://db.example.com/flights lint --format sarif > lint.sarif
    """
    from everlog import migrations
    from everlog.migrations import Severity

    with ExitStack() as stack:
        db = None if no_db else _database(settings, stack)
        check = migrations.lint if db is None else db.migrations.lint
        progress = stack.enter_context(show_progress())
        found = check(settings.migrations, since=since, ignored=form == "sarif", progress=progress)
    _print(
        found, form or ("json" if settings.json else "text"), "" if db is None else without_secrets(db.url)
    )
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(finding.severity in failing and finding.ignored is None for finding in found):
        ctx.exit(1)


def _database(settings: Settings, stack: ExitStack) -> AnyDatabase | None:
    """Return the database; None if it does not exist and --url was not given."""
    try:
        url = settings.url
    except OpenError:
        return None
    if settings.url_given is None and not is_remote(url) and not directory_of(url).exists():
        return None
    db = open_database(settings, read_only=True)
    stack.callback(db.close)
    return db


def _print(found: list[Finding], form: str, url: str) -> None:
    base = Path.cwd()
    if form == "sarif":
        output.echo(as_sarif(found, base), indent=True)
        return
    for finding in found:
        line: Any = {"text": as_text, "github": as_github}.get(form)
        if line is None:
            output.echo(as_dict(finding, base))
        else:
            click.echo(line(finding, base))
    if form == "text":
        over = f"with the rows of {url}" if url else "without a database"
        click.echo(f"{count_findings(found).capitalize()} ({over})")


def as_text(finding: Finding, base: Path) -> str:
    """Return two lines for people."""
    place = f"{_relative(finding.file, base)}:{finding.line}"
    return f"{place}: {finding.severity}: {finding.text} [{finding.id}]\n    fix: {finding.fix}"


def as_github(finding: Finding, base: Path) -> str:
    """Return one annotation, escaped as @actions/core does."""
    facts = {"file": _relative(finding.file, base), "line": str(finding.line), "title": finding.id}
    where = ",".join(f"{name}={_property(value)}" for name, value in facts.items())
    return f"::{_COMMANDS[finding.severity]} {where}::{_data(f'{finding.text}. Fix: {finding.fix}')}"


def as_dict(finding: Finding, base: Path) -> dict[str, Any]:
    """Return one JSON object."""
    return {
        "id": finding.id,
        "severity": str(finding.severity),
        "file": _relative(finding.file, base),
        "line": finding.line,
        "text": finding.text,
        "fix": finding.fix,
    }


def as_sarif(findings: Iterable[Finding], base: Path) -> dict[str, Any]:
    """Return one document with all rules, so that a reader can see what was checked.

    Ignored findings are included as suppressed.
    """
    order = {id: at for at, id in enumerate(RULES)}
    driver = {
        "name": "everlog lint",
        "semanticVersion": VERSION,
        "rules": [_rule(rule) for rule in RULES.values()],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, order[finding.id], base) for finding in findings],
    }
    return {"$schema": _SARIF, "version": "2.1.0", "runs": [run]}


def count_findings(findings: Sequence[Finding]) -> str:
    """Return the numbers by severity, such as `2 errors, 1 warning`, without zeros."""
    counts = Counter(finding.severity for finding in findings)
    said = [
        quantity(counts[one], one, one if one is Severity.INFO else "") for one in Severity if counts[one]
    ]
    return ", ".join(said) or "nothing found"


def _relative(file: str, base: Path) -> str:
    """Return a path relative to the base, with `/` on every system."""
    path, top = Path(file), base.resolve()
    return (path.relative_to(top) if path.is_relative_to(top) else path).as_posix()


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: Finding, rule: int, base: Path) -> dict[str, Any]:
    path, top = Path(finding.file), base.resolve()
    artifact: dict[str, str] = {"uri": path.as_uri()}
    if path.is_relative_to(top):
        artifact = {"uri": path.as_uri().removeprefix(f"{top.as_uri()}/"), "uriBaseId": "%SRCROOT%"}
    place = {"artifactLocation": artifact, "region": {"startLine": finding.line}}
    return {
        "ruleId": finding.id,
        "ruleIndex": rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.text}. Fix: {finding.fix}"},
        "locations": [{"physicalLocation": place}],
        "suppressions": _suppressions(finding),  # of all results or of none (section 3.27.23)
    }


def _suppressions(finding: Finding) -> list[dict[str, str]]:
    if finding.ignored is None:
        return []
    reason = {"justification": finding.ignored} if finding.ignored else {}
    return [{"kind": "inSource", **reason}]


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
