"""Admin: the Admin, Archive, Consumers and Proofs services of a server.

Long calls stream their progress.

Invariants
  (1) a client chooses no target of an archive: the server writes only to those in its configuration;
  (2) a client's bookmarks only change memory between two writes of the BOOKMARKS file, at most one a second
      (store/upkeep/consumers.py);
  (3) the server's own key, if it has one, signs for all of its databases: each checkpoint names its log, and
      no other key's checkpoints are stored. A key never leaves the process that read its file.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from shlex import quote
from typing import Any, NamedTuple, TypeVar

import msgspec

from everlog.audit import holds
from everlog.audit.archive import archive, removable
from everlog.audit.note import Signer
from everlog.audit.place import same
from everlog.audit.prover import LocalProver, checkpoint
from everlog.proto import (
    access_pb2,
    admin_pb2,
    admin_pb2_grpc,
    archive_pb2,
    archive_pb2_grpc,
    consumers_pb2,
    consumers_pb2_grpc,
    log_pb2,
    proofs_pb2,
    proofs_pb2_grpc,
)
from everlog.rpc.server.health import Readiness
from everlog.rpc.server.host import Hosting, ResponseStream
from everlog.rpc.server.rights import Scope
from everlog.rpc.server.running import RunningCalls
from everlog.rpc.server.threads import note
from everlog.rpc.server.visible import told
from everlog.rpc.wire import message_of, message_of_sample
from everlog.store.database import Database
from everlog.store.errors import AccessError, LimitError, OpenError, RowError, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep.allowance import DAY_S, HELD, LIMITS
from everlog.store.upkeep.consumers import Cap, Consumer, Registering, cap_of
from everlog.store.upkeep.samples import Samples
from everlog.store.urls import without_secrets

TELL_EVERY_S = 0.1
SUBSCRIPTIONS_MAX = 100  # in a status
POINTS_MAX = 1500  # samples of one answer
# What callers with limited rights do not see of a sample.
HIDDEN: dict[str, Any] = {"log_bytes": 0, "table_bytes": 0, "index_bytes": 0, "lags": {}, "latency": []}

T = TypeVar("T")


class AdminService(admin_pb2_grpc.AdminServicer):
    """See proto/admin.proto."""

    def __init__(
        self, hosting: Hosting, readiness: Readiness, calls: RunningCalls, ledgers: Collection[str] = ()
    ) -> None:
        self._hosting = hosting
        self._ledgers = frozenset(ledgers)
        self._readiness = readiness
        self._calls = calls

    async def Calls(self, request: admin_pb2.CallsRequest, context: Any) -> admin_pb2.CallsResponse:
        answer = self._calls.now(context.identity)
        answer.databases.extend(await self._hosting.read(self._calls.databases, context.identity))
        return answer

    async def Kill(self, request: admin_pb2.KillRequest, context: Any) -> admin_pb2.KillResponse:
        return admin_pb2.KillResponse(call=self._calls.kill(request.id, context.identity, request.reason))

    async def ListDatabases(
        self, request: admin_pb2.ListDatabasesRequest, context: Any
    ) -> admin_pb2.ListDatabasesResponse:
        found = self._hosting.rights.databases_of(context.identity)
        ledgers = [name for name in found if name in self._ledgers]
        return admin_pb2.ListDatabasesResponse(databases=found, ledgers=ledgers)

    async def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusResponse:
        db, scope = self._hosting.database(request.database), context.scope
        answer = await self._hosting.read(_status, db, self._hosting.samples[request.database])
        if request.hashes:
            going, at, sealed = self._hosting.check_going, request.at or None, request.sealed

            def run() -> list[admin_pb2.TableStatus]:
                past = db.past.schemas.at(at) if at else None
                tables = db.schema.tables if past is None else past.tables
                visible = {name for name in tables if scope.reads_all(name, past, db.schema)}
                hashes = db.admin.hashes(going, seq=at, sealed=sealed) if visible else {}
                return [_table(db, name, one) for name, one in hashes.items() if name in visible]

            hashed = await self._hosting.long_read(run)
            del answer.tables[:]
            answer.tables.extend(hashed)
        answer.database = request.database
        answer.subscriptions.extend(self._subscriptions(request.database))
        if scope.everywhere:
            answer.warnings.extend(self._hosting.warnings)
        else:
            _limit(answer, scope)
        answer.subscribers = self._hosting.subscribers[request.database]
        answer.health.CopyFrom(await self._health(request.database, scope))
        return answer

    def _subscriptions(self, database: str) -> list[admin_pb2.RunningSubscription]:
        """Return the subscriptions that are farthest behind."""
        found = [
            admin_pb2.RunningSubscription(
                identity=one.identity,
                peer=one.peer,
                since_ns=one.since_ns,
                records=one.behind.lag if one.behind is not None else 0,
            )
            for one in self._hosting.following.values()
            if one.database == database
        ]
        found.sort(key=lambda one: (-one.records, one.since_ns))
        return found[:SUBSCRIPTIONS_MAX]

    async def Health(self, request: admin_pb2.HealthRequest, context: Any) -> admin_pb2.HealthResponse:
        return await self._health(request.database, context.scope)

    async def _health(self, name: str, scope: Scope) -> admin_pb2.HealthResponse:
        """Return the health of a database; the reason only to callers that may know of all tables."""
        db = self._hosting.database(name)
        found = self._readiness.of(name, await self._hosting.read(db.admin.health))
        reason = found.reason if scope.everywhere else ""
        return admin_pb2.HealthResponse(
            ready=found.ready, state=found.state, reason=reason, since_ns=found.since_ns
        )

    async def Rebuild(
        self, request: admin_pb2.RebuildRequest, context: object
    ) -> AsyncIterator[admin_pb2.RebuildResponse]:
        db = self._hosting.database(request.database)

        def run(responses: ResponseStream[admin_pb2.RebuildResponse]) -> None:
            hashes = db.admin.rebuild(
                throttled(
                    lambda at: responses.send_progress(
                        admin_pb2.RebuildResponse(step=at.step, done=at.done, total=at.total or 0)
                    )
                )
            )
            tables = [_table(db, name, one) for name, one in hashes.items()]
            responses.send(admin_pb2.RebuildResponse(tables=tables, finished=True))

        async for answer in self._hosting.stream(run, stops=True):
            yield answer

    async def Expire(self, request: admin_pb2.ExpireRequest, context: object) -> admin_pb2.ExpireResponse:
        db = self._hosting.database(request.database)
        rows = await self._hosting.chunked_write(db.admin.expire, confirm_time=request.confirm_time)
        return admin_pb2.ExpireResponse(rows=rows)

    async def CorrectClock(
        self, request: admin_pb2.CorrectClockRequest, context: Any
    ) -> admin_pb2.CorrectClockResponse:
        db, actor = (
            self._hosting.database(request.database),
            self._hosting.auth.actor(context, request.actor),
        )
        seq = await self._hosting.write(db.admin.correct_clock, actor=actor, reason=request.reason)
        return admin_pb2.CorrectClockResponse(seq=seq)

    async def SetProduction(
        self, request: admin_pb2.SetProductionRequest, context: Any
    ) -> admin_pb2.SetProductionResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.actor(context, request.actor)
        seq = await self._hosting.write(
            db.admin.set_production, request.production, actor=actor, reason=request.reason
        )
        return admin_pb2.SetProductionResponse(seq=seq)

    async def Samples(self, request: admin_pb2.SamplesRequest, context: Any) -> admin_pb2.SamplesResponse:
        self._hosting.database(request.database)  # raises for a name that is not hosted
        kept, scope, table = self._hosting.samples[request.database], context.scope, request.table
        points = min(request.points or POINTS_MAX, POINTS_MAX)
        found = await self._hosting.read(kept.since, request.since_ns, points)
        if not (table and scope.reads_all(table)):
            table = ""
        if not scope.everywhere:
            found = [msgspec.structs.replace(one, **HIDDEN) for one in found]
        which = {"consumers": request.consumers, "latency": request.latency}
        return admin_pb2.SamplesResponse(samples=[message_of_sample(one, table, **which) for one in found])

    async def Testdata(self, request: admin_pb2.TestdataRequest, context: Any) -> admin_pb2.TestdataResponse:
        found = await self._hosting.read(self._hosting.database(request.database).admin.testdata)
        seen = [msgspec.structs.asdict(one) for one in found if context.scope.sees(one.table)]
        return admin_pb2.TestdataResponse(loads=[admin_pb2.LoadedTestdata(**one) for one in seen])

    async def Check(
        self, request: admin_pb2.CheckRequest, context: object
    ) -> AsyncIterator[admin_pb2.CheckResponse]:
        db = self._hosting.database(request.database)

        def run(responses: ResponseStream[admin_pb2.CheckResponse]) -> None:
            def progress(at: Progress) -> None:
                responses.send_progress(
                    admin_pb2.CheckResponse(step=at.step, done=at.done, total=at.total or 0)
                )

            for problem in db.admin.check(throttled(progress), deep=request.deep):
                responses.send(admin_pb2.CheckResponse(problem=problem))
            responses.send(admin_pb2.CheckResponse(finished=True))

        async for answer in self._hosting.stream(run, goes_on=False, stops=True):
            yield answer


def throttled(progress: OnProgress) -> OnProgress:
    """Limit progress to the first report of each step and then ten a second."""
    step, due = "", 0.0

    def told(at: Progress) -> None:
        nonlocal step, due
        note(at)
        now = time.monotonic()
        if at.step != step or now >= due:
            step, due = at.step, now + TELL_EVERY_S
            progress(at)

    return told


def _status(db: Database, samples: Samples) -> admin_pb2.StatusResponse:
    found = db.admin.status()
    grown_s, grown = samples.growth()
    return admin_pb2.StatusResponse(
        head=log_pb2.Cursor(database=found.uuid, seq=found.head, checksum=found.checksum),
        head_time_ns=found.head_time_ns,
        oldest=found.oldest,
        schema_version=found.schema_version,
        tables=[
            admin_pb2.TableStatus(
                name=table.name,
                rows=table.rows,
                indexes=table.indexes,
                bytes=table.bytes,
                index_bytes=table.index_bytes,
                grown_bytes=grown.get(table.name, 0),
            )
            for table in found.tables
        ],
        log_bytes=found.log_bytes,
        log_growth=[admin_pb2.LogGrowth(**msgspec.structs.asdict(one)) for one in found.log_growth],
        grown_s=grown_s,
        consumer_lags=[admin_pb2.ConsumerLag(**msgspec.structs.asdict(one)) for one in found.consumers.lags],
        disk_bytes=found.disk_bytes,
        software=found.software,
        format=found.format,
        read_only=found.read_only,
        production=found.production,
        durability=found.durability,
        expiry=admin_pb2.Expiry(
            rows=found.expiry.rows,
            due=found.expiry.due,
            next_ns=found.expiry.next_ns,
            jumped_s=found.expiry.jumped_s,
        ),
        consumers=found.consumers.registered,
        consumers_over=found.consumers.over,
        consumers_error=found.consumers.error,
        archive=admin_pb2.Archived(**msgspec.structs.asdict(found.archive)),
        warnings=found.warnings,
        clock=admin_pb2.ClockState(**msgspec.structs.asdict(found.clock)),
        writes=admin_pb2.WritesRefused(**msgspec.structs.asdict(found.writes))
        if found.writes.error
        else None,
    )


def _limit(answer: admin_pb2.StatusResponse, scope: Scope) -> None:
    """Leave out what a caller with limited rights may not see."""
    seen = [one for one in answer.tables if scope.sees(one.name)]
    for one in seen:
        if not scope.reads_all(one.name):
            for number in ("rows", "bytes", "index_bytes", "grown_bytes"):
                one.ClearField(number)
    del answer.tables[:]
    answer.tables.extend(seen)
    for field in ("warnings", "expiry", "archive", "consumers_over", "consumers_error"):
        answer.ClearField(field)
    for more in ("consumer_lags", "subscriptions", "log_bytes", "log_growth"):
        answer.ClearField(more)


def _table(db: Database, name: str, one: TableHash) -> admin_pb2.TableStatus:
    indexes = list(db.schema.table(name).indexes) if name in db.schema.tables else []
    return admin_pb2.TableStatus(name=name, rows=one.rows, hash=one.hash, indexes=indexes)


class ArchiveService(archive_pb2_grpc.ArchiveServicer):
    """See proto/archive.proto."""

    def __init__(self, hosting: Hosting, targets: Mapping[str, str]) -> None:
        self._hosting = hosting
        self._targets = targets

    async def Archive(
        self, request: archive_pb2.ArchiveRequest, context: Any
    ) -> AsyncIterator[archive_pb2.ArchiveResponse]:
        db, target = self._hosting.database(request.database), self._target(request)

        def run(responses: ResponseStream[archive_pb2.ArchiveResponse]) -> None:
            def progress(at: Progress) -> None:
                responses.send_progress(
                    archive_pb2.ArchiveResponse(step=at.step, done=at.done, total=at.total or 0, unit=at.unit)
                )

            done = archive(
                db,
                target,
                keep_records=request.keep_records,
                keep_ns=request.keep_ns,
                progress=throttled(progress),
            )
            responses.send(
                archive_pb2.ArchiveResponse(
                    **msgspec.structs.asdict(done), target=without_secrets(target), finished=True
                )
            )

        async for answer in self._hosting.stream(run, stops=True):
            yield answer

    async def Removable(
        self, request: archive_pb2.RemovableRequest, context: object
    ) -> archive_pb2.RemovableResponse:
        db = self._hosting.database(request.database)
        last, held = await self._hosting.long_read(removable, db, request.keep_records, request.keep_ns)
        return archive_pb2.RemovableResponse(last=last, held=held)

    async def Hold(self, request: archive_pb2.HoldRequest, context: Any) -> archive_pb2.HoldsResponse:
        db = self._hosting.database(request.database)
        forward = context.scope.holder.decide(access_pb2.RELEASE).allowed
        await self._hosting.write(holds.hold_in, db, request.name, request.seq, forward=forward)
        return await self._hosting.read(_held, db)

    async def Release(self, request: archive_pb2.ReleaseRequest, context: Any) -> archive_pb2.HoldsResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.actor(context, request.actor)
        await self._hosting.write(holds.release_in, db, request.name, actor=actor, reason=request.reason)
        return await self._hosting.read(_held, db)

    async def Holds(self, request: archive_pb2.HoldsRequest, context: object) -> archive_pb2.HoldsResponse:
        return await self._hosting.read(_held, self._hosting.database(request.database))

    def _target(self, request: archive_pb2.ArchiveRequest) -> str:
        """Return the target of a database's archive. Raises OpenError if it has none, or if the client names
        another one."""
        target = self._targets.get(request.database)
        if target is None:
            raise OpenError(
                f"this server has no archive target for {request.database}: start it with --archive-to"
                f" {request.database}=DIR or URL",
                database=request.database,
            )
        if request.target and not same(request.target, target):
            raise OpenError(
                f"this server archives {request.database} to {without_secrets(target)}, not to"
                f" {request.target}: a client does not choose where a server writes; leave the target out",
                database=request.database,
                target=without_secrets(target),
            )
        return target


def _held(db: Database) -> archive_pb2.HoldsResponse:
    return archive_pb2.HoldsResponse(holds=holds.read(db.directory))


class ConsumersService(consumers_pb2_grpc.ConsumersServicer):
    """See proto/consumers.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    def _permit(self, *how: Any) -> None:
        """As `_permit`, and count a limit that is reached."""
        try:
            _permit(*how)
        except LimitError:
            self._hosting.on_limit("consumers")
            raise

    async def Register(
        self, request: consumers_pb2.RegisterRequest, context: Any
    ) -> consumers_pb2.RegisterResponse:
        db, scope = self._hosting.database(request.database), context.scope
        limits = _limits(scope)
        actor, who = self._hosting.auth.actor(context, request.actor), str(context.who)

        def run() -> Consumer:
            is_new = request.name not in db.consumers.registered()
            cap = cap_of(request.cap) if request.HasField("cap") else None
            if cap is None and is_new and limits is not None:
                cap = limits.cap(Cap())
            own = not db.read_only and (not request.leave or (is_new and limits is not None))
            return db.consumers.register(
                request.name,
                after=request.after if request.HasField("after") else None,
                cap=cap,
                take=not request.leave,
                owner=request.owner or (who if own else ""),
                actor=actor,
                reason=request.reason,
                permit=lambda one: self._permit(scope, limits, one, request.reason),
            )

        found = await self._hosting.write(run)
        return consumers_pb2.RegisterResponse(consumer=_shown(found, scope, holds=not request.leave))

    async def Bookmark(
        self, request: consumers_pb2.BookmarkRequest, context: Any
    ) -> consumers_pb2.BookmarkResponse:
        db, scope = self._hosting.database(request.database), context.scope

        def run() -> None:
            if not _owns(scope, db.consumers.owner_of(request.name)) and not _may_take(scope):
                raise _not_owned(scope, request.name)
            db.consumers.move(request.name, request.turn, request.position)

        await self._hosting.write(run)
        return consumers_pb2.BookmarkResponse()

    async def List(
        self, request: consumers_pb2.ListConsumersRequest, context: Any
    ) -> consumers_pb2.ListConsumersResponse:
        db = self._hosting.database(request.database)
        consumers = await self._hosting.read(_listed, db, context.scope)
        return consumers_pb2.ListConsumersResponse(consumers=consumers)

    async def Remove(
        self, request: consumers_pb2.RemoveConsumerRequest, context: Any
    ) -> consumers_pb2.RemoveConsumerResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.auth.actor(context, request.actor)
        await self._hosting.write(db.consumers.remove, request.name, actor=actor, reason=request.reason)
        return consumers_pb2.RemoveConsumerResponse()


