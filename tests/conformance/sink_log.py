"""A log made by hand: exactly the commits that a test of a sink needs, and the tables that they result in.

It gives the feed that a database gives and computes the tables and their content hashes from its
commits alone, at any position.
"""

from __future__ import annotations

import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import grpc_tools  # type: ignore[import-untyped]
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from everlog.proto import feed_pb2, log_pb2
from everlog.store import keys
from everlog.store.crypto.vault import Opener, Vault, VaultOpener
from everlog.store.errors import CursorError
from everlog.store.schema.schema import Schema
from everlog.store.tables.hashing import TableHash, canonical, content_hash

Path_ = Sequence[int] | int


@cache
def compiled(source: str) -> FileDescriptorSet:
    """Return the descriptors of a `.proto` file given as text, with all its imports."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.proto").write_text(source)
        out = Path(folder) / "set.pb"
        words = ["", f"-I{folder}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={out}"]
        assert protoc.main([*words, "model.proto"]) == 0
        return FileDescriptorSet.FromString(out.read_bytes())


def paths(fields: Sequence[Path_]) -> list[log_pb2.FieldPath]:
    return [log_pb2.FieldPath(numbers=[one] if isinstance(one, int) else one) for one in fields]


def index(name: str, id: int, *fields: Path_, unique: bool = False) -> log_pb2.IndexSchema:
    return log_pb2.IndexSchema(name=name, id=id, fields=paths(fields), unique=unique)


def table(
    name: str, id: int, model: str, *key: Path_, indexes: Sequence[log_pb2.IndexSchema] = (), space: int = 0
) -> log_pb2.TableSchema:
    """Return a table whose space is its id, unless another space is given."""
    return log_pb2.TableSchema(
        name=name, id=id, space=space or id, model=model, key=paths(key), indexes=indexes
    )


@dataclass
class Batch:
    """One batch of a feed."""

    commits: list[log_pb2.Commit] = field(default_factory=list)
    schema: log_pb2.Schema | None = None
    mark: feed_pb2.Mark | None = None


class HandMadeLog:
    """A log in memory, with the feed of a database."""

    def __init__(self, uuid: bytes = bytes(range(16)), *, batch: int = 3) -> None:
        self.uuid = uuid
        self.batch = batch
        self.commits: list[log_pb2.Commit] = []
        self.schema = Schema(log_pb2.Schema())
        self._grown = threading.Condition()
        self.append(log_pb2.Commit(created=log_pb2.Created(database=uuid, format=1)))

    @property
    def head(self) -> int:
        return len(self.commits)

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def append(self, commit: log_pb2.Commit) -> log_pb2.Commit:
        with self._grown:
            commit.seq = self.head + 1
            commit.time_ns = commit.seq
            commit.schema = self.schema.version
            commit.checksum = zlib.crc32(commit.SerializeToString())
            self.commits.append(commit)
            self._grown.notify_all()
        return commit

    def migrate(
        self,
        source: str,
        *tables: log_pb2.TableSchema,
        changes: Sequence[log_pb2.Change] = (),
        building: Sequence[log_pb2.TableSchema] = (),
        retiring: Sequence[log_pb2.TableSchema] = (),
    ) -> None:
        """Write a migration to this model and these tables; `changes` are those of its own commit. `building`
        and `retiring` are other generations of the tables.
        """
        proto = log_pb2.Schema(
            version=self.schema.version + 1,
            models=compiled(source),
            tables=tables,
            building=building,
            retiring=retiring,
        )
        self.schema = Schema(proto)
        migration = log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=proto.version, schema=proto)
        self.append(log_pb2.Commit(migration=migration, changes=changes))

    def row(self, name: str, /, **fields: Any) -> Any:
        return self.schema.table(name).model(**fields)

    def put(self, name: str, row: Any = None, /, *, newer: bool = False, **fields: Any) -> log_pb2.Change:
        """Return a change for `write`; `newer`: of the generation that is being built."""
        info = self.schema.building[name] if newer else self.schema.table(name)
        row = info.model(**fields) if row is None else row
        key = info.own.key_of(row)
        return log_pb2.Change(space=info.space, key=key, row=row.SerializeToString())

    def delete(self, name: str, *key: Any) -> log_pb2.Change:
        """Return a change for `write`."""
        info = self.schema.table(name)
        return log_pb2.Change(space=info.space, op=log_pb2.DELETE, key=info.encode_key(key))

    def write(self, *changes: log_pb2.Change) -> log_pb2.Commit:
        return self.append(log_pb2.Commit(changes=changes))

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    def schema_at(self, seq: int) -> Schema:
        found = log_pb2.Schema()
        for commit in self.commits[:seq]:
            if commit.migration.HasField("schema"):
                found = commit.migration.schema
        return Schema(found)

    @property
    def admin(self) -> Self:
        return self

    def hashes(self, *, seq: int | None = None) -> dict[str, TableHash]:
        """Return the hash of every table as of `seq`."""
        seq = self.head if seq is None else seq
        rows: dict[int, dict[bytes, bytes]] = {}
        for commit in self.commits[:seq]:
            for change in commit.changes:
                space = rows.setdefault(change.space, {})
                if change.op == log_pb2.DELETE:
                    space.pop(change.key, None)
                else:
                    space[change.key] = change.row
        return {
            info.name: content_hash(
                (key, canonical(info, key, keys.pack_value(1, row)))
                for key, row in sorted(rows.get(info.space, {}).items())
            )
            for info in self.schema_at(seq).tables.values()
        }

    def cursor(self, seq: int) -> log_pb2.Cursor:
        checksum = self.commits[seq - 1].checksum if seq else 0
        return log_pb2.Cursor(database=self.uuid, seq=seq, checksum=checksum)

    def opener(self, tables: Sequence[str] = ()) -> Opener:
        return VaultOpener(Vault(Path("nowhere"), self.uuid, None, read_only=True))

    def feed(
        self,
        after: int | log_pb2.Cursor = 0,
        *,
        tables: Sequence[str] | None = None,
        until: int | None = None,
        bounded: bool = False,
        heartbeat_s: float = 5,
    ) -> HandMadeFeed:
        start = after if isinstance(after, int) else after.seq
        if start > self.head:
            raise CursorError(f"the cursor is at {start}, ahead of the log, which ends at {self.head}")
        if not isinstance(after, int) and after != self.cursor(start):
            raise CursorError(f"the record {start} is not the one of the cursor: it is of another history")
        end = until if until is not None else self.head if bounded else None
        return HandMadeFeed(self, start, end, tables, heartbeat_s)

    def wait(self, seq: int, timeout_s: float) -> None:
        """Wait until the log has more than `seq`, or the time has passed."""
        with self._grown:
            self._grown.wait_for(lambda: self.head > seq, timeout_s)


class HandMadeFeed:
    """A subscription to a log that was made by hand."""

    def __init__(
        self, log: HandMadeLog, seq: int, end: int | None, tables: Sequence[str] | None, heartbeat_s: float
    ) -> None:
        self._log, self._seq, self._end, self._tables = log, seq, end, tables
        self._heartbeat_s = heartbeat_s

    def batches(self) -> Iterator[Batch]:
        yield Batch(schema=self._log.schema_at(self._seq).proto)
        while self._end is None or self._seq < self._end:
            self._log.wait(self._seq, self._heartbeat_s)
            last = min(self._seq + self._log.batch, self._log.head, self._end or self._log.head)
            commits = [self._filtered(commit) for commit in self._log.commits[self._seq : last]]
            self._seq = last
            yield Batch([commit for commit in commits if commit], mark=self._mark())

    def close(self) -> None:
        """Do nothing: it has no resources."""

    def _mark(self) -> feed_pb2.Mark:
        head = self._log.head
        state = feed_pb2.Mark.LIVE if self._seq == head else feed_pb2.Mark.CATCHING_UP
        return feed_pb2.Mark(state=state, position=self._log.cursor(self._seq), head=head)

    def _filtered(self, commit: log_pb2.Commit) -> log_pb2.Commit | None:
        if not self._tables:
            return commit
        schema = self._log.schema_at(commit.seq)
        wanted = {schema.tables[name].space for name in self._tables if name in schema.tables}
        some = log_pb2.Commit()
        some.CopyFrom(commit)
        del some.changes[:]
        some.changes.extend(change for change in commit.changes if change.space in wanted)
        return some if some.changes or some.HasField("migration") else None
