"""Admin: the responses of the Admin service, as the embedded database returns them, and `db.consumers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from everlog.proto import admin_pb2, admin_pb2_grpc, consumers_pb2_grpc, log_pb2
from everlog.proto import consumers_pb2 as pb
from everlog.rpc.address import Address
from everlog.rpc.calls import Now, RunningCall, call_of, now_of
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.history import RemotePast, seq_of
from everlog.rpc.wire import consumer_of, sample_of
from everlog.store.errors import RowError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.arguments import Time
from everlog.store.tables.hashing import TableHash
from everlog.store.tx.transaction import Metadata, Transaction
from everlog.store.upkeep.consumers import Cap, Consumer, check_registration, cursor_of, message_of_cap
from everlog.store.upkeep.samples import Sample
from everlog.store.upkeep.sizes import LogGrowth
from everlog.store.upkeep.status import (
    ArchiveStatus,
    ClockStatus,
    ConsumerLag,
    ConsumersStatus,
    ExpiryStatus,
    Health,
    HealthState,
    Status,
    SubscriptionStatus,
    TableStatus,
    WritesStatus,
)
from everlog.store.upkeep.testdata import LoadedTestdata

if TYPE_CHECKING:
    from everlog.rpc.client.audit import Origin

HASHES_S = 3600.0


class Listed(NamedTuple):
    """The names of databases, and of those that are the ledgers of fleets."""

    databases: list[str]
    ledgers: list[str]


def listed(channel: Channel) -> Listed:
    """Return the databases of a server in which the caller has a right. Read-only."""
    stub = admin_pb2_grpc.AdminStub(channel.grpc)
    found = channel.call(stub.ListDatabases, admin_pb2.ListDatabasesRequest())
    return Listed(list(found.databases), list(found.ledgers))


class RemoteAdmin:
    """Administers one database of a server. `origin` is its log; `begin` begins a transaction, which checks
    that the database is writable, and the metadata."""

    def __init__(
        self, channel: Channel, origin: Origin, past: RemotePast, begin: Callable[..., Transaction]
    ) -> None:
        self._origin = origin
        self._past = past
        self._begin = begin
        self._channel = channel
        self._database = channel.address.database
        self._stub = admin_pb2_grpc.AdminStub(channel.grpc)

    def databases(self) -> list[str]:
        """Return the names of all databases of the server."""
        return listed(self._channel).databases

    def status(self) -> Status:
        """Return the state of the database in numbers. Read-only."""
        answer = self._channel.call(self._stub.Status, admin_pb2.StatusRequest(database=self._database))
        return Status(
            uuid=answer.head.database,
            head=answer.head.seq,
            head_time_ns=answer.head_time_ns,
            checksum=answer.head.checksum,
            oldest=answer.oldest,
            schema_version=answer.schema_version,
            tables=[
                TableStatus(
                    table.name,
                    table.rows,
                    list(table.indexes),
                    table.bytes,
                    list(table.index_bytes),
                    table.grown_bytes,
                )
                for table in answer.tables
            ],
            disk_bytes=answer.disk_bytes,
            software=answer.software,
            format=answer.format,
            read_only=answer.read_only,
            expiry=ExpiryStatus(
                answer.expiry.rows, answer.expiry.due, answer.expiry.next_ns, answer.expiry.jumped_s
            ),
            consumers=ConsumersStatus(
                answer.consumers,
                list(answer.consumers_over),
                answer.consumers_error,
                [ConsumerLag(one.name, one.records, one.seconds) for one in answer.consumer_lags],
            ),
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
            durability=answer.durability or "sync",
            health=_health(answer.health),
            log_bytes=answer.log_bytes,
            log_growth=[LogGrowth(one.seconds, one.records, one.bytes) for one in answer.log_growth],
            grown_s=answer.grown_s,
            subscriptions=[
                SubscriptionStatus(one.identity, one.peer, one.since_ns, one.records)
                for one in answer.subscriptions
            ],
        )

    def health(self) -> Health:
        """Return whether the database takes calls now; see `Admin.health`. Read-only."""
        return _health(
            self._channel.call(self._stub.Health, admin_pb2.HealthRequest(database=self._database))
        )

    def hashes(
        self, progress: OnProgress | None = None, *, seq: int | None = None, sealed: bool = False
    ) -> dict[str, TableHash]:
        """Return rows and content hash of every table; see `Admin.hashes`. Read-only."""
        at = 0 if seq is None else seq_of(seq)
        if seq is not None and at < 1:
            self._past.at(seq=seq)  # raises it
        request = admin_pb2.StatusRequest(database=self._database, hashes=True, at=at, sealed=sealed)
        answer = self._channel.call(self._stub.Status, request, timeout_s=HASHES_S)
        return {table.name: TableHash(table.rows, table.hash) for table in answer.tables}

    def rebuild(self, progress: OnProgress | None = None) -> dict[str, TableHash]:
        """Rebuild all tables on the server; see `Admin.rebuild`. Writes."""
        self._begin()
        request = admin_pb2.RebuildRequest(database=self._database)
        hashes: dict[str, TableHash] = {}
        for answer in self._channel.stream(self._stub.Rebuild, request):
            if answer.finished:
                hashes = {table.name: TableHash(table.rows, table.hash) for table in answer.tables}
            elif progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None))
        return hashes

    def rebuild_into(
        self,
        path: Path | str,
        progress: OnProgress | None = None,
        *,
        seq: int | None = None,
        time: Time | None = None,
    ) -> dict[str, TableHash]:
        """Build this database from the server's feed in a new local directory, compare its tables with the
        server's, and return their hashes; see `Admin.rebuild_into`."""
        from everlog.rpc.client.audit import rebuild_from  # noqa: PLC0415  the audit room, for copies alone

        if time is not None:
            seq = self._past.at(seq=seq, time=time).seq
        return rebuild_from(self._origin, Path(path), self.hashes, progress, seq=seq)

    def check(self, progress: OnProgress | None = None, *, deep: bool = False) -> Iterator[str]:
        """Yield each problem as a sentence; `deep` as in `Admin.check`. Read-only."""
        self._channel.check_open()
        return self._check(progress, deep=deep)

    @property
    def production(self) -> bool:
        """Return whether the log marks this database as in production. Read-only."""
        return self.status().production

    def expire(self, *, confirm_time: bool = False) -> int:
        """Delete expired rows on the server; see `Admin.expire`. Writes."""
        self._begin()
        request = admin_pb2.ExpireRequest(database=self._database, confirm_time=confirm_time)
        rows: int = self._channel.call(self._stub.Expire, request, timeout_s=HASHES_S).rows
        return rows

    def correct_clock(self, *, actor: str = "", reason: str = "") -> int:
        """Confirm that the server's clock is correct; see `Admin.correct_clock`. Writes."""
        self._begin(actor=actor, reason=reason)
        request = admin_pb2.CorrectClockRequest(database=self._database, actor=actor, reason=reason)
        seq: int = self._channel.call(self._stub.CorrectClock, request).seq
        return seq

    def set_production(self, on: bool, *, actor: str = "", reason: str = "") -> int:
        """Mark the database as production, or clear the mark; see `Admin.set_production`. Writes."""
        self._begin(actor=actor, reason=reason)
        request = admin_pb2.SetProductionRequest(
            database=self._database, production=on, actor=actor, reason=reason
        )
        seq: int = self._channel.call(self._stub.SetProduction, request).seq
        return seq

    def samples(
        self,
        since_ns: int = 0,
        *,
        points: int = 0,
        table: str = "",
        consumers: bool = False,
        latency: bool = False,
    ) -> list[Sample]:
        """Return sizes, lags and latencies over time; see `Admin.samples`. Read-only."""
        request = admin_pb2.SamplesRequest(
            database=self._database,
            since_ns=arguments.counted(since_ns, "since_ns"),
            points=arguments.counted(points, "points"),
            table=arguments.text(table, "table"),
            consumers=consumers,
            latency=latency,
        )
        return list(map(sample_of, self._channel.call(self._stub.Samples, request).samples))

    def testdata(self) -> list[LoadedTestdata]:
        """Return which test data was loaded; see `Admin.testdata`. Read-only."""
        request = admin_pb2.TestdataRequest(database=self._database)
        return [
            LoadedTestdata(one.version, one.seed, one.scale, one.table, one.rows, one.finished)
            for one in self._channel.call(self._stub.Testdata, request).loads
        ]

    def calls(self) -> Now:
        """Return what the server does now; see `Admin.calls`. Read-only."""
        return now_of(self._channel.call(self._stub.Calls, admin_pb2.CallsRequest()))

    def kill(self, id: int, *, reason: str = "") -> RunningCall:
        """End a running call of the server; see `Admin.kill`."""
        arguments.text(reason, "reason")
        request = admin_pb2.KillRequest(id=arguments.counted(id, "id"), reason=reason)
        return call_of(self._channel.call(self._stub.Kill, request).call)

    def _check(self, progress: OnProgress | None, *, deep: bool) -> Iterator[str]:
        request = admin_pb2.CheckRequest(database=self._database, deep=deep)
        for answer in self._channel.stream(self._stub.Check, request):
            if answer.problem:
                yield answer.problem
            elif progress is not None and not answer.finished:
                progress(Progress(answer.step, answer.done, answer.total or None))


