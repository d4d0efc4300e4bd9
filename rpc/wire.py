"""Wire: convert between messages of the services and values of the library; names in requests.

Change        of the Access service
Consumer      of the Consumers service
Proposal      of the Migrations service; Details as well
Sample        of the Admin service
RowVersion    of the History service; a row is the bytes of the log
"""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.message import Message

from everlog.migrations.details import Details, ShownFile, ShownIndex, ShownRows, ShownTable
from everlog.migrations.proposal import Event, Proposal, ProposalState
from everlog.proto import access_pb2, admin_pb2, consumers_pb2, history_pb2, log_pb2, migrations_pb2
from everlog.store.history.row_history import Version
from everlog.store.schema.admission import read
from everlog.store.tx.transaction import Proof, proof_name
from everlog.store.upkeep.consumers import Consumer, cap_of, message_of_cap
from everlog.store.upkeep.read_audit import RecordedRead
from everlog.store.upkeep.roles import Change
from everlog.store.upkeep.samples import Sample

SCHEMA_KEY = "everlog-schema"  # metadata of a request: the schema version by which its bytes are encoded
ASKED_KEYS_MAX = 4096  # keys of people in one request


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
        owner=one.owner,
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
        owner=message.owner,
    )


def to_message(proposal: Proposal) -> migrations_pb2.Proposal:
    return migrations_pb2.Proposal(
        digest=proposal.digest,
        document=proposal.document,
        state=migrations_pb2.ProposalState.Value(proposal.state.name),
        events=map(_message_of_event, proposal.events),
        url=proposal.url,
    )


def from_message(message: migrations_pb2.Proposal) -> Proposal:
    return Proposal(
        message.digest,
        message.document,
        ProposalState[migrations_pb2.ProposalState.Name(message.state)],
        list(map(_event_of, message.events)),
        message.url,
    )


def _message_of_event(event: Event) -> migrations_pb2.ProposalEvent:
    return migrations_pb2.ProposalEvent(
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


def _event_of(one: migrations_pb2.ProposalEvent) -> Event:
    return Event(
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


def message_of_details(one: Details) -> migrations_pb2.ShowMigrationResponse:
    return migrations_pb2.ShowMigrationResponse(
        version=one.version,
        name=one.name,
        digest=one.digest,
        origin=one.origin,
        files=[migrations_pb2.ShownFile(**msgspec.structs.asdict(file)) for file in one.files],
        tables=[
            migrations_pb2.ShownTable(
                **{
                    **msgspec.structs.asdict(table),
                    "indexes": [
                        migrations_pb2.ShownIndex(**msgspec.structs.asdict(index)) for index in table.indexes
                    ],
                }
            )
            for table in one.tables
        ],
        drops=one.drops,
        bootstrap=[migrations_pb2.ShownRows(**msgspec.structs.asdict(rows)) for rows in one.bootstrap],
        problem=one.problem,
        events=map(_message_of_event, one.events),
    )


def details_of(message: migrations_pb2.ShowMigrationResponse) -> Details:
    return Details(
        message.version,
        message.name,
        message.digest,
        message.origin,
        [
            ShownFile(
                one.path,
                one.content if one.HasField("content") else None,
                one.size,
                one.sha256,
                one.missing,
            )
            for one in message.files
        ],
        [
            ShownTable(
                one.name,
                one.model,
                list(one.key),
                [ShownIndex(each.name, list(each.fields), each.unique) for each in one.indexes],
                one.ttl_ns,
                one.person,
                one.transformed,
            )
            for one in message.tables
        ],
        list(message.drops),
        [ShownRows(one.table, one.rows, list(one.first), one.sealed) for one in message.bootstrap],
        message.problem,
        list(map(_event_of, message.events)),
    )


# Fields of a Version that the message has by the same name.
_SAME = (
    *("seq", "time_ns", "actor", "reason", "correlation_id", "causation_id", "client"),
    *("fields", "migration", "erased", "sealed"),
)


def message_of_version(version: Version[Any], row: bytes | None, space: int) -> history_pb2.RowVersion:
    """Encode a version, with its row as in the log, of the table in `space`."""
    same: dict[str, Any] = {name: getattr(version, name) for name in _SAME}
    return history_pb2.RowVersion(
        **same,
        op=log_pb2.DELETE if version.op == "delete" else log_pb2.PUT,
        row=row,
        proof=Proof.Value(version.proof.upper()),
        space=space,
    )


def version_of_message(one: history_pb2.RowVersion, model: type[Message]) -> Version[Any]:
    """Decode a version, with its row in a model."""
    same: dict[str, Any] = {name: getattr(one, name) for name in _SAME}
    same["fields"] = tuple(one.fields)
    return Version(
        **same,
        op="delete" if one.op == log_pb2.DELETE else "put",
        row=read(model, one.row) if one.HasField("row") else None,
        proof=proof_name(one.proof),
    )


def message_of_change(change: Change) -> access_pb2.AccessChange:
    """Encode the commit that changed roles, grants or tokens."""
    return access_pb2.AccessChange(
        seq=change.seq,
        time_ns=change.time_ns,
        actor=change.actor,
        reason=change.reason,
        proof=Proof.Value(change.proof.upper()),
    )


def change_of(message: access_pb2.AccessChange) -> Change:
    """Decode the commit that changed roles, grants or tokens."""
    return Change(message.seq, message.time_ns, message.actor, message.reason, proof_name(message.proof))


def message_of_read(one: RecordedRead) -> access_pb2.RecordedRead:
    """Encode a read of the read audit."""
    return access_pb2.RecordedRead(**{**msgspec.structs.asdict(one), "proof": Proof.Value(one.proof.upper())})


def read_of(message: access_pb2.RecordedRead) -> RecordedRead:
    """Decode a read of the read audit."""
    return RecordedRead(
        message.time_ns,
        message.identity,
        proof_name(message.proof),
        message.call,
        message.table,
        message.index,
        tuple(message.keys),
        message.range,
        message.at_seq,
        message.share,
    )


def message_of_sample(one: Sample, table: str, *, consumers: bool, latency: bool) -> admin_pb2.Sample:
    """Return a sample as a message. `table`: with its sizes; `consumers`, `latency`: with these."""
    found = admin_pb2.Sample(
        time_ns=one.time_ns,
        head=one.head,
        log_bytes=one.log_bytes,
        table_bytes=one.table_bytes,
        index_bytes=one.index_bytes,
        lags=one.lags if consumers else {},
        latency=one.latency if latency else (),
    )
    if table in one.tables:
        size, index_size = one.tables[table]
        found.tables.add(name=table, bytes=size, index_bytes=index_size)
    return found


def sample_of(one: admin_pb2.Sample) -> Sample:
    """Return a sample from its message."""
    return Sample(
        one.time_ns,
        one.head,
        one.log_bytes,
        one.table_bytes,
        one.index_bytes,
        {each.name: (each.bytes, each.index_bytes) for each in one.tables},
        dict(one.lags),
        list(one.latency),
    )
