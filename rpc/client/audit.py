"""Audit: archive, proofs, backup and copies of a database on a server.

    RemoteArchive   the server archives to the target in its configuration
    RemoteProver    the server's proofs, in the interface of `everlog.audit.prover`
    RemoteLog       the server's log, as the source of a backup:
                    feed ─▶ message ─▶ its records, unchanged ─▶ block ─▶ everlog.audit.backup
    rebuild_from    a copy of the database, made from its feed:
                    feed ─▶ message ─▶ its records, checked one by one ─▶ log and tables
                                       └─▶ tables equal to the server's hashes at that seq

A server can return anything: `everlog.audit.prover` verifies each proof, and a holder of an earlier
checkpoint requests the proof from there. The feed sends records as stored, in order, verifies its start, and
resumes after a broken connection, so backups and copies need no service of their own.

A copy is made by the code of a rebuild (upkeep/rebuild.py): whole or not at all. After a kill, or a long
outage of the server, the next run resumes it, if the server has its last record.

Keys do not come with the feed. Sealed rows of a copy stay sealed, and are compared as stored; they open once
the key store of the server's database is put beside them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from os import PathLike, fspath
from pathlib import Path
from typing import Protocol

import msgspec

from everlog.audit.archive import Archival
from everlog.audit.backup import Backup, backup
from everlog.audit.manifest import Hashes
from everlog.audit.prover import Kept
from everlog.audit.segment import BLOCK_BYTES
from everlog.audit.source import Records, check_position, diverged
from everlog.feed.feed import Feed
from everlog.feed.subscription import HEARTBEAT_S
from everlog.proto import archive_pb2 as pb
from everlog.proto import archive_pb2_grpc, log_pb2, proofs_pb2, proofs_pb2_grpc
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.feed import RemoteBatches
from everlog.store.errors import CorruptionError, CursorError, UnavailableError
from everlog.store.progress import OnProgress, Progress
from everlog.store.record import read_varint
from everlog.store.rocks import files
from everlog.store.schema import arguments
from everlog.store.tables.hashing import TableHash
from everlog.store.tx.transaction import Metadata
from everlog.store.upkeep import rebuild

CATCH_UP_S = 3600.0
COMMITS_TAG = 0x0A  # before each record of a message


class Origin(Protocol):
    """The part of a database on a server that a reader of its log needs."""

    @property
    def uuid(self) -> bytes: ...
    @property
    def url(self) -> str: ...
    @property
    def channel(self) -> Channel: ...
    def cursor(self) -> log_pb2.Cursor: ...
    def feed(self, after: log_pb2.Cursor, /, *, until: int | None = None) -> Feed: ...


class RemoteArchive:
    """Backup, archive and holds of a database on a server."""

    def __init__(self, channel: Channel, origin: Origin) -> None:
        self._channel = channel
        self._origin = origin
        self._database = channel.address.database
        self._stub = archive_pb2_grpc.ArchiveStub(channel.grpc)

    def backup(
        self, to: str | PathLike[str], *, hashes: bool | None = None, progress: OnProgress | None = None
    ) -> Backup:
        """Copy the log of the server to a local target, through its feed; without hashes of its tables."""
        return backup(RemoteLog(self._origin), to, hashes=hashes, progress=progress)

    def move(
        self,
        target: str | PathLike[str] = "",
        *,
        keep_records: int = 0,
        keep_ns: int = 0,
        progress: OnProgress | None = None,
    ) -> Archival:
        """Let the server archive; see `everlog.audit.archive`. `target`: the expected target; raises
        OpenError if the server has another one, or none. The server continues if this process ends."""
        request = pb.ArchiveRequest(
            database=self._database, target=fspath(target), keep_records=keep_records, keep_ns=keep_ns
        )
        stub, url = self._stub, self._channel.url
        for answer in self._channel.stream(stub.Archive, request):
            if answer.finished:
                return Archival(
                    answer.last,
                    answer.base,
                    answer.removed,
                    answer.held,
                    answer.bytes_before,
                    answer.bytes_after,
                )
            if progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None, answer.unit))
        raise UnavailableError(f"{url}: the server ended before it had archived; run it again", url=url)

    def removable(self, *, keep_records: int = 0, keep_ns: int = 0) -> tuple[int, str]:
        """Return the last record that `move` would remove, and why the next one stays. Read-only."""
        request = pb.RemovableRequest(database=self._database, keep_records=keep_records, keep_ns=keep_ns)
        found = self._channel.call(self._stub.Removable, request)
        return found.last, found.held

    def holds(self) -> dict[str, int]:
        """Return the holds: name to the first record held. Read-only."""
        return dict(self._channel.call(self._stub.Holds, pb.HoldsRequest(database=self._database)).holds)

    def hold(self, name: str, seq: int) -> None:
        """Hold the log from the record at `seq` on. Writes. Raises RowError."""
        arguments.text(name, "name")
        arguments.counted(seq, "a seq")
        self._channel.call(self._stub.Hold, pb.HoldRequest(database=self._database, name=name, seq=seq))

    def release(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Remove a hold. Writes. Raises RowError if there is no hold of that name."""
        arguments.text(name, "name")
        Metadata(actor, reason).check()
        request = pb.ReleaseRequest(database=self._database, name=name, actor=actor, reason=reason)
        self._channel.call(self._stub.Release, request)


