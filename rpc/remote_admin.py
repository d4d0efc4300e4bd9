"""Remote admin: the answers of the Admin service as the embedded database gives them."""

from __future__ import annotations

from collections.abc import Iterator

from everlog.proto import admin_pb2, admin_pb2_grpc
from everlog.rpc.channel import Channel
from everlog.store.hashing import TableHash
from everlog.store.progress import OnProgress, Progress
from everlog.store.status import (
    ArchiveStatus,
    ClockStatus,
    ConsumersStatus,
    ExpiryStatus,
    Status,
    TableStatus,
    WritesStatus,
)

HASHES_S = 3600.0


class RemoteAdmin:
    """Looks after one database of a server."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._stub = admin_pb2_grpc.AdminStub(channel.grpc)

    def databases(self) -> list[str]:
        """Names of all databases of the server."""
        answer = self._channel.call(self._stub.ListDatabases, admin_pb2.ListDatabasesRequest())
        return list(answer.databases)

    def status(self) -> Status:
        answer = self._channel.call(self._stub.Status, admin_pb2.StatusRequest(database=self._database))
        return Status(
            uuid=answer.head.database,
            head=answer.head.seq,
            head_time_ns=answer.head_time_ns,
            checksum=answer.head.checksum,
            oldest=answer.oldest,
            schema_version=answer.schema_version,
            tables=[TableStatus(table.name, table.rows, list(table.indexes)) for table in answer.tables],
            disk_bytes=answer.disk_bytes,
            software=answer.software,
            format=answer.format,
            read_only=answer.read_only,
            expiry=ExpiryStatus(
                answer.expiry.rows, answer.expiry.due, answer.expiry.next_ns, answer.expiry.jumped_s
            ),
            consumers=ConsumersStatus(answer.consumers, list(answer.consumers_over), answer.consumers_error),
            archive=ArchiveStatus(
                answer.archive.base,
                answer.archive.archived_ns,
                answer.archive.target,
                answer.archive.error,
                answer.archive.error_ns,
            ),
            writes=WritesStatus(answer.writes.error, answer.writes.since_ns),
            clock=ClockStatus(answer.clock.reading_ns, answer.clock.ahead_s, answer.clock.corrected),
            warnings=list(answer.warnings),
            production=answer.production,
        )

    def hashes(self, seq: int | None, *, sealed: bool) -> dict[str, TableHash]:
        request = admin_pb2.StatusRequest(database=self._database, hashes=True, at=seq or 0, sealed=sealed)
        answer = self._channel.call(self._stub.Status, request, timeout_s=HASHES_S)
        return {table.name: TableHash(table.rows, table.hash) for table in answer.tables}

    def rebuild(self, progress: OnProgress | None) -> dict[str, TableHash]:
        request = admin_pb2.RebuildRequest(database=self._database)
        metadata = self._channel.metadata
        hashes: dict[str, TableHash] = {}
        for answer in self._channel.stream(lambda: self._stub.Rebuild(request, metadata=metadata)):
            if answer.finished:
                hashes = {table.name: TableHash(table.rows, table.hash) for table in answer.tables}
            elif progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None))
        return hashes

    def expire(self, *, confirm_time: bool) -> int:
        request = admin_pb2.ExpireRequest(database=self._database, confirm_time=confirm_time)
        rows: int = self._channel.call(self._stub.Expire, request, timeout_s=HASHES_S).rows
        return rows

    def correct_clock(self, *, actor: str, reason: str) -> int:
        request = admin_pb2.CorrectClockRequest(database=self._database, actor=actor, reason=reason)
        seq: int = self._channel.call(self._stub.CorrectClock, request).seq
        return seq

    def set_production(self, on: bool, *, actor: str, reason: str) -> int:
        request = admin_pb2.SetProductionRequest(
            database=self._database, production=on, actor=actor, reason=reason
        )
        seq: int = self._channel.call(self._stub.SetProduction, request).seq
        return seq

    def check(self, progress: OnProgress | None, *, deep: bool) -> Iterator[str]:
        request = admin_pb2.CheckRequest(database=self._database, deep=deep)
        metadata = self._channel.metadata
        for answer in self._channel.stream(lambda: self._stub.Check(request, metadata=metadata)):
            if answer.problem:
                yield answer.problem
            elif progress is not None and not answer.finished:
                progress(Progress(answer.step, answer.done, answer.total or None))
