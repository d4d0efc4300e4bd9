"""Shown sources: the files of the folders that a proposal would apply, as they were when it was made.

    PROPOSED { plan.json, v<version>_<name>/<path> … }     as many as fit into BYTES_MAX, the small first

The digest of a proposal is that of its plan.json, which has the SHA-256 of each file. So they are
bound by it, though they lie beside it, and may be left out where they are too large to be looked at.

Invariants
  (1) what is given out has the SHA-256 that the plan says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from everlog.migrations.migration import Migration
from everlog.migrations.shown import Plan, ShownMigration
from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError

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
