"""Comparison: the plan of the pending migrations now, and how it differs from a reviewed one.

    folders + database ─▶ plan ─┬─▶ reviewed:  Plan, with rows as of commit `at`
                                └─▶ later:     differences(reviewed, now)

Row counts and durations change all the time, and alone do not make a different plan. These do: a different
folder or file, starting version or database; a step more or less; a step over a table that was empty and no
longer is; a new finding.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from everlog.migrations import digest
from everlog.migrations.bootstrap import bootstrap
from everlog.migrations.folder import SOURCE, Source, find, withheld_digest
from everlog.migrations.lint.lint import lint
from everlog.migrations.migration import Migration
from everlog.migrations.plan import PlannedStep, load_for, pending, plan
from everlog.migrations.plan_document import FindingEntry, MigrationEntry, Plan, StepEntry
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.progress import OnProgress

_ROWS = re.compile(r"\b([\d,]+) rows?\b")
# What differs between two plans of the same work: durations, and which rows failed. Plans of earlier versions
# say "some" instead of "about".
_VARIES = re.compile(r",? (?:some|about|in) [\d.,]+ m?s\b| FAILS for .*")


def draft(
    db: Database,
    source: Source = SOURCE,
    *,
    name: str = "",
    hold: bool = False,
    progress: OnProgress | None = None,
) -> Plan | None:
    """Return the plan of the pending migrations, or None if none is pending. Read-only.

    Runs the folders' code, on every row that would be rewritten. Raises MigrationError and SchemaError as
    `apply` would before it writes.
    """
    at = db.head
    todo = pending(db, load_for(db, source))
    if not todo:
        return None
    tried = plan(db, source, try_rows=True, hold=hold, linted=True, progress=progress)
    planned = {one.version: one.steps for one in tried}
    return Plan(
        database=str(uuid.UUID(bytes=db.uuid)),
        name=name,
        at=at,
        from_version=db.schema.version,
        to_version=todo[-1].version,
        migrations=[
            MigrationEntry(
                migration.version,
                migration.name,
                migration.folder.digest.hex(),
                _digests(db, migration),
                [_entry(step) for step in planned[migration.version]],
            )
            for migration in todo
        ],
        findings=_findings(db, source, progress),
        hold=hold,
    )


def _digests(db: Database, migration: Migration) -> dict[str, str]:
    """Return the SHA-256 of each file; for files with rows of sealed tables, a digest that confirms no
    guess.
    """
    hidden, vault = bootstrap(migration).withheld, db.tables.vault
    return {
        file.path: f"hmac:{withheld_digest(file, migration.folder, vault).hex()}"
        if file.path in hidden
        else digest.sha256(file).hex()
        for file in migration.folder.sources
    }


def differences(reviewed: Plan, now: Plan | None) -> list[str]:
    """Return what has changed since the plan was reviewed, as clauses; empty if it is still valid."""
    if now is None:
        return ["no migration is pending any more"]
    found = []
    if reviewed.database != now.database:
        found.append(f"the database is {now.database} instead of {reviewed.database}")
    if reviewed.from_version != now.from_version:
        found.append(f"the database is at version {now.from_version} instead of {reviewed.from_version}")
    if reviewed.hold != now.hold:
        found.append("two versions would be served" if now.hold else "only one version would be served")
    was = {one.version: one for one in reviewed.migrations}
    are = {one.version: one for one in now.migrations}
    found += [f"migration {was[version].title} is missing" for version in sorted(was.keys() - are.keys())]
    found += [f"migration {are[version].title} is new" for version in sorted(are.keys() - was.keys())]
    for version in sorted(was.keys() & are.keys()):
        found += _of_migration(was[version], are[version])
    known = {(one.id, one.file, one.line) for one in reviewed.findings}
    found += [
        f"{one.file}:{one.line}: {one.id} is a new finding ({one.text})"
        for one in now.findings
        if (one.id, one.file, one.line) not in known
    ]
    return found


def check_same(plan: Plan, todo: Iterable[Migration]) -> None:
    """Raise MigrationError if these migrations are not those of the plan."""
    reviewed = {one.version: one.digest for one in plan.migrations}
    for migration in todo:
        if reviewed.get(migration.version) not in {one.hex() for one in migration.folder.digests}:
            raise MigrationError(
                f"migration {migration.title} was edited after it was approved: its folder has digest"
                f" {migration.folder.digest.hex()[:12]} instead of"
                f" {reviewed.get(migration.version, 'none')[:12]}; nothing was applied",
                version=migration.version,
            )


def _of_migration(was: MigrationEntry, now: MigrationEntry) -> Iterator[str]:
    if was.digest != now.digest or was.title != now.title:
        files = [
            f"{path} {_change(was.files.get(path), now.files.get(path))}"
            for path in sorted(was.files | now.files)
            if was.files.get(path) != now.files.get(path)
        ]
        yield f"migration {was.title} was edited: {', '.join(files) or f'it is now {now.title}'}"
    before, after = _outline(was.steps), _outline(now.steps)
    yield from (f"{was.title} no longer does: {text}" for text in before if text not in after)
    yield from (f"{was.title} now does: {after[text]}" for text in after if text not in before)


def _change(was: str | None, now: str | None) -> str:
    return "is new" if was is None else "is missing" if now is None else "has changed"


def _entry(step: PlannedStep) -> StepEntry:
    return StepEntry(step.text, step.instant, step.rows, step.problem)


def _outline(steps: Iterable[StepEntry]) -> dict[str, str]:
    """Index steps by their text without row counts, but with whether there are rows and whether the step
    fails.
    """
    return {f"{step.problem} {_without_numbers(step.text)}": step.text for step in steps}


def _without_numbers(text: str) -> str:
    return _ROWS.sub(lambda found: "no rows" if found[1] == "0" else "rows", _VARIES.sub("", text))


def _findings(db: Database, source: Source, progress: OnProgress | None) -> list[FindingEntry]:
    """Return the findings of lint about the folders and this database's data."""
    root = find(source).path
    return [
        FindingEntry(one.id, str(one.severity), _relative(one.file, root), one.line, one.text, one.fix)
        for one in lint(source, db, progress=progress)
    ]


def _relative(file: str | Path, root: Path) -> str:
    """Return a path relative to the migrations, so that it is the same on every machine."""
    path = Path(file)
    return path.resolve().relative_to(root).as_posix() if path.resolve().is_relative_to(root) else path.name
