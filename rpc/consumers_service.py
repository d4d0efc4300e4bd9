"""Consumers service: who follows a server's databases by name, and how far each is.

A bookmark comes once a second from each consumer at most (`everlog.consumers.bookmark`); whoever sends more
of them moves memory alone (store/bookmarks.py).
"""

from __future__ import annotations

from typing import Any

from everlog.proto import consumers_pb2, consumers_pb2_grpc
from everlog.rpc.consumer_messages import message_of
from everlog.rpc.hosting import Hosting
from everlog.store.consumers import cap_of
from everlog.store.database import Database


class ConsumersService(consumers_pb2_grpc.ConsumersServicer):
    """See proto/consumers.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    async def Register(
        self, request: consumers_pb2.RegisterRequest, context: Any
    ) -> consumers_pb2.RegisterResponse:
        db = self._hosting.database(request.database)
        found = await self._hosting.write(
            db.consumers.register,
            request.name,
            after=request.after if request.HasField("after") else None,
            cap=cap_of(request.cap) if request.HasField("cap") else None,
            take=not request.leave,
            actor=self._hosting.callers.actor(context, request.actor),
            reason=request.reason,
        )
        return consumers_pb2.RegisterResponse(consumer=message_of(found))

    async def Bookmark(
        self, request: consumers_pb2.BookmarkRequest, context: object
    ) -> consumers_pb2.BookmarkResponse:
        db = self._hosting.database(request.database)
        await self._hosting.write(db.consumers.move, request.name, request.turn, request.position)
        return consumers_pb2.BookmarkResponse()

    async def List(
        self, request: consumers_pb2.ListConsumersRequest, context: object
    ) -> consumers_pb2.ListConsumersResponse:
        db = self._hosting.database(request.database)
        return consumers_pb2.ListConsumersResponse(consumers=await self._hosting.read(_all, db))

    async def Remove(
        self, request: consumers_pb2.RemoveConsumerRequest, context: Any
    ) -> consumers_pb2.RemoveConsumerResponse:
        db = self._hosting.database(request.database)
        actor = self._hosting.callers.actor(context, request.actor)
        await self._hosting.write(db.consumers.remove, request.name, actor=actor, reason=request.reason)
        return consumers_pb2.RemoveConsumerResponse()


def _all(db: Database) -> list[consumers_pb2.Consumer]:
    return [message_of(one) for one in db.consumers]
