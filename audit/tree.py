"""Tree: the Merkle tree over a database's records, a projection that catches up when it is read.

    records ─▶ SHA-256 of each ─▶ leaves ─▶ tiles of 256 hashes, one over the other ─▶ roots, proofs

    side("tree")   level:u8 index:u64be       ─▶ hash*        a tile: 1 to 256 hashes, the last one partial
                   0xFE size:u64be seq:u64be  ─▶              a checkpoint of that size, in the log at seq
                   0xFF                       ─▶ size:u64be   number of records in the tree

The entry of a record is the SHA-256 of its bytes without their frame, and its index is seq - 1. Tiles
are those of C2SP tlog-tiles: at level 0 leaf hashes, above them one hash for each full tile below.

Invariants
  (1) tiles and size are written in one batch: they match after any kill;
  (2) size <= the log's head, and the last leaf is that of the record there: a log that lost its end, or
      another log, is detected before anything is proven;
  (3) every record is checked before it is hashed;
  (4) a tree that was discarded while it is read is made again first; otherwise a missing tile is damage.

Format reference: docs/format.md, "Tree".
"""

from __future__ import annotations

import threading
import weakref
from hashlib import sha256
from itertools import islice
from typing import Any

from everlog.audit import merkle
from everlog.audit.merkle import leaf_of
from everlog.audit.tiles import WIDTH, Growing, Tiles, nodes
from everlog.store.database import Database
from everlog.store.errors import ClosedError, CorruptionError, CursorError, DiskError, quantity
from everlog.store.keys import SEQ
from everlog.store.process import Lock
from everlog.store.progress import OnProgress, Progress
from everlog.store.record import unframe
from everlog.store.rocks.errors import translated
from everlog.store.tables.projection import FamilyTarget

FAMILY = "tree"
SIGNED, SIZE = b"\xfe", b"\xff"
KIND = "checkpoint.signed"  # of a Notice, whose detail is the signed note
SIGN = KIND.encode()
EVERY = 64 * WIDTH  # records in a batch

