"""People service: one of them is forgotten where the keys are; keys go to who may have them (giving.py); all
are put under the master key that the server was told is the next, which no call can choose.

Who calls is the actor, as with any commit. What was asked for twice, because the answer was lost, is
known by its commit_id and is answered again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from everlog.proto import people_pb2, people_pb2_grpc
from everlog.rpc.admin_service import sparing
from everlog.rpc.calls import Context
from everlog.rpc.giving import Giving
from everlog.rpc.hosting import Hosting
from everlog.rpc.store_service import check_schema
from everlog.rpc.telling import Telling
from everlog.store.forget import Person, export
from everlog.store.held import Remaining
from everlog.store.master import MasterKey
from everlog.store.progress import Progress
from everlog.store.transaction import Metadata

PART_BYTES = 1 << 20


def _sent(one: Remaining) -> people_pb2.Remaining:
    return people_pb2.Remaining(kind=one.kind, text=one.text, seqs=one.seqs)


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts for messages."""
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
        self._giving = Giving()

    async def Forget(  # type: ignore[override]
        self, request: people_pb2.ForgetRequest, context: Context
    ) -> people_pb2.ForgetResponse:
        db = self._hosting.database(request.database)
        check_schema(db, context)
        by = request.WhichOneof("who")
        who = Person(
            request.table,
            request.space,
            request.key if by == "key" else None,
            request.person if by != "key" else None,
        )
        metadata = Metadata(
            self._hosting.callers.actor(context, request.actor),
            request.reason,
            request.correlation_id,
            request.causation_id,
            request.client,
            request.commit_id,
        )
        done = await self._hosting.write(db.forget_person, who, metadata)
        return people_pb2.ForgetResponse(
            seq=done.seq, key_id=done.key_id, rows=done.rows, remaining=map(_sent, done.remaining)
        )

    async def Export(  # type: ignore[override]
        self, request: people_pb2.ExportRequest, context: Context
    ) -> AsyncIterator[people_pb2.ExportResponse]:
        db = self._hosting.database(request.database)
        check_schema(db, context)
        self._hosting.callers.actor(context, request.actor)
        by = request.WhichOneof("who")
        who = Person(
            request.table,
            request.space,
            request.key if by == "key" else None,
            request.person if by != "key" else None,
        )

        def run(telling: Telling[people_pb2.ExportResponse]) -> None:
            for part in _parts(export(db, who)):
                self._hosting.check_going()
                telling.tell(people_pb2.ExportResponse(json=part))

        async for answer in self._hosting.told(run, goes_on=False):
            yield answer

    async def Readable(  # type: ignore[override]
        self, request: people_pb2.ReadableRequest, context: Context
    ) -> people_pb2.ReadableResponse:
        db = self._hosting.database(request.database)
        self._hosting.callers.actor(context, request.actor)
        found = await self._hosting.survey(db.readable_people)
        return people_pb2.ReadableResponse(found=map(_sent, found))

    async def Keys(  # type: ignore[override]
        self, request: people_pb2.KeysRequest, context: Context
    ) -> people_pb2.KeysResponse:
        db = self._hosting.database(request.database)
        name = self._hosting.callers.with_keys(context)
        return await self._hosting.write(self._giving.give, db, name, request.key_ids)

    async def RotateKey(  # type: ignore[override]
        self, request: people_pb2.RotateKeyRequest, context: Context
    ) -> AsyncIterator[people_pb2.RotateKeyResponse]:
        db = self._hosting.database(request.database)
        actor = self._hosting.callers.actor(context, request.actor)

        def run(telling: Telling[people_pb2.RotateKeyResponse]) -> None:
            def progress(at: Progress) -> None:
                telling.passing(people_pb2.RotateKeyResponse(done=at.done, total=at.total or 0))

            total = db.rotate_key(
                self._next,
                sparing(progress),
                actor=actor,
                reason=request.reason,
                correlation_id=request.correlation_id,
                causation_id=request.causation_id,
                client=request.client,
            )
            telling.tell(people_pb2.RotateKeyResponse(done=total, total=total, finished=True))

        async for answer in self._hosting.told(run, stops=True):
            yield answer
