"""Known: what is known of a log from elsewhere, leaf by leaf, and how a record is compared with it.

    tiles, the tree, another copy, a backup, a proof ─▶ leaf hashes in the order of the records ─▶ who differs
                                                                                                   first

Invariants
  (1) a leaf out of a tile is given once the tile above it says the same.
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
    """Another copy of a log: that of an open database (a Prover), or a backup."""

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        """Size and root of the tree of the first `size` records; 0: of all."""

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        """Entries of the records after `after` up to `until`, SHA-256 of each, joined."""


class BackupCopy:
    """The log in a backup or an archive, a directory or what fsspec has a URL for. Read-only. Raises
    OpenError where there is none, CorruptionError for a segment that was changed."""

    def __init__(self, where: str) -> None:
        there = place(where)
        self._reader = Reader(there, needed(there))

    @property
    def last(self) -> int:
        """The newest record that it has."""
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
    """Whether a directory is that of a backup or an archive. Read-only."""
    return (path / MANIFEST).is_file()


class Known(NamedTuple):
    """What is known of the log from elsewhere: what it is, of how many records, their leaf hashes."""

    what: str
    size: int
    leaves: Iterator[bytes]
    fork: bool = False


def compare(known: Known, seq: int, leaf: bytes) -> str:
    """What is not as it is known from elsewhere, about a record."""
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
            f"record {seq} is a fork: two records say that they are {seq}, the one here with the leaf hash"
            f" {leaf.hex()}, the one of {known.what} with {there.hex()}; from there on they are two histories"
        )
    return (
        f"record {seq} is not the one that {known.what} knows: expected the leaf hash {there.hex()},"
        f" found {leaf.hex()}"
    )


def passed_over(known: Known, count: int) -> str:
    """Steps over what cannot be compared; what is not as it must be, and the rest is not to be had."""
    try:
        for _ in range(count):
            next(known.leaves, b"")
    except Error as error:
        return f"{known.what}: {error}"
    return ""


def tiled(tile: Tile, after: int, size: int) -> Iterator[bytes]:
    """Leaves, where the tile that they are in is the one that the tile above it knows."""
    for start in range(after // WIDTH * WIDTH, size, WIDTH):
        index = start // WIDTH
        hashes = tile(0, index, min(WIDTH, size - start))
        if start + WIDTH <= size:
            above, at = divmod(index, WIDTH)
            width = min(WIDTH, full_width(size, 1) - above * WIDTH)
            if merkle.perfect(hashes) != _each(tile(1, above, width))[at]:
                raise CorruptionError(
                    f"expected what tile 1/{above} says of tile 0/{index}, found other hashes"
                )
        yield from _each(hashes)[max(after - start, 0) :]


def hashed(copy: Copy, after: int, size: int) -> Iterator[bytes]:
    """Leaves, of another copy."""
    for entries in copy.entries(after, size):
        yield from map(merkle.leaf_hash, _each(entries))


def _each(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + merkle.HASH_BYTES] for at in range(0, len(hashes), merkle.HASH_BYTES)]
