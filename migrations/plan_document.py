"""Shown: what people are shown of pending migrations before they approve them, as one document.

    Plan ─▶ plan.json ─▶ SHA-256: the digest that an approval binds

Invariants
  (1) whoever knows a digest knows what was shown: database, from and to, folders, steps, findings;
  (2) a document that was written once is read for ever: fields are only added, with a default.

Its keys are in docs/format.md, "Proposals".

Shown sources: the files of the folders that a proposal would apply, as they were when it was made.

    PROPOSED { plan.json, v<version>_<name>/<path> … }     as many as fit into BYTES_MAX, the small first

The digest of a proposal is that of its plan.json, which has the SHA-256 of each file. So they are
bound by it, though they lie beside it, and may be left out where they are too large to be looked at.

Invariants
  (1) what is given out has the SHA-256 that the plan says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from everlog.migrations.migration import Migration
from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError


class ShownStep(msgspec.Struct, frozen=True):
    """One thing that would be done, in words, with the rows that it reads or writes. `problem`: the
    migration would stop there."""

    text: str
    instant: bool
    rows: int
    problem: bool = False


class ShownMigration(msgspec.Struct, frozen=True):
    """One folder: its digest, and the SHA-256 of each file that counts."""

    version: int
    name: str
    digest: str
    files: dict[str, str]
    steps: list[ShownStep]

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


class ShownFinding(msgspec.Struct, frozen=True):
    """What lint found; `file` is relative to the directory of the migrations."""

    id: str
    severity: str
    file: str
    line: int
    text: str
    fix: str = ""


class Plan(msgspec.Struct, frozen=True, rename={"from_version": "from", "to_version": "to"}):
    """What is shown, and what a digest binds. Numbers of rows are those of commit `at`. `hold`: the
    version before is served as well where rows are rewritten, until somebody ends that."""

    database: str  # UUID
    name: str  # what people call it
    at: int
    from_version: int
    to_version: int
    migrations: list[ShownMigration]
    findings: list[ShownFinding]
    hold: bool = False

    @property
    def errors(self) -> list[str]:
        """What is wrong with it, a sentence each: errors of lint, and steps at which it would stop."""
        wrong = [one for one in self.findings if one.severity == "error"]
        found = [f"{one.file}:{one.line}: {one.text} [{one.id}]" for one in wrong]
        return found + [
            f"{one.title}: {step.text}" for one in self.migrations for step in one.steps if step.problem
        ]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


def decode(document: bytes) -> Plan:
    """The plan in a document. Raises CorruptionError if it is none."""
    try:
        return msgspec.json.decode(document, type=Plan)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"expected the plan of a proposal as JSON, found: {error}") from None


def digest_of(document: bytes) -> bytes:
    return hashlib.sha256(document).digest()


BYTES_MAX = 1 << 20

Sources = dict[str, dict[str, bytes]]  # by the folder's name, and the path in it


def folder_of(migration: ShownMigration) -> str:
    """The name of a migration's folder."""
    return f"v{migration.title}"


def kept(plan: Plan, migrations: Iterable[Migration]) -> list[log_pb2.SourceFile]:
    """The files that are kept with a plan of these migrations, in the order of the plan."""
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
    """What `kept` gave. Read-only. Raises CorruptionError for a file that is not what was shown."""
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
                    f"{folder}/{path} is kept with a proposal: expected the SHA-256 {digest}, found"
                    f" {_sha(content)}",
                    place=path,
                )
            found[folder][path] = content
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
