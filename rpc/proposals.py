"""Proposals: those of the Migrations service as messages, and the messages as proposals again."""

from __future__ import annotations

from everlog.migrations.proposal import Event, Proposal, ProposalState
from everlog.proto import migrations_pb2
from everlog.store.transaction import Proof, proof_name


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
