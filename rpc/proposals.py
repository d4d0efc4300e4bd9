"""Proposals: those of the Migrations service as messages, and the messages as proposals again."""

from __future__ import annotations

from everlog.migrations.proposal import Event, Proposal, ProposalState
from everlog.proto import migrations_pb2 as pb
from everlog.store.transaction import Proof, proof_name


def to_message(proposal: Proposal) -> pb.Proposal:
    return pb.Proposal(
        digest=proposal.digest,
        document=proposal.document,
        state=pb.ProposalState.Value(proposal.state.name),
        events=[
            pb.ProposalEvent(
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


def from_message(message: pb.Proposal) -> Proposal:
    return Proposal(
        message.digest,
        message.document,
        ProposalState[pb.ProposalState.Name(message.state)],
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
