"""Consumer messages: consumers as they travel, and as the store has them.

Proposals: those of the Migrations service as messages, and the messages as proposals again.
"""

from __future__ import annotations

from everlog.migrations.proposal import Event, Proposal, ProposalState
from everlog.proto import consumers_pb2, migrations_pb2
from everlog.store.tx.transaction import Proof, proof_name
from everlog.store.upkeep.consumers import Consumer, cap_of, message_of_cap


def message_of(one: Consumer) -> consumers_pb2.Consumer:
    return consumers_pb2.Consumer(
        name=one.name,
        position=one.position,
        cap=message_of_cap(one.cap),
        registered_ns=one.registered_ns,
        moved_ns=one.moved_ns,
        turn=one.epoch,
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
        epoch=message.turn,
        lag_records=message.lag_records,
        lag_s=message.lag_s,
        held_records=message.held_records,
        held_bytes=message.held_bytes,
        over=message.over,
    )


def to_message(proposal: Proposal) -> migrations_pb2.Proposal:
    return migrations_pb2.Proposal(
        digest=proposal.digest,
        document=proposal.document,
        state=migrations_pb2.ProposalState.Value(proposal.state.name),
        events=[
            migrations_pb2.ProposalEvent(
                step=event.step,
                seq=event.seq,
                time_ns=event.time_ns,
                actor=event.actor,
                reason=event.reason,
                version=event.version,
                error=event.error,
                despite_errors=event.despite_errors,
                proof=Proof.Value(event.proof.upper()),
            )
            for event in proposal.events
        ],
        url=proposal.url,
    )


def from_message(message: migrations_pb2.Proposal) -> Proposal:
    return Proposal(
        message.digest,
        message.document,
        ProposalState[migrations_pb2.ProposalState.Name(message.state)],
        [
            Event(
                one.step,
                one.seq,
                one.time_ns,
                one.actor,
                one.reason,
                one.version,
                one.error,
                one.despite_errors,
                proof_name(one.proof),
            )
            for one in message.events
        ],
        message.url,
    )