class RemoteConsumers:
    """See `everlog.store.upkeep.consumers.Consumers`: with the same results and errors."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._stub = consumers_pb2_grpc.ConsumersStub(channel.grpc)

    def register(
        self,
        name: str,
        *,
        after: int | log_pb2.Cursor | None = None,
        cap: Cap | None = None,
        take: bool = True,
        owner: str = "",
        actor: str = "",
        reason: str = "",
    ) -> Consumer:
        """Register a durable name on the server. Writes."""
        check_registration(name, after, cap, owner, Metadata(actor, reason))
        request = pb.RegisterRequest(
            database=self._database, name=name, leave=not take, owner=owner, actor=actor, reason=reason
        )
        if after is not None:
            request.after.CopyFrom(cursor_of(after))
        if cap is not None:
            request.cap.CopyFrom(message_of_cap(cap))
        return consumer_of(self._channel.call(self._stub.Register, request).consumer)

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """Report that the consumer has everything up to a position, durably. Does not wait for an unavailable
        server: it raises UnavailableError, and the next bookmark covers this one."""
        request = pb.BookmarkRequest(
            database=self._database, name=consumer.name, turn=consumer.epoch, position=position
        )
        self._channel.call(self._stub.Bookmark, request, retry_s=0)

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Remove a consumer: nothing is held for it any more. Writes."""
        arguments.text(name, "name")
        Metadata(actor, reason).check()
        request = pb.RemoveConsumerRequest(database=self._database, name=name, actor=actor, reason=reason)
        self._channel.call(self._stub.Remove, request)

    def __getitem__(self, name: str) -> Consumer:
        """Return one consumer. Read-only. Raises RowError."""
        arguments.text(name, "name")
        found = {one.name: one for one in self}
        if name not in found:
            names = ", ".join(found) or "none"
            raise RowError(f"there is no consumer {name!r}; the consumers are: {names}", name=name)
        return found[name]

    def __iter__(self) -> Iterator[Consumer]:
        """Yield all consumers, by name. Read-only."""
        answer = self._channel.call(self._stub.List, pb.ListConsumersRequest(database=self._database))
        return map(consumer_of, answer.consumers)


def _health(found: admin_pb2.HealthResponse) -> Health:
    """Return the health in a response; that of a server before 0.2 is unset, and counts as ready."""
    return Health(found.ready, found.state, found.reason, found.since_ns) if found.state else Health()


def server_health(address: Address, *, timeout_s: float) -> Health:
    """Return the health of a whole server, whatever database the address names. Needs no token; has no
    reason. Read-only. Raises UnavailableError."""
    channel = Channel(address, timeout_s=timeout_s)
    try:
        stub = health_pb2_grpc.HealthStub(channel.grpc)
        answer = channel.call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=timeout_s)
    finally:
        channel.close()
    ready = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Health(ready, HealthState.READY if ready else "not ready")
