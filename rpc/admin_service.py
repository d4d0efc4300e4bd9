"""Admin service: looking after a server's databases. What takes long tells how far it is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec

from everlog.proto import admin_pb2, admin_pb2_grpc, log_pb2
from everlog.rpc.hosting import Hosting
from everlog.rpc.telling import Telling
from everlog.store.database import Database
from everlog.store.hashing import TableHash
from everlog.store.progress import OnProgress, Progress

TELL_EVERY_S = 0.1

T = TypeVar("T")


class AdminService(admin_pb2_grpc.AdminServicer):
    """See proto/admin.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    async def ListDatabases(
        self, request: admin_pb2.ListDatabasesRequest, context: object
    ) -> admin_pb2.ListDatabasesResponse:
        return admin_pb2.ListDatabasesResponse(databases=sorted(self._hosting.databases))

    async def Status(self, request: admin_pb2.StatusRequest, context: object) -> admin_pb2.StatusResponse:
        db = self._hosting.database(request.database)
        answer = await self._hosting.read(_status, db)
        if request.hashes:
            going, at, sealed = self._hosting.check_going, request.at or None, request.sealed
            hashes = await self._hosting.survey(lambda: db.hashes(going, seq=at, sealed=sealed))
            del answer.tables[:]
            answer.tables.extend(_table(db, name, one) for name, one in hashes.items())
        answer.database = request.database
        answer.warnings.extend(self._hosting.warnings)
        answer.subscribers = self._hosting.subscribers[request.database]
        return answer

    async def Rebuild(
        self, request: admin_pb2.RebuildRequest, context: object
    ) -> AsyncIterator[admin_pb2.RebuildResponse]:
        db = self._hosting.database(request.database)

        def run(telling: Telling[admin_pb2.RebuildResponse]) -> None:
            hashes = db.rebuild(
                sparing(
                    lambda at: telling.passing(
                        admin_pb2.RebuildResponse(step=at.step, done=at.done, total=at.total or 0)
                    )
                )
            )
            tables = [_table(db, name, one) for name, one in hashes.items()]
            telling.tell(admin_pb2.RebuildResponse(tables=tables, finished=True))

        async for answer in self._hosting.told(run, stops=True):
            yield answer

    async def Expire(self, request: admin_pb2.ExpireRequest, context: object) -> admin_pb2.ExpireResponse:
        db = self._hosting.database(request.database)
        rows = await self._hosting.write(db.expire, confirm_time=request.confirm_time)
        return admin_pb2.ExpireResponse(rows=rows)

    async def CorrectClock(
        self, request: admin_pb2.CorrectClockRequest, context: Any
    ) -> admin_pb2.CorrectClockResponse:
        db, actor = (
            self._hosting.database(request.database),
            self._hosting.callers.actor(context, request.actor),
        )
        seq = await self._hosting.write(db.correct_clock, actor=actor, reason=request.reason)
        return admin_pb2.CorrectClockResponse(seq=seq)

    async def SetProduction(
        self, request: admin_pb2.SetProductionRequest, context: Any
    ) -> admin_pb2.SetProductionResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.callers.actor(context, request.actor)
        seq = await self._hosting.write(
            db.set_production, request.production, actor=actor, reason=request.reason
        )
        return admin_pb2.SetProductionResponse(seq=seq)

    async def Check(
        self, request: admin_pb2.CheckRequest, context: object
    ) -> AsyncIterator[admin_pb2.CheckResponse]:
        db = self._hosting.database(request.database)

        def run(telling: Telling[admin_pb2.CheckResponse]) -> None:
            def progress(at: Progress) -> None:
                telling.passing(admin_pb2.CheckResponse(step=at.step, done=at.done, total=at.total or 0))

            for problem in db.check(sparing(progress), deep=request.deep):
                telling.tell(admin_pb2.CheckResponse(problem=problem))
            telling.tell(admin_pb2.CheckResponse(finished=True))

        async for answer in self._hosting.told(run, goes_on=False, stops=True):
            yield answer


def sparing(tell: OnProgress) -> OnProgress:
    """Tells the first of each step, and then no more than ten a second: nobody sees more."""
    step, due = "", 0.0

    def told(at: Progress) -> None:
        nonlocal step, due
        now = time.monotonic()
        if at.step != step or now >= due:
            step, due = at.step, now + TELL_EVERY_S
            tell(at)

    return told


def _status(db: Database) -> admin_pb2.StatusResponse:
    found = db.status()
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
            )
            for table in found.tables
        ],
        disk_bytes=found.disk_bytes,
        software=found.software,
        format=found.format,
        read_only=found.read_only,
        production=found.production,
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


def _table(db: Database, name: str, one: TableHash) -> admin_pb2.TableStatus:
    indexes = list(db.schema.table(name).indexes) if name in db.schema.tables else []
    return admin_pb2.TableStatus(name=name, rows=one.rows, hash=one.hash, indexes=indexes)
