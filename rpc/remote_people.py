"""Remote people: what concerns the people of a database on a server, with the calls of one in this process.

Invariants
  (1) what a call gives and raises is what it gives and raises embedded;
  (2) a person is forgotten once, though the answer was lost and the call is made again: it carries an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import msgspec

from everlog.proto import people_pb2, people_pb2_grpc
from everlog.rpc.channel import Channel
from everlog.rpc.protocol import SCHEMA_KEY
from everlog.rpc.remote_commit import new_commit_id
from everlog.rpc.remote_keys import RemoteKeys
from everlog.store import given
from everlog.store.errors import Error, SchemaError
from everlog.store.forget import Forgotten, person_of
from everlog.store.held import Remaining
from everlog.store.master import MasterKey
from everlog.store.opener import Opener
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import Schema
from everlog.store.table import Table
from everlog.store.transaction import Metadata
from everlog.store.writer import Writer

K = TypeVar("K")

FORGET_S = 600.0  # the tables go to disk with it


def _remaining(one: people_pb2.Remaining) -> Remaining:
    return Remaining(one.kind, one.text, tuple(one.seqs))


def _name_person(
    request: people_pb2.ForgetRequest | people_pb2.ExportRequest, schema: Schema, key: Any, person: Any
) -> None:
    """Put the person into a request about a table. Raises RowError and SchemaError."""
    who = person_of(schema, request.table, key, person)
    request.space = who.space
    if who.key is not None:
        request.key = who.key
    else:
        request.person = who.value or b""


class PeopleCalls(Writer):
    """The calls of a remote database that concern people."""

    @property
    def channel(self) -> Channel:
        raise NotImplementedError

    @property
    def schema(self) -> Schema:
        raise NotImplementedError

    def forget(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None, **metadata: Any
    ) -> Forgotten:
        """Erases one person, on the server; see `Database.forget`."""
        self._check_writable()
        known: Metadata = self.transaction(**metadata).metadata
        request = people_pb2.ForgetRequest(
            database=self.channel.address.database,
            table=given.table_name(table),
            actor=known.actor,
            reason=known.reason,
            correlation_id=known.correlation_id,
            causation_id=known.causation_id,
            client=known.client,
            commit_id=known.commit_id or new_commit_id(),
        )
        try:
            return self._forget(request, self.schema, key, person)
        except SchemaError:
            schema = self.schema
            if self.refresh_schema() is schema:
                raise
            return self._forget(request, self.schema, key, person)

    def export_person(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> dict[str, Any]:
        """Everything that the server holds on one person; see `Database.export_person`."""
        found: dict[str, Any] = msgspec.json.decode(b"".join(self.stream_person(table, key, person=person)))
        return found

    def stream_person(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """The same as pieces of one JSON object; see `Database.stream_person`."""
        request = people_pb2.ExportRequest(
            database=self.channel.address.database, table=given.table_name(table)
        )
        schema = self.refresh_schema()
        _name_person(request, schema, key, person)
        stub = people_pb2_grpc.PeopleStub(self.channel.grpc)
        said = (*self.channel.metadata, (SCHEMA_KEY, str(schema.version)))
        answers = self.channel.stream(lambda: stub.Export(request, metadata=said))
        first = next(answers)  # or the error
        return (answer.json for answer in chain([first], answers))

    def readable_people(self) -> list[Remaining]:
        """Return the data about people in the server's log that is readable without keys; see
        `Database.readable_people`."""
        request = people_pb2.ReadableRequest(database=self.channel.address.database)
        stub = people_pb2_grpc.PeopleStub(self.channel.grpc)
        return [*map(_remaining, self.channel.call(stub.Readable, request, timeout_s=FORGET_S).found)]

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Puts all keys under the next master key, whose file the server's process was told of; see
        `Database.rotate_key`. Raises Error for one that is given: it does not travel."""
        self._check_writable()
        if master_key is not None:
            raise Error(
                f"{self.channel.url} is on a server, and a master key does not travel: give none. The server"
                " takes the one of the file that it was told of (`everlog serve --next-master-key`)"
            )
        known: Metadata = self.transaction(**metadata).metadata
        request = people_pb2.RotateKeyRequest(
            database=self.channel.address.database,
            actor=known.actor,
            reason=known.reason,
            correlation_id=known.correlation_id,
            causation_id=known.causation_id,
            client=known.client,
        )
        said, stub, total = self.channel.metadata, people_pb2_grpc.PeopleStub(self.channel.grpc), 0
        for answer in self.channel.stream(lambda: stub.RotateKey(request, metadata=said)):
            total = answer.total
            if progress is not None and not answer.finished:
                progress(Progress("rotate keys", answer.done, answer.total, "keys"))
        return total

    def opener(self, tables: Sequence[str] = ()) -> Opener:
        """What opens sealed rows for who follows these tables, or all; see `Database.opener`. Raises
        AccessError for a caller who may not, where rows of them are sealed."""
        chosen = [info for name, info in self.schema.tables.items() if not tables or name in tables]
        return RemoteKeys(self.channel, ask=any(info.sealed for info in chosen))

    def _forget(self, request: people_pb2.ForgetRequest, schema: Schema, key: Any, person: Any) -> Forgotten:
        _name_person(request, schema, key, person)
        stub = people_pb2_grpc.PeopleStub(self.channel.grpc)
        done = self.channel.call(
            stub.Forget, request, timeout_s=FORGET_S, metadata=((SCHEMA_KEY, str(schema.version)),)
        )
        return Forgotten(done.seq, done.key_id, done.rows, tuple(map(_remaining, done.remaining)))

    # of the database that these are calls of

    def refresh_schema(self) -> Schema:
        raise NotImplementedError

    def _check_writable(self) -> None:
        raise NotImplementedError
