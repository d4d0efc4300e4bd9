"""Lint rule: what one is, and how bad it is to break it. All of them: `everlog.migrations.lint.rules`.

Lint rules: everything that lint can find, each with a name that stays as it is.

    group/rule   load     a folder that cannot be used at all
                 wire     rows that are there would be misread            (buf's WIRE)
                 json     what programs that speak JSON would stumble on  (buf's WIRE_JSON)
                 change   what needs more than a new model
                 loss     what is gone afterwards
                 data     what the rows that are there forbid
                 history  what the database says of the folders
                 name, test, ignore

Ids are in people's files, in comments that ignore them: never rename one. docs/lint.md has every
rule with its reason, an example and the fix.

Lint finding: one thing that lint found, and the list of them while lint is at work.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec


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


__all__ = ["RULES", "Rule", "Severity"]


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO
_TRANSFORM = "or give the table a Transform, which rewrites its rows"

RULES = {
    rule.id: rule
    for rule in (
        Rule("load/refused", _E, "A folder does not load", "mend it: nothing is applied before all load"),
        Rule("load/not-built", _E, "The generated code is missing or stale", "run `everlog build`"),
        Rule("load/bootstrap", _E, "Bootstrap rows cannot be written", "mend the rows"),
        Rule("load/beside", _E, "A file beside the constants cannot be used", "mend it"),
        Rule(
            "wire/field-removed",
            _E,
            "A field is gone, and its number is not reserved",
            f"reserve its number, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-type",
            _E,
            "A field has another type",
            f"take a new number, and reserve the old one, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-cardinality",
            _E,
            "A field becomes repeated, or is no longer",
            f"take a new number, and reserve the old one, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-oneof",
            _E,
            "A field moves into a oneof, or out of one",
            f"leave it where it was, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-required",
            _E,
            "A required field comes, goes or changes",
            f"use `optional`, {_TRANSFORM}",
        ),
        Rule("wire/field-default", _E, "A field has another default", f"leave the default, {_TRANSFORM}"),
        Rule(
            "wire/number-taken",
            _E,
            "A number of one field or value is another's",
            "take the next free number; where it was renamed, reserve the old name",
        ),
        Rule("wire/number-reused", _E, "A reserved number is used again", "take the next free number"),
        Rule("wire/reserved-removed", _E, "A number is no longer reserved", "reserve it again"),
        Rule(
            "wire/enum-value-removed",
            _E,
            "A value of an enum is gone, and its number is not reserved",
            f"reserve its number, {_TRANSFORM}",
        ),
        Rule("wire/enum-closed", _E, "An enum is open and was closed, or is closed and was open", "leave it"),
        Rule(
            "wire/index-presence",
            _E,
            "A field of the key or an index becomes `optional`, or is no longer",
            "leave it, or give the index another name, so that it is built anew",
        ),
        Rule(
            "wire/incompatible",
            _E,
            "The model cannot follow the one before",
            f"change it as a compatible change allows, {_TRANSFORM}",
        ),
        Rule(
            "json/field-name",
            _W,
            "A field has another name in JSON",
            "keep the old name in JSON with `[json_name = …]`, or ignore this with a reason",
        ),
        Rule(
            "json/field-type",
            _W,
            "A field is written in another way in JSON",
            "tell those who read JSON, and ignore this with a reason",
        ),
        Rule(
            "json/name-not-reserved",
            _W,
            "The name of what was removed is not reserved",
            "reserve the name as well",
        ),
        Rule("json/reserved-removed", _W, "A name is no longer reserved", "reserve it again"),
        Rule(
            "json/enum-value-name",
            _W,
            "A value of an enum has another name",
            "keep the old name as well (`option allow_alias`), or ignore this with a reason",
        ),
        Rule(
            "json/format",
            _W,
            "A message or an enum is no longer sure to be JSON",
            "leave `features.json_format`, or ignore this with a reason",
        ),
        Rule(
            "change/key",
            _E,
            "A table has another primary key",
            "have its rows made anew (`Remake`), or declare a new table",
        ),
        Rule(
            "change/undeclared",
            _E,
            "Something of the version before is neither declared nor dropped",
            "declare it as it was, or name it in `drop` (a table's new name in `rename`)",
        ),
        Rule(
            "change/no-down",
            _W,
            "Rows are transformed, and there is no way back",
            "write `down`, so that old clients go on and a rollback keeps what was written since",
        ),
        Rule(
            "change/table-renamed",
            _W,
            "A table has another name",
            "see that nobody asks for the old name, and ignore this with a reason",
        ),
        Rule(
            "person/key-not-surrogate",
            _W,
            "The primary key of a sealed table may tell who somebody is",
            "take a number or a random id for the key, or ignore this with a reason",
        ),
        Rule(
            "person/open-before",
            _W,
            "A table is sealed, and its rows from before stay open in the log",
            "load them into a new database where they must not, or ignore this with a reason",
        ),
        Rule(
            "person/bootstrap",
            _W,
            "Rows of people come with a migration's folder",
            "load them with `everlog import`, or ignore this with a reason in bootstrap.py",
        ),
        Rule(
            "person/unsalted",
            _W,
            "The digest of a folder with rows of people has no salt",
            "run `everlog build`, with `person` in the folder's own code, and check in what it writes",
        ),
        Rule(
            "person/removed",
            _E,
            "Rows that were sealed are written in clear",
            "keep `person`, or ignore this with the reason why everybody may read them",
        ),
        Rule(
            "loss/table-dropped",
            _W,
            "A table is dropped",
            "export it if it is needed, and ignore this with a reason",
        ),
        Rule(
            "loss/field-removed",
            _W,
            "A field is removed",
            "see that nobody reads it, and ignore this with a reason",
        ),
        Rule(
            "loss/index-dropped",
            _W,
            "An index is dropped",
            "see that no query uses it, and ignore this with a reason",
        ),
        Rule(
            "data/not-unique",
            _E,
            "A unique index over rows that are not unique",
            "change the rows, or leave `unique=True` away",
            depends=True,
        ),
        Rule(
            "data/unique-unchecked",
            _W,
            "A unique index that was not compared with the rows of a database",
            "give the database, with --url",
            depends=True,
        ),
        Rule(
            "data/bootstrap-not-unique",
            _E,
            "Bootstrap rows that a unique index refuses",
            "change the rows, or leave `unique=True` away",
            depends=True,
        ),
        Rule("data/bootstrap-twice", _E, "Bootstrap data has two rows of one key", "remove one of them"),
        Rule(
            "data/transform",
            _E,
            "`up` fails for a row",
            "mend `up`, or the row",
            depends=True,
        ),
        Rule(
            "history/out-of-order",
            _E,
            "A pending migration is older than an applied one",
            "give the folder and its model.proto a timestamp after it, or apply it with --out-of-order",
            depends=True,
        ),
        Rule(
            "history/edited",
            _E,
            "A migration was edited after it was applied",
            "restore it, and put the change into a new migration, or `everlog accept` it if it does the same",
            depends=True,
        ),
        Rule(
            "history/missing",
            _E,
            "The folder of an applied migration is gone",
            "restore it, with `everlog restore-folder`",
            depends=True,
        ),
        Rule(
            "history/future",
            _W,
            "A timestamp in the future",
            "take the time of now, in UTC, as `everlog new` does",
            depends=True,
        ),
        Rule("name/table", _W, "A table or index is not named in_snake_case", "rename it, while it is new"),
        Rule("name/message", _W, "A message or enum is not named in CamelCase", "rename it"),
        Rule("name/field", _W, "A field is not named in_snake_case", "rename it"),
        Rule("name/enum-value", _W, "A value of an enum is not named IN_UPPER_CASE", "rename it"),
        Rule("name/constant", _W, "A table or field constant is not named IN_UPPER_CASE", "rename it"),
        Rule(
            "test/no-data",
            _I,
            "The newest migration has no test data",
            "write testdata.py",
            depends=True,
        ),
        Rule(
            "test/no-tests",
            _I,
            "Rows are transformed, and no test is in the folder",
            "write test_*.py in the folder, or in tests/ in it",
            depends=True,
        ),
        Rule("ignore/no-reason", _E, "A comment ignores a rule without a reason", "say why, behind the ]"),
        Rule("ignore/unused", _W, "A comment ignores nothing", "remove it"),
        Rule("ignore/unknown", _E, "A comment ignores a rule that there is not", "docs/lint.md has all ids"),
    )
}


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
