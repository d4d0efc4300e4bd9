"""Load service: a bulk load over gRPC, each request one chunk, each chunk one commit.

    client  {table, id}  rows  rows  rows …  last
    server  {rows so far}     rows  rows …   finished       each once the chunk is on disk

The first answer says how many rows of this load are there already; the client goes on after
them. The client bounds how many chunks are under way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2, store_pb2
from everlog.rpc.calls import Context
from everlog.rpc.hosting import Hosting
from everlog.store import write
from everlog.store.database import Database
from everlog.store.errors import RowError
from everlog.store.reflect import table_of


async def loading(
    hosting: Hosting, requests: AsyncIterator[store_pb2.LoadRequest], context: Context
) -> AsyncIterator[store_pb2.LoadResponse]:
    """The answers to one load's requests. Raises RowError for a row that does not fit, AccessError."""
    load: Loading | None = None
    async for request in requests:
        if load is None:
            actor = hosting.callers.actor(context, request.actor)
            load = await hosting.write(Loading, hosting.database(request.database), request, actor)
            yield load.answer()
        if (request.rows or request.last) and not load.loader.finished:
            await hosting.write(load.add, request)
            yield load.answer()


class Loading:
    """A load that its first request has begun."""

    def __init__(self, db: Database, first: store_pb2.LoadRequest, actor: str) -> None:
        if not first.id:
            raise RowError("expected the first request of a load to name the load's id, found none")
        about = log_pb2.Load(
            kind=first.kind or log_pb2.Load.IMPORT, id=first.id, table=first.table, source=first.source
        )
        self._db = db
        self._table = table_of(db.schema.generation(first.table, first.space))
        expires = write.sent(first.expires_ns)
        self.loader = db.loader(self._table, about, expires=expires, actor=actor, reason=first.reason)

    def add(self, request: store_pb2.LoadRequest) -> None:
        """Commits the rows of one request."""
        model: Any = self._table.model
        try:
            rows: list[Message] = [model.FromString(row) for row in request.rows]
        except DecodeError as error:
            raise RowError(
                f"one of the rows of {self._table.name} after row {self.loader.rows} is not a"
                f" {model.DESCRIPTOR.full_name}: {error}",
                table=self._table.name,
            ) from None
        self.loader.add(rows, last=request.last)

    def answer(self) -> store_pb2.LoadResponse:
        """How far the load is on disk."""
        return store_pb2.LoadResponse(
            rows=self.loader.rows, finished=self.loader.finished, position=self._db.cursor()
        )
