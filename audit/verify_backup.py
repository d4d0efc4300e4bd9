"""Verify backup: read a whole backup and report every problem.

manifest  lists segments that are dense and of one history
files     each exists, and is byte for byte what the manifest says
blocks    each matches its own SHA-256, and its records are dense
records   each matches its checksum
deep      a database restored from it, in a temporary directory, has the recorded tables
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from everlog.audit import manifest as manifests
from everlog.audit import segment as segments
from everlog.audit.manifest import MANIFEST, Manifest
from everlog.audit.place import Place, place
from everlog.audit.reader import check_file, ranges
from everlog.audit.restore import restore
from everlog.audit.segment import Segment
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, Error
from everlog.store.progress import OnProgress, Progress
from everlog.store.upkeep.check import problems


def verify_backup(
    backup: str | PathLike[str], *, deep: bool = False, progress: OnProgress | None = None
) -> Iterator[str]:
    """Yield each problem of a backup as a sentence that names the file and the record.

    `deep`: also restore it into a temporary directory and check that. Read-only. Raises OpenError if there
    is no backup.
    """
    where = place(backup)
    try:
        manifest = manifests.needed(where)
    except CorruptionError as error:
        yield str(error)
        return
    whole = True
    for problem in _files(where, manifest, progress):
        whole = False
        yield problem
    if deep and whole:
        yield from _deep(backup, progress)


def _files(where: Place, manifest: Manifest, progress: OnProgress | None) -> Iterator[str]:
    for one in manifest.segments:
        try:
            yield from _segment(where, manifest, one)
        except Error as error:
            yield str(error)
        if progress is not None:
            progress(Progress("verify", one.last, manifest.head.seq, "records"))
    listed = {MANIFEST, *(one.name for one in manifest.segments)}
    for name in where.names():
        if name not in listed and not name.endswith(".new"):
            yield f"{where.url}/{name} is not in the manifest: a killed backup left it; the next removes it"


def _segment(where: Place, manifest: Manifest, one: Segment) -> Iterator[str]:
    file = f"{where.url}/{one.name}"
    data = where.read(one.name)
    damaged = 0
    try:
        check_file(data, one, file)
    except CorruptionError as error:
        yield str(error)
        damaged = 1
    database, first, last = segments.read_header(data, file)
    if (database, first, last) != (manifest.uuid, one.first, one.last):
        yield f"{file} has records {first} to {last} by its header, {one.first} to {one.last} by the manifest"
    checksum, following = one.before, one.first
    for first, last, block in ranges(one, segments.read_index(data, file)):
        try:
            if first != following:
                yield f"{file}: expected a block from record {following} on, found one from {first}"
            records = segments.unpack_block(data[block.offset : block.offset + block.size], block, file)
            end = segments.position_of(segments.check_records(records, first, file))
            checksum, following = end.checksum, last + 1
            if end.seq != last:
                yield f"{file}: expected the block from record {first} on to end at {last}, found {end.seq}"
        except CorruptionError as error:
            following = last + 1
            damaged += 1
            yield str(error)
    if not damaged and checksum != one.checksum:
        yield f"{file}: its last record differs from the one in the manifest"


def _deep(backup: str | PathLike[str], progress: OnProgress | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="everlog-verify-") as scratch:
        path = Path(scratch) / "db"
        try:
            restore(backup, path, progress=progress)
            with Database(path, create=False) as db:
                yield from problems(db.core, progress, keys_needed=False)
        except Error as error:
            yield str(error)