def _listed(db: Database, scope: Scope) -> list[consumers_pb2.Consumer]:
    """Return the consumers that a caller may see: all, or its own if its rights are limited."""
    whole = any(scope.holder.decide(right).whole for right in (access_pb2.STATUS, access_pb2.CONSUMERS))
    return [_shown(one, scope) for one in db.consumers if whole or (one.owner and _owns(scope, one.owner))]


def _shown(one: Consumer, scope: Scope, *, holds: bool = False) -> consumers_pb2.Consumer:
    """Return a consumer as a message: the epoch, with which its bookmark is moved, only to its holder and its
    owner."""
    answer = message_of(one)
    if not holds and not _owns(scope, one.owner):
        answer.ClearField("turn")
    return answer


def _owns(scope: Scope, owner: str) -> bool:
    return not owner or owner == scope.identity.name


def _may_take(scope: Scope) -> bool:
    return scope.holder.decide(access_pb2.REMOVE).allowed


class _Limits(NamedTuple):
    """What a caller without the right `hold` may have held for its consumers; 0: no limit."""

    names: int
    seconds: int
    bytes: int

    def cap(self, cap: Cap) -> Cap:
        """Return a cap within the limits."""
        return Cap(
            cap.records,
            min(cap.seconds, self.seconds or cap.seconds),
            min(cap.bytes, self.bytes or cap.bytes),
        )

    def over(self, was: consumers_pb2.Cap | None, new: consumers_pb2.Cap) -> str:
        """Return which limit of a new cap is too large, in words; empty: none that the known cap has not."""
        for most, unit, size, option in (
            (self.seconds, "seconds", DAY_S, "days"),
            (self.bytes, "bytes", 1, "bytes"),
        ):
            found = getattr(new, unit)
            known = was is not None and found == getattr(was, unit)
            if most and not known and not 0 < found <= most:
                text = f"{found / size:,.12g} {option}" if found else "no limit"
                return f"of at most {most / size:,.12g} {option} (--cap-{option}), found {text}"
        return ""


