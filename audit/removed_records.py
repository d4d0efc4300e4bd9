"""Removed records: verify what a trimmed log keeps about archived records against independent knowledge.

    Base        root over records 1 to `base`, the schema then     stands for all of them
    kept        some of the records                                returned when their seq is read

If the archive is readable, both must match it. If it is not, the Base is the reference, and everything that
is known is traced to it by proofs from the tree:

    checkpoints, tiles, another copy ─ consistency ─▶ Base ◀─ inclusion ─ kept records, the proof of a record

Invariants
  (1) what cannot be compared is reported, never assumed to be correct.
"""

from __future__ import annotations

from collections.abc import Iterator

from everlog.audit import merkle
from everlog.audit.merkle import leaf_of
from everlog.audit.tree import Tree
from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError, Error, quantity


class Removed:
    """A trimmed log's statements about the records up to `last`. Raises CorruptionError for a damaged
    Base."""

    def __init__(self, db: Database) -> None:
        self.last = db.log.trimmed.base
        self.base = db.log.beginning().base
        self._kept = dict(db.log.trimmed.kept())
        self._root = merkle.Frontier(self.base.tree_size, self.base.tree_frontier).root()
        self._tree = Tree(db)

    # if the archive is readable

    def look(self, seq: int, framed: bytes, upto: merkle.Frontier, schema: log_pb2.Schema) -> Iterator[str]:
        """Yield differences from the archive; `upto` and `schema` are those after the record at `seq`."""
        kept = self._kept.get(seq)
        if kept is not None and kept != framed:
            yield f"record {seq}, which was kept when the log was trimmed, differs from the archived one"
        if seq == self.last:
            checksum = record.checksum_of(framed)
            if (self.base.tree_size, self._root, self.base.checksum) != (seq, upto.root(), checksum):
                yield f"the Base of the log is not of the first {seq} records in the archive"
            if self.base.schema != schema:
                yield f"the schema of the log's Base differs from that of the first {seq} records"

    # if it is not

    def is_root(self, what: str, size: int, root: bytes) -> Iterator[str]:
        """Verify that the removed records begin with those of a tree of `size` that has this root."""
        try:
            hashes = self._tree.consistency(size, self.last)
            merkle.verify_consistency(size, self.last, root, self._root, hashes)
        except CursorError:
            yield self._unverifiable(what)
        except Error as error:
            yield f"the first {size} records, which were archived, differ from those of {what}: {error}"

    def is_record(self, what: str, seq: int, leaf: bytes) -> Iterator[str]:
        """Verify that the record at `seq` had this leaf hash, which `what` has."""
        try:
            there = self._leaf(what, seq)
        except Error as error:
            yield str(error)
            return
        if leaf != there:
            yield (
                f"record {seq} is a fork: two different records have this seq, the one that was archived here"
                f" with the leaf hash {there.hex()}, the one of {what} with {leaf.hex()}"
            )

    def problems(self) -> Iterator[str]:
        """Yield the differences of the Base and the kept records from the archived records."""
        schema = log_pb2.Schema()
        if self.base.tree_size != self.last:
            yield f"the Base at {self.last} is of a tree of {quantity(self.base.tree_size, 'record')}"
        for seq, framed in self._kept.items():
            if seq > self.last:
                break  # the log was trimmed again meanwhile
            try:
                commit = record.decode(framed, seq)
                if commit.migration.HasField("schema"):
                    schema = commit.migration.schema
                if leaf_of(record.unframe(framed, seq)) != self._leaf(f"record {seq}, which was kept,", seq):
                    yield (
                        f"record {seq}, which was kept when the log was trimmed, differs from the"
                        " archived one"
                    )
            except Error as error:
                yield str(error)
        if self.base.schema != schema:
            yield f"the schema of the log's Base differs from that of the migrations up to record {self.last}"

    def _leaf(self, what: str, seq: int) -> bytes:
        """Return the leaf hash of a removed record, proven. Raises CorruptionError if it cannot be."""
        try:
            hashes = self._tree.inclusion(seq, self.last)
            there = self._tree.leaf(seq)
            merkle.verify_inclusion(seq - 1, self.last, there, hashes, self._root)
        except CursorError:
            raise CorruptionError(self._unverifiable(what)) from None
        except Error as error:
            raise CorruptionError(f"the tree over what was archived: {error}", seq=seq) from None
        return there

    def _unverifiable(self, what: str) -> str:
        return (
            f"{what} covers records up to {self.last}, which were archived, and cannot be verified: the tree"
            " does not reach so far. Restore the archive"
        )
