"""Remote proofs: what a server shows of its log, as the prover of an open database gives it.

A server can say anything: `everlog.audit.prover` checks each proof before it is given away, and who has
a checkpoint from before asks for the proof from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from everlog.audit.prover import Kept
from everlog.proto import proofs_pb2, proofs_pb2_grpc
from everlog.rpc.remote import RemoteDatabase
from everlog.store.progress import OnProgress

CATCH_UP_S = 3600.0


class RemoteProver:
    """The prover of a database on a server."""

    def __init__(self, db: RemoteDatabase) -> None:
        self._db = db
        self._channel = db.channel
        self._name = db.channel.address.database
        self._stub = proofs_pb2_grpc.ProofsStub(db.channel.grpc)

    @cached_property
    def database(self) -> bytes:
        return self._db.uuid

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        request = proofs_pb2.HeadRequest(database=self._name, size=size)
        answer = self._channel.call(self._stub.Head, request, timeout_s=CATCH_UP_S)
        return answer.size, answer.root

    def inclusion(self, seq: int, size: int) -> tuple[bytes, list[bytes]]:
        request = proofs_pb2.ProveRequest(database=self._name, seq=seq, size=size)
        answer = self._channel.call(self._stub.Prove, request)
        return answer.record, list(answer.hashes)

    def consistency(
        self, first: int, size: int, *, check: bool = False, progress: OnProgress | None = None
    ) -> list[bytes]:
        request = proofs_pb2.ProveFromRequest(database=self._name, first=first, size=size, check=check)
        if not check:
            return list(self._channel.call(self._stub.ProveFrom, request).hashes)
        return list(self._channel.call(self._stub.ProveFrom, request, timeout_s=CATCH_UP_S).hashes)

    def kept(self, since: int) -> list[Kept]:
        request = proofs_pb2.KeptRequest(database=self._name, since=since)
        answer = self._channel.call(self._stub.Kept, request, timeout_s=CATCH_UP_S)
        return [Kept(one.size, one.seq, one.note) for one in answer.checkpoints]

    def keep(self, text: str, actor: str = "") -> int:
        """As `LocalProver.keep`; who it is, the token says."""
        request = proofs_pb2.KeepRequest(database=self._name, note=text)
        return self._channel.call(self._stub.Keep, request, timeout_s=CATCH_UP_S, retry_s=0).seq

    def signed(self) -> str | None:
        request = proofs_pb2.CheckpointRequest(database=self._name)
        answer = self._channel.call(self._stub.Checkpoint, request, timeout_s=CATCH_UP_S)
        return answer.note or None

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        request = proofs_pb2.EntriesRequest(database=self._name, after=after, until=until)
        metadata = self._channel.metadata
        for answer in self._channel.stream(lambda: self._stub.Entries(request, metadata=metadata)):
            yield answer.entries
