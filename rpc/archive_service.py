"""Archive service: old log of a server's databases goes to where the server was told, and what is held stays.

Invariants
  (1) a client names no place: the server writes to those that it was started with, and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from everlog.audit import holds
from everlog.audit.archive import archive
from everlog.audit.place import same, shown
from everlog.proto import archive_pb2, archive_pb2_grpc
from everlog.rpc.admin_service import sparing
from everlog.rpc.hosting import Hosting
from everlog.rpc.telling import Telling
from everlog.store.database import Database
from everlog.store.errors import OpenError
from everlog.store.progress import Progress


class ArchiveService(archive_pb2_grpc.ArchiveServicer):
    """See proto/archive.proto."""

    def __init__(self, hosting: Hosting, targets: Mapping[str, str]) -> None:
        self._hosting = hosting
        self._targets = targets

    async def Archive(
        self, request: archive_pb2.ArchiveRequest, context: Any
    ) -> AsyncIterator[archive_pb2.ArchiveResponse]:
        db, target = self._hosting.database(request.database), self._target(request)

        def run(telling: Telling[archive_pb2.ArchiveResponse]) -> None:
            def progress(at: Progress) -> None:
                telling.passing(
                    archive_pb2.ArchiveResponse(step=at.step, done=at.done, total=at.total or 0, unit=at.unit)
                )

            done = archive(
                db,
                target,
                keep_records=request.keep_records,
                keep_ns=request.keep_ns,
                progress=sparing(progress),
            )
            telling.tell(
                archive_pb2.ArchiveResponse(
                    **msgspec.structs.asdict(done), target=shown(target), finished=True
                )
            )

        async for answer in self._hosting.told(run, stops=True):
            yield answer

    async def Hold(self, request: archive_pb2.HoldRequest, context: object) -> archive_pb2.HoldsResponse:
        db = self._hosting.database(request.database)
        await self._hosting.write(holds.hold_in, db, request.name, request.seq)
        return await self._hosting.read(_held, db)

    async def Release(
        self, request: archive_pb2.ReleaseRequest, context: object
    ) -> archive_pb2.HoldsResponse:
        db = self._hosting.database(request.database)
        await self._hosting.write(holds.release, db.directory, request.name)
        return await self._hosting.read(_held, db)

    async def Holds(self, request: archive_pb2.HoldsRequest, context: object) -> archive_pb2.HoldsResponse:
        return await self._hosting.read(_held, self._hosting.database(request.database))

    def _target(self, request: archive_pb2.ArchiveRequest) -> str:
        """Where a database is archived to. Raises OpenError if nowhere, or not to where the client says."""
        target = self._targets.get(request.database)
        if target is None:
            raise OpenError(
                f"this server was not told where to archive {request.database}: start it with --archive-to"
                f" {request.database}=DIR or URL",
                database=request.database,
            )
        if request.target and not same(request.target, target):
            raise OpenError(
                f"this server archives {request.database} to {shown(target)}, and not to {request.target}: a"
                " client does not choose where a server writes; leave the target out",
                database=request.database,
                target=shown(target),
            )
        return target


def _held(db: Database) -> archive_pb2.HoldsResponse:
    return archive_pb2.HoldsResponse(holds=holds.read(db.directory))
