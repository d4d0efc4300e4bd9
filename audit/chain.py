"""Chain: the rules that hold from each record of a log to the next.

    time     never goes backwards
    schema   the version that the earlier records put in force
    space    one that the schema in force has
    notice   a checkpoint is of the records before it; one that a fork inherited is of its origin's tree

The rules of a single record (frame, checksum, seq) are checked by `everlog.store.record`.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from everlog.audit import merkle, note, proof
from everlog.audit.tree import KIND
from everlog.proto import log_pb2
from everlog.store.errors import Error


class Chain:
    """Checks the records of a log in order, from the first."""

    def __init__(self, created: log_pb2.Created, base: log_pb2.Base | None = None) -> None:
        """Start at the first record, which says `created`, or after a Base."""
        schema = base.schema if base else log_pb2.Schema()
        self.schema = schema  # in force after the last record
        self._time_ns, self._version = base.time_ns if base else 0, schema.version
        self._spaces = _spaces(schema)
        self._shared = created.origin_seq  # of a fork: records up to here are also in its origin

    def look(self, commit: log_pb2.Commit, before: merkle.Frontier) -> Iterator[str]:
        """Yield the problems of the next record; `before` is the tree of the earlier records."""
        seq = commit.seq
        if commit.time_ns < self._time_ns:
            yield f"record {seq} is older than the record before it"
        if seq == 1 and not commit.HasField("created"):
            yield "record 1 does not name the database of the log"
        spaces = self._spaces
        if commit.migration.HasField("schema"):
            schema = self.schema = commit.migration.schema
            self._spaces = _spaces(schema)
            spaces, self._version = spaces | self._spaces, schema.version
        if commit.schema != self._version:
            yield f"record {seq} says that schema {commit.schema} is in force, but {self._version} is"
        strays = {change.space for change in commit.changes} - spaces
        if strays:
            yield f"record {seq} writes in space {min(strays)}, which belongs to no table"
        if commit.notice.kind == KIND and seq > self._shared:
            yield from _notice(commit, before)
        self._time_ns = commit.time_ns


def wanted(known: proof.Checkpoint, created: log_pb2.Created) -> tuple[int, str, bytes]:
    """Return size, description and expected root of a checkpoint that was kept elsewhere: of this log, or of
    the log from which it was forked."""
    is_origin = created.origin and known.origin == f"everlog/{UUID(bytes=created.origin)}"
    of = f"{known.origin}, the database that this one was forked from" if is_origin else known.origin
    return known.size, f"the checkpoint of {of}", known.root


def _spaces(schema: log_pb2.Schema) -> set[int]:
    return {table.space for table in (*schema.tables, *schema.building, *schema.retiring)}


def _notice(commit: log_pb2.Commit, before: merkle.Frontier) -> Iterator[str]:
    """Check a checkpoint in the log, if it is of all records before it."""
    try:
        signed = proof.read(note.split(commit.notice.detail.decode(errors="surrogateescape"))[0])
    except Error as error:
        yield f"record {commit.seq} is marked as a checkpoint: {error}"
        return
    if signed.size == before.size and signed.root != before.root():
        yield (
            f"the first {signed.size} records differ from those of the checkpoint in record {commit.seq}:"
            f" expected the root {signed.root.hex()}, found {before.root().hex()}"
        )
