"""Merkle: trees over a list of entries, and proofs of their content, as RFC 9162 defines them.

    leaf := SHA-256(0x00 entry)        node := SHA-256(0x01 left right)        empty := SHA-256("")

                 7-entry tree             nodes by (level, index), perfect subtrees alone:
                  /        \\
             (2,0)          \\             (2,0) entries 0 to 3
            /     \\        /  \\           (1,2) entries 4 and 5
        (1,0)   (1,1)  (1,2)  (0,6)       (0,6) entry 6

The nodes are supplied by a function; this module combines them. It does not know what an entry is or
where anything is stored.

Invariants
  (1) a verification uses the proof, the claim and nothing else: it is written after RFC 9162, 2.1.3.2 and
      2.1.4.2, and shares no code with the making of proofs;
  (2) a node of a perfect subtree never changes once all its entries exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

from everlog.store.errors import CorruptionError, quantity

HASH_BYTES = 32
EMPTY = sha256(b"").digest()

Nodes = Callable[[int, int], bytes]
"""The hash of the perfect subtree at (level, index): that of 2**level entries from index * 2**level."""


def entry_of(record: bytes) -> bytes:
    """Return the entry of a record of the log, unframed: its SHA-256."""
    return sha256(record).digest()


def leaf_of(record: bytes) -> bytes:
    """Return the leaf hash of a record of the log, unframed."""
    return leaf_hash(sha256(record).digest())


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def differs_at(one: bytes, other: bytes) -> int:
    """Return the index of the first hash that differs in two joined lists; the common length if none does."""
    size = min(len(one), len(other)) & -HASH_BYTES
    for at in range(0, size, HASH_BYTES):
        if one[at : at + HASH_BYTES] != other[at : at + HASH_BYTES]:
            return at // HASH_BYTES
    return size // HASH_BYTES


def level_above(hashes: bytes) -> bytes:
    """Return the nodes over pairs of joined hashes, joined; a hash without a partner is left out."""
    pairs = range(0, len(hashes) & ~63, 64)
    return b"".join([sha256(b"\x01" + hashes[at : at + 64]).digest() for at in pairs])


def perfect(hashes: bytes) -> bytes:
    """Return the node over a power of two of joined hashes."""
    while len(hashes) > HASH_BYTES:
        hashes = level_above(hashes)
    return hashes


def root(nodes: Nodes, size: int) -> bytes:
    """Return the root of the tree of the first `size` entries (RFC 9162, 2.1.1)."""
    return _range_hash(nodes, 0, size) if size else EMPTY


def inclusion(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """Return the proof that an entry is in the tree of the first `size`, leaf first (RFC 9162, 2.1.3.1)."""
    assert 0 <= index < size
    return [_range_hash(nodes, start, end) for start, end in _inclusion(index, 0, size)]


def consistency(nodes: Nodes, first: int, size: int) -> list[bytes]:
    """Return the proof that the tree of `size` entries begins with that of `first` (RFC 9162, 2.1.4.1).

    Empty where nothing needs proof: for equal sizes, and for a `first` of 0.
    """
    assert 0 <= first <= size
    if first in {0, size}:
        return []
    return [_range_hash(nodes, start, end) for start, end in _consistency(first, 0, size, whole=True)]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: list[bytes], claimed: bytes) -> None:
    """Verify that `leaf` is at `index` in the tree of `size` entries that has the claimed root
    (RFC 9162, 2.1.3.2). Raises CorruptionError if the proof does not show it."""
    if not 0 <= index < size:
        raise CorruptionError(f"expected an index below the tree's size {size}, found {index}", place=index)
    fn, sn, found = index, size - 1, leaf
    for node in proof:
        if sn == 0:
            raise CorruptionError(f"the proof for index {index} of {size} is too long: {len(proof)} hashes")
        if fn & 1 or fn == sn:
            found = node_hash(node, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, node)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise CorruptionError(f"the proof for index {index} of {size} is too short: {len(proof)} hashes")
    if found != claimed:
        raise CorruptionError(
            f"expected the tree of {quantity(size, 'entry', 'entries')} to have the root {claimed.hex()},"
            " but the entry at index"
            f" {index} and its proof give {found.hex()}: that entry is not in that tree",
            place=index,
        )


def verify_consistency(first: int, size: int, first_root: bytes, claimed: bytes, proof: list[bytes]) -> None:
    """Verify that the tree of `size` entries with the claimed root begins with the tree of `first` entries
    that has `first_root` (RFC 9162, 2.1.4.2). Raises CorruptionError if the proof does not show it."""
    if not 0 <= first <= size:
        raise CorruptionError(
            f"expected an earlier tree of at most {quantity(size, 'entry', 'entries')}, found one of {first}"
        )
    if first in {0, size}:
        expected = EMPTY if first == 0 else claimed
        if proof or first_root != expected:
            raise CorruptionError(
                f"the trees of {first} and {quantity(size, 'entry', 'entries')} do not match: expected the"
                f" root {expected.hex()} and no proof, found {first_root.hex()} and {len(proof)} hashes"
            )
        return
    old, new = _walk(first, size, proof if first & (first - 1) else [first_root, *proof])
    for what, entries, there, given in (("earlier", first, old, first_root), ("later", size, new, claimed)):
        if there != given:
            raise CorruptionError(
                f"expected the {what} tree, of {quantity(entries, 'entry', 'entries')}, to have the root"
                f" {given.hex()}, found that the proof gives {there.hex()}: one tree does not begin with the"
                " other"
            )


class Frontier:
    """A tree of which only the right edge is stored: computes roots while entries are added."""

    def __init__(self, size: int = 0, edge: Iterable[bytes] = ()) -> None:
        """`edge`: the roots of the perfect subtrees of the first `size` entries, from left to right."""
        self.size = size
        self._edge = list(edge)
        if len(self._edge) != size.bit_count():
            raise CorruptionError(
                f"expected {size.bit_count()} roots at the edge of a tree of {size}, found {len(self._edge)}"
            )

    def add(self, leaf: bytes) -> None:
        edge, size = self._edge, self.size
        while size & 1:
            leaf = sha256(b"\x01" + edge.pop() + leaf).digest()
            size >>= 1
        edge.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the entries so far."""
        if not self._edge:
            return EMPTY
        found = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            found = node_hash(left, found)
        return found


