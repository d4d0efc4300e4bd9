"""Recorded folders: synchronise a migration's folder on disk with the one in the log.

    accept           disk ─▶ log     an edited folder counts as the applied one; the log says who and why
    restore_folders  log ─▶ disk     a missing or edited folder is written as it was applied

Invariants
  (1) `accept` does not change the schema: folders that would make a different one are refused.
  (2) `restore_folders` writes only inside the folder, whatever the paths in the log.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from everlog.migrations import digest
from everlog.migrations.baseline import difference_of
from everlog.migrations.folder import (
    ALWAYS_KEPT,
    FOLDER_NAME,
    SALT,
    SOURCE,
    Folder,
    Root,
    Source,
    find_or_make,
    folders,
    is_comparable,
    recorded_files,
    same_content,
)
from everlog.migrations.in_progress import check_undecided, current_migration
from everlog.migrations.loader import after, load
from everlog.migrations.lock import lock
from everlog.migrations.status import LoggedMigration, MigrationInfo, State, compare, logged_migrations
from everlog.proto import log_pb2
from everlog.store.crypto.vault import Vault
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, MigrationError, quantity
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Metadata

# Stands for the generated code of a restored folder. `build` replaces it, without applying rules that are
# newer than the folder.
_STUB = "# Restored from the log; run `everlog build`.\n"


class Ran(msgspec.Struct, frozen=True):
    """A folder as the log has it; some files have a digest only."""

    version: int
    name: str
    digest: bytes
    sources: list[log_pb2.SourceFile]

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


class Missing(msgspec.Struct, frozen=True):
    """A file of a restored folder whose content the log does not have.

    `size` is in bytes, 0 if unknown. `sha256` is hexadecimal, and empty if the file has rows of a sealed
    table. `is_other`: a different file of that name exists, and was left unchanged.
    """

    path: str
    size: int
    sha256: str
    is_other: bool = False

    @property
    def says(self) -> str:
        """What is missing and how to get it, as a sentence."""
        size = f"{quantity(self.size, 'byte')}, " if self.size else ""
        which = f"{size}SHA-256 {self.sha256}" if self.sha256 else "with rows of a sealed table"
        found = "differs from the applied one" if self.is_other else "is missing"
        return (
            f"{self.path} {found} (expected: {which}); the log has only a digest of it: copy it from version"
            " control or from where the migration was applied, then run `everlog build`"
        )


class Restored(msgspec.Struct, frozen=True):
    """A folder that was written.

    Its `missing` files must be added before it is built: the log does not have their content, because they
    have rows of sealed tables or are too large for a record. An existing file that cannot be compared without
    the keys is not listed.
    """

    path: Path
    version: int
    missing: list[Missing]


def accept(
    db: Database, source: Source = SOURCE, versions: Sequence[int] = (), *, actor: str = "", reason: str = ""
) -> list[MigrationInfo]:
    """Accept the edited folders of these migrations, or of all edited ones, as those that ran. Return them.

    `actor` and `reason` go into the log. Writes one record for each, with the folder's files; runs the
    folders' code. Raises MigrationError, and writes nothing, for a migration that was not edited, or if the
    folders no longer make the schema of the database.
    """
    Metadata(actor, reason).check()
    with lock(db.uuid, actor, reenter=True):
        check_undecided(current_migration(db))
        migrations = load(source)
        by_version = {migration.version: migration for migration in migrations}
        infos = {
            info.version: info
            for info in compare(db.migration_records(), [one.folder for one in migrations], db.tables.vault)
        }
        edited = [version for version, info in infos.items() if info.state is State.EDITED]
        for version in versions:
            if version not in edited:
                state = str(infos[version].state) if version in infos else "not known"
                raise MigrationError(
                    f"migration {version} is {state}; expected one that was edited after it was applied:"
                    f" {', '.join(map(str, edited)) or 'none'}",
                    version=version,
                )
        building = next((info for info in infos.values() if info.state is State.BUILDING), None)
        if building is not None:
            raise MigrationError(
                f"migration {building.title} is in progress; finish it (`everlog up`) or give it up"
                " (`everlog rollback`) first",
                version=building.version,
            )
        made = log_pb2.Schema()
        for migration in migrations:
            if infos[migration.version].state is not State.PENDING:
                made = after(made, migration)
        diff = difference_of(Schema(made), db.schema, "the folders", "the database")
        if diff:
            raise MigrationError(
                "the edited folders do not make the schema of the database; restore them (`everlog"
                f" restore-folders --force`), and put the change into a new migration:\n{diff.rstrip()}"
            )
        there = logged_migrations(db.migration_records())
        return [
            _accept(db, by_version[version].folder, there[version], actor, reason)
            for version in sorted(versions or edited)
        ]


def _accept(db: Database, folder: Folder, logged: LoggedMigration, actor: str, reason: str) -> MigrationInfo:
    sealed = any(table.HasField("person") for table in db.schema_at(logged.last.seq).tables)
    hidden = {file.path for file in logged.sources if file.digest}
    if sealed or hidden:  # only the folder's code knows which files have rows of sealed tables
        hidden |= {file.path for file in folder.sources if file.path not in ALWAYS_KEPT}
    record = log_pb2.Migration(
        step=log_pb2.Migration.ACCEPTED,
        version=logged.version,
        name=logged.began.migration.name,
        digest=folder.digest,
        sources=recorded_files(folder, hidden, db.tables.vault),
    )
    result = db.apply_migration(record, actor=actor, reason=reason)
    return MigrationInfo(
        logged.version,
        logged.began.migration.name,
        State.APPLIED,
        logged.last.time_ns,
        result.seq,
        actor,
        logged.digest,
        folder.digest,
    )


def restore_folders(
    db: Database, source: Source = SOURCE, versions: Sequence[int] = (), *, force: bool = False
) -> list[Restored]:
    """Write the folders of these migrations, or of all missing ones, as the log has them. Return them.

    Only reads the database, and runs no code. With `force`, an edited folder is replaced; its test data and
    tests stay, as do files of which the log has only a digest. Run `build` afterwards. Raises MigrationError,
    and writes nothing, for a migration whose files are not in the log, and without `force` for an edited
    folder.
    """
    return write_folders(ran(db), source, versions, force=force, vault=db.tables.vault)


def ran(db: Database) -> list[Ran]:
    """Return the folders of the migrations that are in the database, oldest first. Read-only."""
    found = (
        Ran(one.version, one.began.migration.name, one.digest, one.sources)
        for one in logged_migrations(db.migration_records()).values()
        if one.sources
    )
    return sorted(found, key=lambda one: one.version)


def write_folders(
    there: Iterable[Ran],
    source: Source = SOURCE,
    versions: Sequence[int] = (),
    *,
    force: bool = False,
    vault: Vault | None = None,
) -> list[Restored]:
    """Write folders from `ran`; see `restore_folders`. `vault`: the keys of files that the log withholds."""
    by_version = {one.version: one for one in there}
    root = find_or_make(source)
    known = {folder.version: folder for folder in folders(root)}
    wanted = sorted(versions) or sorted(version for version in by_version if version not in known)
    todo = []
    for version in wanted:
        if version not in by_version:
            raise MigrationError(
                f"the log has no files of migration {version}; it has those of:"
                f" {', '.join(map(str, by_version)) or 'none'}",
                version=version,
            )
        logged, folder = by_version[version], known.get(version)
        if folder is not None and _is_whole(folder, logged, vault):
            continue
        if folder is not None and not force:
            raise MigrationError(
                f"{folder.path} was edited after it ran; `everlog status --diff {version}` shows the"
                " differences, and --force replaces it",
                version=version,
            )
        _check(logged)
        todo.append((logged, folder))
    return [_write(root, logged, folder, vault) for logged, folder in todo]


def _is_whole(folder: Folder, logged: Ran, vault: Vault | None) -> bool:
    """Whether a folder has the files that ran, as far as this can be determined."""
    if logged.digest in folder.digests:
        return True
    was, now = {one.path: one for one in logged.sources}, {one.path: one for one in folder.sources}
    return was.keys() == now.keys() and all(
        same_content(one.digest, now[path], folder, vault)
        if one.digest
        else digest.sha256(one) == digest.sha256(now[path])
        for path, one in was.items()
    )


def _check(logged: Ran) -> None:
    if FOLDER_NAME.fullmatch(f"v{logged.title}") is None:
        raise CorruptionError(f"the log names a migration {logged.title!r}, which is not a valid folder name")
    for file in logged.sources:
        path = PurePosixPath(file.path)
        if path.is_absolute() or not path.parts or {"..", "."} & {*path.parts} or "\\" in file.path:
            raise CorruptionError(
                f"the log has a file {file.path!r} of {logged.title}, which is outside its folder"
            )


def _write(root: Root, logged: Ran, folder: Folder | None, vault: Vault | None) -> Restored:
    digested = {file.path: file for file in logged.sources if file.digest}
    there = {file.path: file for file in folder.sources} if folder is not None else {}
    missing = []
    for name, file in digested.items():
        mine = there.get(name)
        if mine is not None and not is_comparable(file.digest, vault):
            continue  # it may be unchanged
        if folder is None or mine is None or not same_content(file.digest, mine, folder, vault):
            missing.append(_missing(file, is_other=mine is not None))
    with tempfile.TemporaryDirectory(prefix=".restored-", dir=root.path) as temporary:
        made = Path(temporary, "folder")
        if folder is not None:
            shutil.copytree(folder.path, made, symlinks=True)
            for name in there.keys() - digested.keys():
                (made / name).unlink()
            (made / "model_pb2.py").unlink(missing_ok=True)
        for file in logged.sources:
            if not file.digest:
                path = made / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.content)
        salt = [line for line in folder.header if line.startswith(SALT)] if folder is not None else []
        (made / "model_pb2.py").write_text(_STUB + "".join(f"{line}\n" for line in salt), encoding="utf-8")
        if folder is not None:
            folder.path.rename(Path(temporary, "before"))
        path = folder.path if folder is not None else root.path / f"v{logged.title}"
        made.rename(path)
    return Restored(path, logged.version, missing)


def _missing(file: log_pb2.SourceFile, *, is_other: bool) -> Missing:
    is_hash = len(file.digest) == hashlib.sha256().digest_size
    return Missing(file.path, file.size, file.digest.hex() if is_hash else "", is_other)