class RemoteProver:
    """The prover of a database on a server."""

    def __init__(self, channel: Channel, database: bytes) -> None:
        """`database`: its UUID."""
        self.database = database
        self._channel = channel
        self._name = channel.address.database
        self._stub = proofs_pb2_grpc.ProofsStub(channel.grpc)

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        request = proofs_pb2.HeadRequest(database=self._name, size=size)
        answer = self._channel.call(self._stub.Head, request, timeout_s=CATCH_UP_S)
        return answer.size, answer.root

    def prove(self, seq: int, size: int) -> tuple[bytes, list[bytes]]:
        request = proofs_pb2.ProveRequest(database=self._name, seq=seq, size=size)
        answer = self._channel.call(self._stub.Prove, request)
        return answer.record, list(answer.hashes)

    def prove_from(
        self, first: int, size: int, *, check: bool = False, progress: OnProgress | None = None
    ) -> list[bytes]:
        request = proofs_pb2.ProveFromRequest(database=self._name, first=first, size=size, check=check)
        if not check:
            return list(self._channel.call(self._stub.ProveFrom, request).hashes)
        return list(self._channel.call(self._stub.ProveFrom, request, timeout_s=CATCH_UP_S).hashes)

    def kept(self, since: int) -> list[Kept]:
        request = proofs_pb2.KeptRequest(database=self._name, since=since)
        answer = self._channel.call(self._stub.Kept, request, timeout_s=CATCH_UP_S)
        return [Kept(one.size, one.seq, one.note) for one in answer.checkpoints]

    def keep(self, text: str, actor: str = "") -> int:
        """As `LocalProver.keep`; the actor is the name of the token."""
        request = proofs_pb2.KeepRequest(database=self._name, note=text)
        return self._channel.call(self._stub.Keep, request, timeout_s=CATCH_UP_S, retry_s=0).seq

    def checkpoint(self) -> str | None:
        request = proofs_pb2.CheckpointRequest(database=self._name)
        answer = self._channel.call(self._stub.Checkpoint, request, timeout_s=CATCH_UP_S)
        return answer.note or None

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        request = proofs_pb2.EntriesRequest(database=self._name, after=after, until=until)
        for answer in self._channel.stream(self._stub.Entries, request):
            yield answer.entries


