"""Lint formats: findings for people, for CI and for programs.

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
from pathlib import Path
from typing import Any

from everlog.migrations.lint.rules import RULES, Finding, Rule, Severity
from everlog.store import VERSION

_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def text(finding: Finding, base: Path) -> str:
    """Return two lines for people."""
    place = f"{relative(finding.file, base)}:{finding.line}"
    return f"{place}: {finding.severity}: {finding.text} [{finding.id}]\n    fix: {finding.fix}"


def github(finding: Finding, base: Path) -> str:
    """Return one annotation, escaped as @actions/core does."""
    facts = {"file": relative(finding.file, base), "line": str(finding.line), "title": finding.id}
    where = ",".join(f"{name}={_property(value)}" for name, value in facts.items())
    return f"::{_COMMANDS[finding.severity]} {where}::{_data(f'{finding.text}. Fix: {finding.fix}')}"


def as_dict(finding: Finding, base: Path) -> dict[str, Any]:
    """Return one JSON object."""
    return {
        "id": finding.id,
        "severity": str(finding.severity),
        "file": relative(finding.file, base),
        "line": finding.line,
        "text": finding.text,
        "fix": finding.fix,
    }


def sarif(findings: Iterable[Finding], base: Path) -> dict[str, Any]:
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


def count(findings: Sequence[Finding]) -> str:
    """Return the numbers by severity, such as `2 errors, 1 warning`, without zeros."""
    counts = Counter(finding.severity for finding in findings)
    said = [
        f"{counts[one]:,} {one}{'s' if counts[one] != 1 and one is not Severity.INFO else ''}"
        for one in Severity
        if counts[one]
    ]
    return ", ".join(said) or "nothing found"


def relative(file: str, base: Path) -> str:
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
