"""People: `db.people` of a database on a server, and the keys that open sealed rows of its feed.

    changes ─▶ unknown key_ids ─▶ Keys, some thousand at a time ─▶ ciphers, cached in memory
                                        a Notice that one is destroyed drops it ─┘

Invariants
  (1) a call returns and raises what it returns and raises embedded;
  (2) a person is forgotten once, even if the call is repeated after a lost response: it carries an id;
  (3) keys are in memory only, at most KEYS_MAX, the most recently used;
  (4) permission for keys is requested before following, so that a refusal comes at once, and the log names
      the receiver before the end of a run is decided.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import msgspec

from everlog.proto import log_pb2, people_pb2, people_pb2_grpc
from everlog.rpc.client.channel import Channel
from everlog.rpc.wire import ASKED_KEYS_MAX, SCHEMA_KEY
from everlog.store.crypto.cipher import Cipher
from everlog.store.crypto.master_key import MasterKey
from everlog.store.errors import CorruptionError, Error, SchemaError
from everlog.store.keys import SPACE
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tx.transaction import Metadata, Transaction, new_commit_id
from everlog.store.upkeep.people import Forgotten, person_of
from everlog.store.upkeep.personal_data import Remaining

K = TypeVar("K")

KEYS_MAX = 10_000  # keys that a RemoteKeys keeps
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


class RemotePeople:
    """People in a database on a server. `begin` begins a transaction with metadata, which it checks; `schema`
    returns the known schema, and `refresh` the schema in force."""

    def __init__(
        self,
        channel: Channel,
        begin: Callable[..., Transaction],
        schema: Callable[[], Schema],
        refresh: Callable[[], Schema],
    ) -> None:
        self._channel = channel
        self._begin = begin
        self._schema = schema
        self._refresh = refresh

    def forget(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None, **metadata: Any
    ) -> Forgotten:
        """Forget one person, on the server; see `People.forget`. Writes."""
        known: Metadata = self._begin(**metadata).metadata
        request = people_pb2.ForgetRequest(
            database=self._channel.address.database,
            table=arguments.table_name(table),
            actor=known.actor,
            reason=known.reason,
            correlation_id=known.correlation_id,
            causation_id=known.causation_id,
            client=known.client,
            commit_id=known.commit_id or new_commit_id(),
        )
        try:
            return self._forget(request, self._schema(), key, person)
        except SchemaError:
            schema = self._schema()
            if self._refresh() is schema:
                raise
            return self._forget(request, self._schema(), key, person)

    def export(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> dict[str, Any]:
        """Return all data that the server has about one person; see `People.export`. Read-only."""
        found: dict[str, Any] = msgspec.json.decode(b"".join(self.stream(table, key, person=person)))
        return found

    def stream(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """Yield the same as pieces of one JSON object; see `People.stream`. Read-only."""
        request = people_pb2.ExportRequest(
            database=self._channel.address.database, table=arguments.table_name(table)
        )
        schema = self._refresh()
        _name_person(request, schema, key, person)
        stub = people_pb2_grpc.PeopleStub(self._channel.grpc)
        answers = self._channel.stream(stub.Export, request, ((SCHEMA_KEY, str(schema.version)),))
        first = next(answers)  # or the error
        return (answer.json for answer in chain([first], answers))

    def readable(self) -> list[Remaining]:
        """Return the data about people in the server's log that is readable without keys; see
        `People.readable`."""
        request = people_pb2.ReadableRequest(database=self._channel.address.database)
        stub = people_pb2_grpc.PeopleStub(self._channel.grpc)
        return [*map(_remaining, self._channel.call(stub.Readable, request, timeout_s=FORGET_S).found)]

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Rewrap all keys with the next master key, from the file in the server's configuration; see
        `People.rotate_key`. Raises Error if a key is given: master keys are never sent. Writes."""
        if master_key is not None:
            raise Error(
                f"{self._channel.url} is on a server, and a master key is never sent: pass none. The"
                " server uses the file in its configuration (`everlog serve --next-master-key`)"
            )
        known: Metadata = self._begin(**metadata).metadata
        request = people_pb2.RotateKeyRequest(
            database=self._channel.address.database,
            actor=known.actor,
            reason=known.reason,
            correlation_id=known.correlation_id,
            causation_id=known.causation_id,
            client=known.client,
        )
        stub, total = people_pb2_grpc.PeopleStub(self._channel.grpc), 0
        for answer in self._channel.stream(stub.RotateKey, request):
            total = answer.total
            if progress is not None and not answer.finished:
                progress(Progress("rotate keys", answer.done, answer.total, "keys"))
        return total

    def _forget(self, request: people_pb2.ForgetRequest, schema: Schema, key: Any, person: Any) -> Forgotten:
        _name_person(request, schema, key, person)
        stub = people_pb2_grpc.PeopleStub(self._channel.grpc)
        done = self._channel.call(
            stub.Forget, request, timeout_s=FORGET_S, metadata=((SCHEMA_KEY, str(schema.version)),)
        )
        return Forgotten(done.seq, done.key_id, done.rows, tuple(map(_remaining, done.remaining)))


class RemoteKeys:
    """Opens sealed rows of a database on a server. `ask`: request permission now, not with the first row."""

    def __init__(self, channel: Channel, *, ask: bool) -> None:
        self._channel = channel
        self._stub = people_pb2_grpc.PeopleStub(channel.grpc)
        self._ciphers: OrderedDict[bytes, Cipher | None] = OrderedDict()  # None: it was forgotten
        self._sealed_in = b""
        if ask:
            self._ask([])

    def open(self, changes: Sequence[log_pb2.Change]) -> list[bytes | None]:
        known = self._known({change.key_id for change in changes})
        return [self._row(known[change.key_id], change) for change in changes]

    def drop(self, key_id: bytes) -> None:
        self._ciphers.pop(key_id, None)

    def _row(self, cipher: Cipher | None, change: log_pb2.Change) -> bytes | None:
        if cipher is None:
            return None
        row = cipher.open(change.row, self._sealed_in + SPACE.pack(change.space) + change.key)
        if row is None:
            raise CorruptionError(
                f"a sealed row does not open with key {change.key_id.hex()}: it was changed or moved"
            )
        return row

    def _known(self, key_ids: Iterable[bytes]) -> dict[bytes, Cipher | None]:
        found: dict[bytes, Cipher | None] = {}
        missing = list[bytes]()
        for key_id in key_ids:
            if key_id in self._ciphers:
                found[key_id] = self._ciphers[key_id]
            else:
                missing.append(key_id)
        for at in range(0, len(missing), ASKED_KEYS_MAX):
            found |= self._ask(missing[at : at + ASKED_KEYS_MAX])
        for key_id, cipher in found.items():
            self._ciphers[key_id] = cipher
            self._ciphers.move_to_end(key_id)
        while len(self._ciphers) > KEYS_MAX:
            self._ciphers.popitem(last=False)
        return found

    def _ask(self, key_ids: Sequence[bytes]) -> dict[bytes, Cipher | None]:
        request = people_pb2.KeysRequest(database=self._channel.address.database, key_ids=key_ids)
        answer = self._channel.call(self._stub.Keys, request)
        self._sealed_in = answer.sealed_in
        given = {one.key_id: Cipher(one.key) for one in answer.keys}
        return {key_id: given.get(key_id) for key_id in key_ids}
