"""Lint finding: one thing that lint found, and the list of them while lint is at work."""

from __future__ import annotations

from pathlib import Path

import msgspec

from everlog.migrations.lint_rules import RULES, Severity


class Finding(msgspec.Struct, frozen=True, order=True):
    """One thing that was found: `file` as an absolute path, `line` from 1. `ignored`: the reason that
    a comment gives for leaving it as it is, empty if it gives none; None: it is not ignored."""

    file: str
    line: int
    id: str
    severity: Severity
    text: str
    fix: str
    ignored: str | None = None


class Findings:
    """What was found so far; of folders that are `quiet` only what breaks the rest as well."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.ignored: list[Finding] = []
        self.quiet: set[str] = set()  # directories of folders

    def add(self, id: str, where: str, text: str, fix: str = "") -> None:
        """One more. `where` is `file:line`; `fix` is the rule's own unless there is a better one."""
        rule = RULES[id]
        file, _, line = where.rpartition(":")
        if not line.isdigit():
            file, line = where, "1"
        file = str(Path(file).resolve())
        if file.rpartition("/")[0] in self.quiet and rule.group not in {"load", "history"}:
            return
        finding = Finding(file, int(line), id, rule.severity, text, fix or rule.fix)
        if finding not in self.found:
            self.found.append(finding)

    def has_error_in(self, directory: Path) -> bool:
        """Whether a folder is wrong in itself, whatever a database says of it."""
        return any(
            finding.severity is Severity.ERROR
            and finding.id.partition("/")[0] in {"load", "wire", "change"}
            and finding.file.startswith(f"{directory.resolve()}/")
            for finding in self.found
        )
