"""Auditing: verify that a database's log is unchanged, against independent knowledge of it.

    every record: frame, checksum, seq, time, schema, spaces ──▶ problems
         │ SHA-256
         ├──▶ root at the size of each checkpoint, from the log or kept elsewhere
         └──▶ leaves, compared with the tree, exported tiles and another copy ─▶ the first that differs

Nothing in the database is trusted except its log: the tree is computed again.

Invariants
  (1) each problem names the record, the size or the file that is wrong;
  (2) two different records with the same seq are reported as a fork, with both hashes;
  (3) what could not be verified is reported, and the rest is verified nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

from everlog.audit import merkle
from everlog.audit.chain import Chain, wanted
from everlog.audit.export import Directory
from everlog.audit.known_hashes import BackupCopy, Copy, Known, compare, hashed, skip_leaves, tiled
from everlog.audit.merkle import leaf_of
from everlog.audit.proof import Checkpoint, Inclusion
from everlog.audit.removed_records import Removed
from everlog.audit.tiles import Tile, nodes
from everlog.audit.tree import Tree
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, Error, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import manifest
from everlog.store.rocks.files import Temporary
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep import check


class Audit:
    """One audit of an open database. Read-only.

    `checkpoints`: verified checkpoints that were kept elsewhere. `tiles`: an exported tree that was kept
    elsewhere. `against`: another copy, a backup, or the proof of a record. If the log was trimmed and its
    archive is absent or unreadable, the remaining records are verified against the Base (removed_records.py).
    """

    def __init__(
        self,
        db: Database,
        *,
        checkpoints: list[Checkpoint] | None = None,
        tiles: Path | None = None,
        against: Copy | Inclusion | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        self._db, self._progress = db, progress
        self._created = db.log.created()
        self._wanted = [wanted(one, self._created) for one in checkpoints or ()]
        self._copies: list[Known] = []
        self._tiles = Directory(tiles) if tiles else None
        self._against = against
        self.against_size = 0  # number of records in the other copy
        if against is not None and not isinstance(against, Inclusion):
            self.against_size = against.last if isinstance(against, BackupCopy) else against.head()[0]
            if db.read_only:
                db.refresh()  # beside a writer: see at least the records that the other copy has
        oldest = db.log.oldest
        self.after = oldest if oldest > 1 else 0  # records up to here are archived and not readable
        self.seq = self.after  # records up to here were verified
        self.root = merkle.EMPTY

    def problems(self) -> Iterator[str]:
        """Yield each problem as a sentence; `seq` and `root` give what was verified so far."""
        yield from manifest.problems(self._db.path)
        head = self._db.log.head
        yield from self._known()
        ends = {(what, size) for size, what, _ in self._wanted}
        ends |= {(one.what, one.size) for one in self._copies}
        for what, size in sorted(ends):
            if size > head:
                yield (
                    f"the log {self._db.url} ends at record {head}, but {what} is of"
                    f" {quantity(size, 'record')}: record {head + 1} is the first that is missing"
                )
        try:
            yield from self._archived()
            yield from self._walk(head)
        except Error as error:
            yield str(error)
            if self.seq < self._db.log.trimmed.base:
                yield from self._without_archive(head)

    def _without_archive(self, head: int) -> Iterator[str]:
        """Verify the remaining records against the Base, if an archived record is unreadable."""
        seen, self.seq = self.seq, self._db.log.trimmed.base
        self.after = self.seq
        yield (
            f"records {seen + 1} to {self.after} were archived and could not be verified; later records are"
            " verified against the Base of the log"
        )
        for one in tuple(self._copies):
            if problem := skip_leaves(one, self.after - seen):
                self._copies.remove(one)
                yield problem
        self._wanted = [one for one in self._wanted if one[0] > seen]
        try:
            if self._against is not None and not isinstance(self._against, Inclusion):
                self._knows_early(self._against, min(self.against_size, head))
            yield from self._archived()
            yield from self._walk(head)
        except Error as error:
            yield str(error)

    def tables(self) -> Iterator[str]:
        """Yield the problems of tables and indexes, and each table that differs from one rebuilt from the
        log alone."""
        scratch = Temporary("everlog-audit-")
        try:
            # `problems` reads the files.
            yield from check.problems(self._db.core, self._progress, files_too=False)
            made = self._db.admin.rebuild_into(scratch.path / "db", self._progress)
            there = self._db.admin.hashes(self._progress)
            for name in sorted({*made, *there}):
                if made.get(name) != there.get(name):
                    yield (
                        f"table {name} differs from what its log gives: expected {_rows(made, name)},"
                        f" found {_rows(there, name)}"
                    )
        except Error as error:
            yield str(error)
        finally:
            scratch.remove()

    def _known(self) -> Iterator[str]:
        """Collect the leaves to compare with, and the roots expected at certain sizes."""
        try:
            tree = Tree(self._db)
            self._knows("the tree", tree.size, tree.tile)
        except Error as error:
            yield f"the tree: {error}"
        if self._tiles is not None:
            try:
                there = self._tiles.head()
                if there is None:
                    raise CorruptionError("expected an exported tree, found no checkpoint")
                yield from self._tiles.problems(there.size, self._progress)
                found = self._knows(f"the tiles in {self._tiles.where}", there.size, self._tiles.tile)
                if found != there.root:
                    raise CorruptionError(
                        f"expected tiles of {quantity(there.size, 'record')} with the root of the checkpoint"
                        f" beside them, {there.root.hex()}, found {found.hex()}: one of them was changed"
                    )
            except Error as error:
                yield f"{self._tiles.where}: {error}"
        if isinstance(self._against, Inclusion):
            seq, leaf = self._against.leaf_index + 1, leaf_of(self._against.record)
            if seq > self.after:
                self._copies.append(
                    Known("the proof", seq, chain(repeat(b"", seq - 1 - self.after), (leaf,)), fork=True)
                )
        elif self._against is not None:
            size = self.against_size
            if self.after:
                self._knows_early(self._against, min(size, self._db.log.head))
            self._copies.append(
                Known("the other copy", size, hashed(self._against, self.after, size), fork=True)
            )

    def _knows_early(self, other: Copy, size: int) -> None:
        early = min(size, self.after)
        self._wanted.append((early, "the other copy", other.head(early)[1]))

    def _knows(self, what: str, size: int, tile: Tile) -> bytes:
        """Add the leaves of a tree's tiles; return the root that they give."""
        found = merkle.root(nodes(size, tile), size)
        if size:
            self._wanted.append((size, what, found))
            self._copies.append(Known(what, size, tiled(tile, self.after, size)))
        return found

    def _archived(self) -> Iterator[str]:
        """Verify what is known about archived records that are not readable."""
        if not self.after:
            return
        removed = Removed(self._db)
        yield from removed.problems()
        for size, what, root in self._wanted:
            if size <= self.after:
                yield from removed.is_root(what, size, root)
        if isinstance(self._against, Inclusion) and self._against.leaf_index < self.after:
            seq, leaf = self._against.leaf_index + 1, leaf_of(self._against.record)
            yield from removed.is_record("the proof", seq, leaf)

    def _beginning(self) -> tuple[merkle.Frontier, Chain]:
        """Return the state before the first record that is read: empty, or that of the Base."""
        if self.after:
            base = self._db.log.beginning().base
            return merkle.Frontier(base.tree_size, base.tree_frontier), Chain(self._created, base)
        return merkle.Frontier(), Chain(self._created)

    def _walk(self, head: int) -> Iterator[str]:
        frontier, checking = self._beginning()
        removed = Removed(self._db) if self._db.log.trimmed.base > self.after else None
        left = sorted((one for one in self._wanted if one[0] > self.after), reverse=True)
        for seq, framed in self._db.log.scan(self.after, head):
            commit = record.decode(framed, seq)
            yield from checking.look(commit, frontier)
            leaf = leaf_of(record.unframe(framed, seq))
            frontier.add(leaf)
            self.seq, self.root = seq, b""
            if removed is not None and seq <= removed.last:
                yield from removed.look(seq, framed, frontier, checking.schema)
            for one in tuple(self._copies):
                problem = compare(one, seq, leaf)
                if problem:
                    self._copies.remove(one)
                    yield problem
            while left and left[-1][0] == seq:
                _, what, root = left.pop()
                if root != frontier.root():
                    yield (
                        f"the first {seq} records differ from those of {what}: expected the root"
                        f" {root.hex()}, found {frontier.root().hex()}"
                    )
            if self._progress is not None and not seq % 4096:
                self._progress(Progress("audit", seq, head, "records"))
        self.root = frontier.root()


def _rows(hashes: dict[str, TableHash], name: str) -> str:
    found = hashes.get(name)
    return f"{quantity(found.rows, 'row')} of hash {found.hash.hex()[:16]}" if found else "no such table"
