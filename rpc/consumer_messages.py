"""Consumer messages: consumers as they travel, and as the store has them."""

from __future__ import annotations

from everlog.proto import consumers_pb2
from everlog.store.consumers import Consumer, cap_of, message_of_cap


def message_of(one: Consumer) -> consumers_pb2.Consumer:
    return consumers_pb2.Consumer(
        name=one.name,
        position=one.position,
        cap=message_of_cap(one.cap),
        registered_ns=one.registered_ns,
        moved_ns=one.moved_ns,
        turn=one.turn,
        lag_records=one.lag_records,
        lag_s=one.lag_s,
        held_records=one.held_records,
        held_bytes=one.held_bytes,
        over=one.over,
    )


def consumer_of(message: consumers_pb2.Consumer) -> Consumer:
    return Consumer(
        name=message.name,
        position=message.position,
        cap=cap_of(message.cap),
        registered_ns=message.registered_ns,
        moved_ns=message.moved_ns,
        turn=message.turn,
        lag_records=message.lag_records,
        lag_s=message.lag_s,
        held_records=message.held_records,
        held_bytes=message.held_bytes,
        over=message.over,
    )