def _walk(first: int, size: int, path: list[bytes]) -> tuple[bytes, bytes]:
    """Return the roots of both trees, as a consistency proof gives them."""
    if not path:
        raise CorruptionError(
            f"expected a proof from {first} to {quantity(size, 'entry', 'entries')}, found none"
        )
    fn, sn = first - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = path[0]
    for node in path[1:]:
        if sn == 0:
            raise CorruptionError(
                f"the proof from {first} to {quantity(size, 'entry', 'entries')} is too long"
            )
        if fn & 1 or fn == sn:
            old, new = node_hash(node, old), node_hash(node, new)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node_hash(new, node)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise CorruptionError(f"the proof from {first} to {quantity(size, 'entry', 'entries')} is too short")
    return old, new


def _range_hash(nodes: Nodes, start: int, end: int) -> bytes:
    """Return the hash over entries `start` to `end`, if that is a node of some tree."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(nodes(level, start >> level))
        start += 1 << level
    found = parts.pop()
    while parts:
        found = node_hash(parts.pop(), found)
    return found


def _split(count: int) -> int:
    """Return the largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def _inclusion(index: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    if end - start == 1:
        return
    middle = start + _split(end - start)
    if index < middle:
        yield from _inclusion(index, start, middle)
        yield middle, end
    else:
        yield from _inclusion(index, middle, end)
        yield start, middle


def _consistency(first: int, start: int, end: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    if first == end:
        if not whole:
            yield start, end
        return
    middle = start + _split(end - start)
    if first <= middle:
        yield from _consistency(first, start, middle, whole=whole)
        yield middle, end
    else:
        yield from _consistency(first, middle, end, whole=False)
        yield start, middle
