"""Known hashes: leaf hashes of a log that were kept elsewhere, and how a record is compared with them.

    tiles, the tree, another copy, a backup, a proof ─▶ leaf hashes in the order of the records
                                                         ─▶ the first that differs

Invariants
  (1) a leaf of a tile is returned only after the tile above it gave the same hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from everlog.audit import merkle
from everlog.audit.manifest import MANIFEST, needed
from everlog.audit.place import place
from everlog.audit.reader import Reader
from everlog.audit.tiles import WIDTH, Tile, full_width
from everlog.store import record
from everlog.store.errors import CorruptionError, Error
from everlog.store.progress import OnProgress


class Copy(Protocol):
    """Another copy of a log: an open database (a Prover) or a backup."""

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        """Return size and root of the tree of the first `size` records; 0 means all."""

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        """Yield the entries of the records after `after` up to `until`: SHA-256 of each, joined."""


class BackupCopy:
    """The log in a backup or an archive: a directory, or a URL that fsspec supports. Read-only. Raises
    OpenError if there is none, CorruptionError for a segment that was changed."""

    def __init__(self, where: str) -> None:
        there = place(where)
        self._reader = Reader(there, needed(there))

    @property
    def last(self) -> int:
        """The newest record in it."""
        return self._reader.last

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        size = size or self.last
        tree = merkle.Frontier()
        for entries in self.entries(0, size):
            for entry in _each(entries):
                tree.add(merkle.leaf_hash(entry))
        return size, tree.root()

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        for block in self._reader.blocks(after, until):
            seqs = range(block.first, block.last + 1)
            framed = zip(seqs, record.split(block.data), strict=True)
            yield b"".join([merkle.entry_of(record.unframe(one, seq)) for seq, one in framed])


def is_backup(path: Path) -> bool:
    """Return whether a directory contains a backup or an archive. Read-only."""
    return (path / MANIFEST).is_file()


class Known(NamedTuple):
    """Knowledge of the log from elsewhere: a description, the number of records, their leaf hashes. `fork`:
    a difference means that two histories exist."""

    what: str
    size: int
    leaves: Iterator[bytes]
    fork: bool = False


def compare(known: Known, seq: int, leaf: bytes) -> str:
    """Return the difference between a record and what is known from elsewhere; empty if there is none."""
    if seq > known.size:
        return ""
    try:
        there = next(known.leaves, b"")
    except Error as error:
        return f"{known.what}: {error}"
    if not there or there == leaf:
        return ""
    if known.fork:
        return (
            f"record {seq} is a fork: two different records have this seq, the one here with the leaf hash"
            f" {leaf.hex()}, the one of {known.what} with {there.hex()}; from there on the histories differ"
        )
    return (
        f"record {seq} differs from the one in {known.what}: expected the leaf hash {there.hex()},"
        f" found {leaf.hex()}"
    )


def skip_leaves(known: Known, count: int) -> str:
    """Skip leaves that cannot be compared; return a problem if the rest is unreadable, else empty."""
    try:
        for _ in range(count):
            next(known.leaves, b"")
    except Error as error:
        return f"{known.what}: {error}"
    return ""


def tiled(tile: Tile, after: int, size: int) -> Iterator[bytes]:
    """Yield the leaves of tiles, each tile after it was compared with the tile above it."""
    for start in range(after // WIDTH * WIDTH, size, WIDTH):
        index = start // WIDTH
        hashes = tile(0, index, min(WIDTH, size - start))
        if start + WIDTH <= size:
            above, at = divmod(index, WIDTH)
            width = min(WIDTH, full_width(size, 1) - above * WIDTH)
            if merkle.perfect(hashes) != _each(tile(1, above, width))[at]:
                raise CorruptionError(
                    f"expected tile 0/{index} to have the hash that tile 1/{above} gives, found another"
                )
        yield from _each(hashes)[max(after - start, 0) :]


def hashed(copy: Copy, after: int, size: int) -> Iterator[bytes]:
    """Yield the leaves of another copy."""
    for entries in copy.entries(after, size):
        yield from map(merkle.leaf_hash, _each(entries))


def _each(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + merkle.HASH_BYTES] for at in range(0, len(hashes), merkle.HASH_BYTES)]
