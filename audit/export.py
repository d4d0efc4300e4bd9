"""Export: the tree and its entries as a directory that C2SP tlog-tiles tools read, from a disk or served
by any web server.

    DIR/checkpoint              the signed checkpoint that all of it is of
    DIR/tile/0/x001/234         tiles                 DIR/tile/0/001.p/7       the partial ones of that size
    DIR/tile/entries/x001/234   entry bundles: for each record 0x0020 and the SHA-256 of it

Invariants
  (1) the checkpoint is replaced last, after the tiles were read again and gave its root: whatever kills
      it, the checkpoint there has all its tiles, and the next run goes on from it;
  (2) what was exported before is never overwritten by another history: that is an error, which tells.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from everlog.audit import merkle, note, proof
from everlog.audit.prover import Prover
from everlog.audit.tiles import WIDTH, Growing, full_width, nodes, path
from everlog.store import head
from everlog.store.errors import CorruptionError, DiskError
from everlog.store.progress import OnProgress, Progress

CHECKPOINT = "checkpoint"
LENGTH = b"\x00\x20"
WRITERS = 8


class Exported(NamedTuple):
    """What an export did: how many records are there now, and how many were before."""

    size: int
    before: int


class Directory:
    """An exported tree."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def checkpoint(self) -> str | None:
        """The signed checkpoint in it, unverified; None if there is none."""
        try:
            return (self.where / CHECKPOINT).read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None

    def tile(self, level: int, index: int, width: int) -> bytes:
        """So many hashes of a tile. Raises CorruptionError naming the file."""
        for wide in (WIDTH, width):
            file = self.where / path(level, index, wide)
            try:
                found = file.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            if len(found) == wide * merkle.HASH_BYTES:
                return found[: width * merkle.HASH_BYTES]
            raise CorruptionError(
                f"expected {wide * merkle.HASH_BYTES:,} bytes in {file}, found {len(found):,}",
                place=str(file),
            )
        file = self.where / path(level, index, width)
        raise CorruptionError(f"expected a tile of the tree in {file}, found no such file", place=str(file))

    def root(self, size: int) -> bytes:
        """The root that the tiles give. Raises CorruptionError."""
        return merkle.root(nodes(size, self.tile), size)


def export(prover: Prover, text: str, where: Path, progress: OnProgress | None = None) -> Exported:
    """Brings a directory to a signed checkpoint of a log. Raises CorruptionError if what is there is of
    another history, and DiskError. Interrupted, it goes on when it is run again."""
    there, wanted = Directory(where), proof.read(note.split(text)[0])
    before = _before(prover, there, wanted)
    start = before // WIDTH * WIDTH
    growing, done = Growing(start, there.tile), start
    writers = ThreadPoolExecutor(WRITERS)  # who wait for the disk, and share its answer
    writing: list[Future[None]] = []

    def write(file: str, data: bytes) -> None:
        writing.append(writers.submit(_write, where / file, data))
        if len(writing) >= WRITERS * 4:
            writing.pop(0).result()

    try:
        for entries in prover.entries(start, wanted.size):
            size = merkle.HASH_BYTES
            hashes = [entries[at : at + size] for at in range(0, len(entries), size)]
            bundle = b"".join([LENGTH + one for one in hashes])
            write(path("entries", done // WIDTH, len(hashes)), bundle)
            for (level, index), tile in growing.add(b"".join(map(merkle.leaf_hash, hashes))).items():
                width = len(tile) // size
                if width == WIDTH or full_width(wanted.size, level) == index * WIDTH + width:
                    write(path(level, index, width), tile)
            done += len(hashes)
            if progress is not None:
                progress(Progress("tiles", done - start, wanted.size - start, "records"))
        for one in writing:
            one.result()
    finally:
        writers.shutdown(cancel_futures=True)
    found = there.root(wanted.size)
    if found != wanted.root:
        raise CorruptionError(
            f"expected the tiles in {where} to give the root {wanted.root.hex()} of {wanted.size} records,"
            f" found {found.hex()}: the log and its checkpoint do not go together, or a tile was changed"
        )
    _write(where / CHECKPOINT, text.encode())
    return Exported(wanted.size, before)


def _before(prover: Prover, there: Directory, wanted: proof.Checkpoint) -> int:
    """How many records were exported before, of this very log."""
    text = there.checkpoint()
    if text is None:
        return 0
    earlier = proof.read(note.split(text)[0])
    if earlier.origin != wanted.origin:
        raise CorruptionError(
            f"{there.where} is of {earlier.origin}, expected {wanted.origin}; name another directory"
        )
    if earlier.size > wanted.size or prover.head(earlier.size)[1] != earlier.root:
        raise CorruptionError(
            f"{there.where} has a checkpoint of {earlier.size} records that this log does not begin with: it"
            " was rewritten or cut since, or is another copy. `everlog audit --tiles` names the record",
            size=earlier.size,
        )
    return earlier.size


def _write(file: Path, data: bytes) -> None:
    """Replaces a file whole, and waits for the disk."""
    try:
        head.make_directory(file.parent)
        temporary = file.with_name(file.name + ".new")
        temporary.write_bytes(data)
        _sync(temporary)
        temporary.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise DiskError(f"{file} could not be written: {error.strerror}", outcome="unknown") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