def _limits(scope: Scope) -> _Limits | None:
    """Return what a caller may have held for its consumers; None: anything, as with the right `hold`."""
    if scope.holder.decide(access_pb2.HOLD).allowed:
        return None
    said = msgspec.structs.asdict(scope.holder.allowance)
    return _Limits(*(LIMITS[name].default if said[name] is None else said[name] for name in HELD))


def _permit(scope: Scope, limits: _Limits | None, one: Registering, reason: str) -> None:
    """Raise an error for a registration that the caller may not make."""
    if one.was is not None:
        _permit_name(scope, one.was.owner, one.name, reason)
    if limits is None:
        return
    who = str(scope.identity.name)
    gets = one.was is None or one.new.owner != one.was.owner
    if gets and one.new.owner != who:
        raise AccessError(
            f"{who} lacks the right hold, so it may register consumers only for itself; leave the owner out",
            actor=who,
            right="hold",
            name=one.name,
        )
    if over := limits.over(one.was.cap if one.was is not None else None, one.new.cap):
        raise AccessError(
            f"{who} may not hold so much of the log for consumer {one.name!r}: expected a cap {over}; ask for"
            " less, or have it registered with the right hold",
            actor=who,
            right="hold",
            name=one.name,
        )
    if gets and limits.names and one.owned >= limits.names:
        raise LimitError(
            f"the limit of {who} is reached: expected at most {quantity(limits.names, 'consumer')}; use one"
            " of them (everlog consumers), or have some removed (everlog consumers remove)",
            limit="consumers",
            retry_s=0.0,
        )


