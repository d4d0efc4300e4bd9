"""People: the People service: forget and export a person, release keys, rotate the master key.

The caller is the actor, as of any commit. A repeated request, after a lost response, is recognised by its
commit_id and gets the same response. The next master key comes from the server's configuration; no call can
choose it.

    Keys(key_ids) ─▶ permission ─▶ a Notice on disk, once a day ─▶ the keys

    Notice { kind "keys.given", subject: the name of the token }       the actor is the same

A commit for each request would fill the log with repetitions: a receiver of a key has it permanently. So
there is one for each name and day, counted from the server's start.

Invariants
  (1) the log names every receiver of keys: the Notice is durable before the first key is sent;
  (2) no key is released that the log says was destroyed, nor the root key, from which hashes are computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from everlog.proto import log_pb2, people_pb2, people_pb2_grpc
from everlog.rpc.http2.grpc import Context
from everlog.rpc.server.admin import throttled
from everlog.rpc.server.host import Hosting, ResponseStream
from everlog.rpc.server.store import check_schema
from everlog.rpc.wire import ASKED_KEYS_MAX
from everlog.store.crypto.master_key import MasterKey
from everlog.store.database import Database
from everlog.store.errors import RowError, SealedError
from everlog.store.progress import Progress
from everlog.store.tx.transaction import Metadata
from everlog.store.upkeep.people import Person, export
from everlog.store.upkeep.personal_data import Remaining

KIND = "keys.given"
EVERY_S = 24 * 3600.0


class KeyRelease:
    """Releases the keys of a server's databases. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: dict[tuple[bytes, str], float] = {}  # time of the last Notice, by database and name

    def release(self, db: Database, name: str, key_ids: Sequence[bytes]) -> people_pb2.KeysResponse:
        """Return keys for `name`, which has permission. Writes, once a day. Raises SealedError without the
        master key, ReadOnlyError if the Notice cannot be written."""
        if len(key_ids) > ASKED_KEYS_MAX:
            raise RowError(f"expected a request for at most {ASKED_KEYS_MAX} keys, found {len(key_ids)}")
        vault = db.tables.vault
        assert vault is not None
        if vault.locked:
            raise SealedError(f"there are no keys to release: {vault.locked}", erased=False)
        self._record(db, name)
        answer = people_pb2.KeysResponse(sealed_in=vault.sealed_in)
        for key_id in key_ids:
            key = vault.key(key_id)
            if key is not None:
                answer.keys.add(key_id=key_id, key=key)
        return answer

    def _record(self, db: Database, name: str) -> None:
        with self._lock:
            last = self._recorded.get((db.uuid, name))
            if last is not None and time.monotonic() - last < EVERY_S:
                return

            def about(commit: log_pb2.Commit) -> None:
                commit.notice.CopyFrom(log_pb2.Notice(kind=KIND, subject=name))

            db.core.commit(db.transaction(actor=name, durability="sync"), about)
            self._recorded[db.uuid, name] = time.monotonic()


PART_BYTES = 1 << 20


def _sent(one: Remaining) -> people_pb2.Remaining:
    return people_pb2.Remaining(kind=one.kind, text=one.text, seqs=one.seqs)


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Split bytes into parts for messages."""
    held = bytearray()
    for piece in pieces:
        for at in range(0, len(piece), PART_BYTES):
            held += piece[at : at + PART_BYTES]
            if len(held) >= PART_BYTES:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


class PeopleService(people_pb2_grpc.PeopleServicer):
    """See proto/people.proto."""

    def __init__(self, hosting: Hosting, next_master_key: MasterKey | None = None) -> None:
        self._hosting = hosting
        self._next = next_master_key
        self._key_release = KeyRelease()

    async def Forget(  # type: ignore[override]
        self, request: people_pb2.ForgetRequest, context: Context
    ) -> people_pb2.ForgetResponse:
        db = self._hosting.database(request.database)
        check_schema(db, context)
        who = _person(request)
        metadata = Metadata(
            self._hosting.auth.actor(context, request.actor),
            request.reason,
            request.correlation_id,
            request.causation_id,
            request.client,
            request.commit_id,
        )
        done = await self._hosting.long_write(db.people.forget_person, who, metadata)
        return people_pb2.ForgetResponse(
            seq=done.seq, key_id=done.key_id, rows=done.rows, remaining=map(_sent, done.remaining)
        )

    async def Export(  # type: ignore[override]
        self, request: people_pb2.ExportRequest, context: Context
    ) -> AsyncIterator[people_pb2.ExportResponse]:
        db = self._hosting.database(request.database)
        check_schema(db, context)
        self._hosting.auth.actor(context, request.actor)
        who = _person(request)

        def run(responses: ResponseStream[people_pb2.ExportResponse]) -> None:
            for part in _parts(export(db.core, who)):
                self._hosting.check_going()
                responses.send(people_pb2.ExportResponse(json=part))

        async for answer in self._hosting.stream(run, goes_on=False):
            yield answer

    async def Readable(  # type: ignore[override]
        self, request: people_pb2.ReadableRequest, context: Context
    ) -> people_pb2.ReadableResponse:
        db = self._hosting.database(request.database)
        self._hosting.auth.actor(context, request.actor)
        found = await self._hosting.long_read(db.people.readable)
        return people_pb2.ReadableResponse(found=map(_sent, found))

    async def Keys(  # type: ignore[override]
        self, request: people_pb2.KeysRequest, context: Context
    ) -> people_pb2.KeysResponse:
        db = self._hosting.database(request.database)
        name = self._hosting.auth.with_keys(context)
        return await self._hosting.write(self._key_release.release, db, name, request.key_ids)

    async def RotateKey(  # type: ignore[override]
        self, request: people_pb2.RotateKeyRequest, context: Context
    ) -> AsyncIterator[people_pb2.RotateKeyResponse]:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.actor(context, request.actor)

        def run(responses: ResponseStream[people_pb2.RotateKeyResponse]) -> None:
            def progress(at: Progress) -> None:
                responses.send_progress(people_pb2.RotateKeyResponse(done=at.done, total=at.total or 0))

            total = db.people.rotate_key(
                self._next,
                throttled(progress),
                actor=actor,
                reason=request.reason,
                correlation_id=request.correlation_id,
                causation_id=request.causation_id,
                client=request.client,
            )
            responses.send(people_pb2.RotateKeyResponse(done=total, total=total, finished=True))

        async for answer in self._hosting.stream(run, stops=True):
            yield answer


def _person(request: people_pb2.ForgetRequest | people_pb2.ExportRequest) -> Person:
    """Return the person that a request names, by the key of a row or by the value of the person field."""
    by_key = request.WhichOneof("who") == "key"
    return Person(
        request.table,
        request.space,
        request.key if by_key else None,
        None if by_key else request.person,
    )
