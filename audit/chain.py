"""Chain: what must hold from each record of a log to the next.

    time     never goes backwards
    schema   the version that the records before put in force
    space    one that the schema in force has
    notice   a checkpoint is of the records before it; that which a fork has of its origin is of another tree

What a record must be by itself (frame, checksum, seq) `everlog.store.record` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from everlog.audit import merkle, note, proof
from everlog.audit.tree import KIND
from everlog.proto import log_pb2
from everlog.store.errors import Error


class Chain:
    """Looks at the records of a log in order, from the first."""

    def __init__(self, created: log_pb2.Created, base: log_pb2.Base | None = None) -> None:
        """From the first record, which says `created`, or from that after a Base."""
        schema = base.schema if base else log_pb2.Schema()
        self.schema = schema  # in force after the last record
        self._time_ns, self._version = base.time_ns if base else 0, schema.version
        self._spaces = _spaces(schema)
        self._shared = created.origin_seq  # of a fork: records up to there are its origin's as well

    def look(self, commit: log_pb2.Commit, before: merkle.Frontier) -> Iterator[str]:
        """What is not as it must be with the next record; `before` is the tree of those before it."""
        seq = commit.seq
        if commit.time_ns < self._time_ns:
            yield f"record {seq} is older than the one before it"
        if seq == 1 and not commit.HasField("created"):
            yield "record 1 does not say which database the log is of"
        spaces = self._spaces
        if commit.migration.HasField("schema"):
            schema = self.schema = commit.migration.schema
            self._spaces = _spaces(schema)
            spaces, self._version = spaces | self._spaces, schema.version
        if commit.schema != self._version:
            yield f"record {seq} says that schema {commit.schema} is in force, and it is {self._version}"
        strays = {change.space for change in commit.changes} - spaces
        if strays:
            yield f"record {seq} writes in space {min(strays)}, which no table has"
        if commit.notice.kind == KIND and seq > self._shared:
            yield from _notice(commit, before)
        self._time_ns = commit.time_ns


def wanted(known: proof.Checkpoint, created: log_pb2.Created) -> tuple[int, str, bytes]:
    """The size, and the root that there must be at it, of a checkpoint that was kept elsewhere, with what it
    is in words: of this log, or of the one that this was forked from."""
    is_origin = created.origin and known.origin == f"everlog/{UUID(bytes=created.origin)}"
    of = f"{known.origin}, the database that this one was forked from" if is_origin else known.origin
    return known.size, f"the checkpoint of {of}", known.root


def _spaces(schema: log_pb2.Schema) -> set[int]:
    return {table.space for table in (*schema.tables, *schema.building, *schema.retiring)}


def _notice(commit: log_pb2.Commit, before: merkle.Frontier) -> Iterator[str]:
    """A checkpoint in the log, where it is of all records before it."""
    try:
        signed = proof.read(note.split(commit.notice.detail.decode(errors="surrogateescape"))[0])
    except Error as error:
        yield f"record {commit.seq} is said to be a checkpoint: {error}"
        return
    if signed.size == before.size and signed.root != before.root():
        yield (
            f"the first {signed.size} records are not those of the checkpoint in record {commit.seq}:"
            f" expected the root {signed.root.hex()}, found {before.root().hex()}"
        )
