"""Removed: what a trimmed log has of records that were archived, and what is known of them from elsewhere.

    Base        root over records 1 to `base`, the schema then     stands for all of them
    kept        some of them, to be looked up                      read in their place

Where the archive is at hand both must be what it makes of them. Where it is not, the Base is what there is,
to which all that is known is traced by proofs out of the tree:

    checkpoints, tiles, another copy ─ consistency ─▶ Base ◀─ inclusion ─ kept records, the proof of a record

Invariants
  (1) what cannot be compared is told: it is never taken for right.
"""

from __future__ import annotations

from collections.abc import Iterator

from everlog.audit import merkle
from everlog.audit.merkle import leaf_of
from everlog.audit.tree import Tree
from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError, Error


class Removed:
    """What a trimmed log says of the records up to `last`. Raises CorruptionError for a damaged Base."""

    def __init__(self, db: Database) -> None:
        self.last = db.log.trimmed.base
        self.base = db.log.beginning().base
        self._kept = dict(db.log.trimmed.kept())
        self._root = merkle.Frontier(self.base.tree_size, self.base.tree_frontier).root()
        self._tree = Tree(db)

    # the archive is at hand

    def look(self, seq: int, framed: bytes, upto: merkle.Frontier, schema: log_pb2.Schema) -> Iterator[str]:
        """What is not as the archive has it; `upto` and `schema` are those after the record at `seq`."""
        kept = self._kept.get(seq)
        if kept is not None and kept != framed:
            yield f"record {seq}, which was kept when the log was trimmed, is not the one in the archive"
        if seq == self.last:
            checksum = record.checksum_of(framed)
            if (self.base.tree_size, self._root, self.base.checksum) != (seq, upto.root(), checksum):
                yield f"the Base of the log is not of the first {seq} records, which are in the archive"
            if self.base.schema != schema:
                yield f"the Base of the log has another schema than the first {seq} records"

    # it is not

    def is_root(self, what: str, size: int, root: bytes) -> Iterator[str]:
        """Whether the removed records begin with those of a tree of `size` that has this root."""
        try:
            hashes = self._tree.consistency(size, self.last)
            merkle.verify_consistency(size, self.last, root, self._root, hashes)
        except CursorError:
            yield self._untold(what)
        except Error as error:
            yield f"the first {size} records, which were archived, are not those of {what}: {error}"

    def is_record(self, what: str, seq: int, leaf: bytes) -> Iterator[str]:
        """Whether the record at `seq` had this leaf hash, as `what` has it."""
        try:
            there = self._leaf(what, seq)
        except Error as error:
            yield str(error)
            return
        if leaf != there:
            yield (
                f"record {seq} is a fork: two records say that they are {seq}, the one that was archived here"
                f" with the leaf hash {there.hex()}, the one of {what} with {leaf.hex()}"
            )

    def problems(self) -> Iterator[str]:
        """What the Base and the kept records have that is not what was archived."""
        schema = log_pb2.Schema()
        if self.base.tree_size != self.last:
            yield f"the Base at {self.last} is of a tree of {self.base.tree_size} records"
        for seq, framed in self._kept.items():
            if seq > self.last:
                break  # it was trimmed once more meanwhile
            try:
                commit = record.decode(framed, seq)
                if commit.migration.HasField("schema"):
                    schema = commit.migration.schema
                if leaf_of(record.unframe(framed, seq)) != self._leaf(f"record {seq}, which was kept,", seq):
                    yield f"record {seq}, which was kept when the log was trimmed, is not the one archived"
            except Error as error:
                yield str(error)
        if self.base.schema != schema:
            yield f"the Base of the log has another schema than the migrations up to record {self.last}"

    def _leaf(self, what: str, seq: int) -> bytes:
        """The leaf hash of a removed record, proven. Raises CorruptionError where that cannot be."""
        try:
            hashes = self._tree.inclusion(seq, self.last)
            there = self._tree.leaf(seq)
            merkle.verify_inclusion(seq - 1, self.last, there, hashes, self._root)
        except CursorError:
            raise CorruptionError(self._untold(what)) from None
        except Error as error:
            raise CorruptionError(f"the tree over what was archived: {error}", seq=seq) from None
        return there

    def _untold(self, what: str) -> str:
        return (
            f"{what} is about records up to {self.last}, which were archived: nothing here can be compared"
            " with it, for the tree does not reach so far. Put the archive back"
        )
