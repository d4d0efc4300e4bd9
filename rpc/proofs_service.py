"""Proofs service: what a server's logs hold, shown to whoever has the public key.

The server's own key, where it has one, signs for all of its databases: each checkpoint says of which
log it is, and no other key's is kept. A key never leaves the process that read its file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from everlog.audit.note import Signer
from everlog.audit.prover import LocalProver, checkpoint
from everlog.proto import proofs_pb2, proofs_pb2_grpc
from everlog.rpc.hosting import Hosting
from everlog.rpc.telling import Telling


class ProofsService(proofs_pb2_grpc.ProofsServicer):
    """See proto/proofs.proto."""

    def __init__(self, hosting: Hosting, signer: Signer | None = None) -> None:
        self._hosting = hosting
        self._signer = signer
        self._provers = {name: LocalProver(db) for name, db in hosting.databases.items()}

    def _prover(self, name: str) -> LocalProver:
        self._hosting.database(name)  # or it says that there is none
        return self._provers[name]

    async def Head(self, request: proofs_pb2.HeadRequest, context: Any) -> proofs_pb2.HeadResponse:
        prover = self._prover(request.database)
        size, root = await self._hosting.survey(prover.head, request.size, self._hosting.check_going)
        return proofs_pb2.HeadResponse(size=size, root=root)

    async def Checkpoint(
        self, request: proofs_pb2.CheckpointRequest, context: Any
    ) -> proofs_pb2.CheckpointResponse:
        prover = self._prover(request.database)
        if self._signer is None:
            return proofs_pb2.CheckpointResponse()
        note, _ = await self._hosting.write(
            checkpoint, prover, self._signer, progress=self._hosting.check_going, actor=context.who
        )
        return proofs_pb2.CheckpointResponse(note=note)

    async def Keep(self, request: proofs_pb2.KeepRequest, context: Any) -> proofs_pb2.KeepResponse:
        prover = self._prover(request.database)
        by = self._signer.verifier if self._signer else None  # else whoever may write says who signed
        seq = await self._hosting.write(prover.keep, request.note, actor=context.who, by=by)
        return proofs_pb2.KeepResponse(seq=seq)

    async def Kept(self, request: proofs_pb2.KeptRequest, context: Any) -> proofs_pb2.KeptResponse:
        prover = self._prover(request.database)
        kept = await self._hosting.survey(prover.kept, request.since)
        return proofs_pb2.KeptResponse(
            checkpoints=[proofs_pb2.KeptCheckpoint(size=one.size, seq=one.seq, note=one.note) for one in kept]
        )

    async def Prove(self, request: proofs_pb2.ProveRequest, context: Any) -> proofs_pb2.ProveResponse:
        prover = self._prover(request.database)
        record, hashes = await self._hosting.read(prover.inclusion, request.seq, request.size)
        return proofs_pb2.ProveResponse(record=record, hashes=hashes)

    async def ProveFrom(
        self, request: proofs_pb2.ProveFromRequest, context: Any
    ) -> proofs_pb2.ProveFromResponse:
        prover = self._prover(request.database)
        if request.check:
            going = self._hosting.check_going
            hashes = await self._hosting.survey(
                lambda: prover.consistency(request.first, request.size, check=True, progress=going)
            )
        else:
            hashes = await self._hosting.read(prover.consistency, request.first, request.size)
        return proofs_pb2.ProveFromResponse(hashes=hashes)

    async def Entries(
        self, request: proofs_pb2.EntriesRequest, context: Any
    ) -> AsyncIterator[proofs_pb2.EntriesResponse]:
        prover = self._prover(request.database)

        def run(telling: Telling[proofs_pb2.EntriesResponse]) -> None:
            for entries in prover.entries(request.after, request.until):
                telling.tell(proofs_pb2.EntriesResponse(entries=entries))

        async for answer in self._hosting.told(run, goes_on=False, stops=True):
            yield answer
