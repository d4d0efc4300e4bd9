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

A dry run does the same in a temporary directory, whose table files are links to those of the database.

Invariants
  (1) every record of the new log was checked, and seqs are dense from the oldest;
  (2) killed at any point, the next repair begins from the original files;
  (3) a dry run writes nothing to the database's directory, and renames nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError
from rocksdict import DBRecoveryMode, Options, Rdict

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import CorruptionError, Error, OpenError
from everlog.store.keys import SEQ
from everlog.store.log import Log, edge
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files, manifest
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import translated
from everlog.store.rocks.ownership import locked, resolve, unwritten
from everlog.store.tables.projection import FamilyTarget
from everlog.store.tables.projector import Projector
from everlog.store.upkeep.rebuild import empty_projector

CHUNK = 512
_LENIENT = DBRecoveryMode.skip_any_corrupted_record()
SET_ASIDE = "everlog repair: rows that cannot be read"
DAMAGED = "db.damaged-"

Link = Callable[[Path, Path], None]  # os.link, os.symlink


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
    without unreadable rows. `dry_run`: return what a repair would do; nothing is written but a temporary
    directory (TMPDIR), which takes up to the size of the database. Raises OpenError if there is no database
    or another process has it open, CorruptionError if no record is left.
    """
    path = resolve(Path(path))
    marked = _is_marked(path)
    if not (path / "db").is_dir() and not _kept(path):
        raise OpenError(f"{path} is no everlog database: there is no {path / 'db'}")
    if dry_run:
        return _tried(path, progress)
    with locked(path) as owner:
        at, work = owner.at, owner.at / "repair"
        _restore_name(at)
        shutil.rmtree(work, ignore_errors=True)
        try:
            found = _salvage(path, at / "db", work, os.link, progress)
            kept = _swap(at, work)
            if not marked:
                files.write(at / files.MARKER, _marker(at), sync=True)
            return msgspec.structs.replace(found, damaged=str(path / kept.name))
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _tried(path: Path, progress: OnProgress | None) -> Repair:
    """Return what a repair would do."""
    with unwritten(path) as owner:
        source = owner.at / "db"
        if not source.exists():
            source = _kept(owner.at)[-1]
        work = files.Temporary("everlog-repair-")
        try:
            return _salvage(path, source, work.path, os.symlink, progress)
        finally:
            work.remove()


def _salvage(path: Path, source: Path, work: Path, link: Link, progress: OnProgress | None) -> Repair:
    """Make the new database in `work`. `source`: RocksDB's directory; `link` links its table files."""
    known, wrong = _known(source.parent), list(manifest.problems(path, source.name))
    _copy(source, work / "old" / "db", link)
    old = _open_damaged(path, source, work, known, link)
    try:
        new = Engine(work / "new")
        try:
            copy, projector = Log(new), empty_projector(FamilyTarget(new))
            why = _take(old, copy, projector, progress)
            for part in ("old", "again"):  # both go: name the file of which they are copies
                why = why.replace(str(files.real_path(work) / part / "db"), str(path / source.name))
            if not copy.written and (base := _base(old)):
                raise OpenError(
                    f"{path}: the log begins with record {base:,}, because older ones were archived, and"
                    " repair needs them all. Restore a backup. If only HEAD is damaged, delete HEAD: opening"
                    " for writing makes it again",
                    base=base,
                )
            if not copy.written:
                raise CorruptionError(
                    f"{path}: no record is left{why and f': {why}'}; restore a backup", seq=1
                )
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
            why = str(error).removesuffix(f". {manifest.REMEDY}")
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


def _base(old: Engine) -> int:
    """Return the seq of the Base with which an archived log begins; 0 if there is none that can be read."""
    with contextlib.suppress(Error), translated("reading the log"):
        found = edge(old, first=True)
        if found is not None:
            first = record.decode(found[1], SEQ.unpack(found[0])[0])
            return first.seq if first.HasField("base") else 0
    return 0


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
    kept = _kept(path)
    if kept and not (path / "db").exists():
        kept[-1].rename(path / "db")


def _kept(path: Path) -> list[Path]:
    """Return the directories of damaged files that repairs have kept, oldest first."""
    numbers = [
        int(file.name.removeprefix(DAMAGED))
        for file in files.matching(path, f"{DAMAGED}*")
        if file.name.removeprefix(DAMAGED).isdecimal()
    ]
    return [path / f"{DAMAGED}{number}" for number in sorted(numbers)]


def _known(path: Path) -> int:
    with contextlib.suppress(OpenError):  # ignore an unreadable HEAD
        found = files.read_head(path)
        return found.seq if found else 0
    return 0


def _copy(source: Path, target: Path, link: Link) -> None:
    """Link table files, which never change once written, and copy all others."""
    target.mkdir(0o700, parents=True)
    for file in source.iterdir():
        if not file.is_file() or file.name == "LOCK":
            continue  # a pipe, for example, which reading would wait for
        if file.suffix == ".sst":
            try:
                link(file, target / file.name)
                continue
            except OSError:
                pass  # another file system, or one without links
        copied = Path(shutil.copy2(file, target / file.name))
        copied.chmod(copied.stat().st_mode | 0o600)  # RocksDB writes to it


def _open_damaged(path: Path, source: Path, work: Path, known: int, link: Link) -> Engine:
    """Open as much of the copy in `work` as RocksDB can: everything its files still contain, in any order.

    The MANIFEST may be cut or an older copy, so that it lists fewer files. If the log ends before record
    `known`, RocksDB's own repair lists all files again.
    """
    old = work / "old"
    try:
        if not (old / "db" / "CURRENT").exists():
            raise CorruptionError("CURRENT is missing: RocksDB would create an empty database")
        found = Engine(old, recovery=_LENIENT)
    except Error:
        return _open_repaired(path, old)
    with contextlib.suppress(Error):
        if _newest(found) < known:
            shutil.rmtree(work / "again", ignore_errors=True)
            _copy(source, work / "again" / "db", link)
            again = _open_repaired(path, work / "again")
            if _newest(again) > _newest(found):
                found, again = again, found
            again.close()
    return found


def _open_repaired(path: Path, work: Path) -> Engine:
    try:
        Rdict.repair(str(work / "db"), Options(raw_mode=True))
        return Engine(work, recovery=_LENIENT)
    except Exception as error:
        raise CorruptionError(
            f"{path}: RocksDB cannot be opened, even after its own repair ({error}); restore a backup",
            place=str(path / "db"),
        ) from error


def _is_marked(path: Path) -> bool:
    """Whether the directory has a valid marker. Raises OpenError if its format is newer."""
    try:
        return files.read_marker(path) is not None
    except OpenError as error:
        if not error.facts.get("invalid"):
            raise
        return False


def _marker(at: Path) -> files.Marker:
    """Return the marker of the database in `at`, by the first record of its log."""
    engine = Engine(at)
    try:
        first = Log(engine).beginning()
    finally:
        engine.close()
    database = first.base.database if first.HasField("base") else first.created.database
    return files.Marker(files.FORMAT, str(uuid.UUID(bytes=database)))
