"""Repair: salvage a damaged database. The only code that cuts a log below what was on disk, and it keeps
what it cuts.

    <path>/db ─copy─▶ <path>/repair/old ─▶ records, each checked, up to the first that is missing
                                                │
                                         <path>/repair/new ─▶ tables projected from them
    then  db ─▶ db.damaged-N,  repair/new/db ─▶ db,  a new HEAD

A row that no reader can parse was written by a version that did not refuse it: its record is valid, and
stays. The row is set aside by one more record, which deletes it; the log keeps its content.

The damaged files are copied before RocksDB may touch them, and stay beside the database under another
name, so that a repair can be repeated, or undone by renaming.

Invariants
  (1) every record of the new log was checked, and seqs are dense from the oldest;
  (2) killed at any point, the next repair begins from the original files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from itertools import count
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError
from rocksdict import DBRecoveryMode, Options, Rdict

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import CorruptionError, Error, OpenError
from everlog.store.keys import SEQ
from everlog.store.log import Log
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files, manifest
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import translated
from everlog.store.rocks.ownership import locked, resolve
from everlog.store.tables.projection import FamilyTarget
from everlog.store.tables.projector import Projector
from everlog.store.upkeep.rebuild import empty_projector

CHUNK = 512
SET_ASIDE = "everlog repair: rows that cannot be read"
DAMAGED = "db.damaged-"


class Repair(msgspec.Struct, frozen=True):
    """What a repair did or, as a dry run, would do."""

    records: int  # seq of the last record that is kept
    known: int  # last seq on disk by HEAD; 0 if there is no HEAD
    found: int  # seq of the newest record left in the files, damaged ones included
    why: str  # why the log ends there; empty: it is complete
    files: list[str]  # problems with RocksDB's files, a sentence each
    damaged: str | None  # where the original files are now; None: a dry run
    aside: tuple[str, ...] = ()  # unreadable rows, which a record after `records` deletes

    @property
    def cut(self) -> int:
        """The number of lost records: known to have existed, and not kept."""
        return max(self.known, self.found) - self.records


def repair(path: Path | str, *, dry_run: bool = False, progress: OnProgress | None = None) -> Repair:
    """Salvage a damaged database that is not open anywhere. Writes.

    It keeps the log up to the first record that is unreadable or invalid, and builds the tables from it,
    without unreadable rows. `dry_run`: change nothing, and return what a repair would do. Raises OpenError
    if there is no database or another process has it open, CorruptionError if no record is left.
    """
    path = resolve(Path(path))
    files.read_marker(path)
    if not (path / "db").is_dir() and not any(path.glob(f"{DAMAGED}*")):
        raise OpenError(f"{path} is no everlog database: there is no {path / 'db'}")
    with locked(path) as owner:
        at, work = owner.at, owner.at / "repair"
        _restore_name(at)
        shutil.rmtree(work, ignore_errors=True)
        try:
            _copy(at / "db", work / "old" / "db")
            found = _salvage(path, at, work, progress)
            if dry_run:
                return found
            kept = _swap(at, work)
            return msgspec.structs.replace(found, damaged=str(path / kept.name))
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _salvage(path: Path, at: Path, work: Path, progress: OnProgress | None) -> Repair:
    """Make the new database in `work`."""
    known, wrong = _known(at), list(manifest.problems(path))
    old = _open_damaged(path, work / "old")
    try:
        new = Engine(work / "new")
        try:
            copy, projector = Log(new), empty_projector(FamilyTarget(new))
            why = _take(old, copy, projector, progress)
            if not copy.written:
                raise CorruptionError(f"{path}: no record is left: {why}; restore a backup", seq=1)
            projector.flush()
            kept = copy.written
            aside = _set_aside(copy, projector)
            copy.sync()
            new.flush()
            files.write(work / "new" / files.HEAD, files.Head(copy.written, copy.checksum), sync=True)
        finally:
            new.close()
        newest = _newest(old)
    finally:
        old.close()
    if not why and known > kept:
        why = f"the log was on disk up to record {known}, and ends at {kept}: its end is lost"
    return Repair(kept, known, max(newest, kept), why, wrong, None, tuple(aside))


def _set_aside(copy: Log, projector: Projector) -> list[str]:
    """Delete unreadable rows by records at the end of the log. Return their names.

    Sealed rows are left as they are, because there are no keys here.
    """
    names: list[str] = []
    changes: list[log_pb2.Change] = []
    for info in projector.schema.spaces.values():
        if info.sealed:
            continue
        skip, parse = len(info.row_prefix), info.model.FromString
        for full, value in projector.pending.target.view.items(info.row_prefix, keys.prefix(info.space, 1)):
            try:
                parse(keys.row_of(value))
            except DecodeError:
                names.append(info.show_key(full[skip:]))
                changes.append(
                    log_pb2.Change(
                        space=info.space, op=log_pb2.DELETE, key=full[skip:], prior=keys.seq_of(value)
                    )
                )
    for at in range(0, len(changes), CHUNK):
        last = copy.commit(copy.written)
        framed = record.frame(
            log_pb2.Commit(
                seq=last.seq + 1,
                time_ns=max(time.time_ns(), last.time_ns),
                schema=projector.schema.version,
                reason=SET_ASIDE,
                changes=changes[at : at + CHUNK],
            )
        )
        copy.append([framed])
        projector.add(framed)
    projector.flush()
    return names


def _take(old: Engine, copy: Log, projector: Projector, progress: OnProgress | None) -> str:
    """Copy records as long as they are valid. Return why the copy ended; empty: at the end of the log."""
    newest, chunk, why = _newest(old), list[bytes](), ""
    for seq in count(1):
        try:
            with translated(f"reading record {seq} of the log"):
                framed: bytes | None = old.log.get(SEQ.pack(seq))
            if framed is None:
                why = f"record {seq} of the log is missing" if seq <= newest else ""
                break
            projector.add(framed)
        except Error as error:
            why = str(error)
            break
        chunk.append(framed)
        if len(chunk) == CHUNK:
            copy.append(chunk)
            chunk = []
            if progress is not None:
                progress(Progress("repair", seq, newest, "records"))
    if chunk:
        copy.append(chunk)
    return why


def _newest(old: Engine) -> int:
    """Return the seq of the newest record whose key can be read."""
    cursor = old.log.iter()
    cursor.seek_to_last()
    return SEQ.unpack(cursor.key())[0] if cursor.valid() else 0


def _swap(path: Path, work: Path) -> Path:
    """Put the new database in the place of the damaged one, which is kept under another name."""
    number = 1
    while (kept := path / f"{DAMAGED}{number}").exists():
        number += 1
    (path / "db").rename(kept)
    (work / "new" / "db").rename(path / "db")
    (work / "new" / files.HEAD).replace(path / files.HEAD)
    files.sync_directory(path)
    return kept


def _restore_name(path: Path) -> None:
    """After a repair that was killed between its two renames, make the damaged files the database again."""
    kept = sorted(path.glob(f"{DAMAGED}*"), key=lambda file: int(file.name.removeprefix(DAMAGED)))
    if kept and not (path / "db").exists():
        kept[-1].rename(path / "db")


def _known(path: Path) -> int:
    with contextlib.suppress(OpenError):  # ignore an unreadable HEAD
        found = files.read(path / files.HEAD, files.Head)
        return found.seq if found else 0
    return 0


def _copy(source: Path, target: Path) -> None:
    """Link table files, which never change once written, and copy all others."""
    target.mkdir(0o700, parents=True)
    for file in source.iterdir():
        if file.suffix == ".sst":
            try:
                os.link(file, target / file.name)
                continue
            except OSError:
                pass  # another file system, or one without links
        if file.is_file() and file.name != "LOCK":
            shutil.copy2(file, target / file.name)


def _open_damaged(path: Path, work: Path) -> Engine:
    """Open as much of the copy as RocksDB can: everything its files still contain, in any order."""
    lenient = DBRecoveryMode.skip_any_corrupted_record()
    try:
        if not (work / "db" / "CURRENT").exists():
            raise CorruptionError("CURRENT is missing: RocksDB would create an empty database")
        return Engine(work, recovery=lenient)
    except Error:
        try:
            Rdict.repair(str(work / "db"), Options(raw_mode=True))
            return Engine(work, recovery=lenient)
        except Exception as error:
            raise CorruptionError(
                f"{path}: RocksDB cannot be opened, even after its own repair ({error}); restore a backup",
                place=str(path / "db"),
            ) from error
