"""Lint rule: what one is, and how bad it is to break it. All of them: `everlog.migrations.lint_rules`."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How bad it is: an error makes `everlog lint` fail, a warning does with `--strict`."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Rule(NamedTuple):
    """One rule. `depends`: whether it is broken depends on the run (database, day, newest folder)."""

    id: str
    severity: Severity
    title: str
    fix: str
    depends: bool = False

    @property
    def group(self) -> str:
        return self.id.partition("/")[0]

    @property
    def ignorable(self) -> bool:
        return self.group not in {"load", "ignore"} and self.id not in {"history/edited", "history/missing"}
