"""Manifest: the list of a backup's segments: the file BACKUP beside them.

    BACKUP := {"format": 1, "database": "<uuid>", "head": {…}, "segments": [{…}, …], "hashes": {…}}

It is replaced as a whole after the segments that it lists were written and checked. So at any time the
directory is a backup up to `head`; a file that the manifest does not list does not belong to it.

Invariants
  (1) segments are dense: from record 1 to `head`, each begins where the previous one ended;
  (2) the `checksum` of one segment is `before` of the next: they are of one history.
"""

from __future__ import annotations

import uuid

import msgspec

from everlog.audit.place import Place
from everlog.audit.segment import NOTHING, Head, Segment
from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError, OpenError

MANIFEST = "BACKUP"
FORMAT = 1


class Position(msgspec.Struct, frozen=True):
    """The last record: its seq, time, checksum and schema version."""

    seq: int
    time_ns: int
    schema: int
    checksum: int


class Hashes(msgspec.Struct, frozen=True):
    """The tables at a record: rows and content hash (hexadecimal) of each."""

    seq: int
    tables: dict[str, tuple[int, str]]


class Manifest(msgspec.Struct, frozen=True, omit_defaults=False):
    """The content of the BACKUP file."""

    format: int
    database: str
    head: Position
    segments: list[Segment]
    hashes: Hashes | None = None
    software: str = ""

    @property
    def last(self) -> Head:
        """The last record of the backup."""
        return Head(*msgspec.structs.astuple(self.head))

    @property
    def uuid(self) -> bytes:
        return uuid.UUID(self.database).bytes

    def cursor(self) -> log_pb2.Cursor:
        """The position after its last record."""
        return log_pb2.Cursor(database=self.uuid, seq=self.head.seq, checksum=self.head.checksum)


def empty(database: bytes) -> Manifest:
    return Manifest(FORMAT, str(uuid.UUID(bytes=database)), position(NOTHING), [])


def position(head: Head) -> Position:
    return Position(*head)


def read(place: Place) -> Manifest | None:
    """Return the manifest of a place; None if the place is empty. Read-only. Raises OpenError if the place
    holds something else, CorruptionError for an invalid manifest."""
    names = place.names()
    if MANIFEST not in names:
        other = [name for name in names if not name.endswith((".new", ".zst"))]
        if other:
            raise OpenError(
                f"{place.url} is not a backup: it has no file {MANIFEST}, but {other[0]}; name another"
                " directory"
            )
        return None
    where = f"{place.url}/{MANIFEST}"
    try:
        manifest = msgspec.json.decode(place.read(MANIFEST), type=Manifest)
        uuid.UUID(manifest.database)
    except (msgspec.DecodeError, ValueError) as error:
        raise CorruptionError(
            f"{where}: expected a manifest, found something else: {error}", place=where
        ) from None
    if manifest.format > FORMAT:
        raise OpenError(
            f"{where} has format {manifest.format}, this version of everlog supports up to {FORMAT};"
            " use a newer version"
        )
    for problem in problems(manifest, where):
        raise CorruptionError(problem, place=where)
    return manifest


def needed(place: Place) -> Manifest:
    """Return the manifest of a backup. Read-only. Raises OpenError if there is none."""
    manifest = read(place)
    if manifest is None or not manifest.segments:
        raise OpenError(f"there is no backup at {place.url}: no file {MANIFEST}, or an empty one")
    return manifest


def write(place: Place, manifest: Manifest) -> None:
    """Replace the manifest atomically. Raises DiskError."""
    place.write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def problems(manifest: Manifest, where: str) -> list[str]:
    """Return each inconsistency between the segments as a sentence."""
    found, seq, checksum = [], 0, 0
    for one in manifest.segments:
        if one.first != seq + 1 or one.before != checksum or one.last < one.first:
            found.append(f"{where}: expected a segment from record {seq + 1} on, found {one.name}")
        seq, checksum = one.last, one.checksum
    if (manifest.head.seq, manifest.head.checksum) != (seq, checksum):
        found.append(f"{where}: says that it ends at record {manifest.head.seq}, its segments end at {seq}")
    return found
