"""Plan document: what people review before they approve pending migrations.

    Plan ─▶ plan.json ─▶ SHA-256: the digest that an approval binds

    PROPOSED { plan.json, v<version>_<name>/<path> … }     small files first, up to BYTES_MAX

The files of the folders are stored beside plan.json. They are bound by its digest as well, because plan.json
has the SHA-256 of each. Large ones may be omitted.

Invariants
  (1) A digest identifies everything that was reviewed: database, versions, folders, steps, findings.
  (2) A document stays readable permanently: fields are only added, with a default.
  (3) A file that is returned has the SHA-256 in the plan.

The JSON keys are in docs/format.md, "Proposals".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from everlog.migrations.migration import Migration
from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError


class StepEntry(msgspec.Struct, frozen=True):
    """One step in words, with the rows that it reads or writes. `problem`: the migration would fail here."""

    text: str
    instant: bool
    rows: int
    problem: bool = False


class MigrationEntry(msgspec.Struct, frozen=True):
    """One folder: its digest, and the SHA-256 of each file that the digest covers."""

    version: int
    name: str
    digest: str
    files: dict[str, str]
    steps: list[StepEntry]

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


class FindingEntry(msgspec.Struct, frozen=True):
    """A finding of lint; `file` is relative to the directory of the migrations."""

    id: str
    severity: str
    file: str
    line: int
    text: str
    fix: str = ""


class Plan(msgspec.Struct, frozen=True, rename={"from_version": "from", "to_version": "to"}):
    """The document to review. Numbers of rows are those of commit `at`.

    `hold`: where rows are rewritten, the previous version stays served until somebody completes the
    migration.
    """

    database: str  # UUID
    name: str  # its name for people
    at: int
    from_version: int
    to_version: int
    migrations: list[MigrationEntry]
    findings: list[FindingEntry]
    hold: bool = False

    @property
    def errors(self) -> list[str]:
        """The errors of the plan as sentences: errors of lint, and steps that would fail."""
        wrong = [one for one in self.findings if one.severity == "error"]
        found = [f"{one.file}:{one.line}: {one.text} [{one.id}]" for one in wrong]
        return found + [
            f"{one.title}: {step.text}" for one in self.migrations for step in one.steps if step.problem
        ]

    def encode(self) -> bytes:
        """Return the document as JSON: always the same bytes for the same plan."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


def decode(document: bytes) -> Plan:
    """Parse a document. Raises CorruptionError if it is invalid."""
    try:
        return msgspec.json.decode(document, type=Plan)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"expected the plan of a proposal as JSON, found: {error}") from None


def digest_of(document: bytes) -> bytes:
    """Return the digest that an approval binds, 32 bytes."""
    return hashlib.sha256(document).digest()


BYTES_MAX = 1 << 20

Sources = dict[str, dict[str, bytes]]  # by the folder's name, and the path in it


def folder_of(migration: MigrationEntry) -> str:
    """Return the name of a migration's folder."""
    return f"v{migration.title}"


def kept(plan: Plan, migrations: Iterable[Migration]) -> list[log_pb2.SourceFile]:
    """Return the files to store with a plan of these migrations, in the order of the plan."""
    known = {migration.version: migration.folder.sources for migration in migrations}
    wanted = [
        (f"{folder_of(one)}/{file.path}", file.content)
        for one in plan.migrations
        for file in known.get(one.version, ())
        if one.files.get(file.path) == _sha(file.content)
    ]
    size, chosen = 0, set[str]()
    for path, content in sorted(wanted, key=lambda file: len(file[1])):
        size += len(path) + len(content)
        if size > BYTES_MAX:
            break
        chosen.add(path)
    return [log_pb2.SourceFile(path=path, content=content) for path, content in wanted if path in chosen]


def read(plan: Plan, files: Iterable[log_pb2.SourceFile]) -> Sources:
    """Return the stored files of a plan. Read-only. Raises CorruptionError for a file that differs from
    the plan.
    """
    by_path = {file.path: file.content for file in files}
    found: Sources = {}
    for one in plan.migrations:
        folder = folder_of(one)
        found[folder] = {}
        for path, digest in one.files.items():
            content = by_path.get(f"{folder}/{path}")
            if content is None:
                continue
            if _sha(content) != digest:
                raise CorruptionError(
                    f"{folder}/{path}, stored with a proposal, is corrupt: expected the SHA-256 {digest},"
                    f" found {_sha(content)}",
                    place=path,
                )
            found[folder][path] = content
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