_LOCKS: weakref.WeakKeyDictionary[Database, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = Lock()


def size_in(note: bytes) -> int | None:
    """Return the size in the second line of a checkpoint; None if the text is not a checkpoint."""
    lines = note.split(b"\n", 2)
    return int(lines[1]) if len(lines) == 3 and lines[1].isdigit() and len(lines[1]) < 20 else None


class Tree:
    """The tree of an open database. Thread-safe.

    Raises CorruptionError if the log is not the one from which the tree was made, or a record is damaged.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        with _LOCKS_LOCK:
            self._lock = _LOCKS.setdefault(db, threading.RLock())
        self._over: Tiles = {}  # tiles that are not stored: read-only process, or the disk refuses writes
        self._over_signed: list[tuple[int, int]] = []
        self._over_size = 0
        self._refused: DiskError | None = None  # why `_over` is not stored
        self._seen = 0  # largest size seen; a smaller size means that the tree was discarded
        self._checked = False

    @property
    def size(self) -> int:
        """The number of records in the tree. Read-only."""
        value = self._stored(SIZE)
        found: int = max(SEQ.unpack(value)[0] if value else 0, self._over_size)
        self._seen = max(self._seen, found)
        return found

    def catch_up(self, progress: OnProgress | None = None, *, stored: bool = False) -> int:
        """Add the durable records of the log, and return the tree's size. Writes the tree alone.

        If the disk refuses that, the tree is kept in memory, or with `stored` DiskError is raised.
        """
        with self._lock:
            size, head = self.size, self._db.log.head
            if size != head or not self._checked:
                self._check(size, head)
                self._checked = True
            if size < head:
                self._grow(size, head, progress)
            self._seen = head
            if stored and self._over_size and not self._put(head, {}, []) and self._refused is not None:
                raise self._refused
            return head

    def root(self, size: int) -> bytes:
        """Return the root of the tree of the first `size` records. Read-only. Raises CursorError."""
        return merkle.root(nodes(self._check_size(size), self.tile), size)

    def inclusion(self, seq: int, size: int) -> list[bytes]:
        """Return the proof that record `seq` is in the tree of `size`. Read-only. Raises CursorError."""
        whole = self._check_size(size)
        if not 0 < seq <= size:
            raise CursorError(
                f"expected a record from 1 to the size of the tree, {size}, found {seq}", seq=seq
            )
        return merkle.inclusion(nodes(whole, self.tile), seq - 1, size)

    def consistency(self, first: int, size: int) -> list[bytes]:
        """Return the proof that the tree of `size` begins with that of `first`. Read-only. Raises
        CursorError."""
        whole = self._check_size(size)
        if not 0 <= first <= size:
            raise CursorError(f"expected an earlier size from 0 to {size}, found {first}", seq=first)
        return merkle.consistency(nodes(whole, self.tile), first, size)

    def check_records(self, size: int, progress: OnProgress | None = None) -> None:
        """Compute the leaf hashes of the first `size` records again, and compare them with the tree.
        Read-only. Raises CorruptionError naming the first record that differs.

        For archived records that are not readable, the tree is trusted.
        """
        log = self._db.log
        after = 0 if log.trimmed.is_archived else min(size, log.trimmed.base)
        sha, records = sha256, log.scan(after, size)
        while after < size:
            width = min(WIDTH - after % WIDTH, size - after)
            found = [
                sha(b"\x00" + sha(unframe(framed, seq)).digest()).digest()
                for seq, framed in islice(records, width)
            ]
            index, start = divmod(after, WIDTH)
            expected = self.tile(0, index, start + width)[start * merkle.HASH_BYTES :]
            if b"".join(found) != expected:
                raise self._altered(after + 1 + merkle.differs_at(b"".join(found), expected))
            after += width
            if progress is not None and not after % EVERY:
                progress(Progress("check records", after, size, "records"))

    def check_record(self, seq: int, record: bytes) -> None:
        """Raise CorruptionError if a record, unframed, differs from the one in the tree."""
        if leaf_of(record) != self.leaf(seq):
            raise self._altered(seq)

    def _altered(self, seq: int) -> CorruptionError:
        return CorruptionError(
            f"record {seq} of the log differs from the one from which the tree was made: one of them was"
            " changed, so nothing is proven. `everlog audit` with a checkpoint kept elsewhere shows which",
            seq=seq,
        )

    def tile(self, level: int, index: int, width: int = WIDTH) -> bytes:
        """Return the first `width` hashes of a tile. Read-only. Raises CorruptionError if it is missing."""
        size, needed = width * merkle.HASH_BYTES, (index * WIDTH + width) * WIDTH**level
        while len(found := self._found(level, index, size)) < size:
            with self._lock:  # while the tree is neither discarded nor made again
                whole, found = self.size, self._found(level, index, size)
            if len(found) >= size:
                break
            if whole < needed <= self._seen:
                self.catch_up()
                continue
            raise CorruptionError(
                f"expected {width} hashes in tile {level}/{index} of the tree, found"
                f" {len(found) // merkle.HASH_BYTES}. Restore a backup, or make the tree again from the log"
                " with `everlog repair`",
                place=f"tile {level}/{index}",
            )
        return found[:size]

    def _found(self, level: int, index: int, size: int) -> bytes:
        found = self._over.get((level, index), b"")
        if len(found) < size:  # or the writing process has stored more since
            found = self._stored(bytes((level,)) + SEQ.pack(index)) or b""
        return found

    def leaf(self, seq: int) -> bytes:
        """Return the leaf hash of a record in the tree. Read-only."""
        at = (seq - 1) % WIDTH
        return self.tile(0, (seq - 1) // WIDTH, at + 1)[-merkle.HASH_BYTES :]

    def leaves(self, start: int, end: int) -> bytes:
        """Return joined leaf hashes of entries from index `start`, that of a tile, up to `end`. Read-only."""
        tiles = range(start, end, WIDTH)
        return b"".join([self.tile(0, at // WIDTH, min(WIDTH, end - at)) for at in tiles])

    def signed(self, since: int) -> list[tuple[int, int]]:
        """Return size and seq of each checkpoint in the log of at least `since` records; in a fork, without
        those of its origin, which has another tree. Writes the tree if it has to catch up."""
        with self._lock:
            self.catch_up()
            found = {one for one in self._over_signed if one[0] >= since}
            side = self._db.engine.side(FAMILY, make=False)
            if side is not None:
                view = FamilyTarget(self._db.engine, *side).view
                for key, _ in view.items(SIGNED + SEQ.pack(since), SIZE):
                    found.add((SEQ.unpack(key[1:9])[0], SEQ.unpack(key[9:])[0]))
        shared = self._db.log.created().origin_seq
        return sorted(one for one in found if one[1] > shared)

    def forget(self) -> None:
        """Discard the tree: it is made again when it is next read. Writes."""
        with self._lock:
            self._db.engine.drop_side(FAMILY)
            self._over, self._over_signed, self._over_size = {}, [], 0
            self._checked = False

    def _check_size(self, size: int) -> int:
        """Return the size of the whole tree. Raises CursorError if it is below `size`."""
        whole = self.size
        if whole < size <= self._seen:
            whole = self.catch_up()
        if not 0 <= size <= whole:
            raise CursorError(f"expected a size from 0 to that of the tree, {whole}, found {size}", seq=size)
        return whole

    def _check(self, size: int, head: int) -> None:
        if size > head:
            raise CorruptionError(
                f"the tree is over {quantity(size, 'record')}, but the log ends at {head}: its end is"
                " lost. Restore a"
                " backup",
                seq=head + 1,
            )
        oldest = self._db.log.oldest
        if size < oldest and oldest > 1:
            raise CorruptionError(
                f"the log begins at record {oldest}, the tree is over {size}: the records between were"
                " archived, or lost, before the tree included them",
                seq=size + 1,
            )
        if size > oldest or size == 1:
            there = leaf_of(unframe(self._db.log.get(size), size))
            if there != self.leaf(size):
                raise CorruptionError(
                    f"record {size} of the log differs from the one from which the tree was made: the log or"
                    " the tree was changed, or belongs to another database. Run `everlog audit` for details",
                    seq=size,
                )

    def _grow(self, size: int, head: int, progress: OnProgress | None) -> None:
        growing = Growing(size, self.tile)
        leaves: list[bytes] = []
        signed_seqs: list[int] = []
        sha, records = sha256, self._db.log.scan(size, head)
        for seq, framed in records:
            leaves.append(sha(b"\x00" + sha(unframe(framed, seq)).digest()).digest())
            if SIGN in framed:
                signed_seqs.append(seq)
            if len(leaves) >= EVERY:
                self._write(growing, leaves, signed_seqs)
                if progress is not None:
                    progress(Progress("tree", growing.size - size, head - size, "records"))
        self._write(growing, leaves, signed_seqs)

    def _write(self, growing: Growing, leaves: list[bytes], signed_seqs: list[int]) -> None:
        tiles = growing.add(b"".join(leaves))
        signed = [one for seq in signed_seqs if (one := self._signed_at(seq))]
        leaves.clear()
        signed_seqs.clear()
        if self._db.engine.secondary or not self._put(growing.size, tiles, signed):
            self._over.update(tiles)
            self._over_signed += signed
            self._over_size = growing.size

    def _put(self, size: int, tiles: Tiles, signed: list[tuple[int, int]]) -> bool:
        """Write the new tiles, and those in memory that the disk refused before. False if it refuses now."""
        try:
            side = self._db.engine.side(FAMILY)
            assert side is not None
            target = FamilyTarget(self._db.engine, *side)
            writes = target.batch()
            for (level, index), hashes in {**self._over, **tiles}.items():
                writes[bytes((level,)) + SEQ.pack(index)] = hashes
            for at, seq in (*self._over_signed, *signed):
                writes[SIGNED + SEQ.pack(at) + SEQ.pack(seq)] = b""
            writes[SIZE] = SEQ.pack(size)
            target.write(writes)
        except DiskError as error:
            self._refused = error
            return False
        self._over, self._over_signed, self._over_size = {}, [], 0
        return True

    def _signed_at(self, seq: int) -> tuple[int, int] | None:
        """Return size and seq of a checkpoint in the log; None if the record is not one."""
        notice = self._db.log.commit(seq).notice
        size = size_in(notice.detail) if notice.kind == KIND else None
        return None if size is None or size >= seq else (size, seq)

    def _stored(self, key: bytes) -> bytes | None:
        while (found := self._db.engine.side(FAMILY, make=False)) is not None:
            try:
                with translated("reading the tree"):
                    return found[0].get(key)
            except ClosedError:
                if self._db.engine.side(FAMILY, make=False) is found:
                    raise
        return None
