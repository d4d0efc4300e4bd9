"""Shown: what people are shown of pending migrations before they approve them, as one document.

    Plan ─▶ plan.json ─▶ SHA-256: the digest that an approval binds

Invariants
  (1) whoever knows a digest knows what was shown: database, from and to, folders, steps, findings;
  (2) a document that was written once is read for ever: fields are only added, with a default.

Its keys are in docs/format.md, "Proposals".
"""

from __future__ import annotations

import hashlib

import msgspec

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
