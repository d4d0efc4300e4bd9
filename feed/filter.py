"""Filter: the part of a commit that concerns the followed tables.

    framed record ─▶ decode ─▶ drop changes of other tables ─▶ encode ─▶ framed record
                                                           └─▶ nothing left: not sent

A table is followed by its id, under whatever name and in whatever space; names are resolved in each schema
that comes into force.

Invariants
  (1) a commit with a migration is always sent: later rows need its schema;
  (2) a filtered commit keeps the seq and the checksum of its record, so a cursor made from it is valid in
      the log;
  (3) a filter is a value: equal filters at equal positions return the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import SchemaError


class TableFilter(NamedTuple):
    """Follows tables by name; knows their ids, and their current spaces."""

    names: frozenset[str]
    ids: frozenset[int] = frozenset()
    spaces: frozenset[int] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str], schema: log_pb2.Schema, schemas: Sequence[log_pb2.Schema]) -> Self:
        """Make a filter for a feed that starts where `schema` is in force. `schemas` are all schemas of the
        log, so that a table is followed under its earlier and later names.

        Raises SchemaError for a name that no table ever had.
        """
        wanted = frozenset(names)
        known = {table.name for schema in schemas for table in schema.tables}
        unknown = sorted(wanted - known)
        if unknown:
            raise SchemaError(
                f"there is no table {', '.join(unknown)} to follow; the tables are:"
                f" {', '.join(sorted(known)) or 'none; apply their migration first'}",
                table=unknown[0],
            )
        only = cls(wanted)
        for one in (*schemas, schema):
            only = only.learn(one)
        return only

    def learn(self, schema: log_pb2.Schema) -> Self:
        """Return the filter that applies once `schema` is in force."""
        ids = self.ids | {
            table.id for table in (*schema.tables, *schema.building) if table.name in self.names
        }
        spaces = frozenset(
            table.space for table in (*schema.tables, *schema.building, *schema.retiring) if table.id in ids
        )
        return self._replace(ids=ids, spaces=spaces)

    def apply(self, framed: bytes) -> tuple[bytes, Self]:
        """Filter joined framed records; return the rest, joined, and the filter after them."""
        here, left = self, []
        for one in record.split(framed):
            some, here = here._one(one)
            left.append(some)
        return b"".join(left), here

    def _one(self, framed: bytes) -> tuple[bytes, Self]:
        commit = log_pb2.Batch.FromString(framed).commits[0]
        migrates = commit.HasField("migration")
        here = (
            self.learn(commit.migration.schema) if migrates and commit.migration.HasField("schema") else self
        )
        kept = [change for change in commit.changes if change.space in here.spaces]
        if not kept and not migrates:
            return b"", here
        if len(kept) == len(commit.changes):
            return framed, here
        left = log_pb2.Commit()
        left.CopyFrom(commit)
        del left.changes[:]
        left.changes.extend(kept)
        left.ClearField("checksum")
        body = left.SerializeToString() + framed[-record.CHECKSUM_SIZE :]
        return b"".join((b"\x0a", record.varint(len(body)), body)), here