def _permit_name(scope: Scope, owner: str, name: str, reason: str) -> None:
    """Raise an error for a caller that may not register under a name of `owner`."""
    if _owns(scope, owner):
        return
    if not _may_take(scope):
        raise _not_owned(scope, name)
    if not scope.identity.anonymous and not reason.strip():
        raise RowError(
            f"consumer {name!r} belongs to {owner}: taking it over or changing it needs a reason; found none"
            " (--reason, `reason=`)",
            name=name,
        )


def _not_owned(scope: Scope, name: str) -> AccessError:
    who = str(scope.identity.name) or "NAME"
    return AccessError(
        f"consumer {name!r} belongs to another identity; use another name, or have it given to this one:"
        f" everlog consumers register {quote(name)} --owner {quote(who)} --reason …",
        actor=str(scope.identity.name),
        right="remove",
        name=name,
    )


class ProofsService(proofs_pb2_grpc.ProofsServicer):
    """See proto/proofs.proto."""

    def __init__(self, hosting: Hosting, signer: Signer | None = None) -> None:
        self._hosting = hosting
        self._signer = signer
        self._provers = {name: LocalProver(db) for name, db in hosting.databases.items()}

    def _prover(self, name: str) -> LocalProver:
        self._hosting.database(name)  # raises OpenError for an unknown name
        return self._provers[name]

    async def Head(self, request: proofs_pb2.HeadRequest, context: Any) -> proofs_pb2.HeadResponse:
        prover = self._prover(request.database)
        size, root = await self._hosting.long_read(prover.head, request.size, self._hosting.check_going)
        return proofs_pb2.HeadResponse(size=size, root=root)

    async def Checkpoint(
        self, request: proofs_pb2.CheckpointRequest, context: Any
    ) -> proofs_pb2.CheckpointResponse:
        prover = self._prover(request.database)
        if self._signer is None:
            return proofs_pb2.CheckpointResponse()
        note, _ = await self._hosting.long_write(
            checkpoint, prover, self._signer, progress=self._hosting.check_going, actor=context.who
        )
        return proofs_pb2.CheckpointResponse(note=note)

    async def Keep(self, request: proofs_pb2.KeepRequest, context: Any) -> proofs_pb2.KeepResponse:
        prover = self._prover(request.database)
        by = self._signer.verifier if self._signer else None  # without a key: stored as the caller says
        seq = await self._hosting.write(prover.keep, request.note, actor=context.who, by=by)
        return proofs_pb2.KeepResponse(seq=seq)

    async def Kept(self, request: proofs_pb2.KeptRequest, context: Any) -> proofs_pb2.KeptResponse:
        prover = self._prover(request.database)
        kept = await self._hosting.long_read(prover.kept, request.since)
        return proofs_pb2.KeptResponse(
            checkpoints=[proofs_pb2.KeptCheckpoint(size=one.size, seq=one.seq, note=one.note) for one in kept]
        )

    async def Prove(self, request: proofs_pb2.ProveRequest, context: Any) -> proofs_pb2.ProveResponse:
        prover, scope = self._prover(request.database), context.scope
        record, hashes = await self._hosting.long_read(prover.prove, request.seq, request.size)
        commit = log_pb2.Commit.FromString(record)
        told(commit, scope)
        if commit.ByteSize() != len(record):
            raise AccessError(
                f"record {request.seq} has parts that this caller may not see, so it cannot be proved to it;"
                " the right `audit` shows all records",
                actor=str(scope.identity.name),
                right="audit",
            )
        return proofs_pb2.ProveResponse(record=record, hashes=hashes)

    async def ProveFrom(
        self, request: proofs_pb2.ProveFromRequest, context: Any
    ) -> proofs_pb2.ProveFromResponse:
        prover = self._prover(request.database)
        if request.check:
            going = self._hosting.check_going
            hashes = await self._hosting.long_read(
                lambda: prover.prove_from(request.first, request.size, check=True, progress=going)
            )
        else:
            hashes = await self._hosting.long_read(prover.prove_from, request.first, request.size)
        return proofs_pb2.ProveFromResponse(hashes=hashes)

    async def Entries(
        self, request: proofs_pb2.EntriesRequest, context: Any
    ) -> AsyncIterator[proofs_pb2.EntriesResponse]:
        prover = self._prover(request.database)

        def run(responses: ResponseStream[proofs_pb2.EntriesResponse]) -> None:
            for entries in prover.entries(request.after, request.until):
                responses.send(proofs_pb2.EntriesResponse(entries=entries))

        async for answer in self._hosting.stream(run, goes_on=False, stops=True):
            yield answer
