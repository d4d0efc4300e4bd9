"""Audit: archive, proofs and backup of a database on a server.

    RemoteArchive   the server archives to the target in its configuration
    RemoteProver    the server's proofs, in the interface of `everlog.audit.prover`
    RemoteLog       the server's log, as the source of a backup:
                    feed ─▶ message ─▶ its records, unchanged ─▶ block ─▶ everlog.audit.backup

A server can return anything: `everlog.audit.prover` verifies each proof, and a holder of an earlier
checkpoint requests the proof from there. The feed sends records as stored, in order, verifies its start, and
resumes after a broken connection, so a backup needs no service of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike, fspath
from typing import Protocol

from everlog.audit.archive import Archival
from everlog.audit.backup import Backup, backup
from everlog.audit.manifest import Hashes
from everlog.audit.prover import Kept
from everlog.audit.segment import BLOCK_BYTES
from everlog.audit.source import Records, check_position, diverged
from everlog.feed.feed import Feed
from everlog.proto import archive_pb2 as pb
from everlog.proto import archive_pb2_grpc, log_pb2, proofs_pb2, proofs_pb2_grpc
from everlog.rpc.client.channel import Channel
from everlog.store.errors import CorruptionError, CursorError, Error, UnavailableError
from everlog.store.progress import OnProgress, Progress
from everlog.store.record import read_varint
from everlog.store.schema import arguments


class Origin(Protocol):
    """The part of a database on a server that reading its log needs."""

    @property
    def uuid(self) -> bytes: ...
    @property
    def url(self) -> str: ...
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
        stub, metadata, url = self._stub, self._channel.metadata, self._channel.url
        for answer in self._channel.stream(lambda: stub.Archive(request, metadata=metadata)):
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
        raise UnavailableError(f"{url}: the server ended before it had archived; ask again", url=url)

    def removable(self, *, keep_records: int = 0, keep_ns: int = 0) -> tuple[int, str]:
        """Raise Error: servers have no such call."""
        raise Error(
            f"{self._channel.url}: a server does not tell which records it would archive, but the last"
            f" {keep_records:,} and those of {keep_ns / 1e9:g} s; ask where the database is"
        )

    def holds(self) -> dict[str, int]:
        """Return the holds: name to the first record held. Read-only."""
        return dict(self._channel.call(self._stub.Holds, pb.HoldsRequest(database=self._database)).holds)

    def hold(self, name: str, seq: int) -> None:
        """Hold the log from the record at `seq` on. Writes. Raises RowError."""
        arguments.text(name, "name")
        arguments.counted(seq, "a seq")
        self._channel.call(self._stub.Hold, pb.HoldRequest(database=self._database, name=name, seq=seq))

    def release(self, name: str) -> None:
        """Remove a hold. Writes. Raises RowError if there is no hold of that name."""
        arguments.text(name, "name")
        self._channel.call(self._stub.Release, pb.ReleaseRequest(database=self._database, name=name))


CATCH_UP_S = 3600.0


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

    def inclusion(self, seq: int, size: int) -> tuple[bytes, list[bytes]]:
        request = proofs_pb2.ProveRequest(database=self._name, seq=seq, size=size)
        answer = self._channel.call(self._stub.Prove, request)
        return answer.record, list(answer.hashes)

    def consistency(
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

    def signed(self) -> str | None:
        request = proofs_pb2.CheckpointRequest(database=self._name)
        answer = self._channel.call(self._stub.Checkpoint, request, timeout_s=CATCH_UP_S)
        return answer.note or None

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        request = proofs_pb2.EntriesRequest(database=self._name, after=after, until=until)
        metadata = self._channel.metadata
        for answer in self._channel.stream(lambda: self._stub.Entries(request, metadata=metadata)):
            yield answer.entries


COMMITS_TAG = 0x0A


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
        assert after == self._position.seq, "a backup goes on where it was checked"
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