class RemoteLog:
    """The log of a database on a server, up to what is durable there now."""

    def __init__(self, db: Origin) -> None:
        self._db = db
        self._cursor = db.cursor()
        self.database, self.head = db.uuid, self._cursor.seq
        self._position = log_pb2.Cursor(database=db.uuid)

    def check(self, position: log_pb2.Cursor) -> None:
        check_position(position, self.database, self.head)
        try:
            self._db.feed(position, until=position.seq).close()
        except CursorError as error:
            raise diverged(position, str(error)) from None
        self._position = position

    def blocks(self, after: int, until: int) -> Iterator[Records]:
        assert after == self._position.seq, "a backup continues from the position that was checked"
        first, parts, size = after + 1, list[bytes](), 0
        if after >= until:
            return
        with self._db.feed(self._position, until=until) as feed:
            for batch in feed.batches():
                data, count = _records(batch.raw)
                if not count:
                    continue
                parts.append(data)
                size += len(data)
                after += count
                if size >= BLOCK_BYTES or after == until:
                    yield Records(first, after, b"".join(parts))
                    first, parts, size = after + 1, [], 0
                if after == until:
                    return
        raise CorruptionError(f"{self._db.url}: expected records up to {until}, the feed ended at {after}")

    def hashes(self, progress: OnProgress | None, *, any_size: bool) -> Hashes | None:
        """Return None: a server's hashes are of another moment."""
        return None

    def close(self) -> None:
        """Do nothing: no snapshot is held."""


def _records(raw: bytes) -> tuple[bytes, int]:
    """Return the records at the start of a feed message, joined, and their number."""
    at = count = 0
    while at < len(raw) and raw[at] == COMMITS_TAG:
        size, start = read_varint(raw, at + 1)
        at = start + size
        count += 1
    return raw[:at], count


def rebuild_from(
    remote: Origin,
    path: Path,
    hashes: Callable[..., dict[str, TableHash]],
    progress: OnProgress | None = None,
    *,
    seq: int | None = None,
) -> dict[str, TableHash]:
    """Build a copy of a server's database in a new directory, and return the hashes of its tables, which
    equal those of the server; `hashes` requests these.

    `seq`: as of this record; None: as of the newest. Writes to `path` alone. Raises OpenError; CursorError
    for a missing record; UnavailableError, after which it can be resumed; CorruptionError for a damaged
    record (nothing is left then) or tables that differ.
    """
    position = remote.cursor()
    last = position.seq if seq is None else seq
    if not 1 <= last <= position.seq:
        raise CursorError(
            f"{remote.url} has records up to {position.seq}, there is no record {last}", seq=last
        )
    marker = files.Marker(files.FORMAT, str(uuid.UUID(bytes=position.database)))

    def source(after: int) -> Iterator[bytes]:
        return records(remote, after, last)

    made = rebuild.make(path, msgspec.json.encode(marker) + b"\n", source, last, progress)
    theirs = hashes(progress, seq=last, sealed=True)
    if theirs != made:
        different = sorted(name for name in made.keys() | theirs.keys() if made.get(name) != theirs.get(name))
        raise CorruptionError(
            f"at record {last} the tables in {path} differ from those of {remote.url}:"
            f" {', '.join(different)}. The logs are equal; `everlog check` and `everlog rebuild` at each show"
            " which tables are wrong",
            seq=last,
            tables=different,
        )
    return made


def records(remote: Origin, after: int, last: int) -> Iterator[bytes]:
    """Yield framed records after a seq, up to another, as the server has them. Read-only."""
    batches = RemoteBatches(
        remote.channel, after, tables=(), now=False, until=last, bounded=False, heartbeat_s=HEARTBEAT_S
    )
    with closing(batches):
        for batch in batches:
            yield from _framed(batch.raw)


def _framed(raw: bytes) -> Iterator[bytes]:
    """Yield the records at the start of a message, whose checksum was verified."""
    at = 0
    while raw[at] == COMMITS_TAG:
        size, start = read_varint(raw, at + 1)
        yield raw[at : start + size]
        at = start + size
