"""Tiles: a Merkle tree in tiles of 256 hashes, as in C2SP tlog-tiles.

    level 1   [ hash of tile 0/0 | hash of tile 0/1 | … ]                one hash for each full tile
    level 0   [ 256 leaves       ][ 256 leaves       ][ 112 leaves ]     the last may be partial

    tile/0/x001/234           a full tile, 8,192 bytes    (level 0, index 1234)
    tile/0/000.p/112          a partial tile              (112 hashes)
    tile/entries/000          256 entries, each length:u16be and the entry

Invariants
  (1) hash i of tile n at level l is the node over 256**l entries from (n * 256 + i) * 256**l;
  (2) a partial tile is a prefix of the full one, and has no hash in the level above.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from everlog.audit import merkle
from everlog.audit.merkle import HASH_BYTES

WIDTH = 256
TILE_BYTES = WIDTH * HASH_BYTES

_PATH = re.compile(r"tile/(entries|\d{1,2})/((?:x\d{3}/)*\d{3})(?:\.p/(\d{1,3}))?")

Tiles = dict[tuple[int, int], bytes]
Tile = Callable[[int, int, int], bytes]
"""Maps level, index and width of a tile to its hashes."""


def full_width(size: int, level: int) -> int:
    """Return the number of hashes at a level of tiles, in a tree of `size` entries."""
    return size >> 8 * level


def node_in(tile: bytes, level: int, start: int) -> bytes:
    """Return the node over 2**level hashes of a tile, from `start`."""
    return merkle.perfect(tile[start * HASH_BYTES : (start + (1 << level)) * HASH_BYTES])


def path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Return the path of a tile, or of a bundle of `entries`."""
    words = [f"{index % 1000:03}"]
    while index := index // 1000:
        words.append(f"x{index % 1000:03}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(words))}{partial}"


def place(file: str) -> tuple[int | str, int, int] | None:
    """Return level (or `entries`), index and width of the tile at a path; None for any other path."""
    found = _PATH.fullmatch(file)
    if found is None:
        return None
    level: int | str = found[1] if found[1] == "entries" else int(found[1])
    index = int(found[2].replace("/", "").replace("x", ""))
    width = int(found[3]) if found[3] else WIDTH
    return (level, index, width) if path(level, index, width) == file else None


def nodes(size: int, tile: Tile) -> merkle.Nodes:
    """Return the nodes of a tree, computed from its tiles; each tile is read once."""
    kept: Tiles = {}

    def node(level: int, index: int) -> bytes:
        at, start = level // 8, index << level % 8
        place = at, start // WIDTH
        if place not in kept:
            kept[place] = tile(*place, min(WIDTH, full_width(size, at) - place[1] * WIDTH))
        return node_in(kept[place], level % 8, start % WIDTH)

    return node


class Growing:
    """The tiles at the right edge of a growing tree of `size` entries.

    `tile(level, index, width)` returns the existing partial tiles.
    """

    def __init__(self, size: int, tile: Tile) -> None:
        self.size = size
        self._edge: list[bytes] = []
        level = 0
        while wide := full_width(size, level):
            index, width = divmod(wide, WIDTH)
            self._edge.append(tile(level, index, width) if width else b"")
            level += 1

    def add(self, leaves: bytes) -> Tiles:
        """Add joined leaf hashes; return the tiles that are new or longer now."""
        changed: Tiles = {}
        level, size = 0, self.size
        self.size += len(leaves) // HASH_BYTES
        while leaves:
            if level == len(self._edge):
                self._edge.append(b"")
            index = full_width(size, level) // WIDTH
            hashes = self._edge[level] + leaves
            above = []
            for at in range(0, len(hashes), TILE_BYTES):
                tile = hashes[at : at + TILE_BYTES]
                changed[level, index + at // TILE_BYTES] = tile
                if len(tile) == TILE_BYTES:
                    above.append(merkle.perfect(tile))
            self._edge[level] = hashes[len(hashes) // TILE_BYTES * TILE_BYTES :]
            leaves = b"".join(above)
            level += 1
        return changed
