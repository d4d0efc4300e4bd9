"""Remote archive: old log of a database on a server goes to the place that the server was told of."""

from __future__ import annotations

from everlog.audit.archive import Archival
from everlog.proto import archive_pb2 as pb
from everlog.proto import archive_pb2_grpc
from everlog.rpc.remote import RemoteDatabase
from everlog.store import given
from everlog.store.errors import UnavailableError
from everlog.store.progress import OnProgress, Progress


def archive(
    db: RemoteDatabase,
    target: str = "",
    *,
    keep_records: int = 0,
    keep_ns: int = 0,
    progress: OnProgress | None = None,
) -> Archival:
    """Has the server archive; see `everlog.audit.archive`. `target`: where it is taken to be, if that
    matters: raises OpenError if it is not there, or nowhere. It goes on if this process ends."""
    request = pb.ArchiveRequest(
        database=db.channel.address.database, target=target, keep_records=keep_records, keep_ns=keep_ns
    )
    stub, metadata = archive_pb2_grpc.ArchiveStub(db.channel.grpc), db.channel.metadata
    for answer in db.channel.stream(lambda: stub.Archive(request, metadata=metadata)):
        if answer.finished:
            return Archival(
                answer.last,
                answer.base,
                answer.removed,
                answer.held,
                answer.bytes_before,
                answer.bytes_after,
            )
        if progress is not None:
            progress(Progress(answer.step, answer.done, answer.total or None, answer.unit))
    raise UnavailableError(f"{db.url}: the server ended before it had archived; ask again", url=db.url)


class RemoteHolds:
    """What is held of a database on a server, as `everlog.audit.holds` of one of this machine."""

    def __init__(self, db: RemoteDatabase) -> None:
        self._channel = db.channel
        self._database = db.channel.address.database
        self._stub = archive_pb2_grpc.ArchiveStub(db.channel.grpc)

    def read(self) -> dict[str, int]:
        """Names and the first records that they hold. Read-only."""
        return dict(self._channel.call(self._stub.Holds, pb.HoldsRequest(database=self._database)).holds)

    def hold(self, name: str, seq: int) -> None:
        """Holds the log from the record at `seq` on. Raises RowError."""
        given.text(name, "name")
        given.counted(seq, "a seq")
        self._channel.call(self._stub.Hold, pb.HoldRequest(database=self._database, name=name, seq=seq))

    def release(self, name: str) -> None:
        """Lets go of it. Raises RowError if there is no hold of that name."""
        given.text(name, "name")
        self._channel.call(self._stub.Release, pb.ReleaseRequest(database=self._database, name=name))
