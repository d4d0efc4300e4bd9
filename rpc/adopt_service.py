"""Adopt service: the calls of the Migrations service that record migrations without running them.

Load       an empty database gets the schema of a text; it needs no folders
Baseline   a database that has the schema of the server's folders already
Accept     folders of the server that were edited count as those that ran
Folders    what ran, for a client that writes it to its own disk

Where migrations wait for approval, `everlog.migrations.besides` says who may.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from everlog.migrations import besides
from everlog.migrations.adopt import baseline, load_schema
from everlog.migrations.approval import Approval
from everlog.migrations.recorded import accept, ran
from everlog.migrations.rules import check_reason
from everlog.migrations.status import MigrationInfo
from everlog.proto import migrations_pb2 as pb
from everlog.proto import migrations_pb2_grpc
from everlog.rpc.hosting import Hosting
from everlog.store.errors import MigrationError


class AdoptService(migrations_pb2_grpc.MigrationsServicer):
    """See proto/migrations.proto."""

    _hosting: Hosting
    _approvals: Mapping[str, Approval]
    _sources: Mapping[str, str]

    async def Load(self, request: pb.LoadSchemaRequest, context: Any) -> pb.LoadSchemaResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.callers.who(context, request.actor)

        def run() -> int:
            where = request.where or "the text"
            with self._allowed("load", request.database, actor, request.reason):
                return load_schema(db, request.text, where=where, actor=actor, reason=request.reason)

        return pb.LoadSchemaResponse(schema_version=await self._hosting.write(run))

    async def Baseline(self, request: pb.BaselineRequest, context: Any) -> pb.BaselineResponse:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor = self._hosting.callers.who(context, request.actor)

        def run() -> list[MigrationInfo]:
            with self._allowed("baseline", request.database, actor, request.reason):
                return baseline(db, request.version, source, actor=actor, reason=request.reason)

        found = await self._hosting.write(run)
        return pb.BaselineResponse(migrations=[info_message(info) for info in found])

    async def Accept(self, request: pb.AcceptRequest, context: Any) -> pb.AcceptResponse:
        db, source = self._hosting.database(request.database), self._source(request.database)
        actor, reason = self._hosting.callers.who(context, request.actor), request.reason

        def run() -> list[MigrationInfo]:
            check_reason(reason)
            with self._allowed("accept", request.database, actor, reason):
                return accept(db, source, list(request.versions), actor=actor, reason=reason)

        found = await self._hosting.write(run)
        return pb.AcceptResponse(migrations=[info_message(info) for info in found])

    async def Folders(self, request: pb.FoldersRequest, context: Any) -> AsyncIterator[pb.FoldersResponse]:
        for one in await self._hosting.read(ran, self._hosting.database(request.database)):
            yield pb.FoldersResponse(version=one.version, name=one.name, digest=one.digest, files=one.sources)

    def _allowed(self, verb: str, name: str, actor: str, reason: str) -> AbstractContextManager[None]:
        """To be entered for the call. Raises MigrationError where migrations wait for approval, and this
        is not for `actor`."""
        approval = self._approvals.get(name)
        if approval is None:
            return nullcontext()
        return besides.allowed(approval, verb, actor=actor, reason=reason)

    def _source(self, name: str) -> str:
        source = self._sources.get(name)
        if source is None:
            raise MigrationError(
                f"this server was started without the migrations of {name}; start it with them"
                " (`everlog serve --migrations …`), or apply them where the database is",
                database=name,
            )
        return source


def info_message(info: MigrationInfo, diff: str = "") -> pb.MigrationInfo:
    """A migration's state as a message."""
    return pb.MigrationInfo(
        version=info.version,
        name=info.name,
        state=pb.MigrationState.Value(info.state.name),
        applied_ns=info.applied_ns,
        seq=info.seq,
        digest=info.digest,
        folder_digest=info.folder_digest,
        late=info.late,
        started_ns=info.started_ns,
        rows=info.rows,
        diff=diff,
        actor=info.actor,
        held=info.held,
        returning=info.returning,
        total=info.total,
        left_s=info.left_s,
        stopped=info.stopped,
    )
