"""Remote consumers: those of a database on a server, as `db.consumers` of an embedded one gives them."""

from __future__ import annotations

from collections.abc import Iterator

from everlog.proto import consumers_pb2 as pb
from everlog.proto import consumers_pb2_grpc, log_pb2
from everlog.rpc.channel import Channel
from everlog.rpc.consumer_messages import consumer_of
from everlog.store import given
from everlog.store.consumers import Cap, Consumer, check_registration, cursor_of, message_of_cap
from everlog.store.errors import RowError
from everlog.store.transaction import Metadata


class RemoteConsumers:
    """See `everlog.store.consumers.Consumers`: each call raises what that raises."""

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
        actor: str = "",
        reason: str = "",
    ) -> Consumer:
        """Takes a durable name on the server."""
        check_registration(name, after, cap, actor, reason)
        request = pb.RegisterRequest(
            database=self._database, name=name, leave=not take, actor=actor, reason=reason
        )
        if after is not None:
            request.after.CopyFrom(cursor_of(after))
        if cap is not None:
            request.cap.CopyFrom(message_of_cap(cap))
        return consumer_of(self._channel.call(self._stub.Register, request).consumer)

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """The consumer has everything up to there, durably. Does not wait for a server that is away: it
        raises UnavailableError, and the next bookmark says the same and more."""
        request = pb.BookmarkRequest(
            database=self._database, name=consumer.name, turn=consumer.turn, position=position
        )
        self._channel.call(self._stub.Bookmark, request, retry_s=0)

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Nothing is held for it any more."""
        given.text(name, "name")
        Metadata(actor, reason).check()
        request = pb.RemoveConsumerRequest(database=self._database, name=name, actor=actor, reason=reason)
        self._channel.call(self._stub.Remove, request)

    def __getitem__(self, name: str) -> Consumer:
        """One of them. Read-only. Raises RowError."""
        given.text(name, "name")
        found = {one.name: one for one in self}
        if name not in found:
            names = ", ".join(found) or "none"
            raise RowError(f"there is no consumer {name!r}; there are: {names}", name=name)
        return found[name]

    def __iter__(self) -> Iterator[Consumer]:
        """All, by name, as they are now. Read-only."""
        answer = self._channel.call(self._stub.List, pb.ListConsumersRequest(database=self._database))
        return map(consumer_of, answer.consumers)
