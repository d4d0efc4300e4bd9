"""Draft: the plan of what is pending on a database now, and what sets it apart from one shown before.

    folders + database ─▶ plan ─┬─▶ shown:  Plan, with rows as of commit `at`
                                └─▶ later:  differences(shown, now)

A database that is in use has other numbers of rows a moment later, and that alone is no other plan.
What is: another folder or file of it, another version to start from, another database, a step
more or less, a step over a table that was empty and is not, a finding more.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from everlog.migrations import digest, withheld
from everlog.migrations.bootstrap import bootstrap
from everlog.migrations.folder import SOURCE, Source, find
from everlog.migrations.lint.lint import lint
from everlog.migrations.migration import Migration
from everlog.migrations.plan import PlannedStep, load_for, pending, plan
from everlog.migrations.plan_document import Plan, ShownFinding, ShownMigration, ShownStep
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.progress import OnProgress

_ROWS = re.compile(r"\b([\d,]+) rows?\b")
_ABOUT = re.compile(r", some [\d,]+ s\b| FAILS for .*")  # how long it would take, and which rows failed


def draft(
    db: Database,
    source: Source = SOURCE,
    *,
    name: str = "",
    hold: bool = False,
    progress: OnProgress | None = None,
) -> Plan | None:
    """The plan of what is pending; None: nothing is. Read-only.

    Runs the folders' code, on every row that would be rewritten. Raises MigrationError and
    SchemaError as `apply` would before it writes.
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
            ShownMigration(
                migration.version,
                migration.name,
                migration.folder.digest.hex(),
                _digests(db, migration),
                [_shown(step) for step in planned[migration.version]],
            )
            for migration in todo
        ],
        findings=_findings(db, source, progress),
        hold=hold,
    )


def _digests(db: Database, migration: Migration) -> dict[str, str]:
    """The SHA-256 of each file; of one with rows of sealed tables a digest that confirms no guess."""
    hidden, vault = bootstrap(migration).withheld, db.tables.vault
    return {
        file.path: f"hmac:{withheld.digest(file, migration.folder, vault).hex()}"
        if file.path in hidden
        else digest.sha256(file).hex()
        for file in migration.folder.sources
    }


def differences(shown: Plan, now: Plan | None) -> list[str]:
    """What is no longer as it was shown, a clause each; none: the same may be done."""
    if now is None:
        return ["nothing is pending any more"]
    found = []
    if shown.database != now.database:
        found.append(f"the database is {now.database}, it was {shown.database}")
    if shown.from_version != now.from_version:
        found.append(f"the database is at version {now.from_version}, it was at {shown.from_version}")
    if shown.hold != now.hold:
        found.append("two versions are to be served" if now.hold else "only one version is to be served")
    was = {one.version: one for one in shown.migrations}
    are = {one.version: one for one in now.migrations}
    found += [f"migration {was[version].title} is gone" for version in sorted(was.keys() - are.keys())]
    found += [f"migration {are[version].title} is new" for version in sorted(are.keys() - was.keys())]
    for version in sorted(was.keys() & are.keys()):
        found += _of_migration(was[version], are[version])
    known = {(one.id, one.file, one.line) for one in shown.findings}
    found += [
        f"{one.file}:{one.line}: {one.id} was found ({one.text})"
        for one in now.findings
        if (one.id, one.file, one.line) not in known
    ]
    return found


def check_same(plan: Plan, todo: Iterable[Migration]) -> None:
    """Raises MigrationError if these migrations are not those of the plan."""
    shown = {one.version: one.digest for one in plan.migrations}
    for migration in todo:
        if shown.get(migration.version) not in {one.hex() for one in migration.folder.digests}:
            raise MigrationError(
                f"migration {migration.title} is not as it was approved: expected its folder to have digest"
                f" {shown.get(migration.version, 'none')[:12]}, found {migration.folder.digest.hex()[:12]};"
                " nothing was applied",
                version=migration.version,
            )


def _of_migration(was: ShownMigration, now: ShownMigration) -> Iterator[str]:
    if was.digest != now.digest or was.title != now.title:
        files = [
            f"{path} {_what(was.files.get(path), now.files.get(path))}"
            for path in sorted(was.files | now.files)
            if was.files.get(path) != now.files.get(path)
        ]
        yield f"migration {was.title} was edited: {', '.join(files) or f'it is {now.title} now'}"
    before, after = _outline(was.steps), _outline(now.steps)
    yield from (f"{was.title} no longer does: {text}" for text in before if text not in after)
    yield from (f"{was.title} does: {after[text]}" for text in after if text not in before)


def _what(was: str | None, now: str | None) -> str:
    return "is new" if was is None else "is gone" if now is None else "is another"


def _shown(step: PlannedStep) -> ShownStep:
    return ShownStep(step.text, step.instant, step.rows, step.problem)


def _outline(steps: Iterable[ShownStep]) -> dict[str, str]:
    """Steps without their numbers of rows, but for whether there are any, and whether they fail."""
    return {f"{step.problem} {_without_numbers(step.text)}": step.text for step in steps}


def _without_numbers(text: str) -> str:
    return _ROWS.sub(lambda found: "no rows" if found[1] == "0" else "rows", _ABOUT.sub("", text))


def _findings(db: Database, source: Source, progress: OnProgress | None) -> list[ShownFinding]:
    """What lint says of the folders over this database's data."""
    root = find(source).path
    return [
        ShownFinding(one.id, str(one.severity), _relative(one.file, root), one.line, one.text, one.fix)
        for one in lint(source, db, progress=progress)
    ]


def _relative(file: str | Path, root: Path) -> str:
    """From the directory of the migrations, so that it is the same on every machine."""
    path = Path(file)
    return path.resolve().relative_to(root).as_posix() if path.resolve().is_relative_to(root) else path.name
