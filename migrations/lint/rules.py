"""Lint rules: everything that lint can find, and findings.

    group/rule   load     a folder that cannot be used at all
                 wire     existing rows would be misread                  (buf's WIRE)
                 json     programs that use JSON would be affected        (buf's WIRE_JSON)
                 change   needs more than a new model
                 person   remains readable about people
                 loss     is no longer available afterwards
                 data     existing or bootstrap rows do not allow it
                 history  differs from the database or the clock
                 name, test, ignore

Ids are in users' files, in comments that ignore them: never rename one. docs/lint.md explains every rule,
with an example and a fix.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec


class Severity(StrEnum):
    """The severity of a finding: an error makes `everlog lint` fail, a warning only with `--strict`."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Rule(NamedTuple):
    """One rule. `depends`: whether it is broken depends on the run (database, date, newest folder)."""

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


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO
_TRANSFORM = "or give the table a Transform, which rewrites its rows"

RULES = {
    rule.id: rule
    for rule in (
        Rule(
            "load/refused", _E, "A folder does not load", "fix it: nothing is applied until all folders load"
        ),
        Rule("load/not-built", _E, "The generated code is missing or stale", "run `everlog build`"),
        Rule("load/bootstrap", _E, "Bootstrap rows cannot be written", "fix the rows"),
        Rule(
            "load/beside", _E, "A file beside the constants cannot be used", "correct the file at this line"
        ),
        Rule(
            "wire/field-removed",
            _E,
            "A field was removed, and its number is not reserved",
            f"reserve its number, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-type",
            _E,
            "A field has a different type",
            f"use a new number, and reserve the old one, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-cardinality",
            _E,
            "A field becomes or is no longer repeated",
            f"use a new number, and reserve the old one, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-oneof",
            _E,
            "A field moves into or out of a oneof",
            f"leave it where it was, {_TRANSFORM}",
        ),
        Rule(
            "wire/field-required",
            _E,
            "A field becomes or is no longer required, or a required field is new",
            f"use `optional`, {_TRANSFORM}",
        ),
        Rule("wire/field-default", _E, "A field has a different default", f"keep the default, {_TRANSFORM}"),
        Rule(
            "wire/number-taken",
            _E,
            "A field or enum value takes the number of another",
            "take the next free number; if it was renamed, reserve the old name",
        ),
        Rule("wire/number-reused", _E, "A reserved number is used again", "take the next free number"),
        Rule("wire/reserved-removed", _E, "A number is no longer reserved", "reserve it again"),
        Rule(
            "wire/enum-value-removed",
            _E,
            "An enum value was removed, and its number is not reserved",
            f"reserve its number, {_TRANSFORM}",
        ),
        Rule("wire/enum-closed", _E, "An enum becomes open or closed", "undo this"),
        Rule(
            "wire/index-presence",
            _E,
            "A field of the key or an index becomes or is no longer `optional`",
            "undo this, or rename the index so that it is rebuilt",
        ),
        Rule(
            "wire/field-presence",
            _W,
            "A field becomes or is no longer `optional`",
            f"undo this, {_TRANSFORM}, or ignore this with a reason",
        ),
        Rule(
            "wire/incompatible",
            _E,
            "The model cannot follow the previous one",
            f"make a compatible change, {_TRANSFORM}",
        ),
        Rule(
            "json/field-name",
            _W,
            "A field has a different name in JSON",
            "keep the old name in JSON with `[json_name = …]`, or ignore this with a reason",
        ),
        Rule(
            "json/field-type",
            _W,
            "A field is written differently in JSON",
            "inform readers of the JSON, and ignore this with a reason",
        ),
        Rule(
            "json/name-not-reserved",
            _W,
            "The name of a removed field or enum value is not reserved",
            "reserve the name as well",
        ),
        Rule("json/reserved-removed", _W, "A name is no longer reserved", "reserve it again"),
        Rule(
            "json/enum-value-name",
            _W,
            "An enum value has a different name",
            "keep the old name as well (`option allow_alias`), or ignore this with a reason",
        ),
        Rule(
            "json/format",
            _W,
            "A message or enum no longer guarantees valid JSON",
            "keep `features.json_format`, or ignore this with a reason",
        ),
        Rule(
            "change/key",
            _E,
            "A table has a different primary key",
            "rebuild its rows with `Remake`, or declare a new table",
        ),
        Rule(
            "change/undeclared",
            _E,
            "A part of the previous version is neither declared nor dropped",
            "declare it unchanged, or name it in `drop` (a table's new name in `rename`)",
        ),
        Rule(
            "change/no-down",
            _W,
            "Rows are transformed without a `down`",
            "write `down`, so that old clients keep working and a rollback keeps newer writes",
        ),
        Rule(
            "change/table-renamed",
            _W,
            "A table is renamed",
            "check that nothing uses the old name, and ignore this with a reason",
        ),
        Rule(
            "person/key-not-surrogate",
            _W,
            "The primary key of a sealed table may identify a person",
            "use a number or a random id as the key, or ignore this with a reason",
        ),
        Rule(
            "person/open-before",
            _W,
            "A table is sealed, but its earlier rows stay readable in the log",
            "load them into a new database if they must not, or ignore this with a reason",
        ),
        Rule(
            "person/bootstrap",
            _W,
            "A migration's folder contains rows of people",
            "load them with `everlog import`, or ignore this with a reason in bootstrap.py",
        ),
        Rule(
            "person/literal",
            _W,
            "Code that the log keeps contains data of people",
            "read it from a data file in the folder, or ignore this with a reason",
        ),
        Rule(
            "person/unsalted",
            _W,
            "The digest of a folder with rows of people has no salt",
            "run `everlog build`, with `person` in the folder's own code, and check in the result",
        ),
        Rule(
            "person/removed",
            _E,
            "Sealed rows are written in clear",
            "keep `person`, or ignore this with a reason why everybody may read them",
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
            "check that nothing reads it, and ignore this with a reason",
        ),
        Rule(
            "loss/index-dropped",
            _W,
            "An index is dropped",
            "check that no query uses it, and ignore this with a reason",
        ),
        Rule(
            "data/not-unique",
            _E,
            "A unique index on rows that are not unique",
            "change the rows, or omit `unique=True`",
            depends=True,
        ),
        Rule(
            "data/unique-unchecked",
            _W,
            "A unique index was not compared with the rows of a database",
            "pass the database with --url",
            depends=True,
        ),
        Rule(
            "data/bootstrap-not-unique",
            _E,
            "A unique index refuses bootstrap rows",
            "change the rows, or omit `unique=True`",
            depends=True,
        ),
        Rule(
            "data/bootstrap-twice", _E, "Bootstrap data has two rows with the same key", "remove one of them"
        ),
        Rule(
            "data/bootstrap-replaced",
            _W,
            "Bootstrap data of two migrations has different rows with the same key",
            "agree on one row, or ignore this with a reason if the later one corrects the earlier",
            depends=True,
        ),
        Rule(
            "data/transform",
            _E,
            "`up` fails for a row",
            "fix `up`, or the row",
            depends=True,
        ),
        Rule(
            "history/out-of-order",
            _E,
            "A pending migration is older than an applied one",
            "give the folder and its model.proto a newer timestamp, or apply it with --out-of-order",
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
            "The folder of an applied migration is missing",
            "restore it with `everlog restore-folders`",
            depends=True,
        ),
        Rule(
            "history/future",
            _W,
            "A timestamp in the future",
            "use the current time in UTC, as `everlog new` does",
            depends=True,
        ),
        Rule("name/table", _W, "A table or index is not named in_snake_case", "rename it while it is new"),
        Rule("name/message", _W, "A message or enum is not named in CamelCase", "rename it"),
        Rule("name/field", _W, "A field is not named in_snake_case", "rename it"),
        Rule("name/enum-value", _W, "An enum value is not named IN_UPPER_CASE", "rename it"),
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
            "Rows are transformed, but the folder has no test",
            "write test_*.py in the folder, or in its tests/",
            depends=True,
        ),
        Rule(
            "ignore/no-reason", _E, "A comment ignores a rule without a reason", "give the reason after the ]"
        ),
        Rule("ignore/unused", _W, "A comment ignores nothing", "remove it"),
        Rule("ignore/unknown", _E, "A comment ignores an unknown rule", "see docs/lint.md for all ids"),
    )
}


class Finding(msgspec.Struct, frozen=True, order=True):
    """One finding: `file` as an absolute path, `line` from 1.

    `ignored`: the reason in the comment that ignores it, empty if it gives none; None: it is not ignored.
    """

    file: str
    line: int
    id: str
    severity: Severity
    text: str
    fix: str
    ignored: str | None = None


class Findings:
    """The findings so far; of folders that are `quiet`, only those that affect the others."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.ignored: list[Finding] = []
        self.quiet: set[str] = set()  # directories of folders

    def add(self, id: str, where: str, text: str, fix: str = "") -> None:
        """Add one. `where` is `file:line`; `fix` replaces the rule's own."""
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
        """Whether a folder itself has an error, independent of any database."""
        return any(
            finding.severity is Severity.ERROR
            and finding.id.partition("/")[0] in {"load", "wire", "change"}
            and finding.file.startswith(f"{directory.resolve()}/")
            for finding in self.found
        )
