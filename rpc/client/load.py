"""Load: a bulk load through a server, with several chunks in flight.

    rows ─▶ chunk ─▶ request ─▶ … at most WINDOW without a response … ─▶ durable rows so far

After a broken connection the server reports how many rows it has, the missing chunks are sent again, and the
load continues.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import grpc
from google.protobuf.message import EncodeError, Message

from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc import errors
from everlog.rpc.client.channel import Channel
from everlog.store.errors import CorruptionError, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema.schema import Binding
from everlog.store.schema.table import Table
from everlog.store.tx import write
from everlog.store.tx.load import LoadResult, chunks

WINDOW = 4


class RemoteLoad:
    """One load of rows of `table`. `first` is its first request."""

    def __init__(self, channel: Channel, first: store_pb2.LoadRequest) -> None:
        first.id = first.id or str(uuid.uuid4())
        self._channel = channel
        self._stub = store_pb2_grpc.StoreStub(channel.grpc)
        self._first = first
        self._patience = channel.patience()
        self._unanswered: deque[store_pb2.LoadRequest] = deque()
        self._requests: queue.SimpleQueue[store_pb2.LoadRequest | None] = queue.SimpleQueue()
        self._answers: Any = None
        self._rows = 0  # on disk
        self._finished = False

    def run(
        self,
        table: Table[Any, Any],
        binding: Binding,
        rows: Iterable[Message],
        *,
        total: int | None,
        progress: OnProgress | None,
    ) -> LoadResult:
        """Load all rows. Raises RowError for an invalid row: earlier chunks stay."""
        started, commits = time.perf_counter(), 0
        try:
            self._connect()
            skipped = self._rows
            source = iter(()) if self._finished else _requests(table, binding, islice(rows, skipped, None))
            for request in self._until_it_fails(source):
                self._unanswered.append(request)
                self._requests.put(request)
                commits += 1
                while self._unanswered and (len(self._unanswered) >= WINDOW or request.last):
                    self._answer()
                    if progress is not None:
                        progress(Progress(f"load {table.name}", self._rows, total))
            return LoadResult(self._first.id, self._rows, skipped, commits, time.perf_counter() - started)
        finally:
            self._requests.put(None)
            if self._answers is not None:
                self._answers.cancel()

    def _until_it_fails(self, source: Iterator[store_pb2.LoadRequest]) -> Iterator[store_pb2.LoadRequest]:
        """If the source of the rows fails, wait until earlier chunks are durable."""
        try:
            yield from source
        except Exception:
            while self._unanswered:
                self._answer()
            raise

    def _answer(self) -> None:
        """Wait until the oldest chunk in flight is durable."""
        while self._unanswered:
            try:
                answer = next(self._answers)
            except StopIteration:
                raise CorruptionError(f"{self._channel.url}: the load ended before its last chunk") from None
            except grpc.RpcError as error:
                self._patience.after(errors.translate(error, self._channel.url))
                self._connect()
                continue
            self._patience.succeeded()
            self._rows, self._finished = answer.rows, answer.finished
            self._unanswered.popleft()
            return

    def _start(self) -> Any:
        return self._stub.Load(iter(self._requests.get, None), metadata=self._channel.metadata)

    def _connect(self) -> None:
        """Begin or resume the load, with the chunks that are not durable yet."""
        answer: store_pb2.LoadResponse | None = None
        while answer is None:
            self._requests.put(None)  # ends an earlier stream of requests
            self._requests = queue.SimpleQueue()
            self._requests.put(self._first)
            self._answers = self._channel.started(self._start)
            try:
                answer = next(self._answers)
            except grpc.RpcError as error:
                self._patience.after(errors.translate(error, self._channel.url))
        known, self._rows, self._finished = self._rows, answer.rows, answer.finished
        if self._rows < known:
            raise CorruptionError(
                f"{self._channel.url}: the server had {quantity(known, 'row')} of load {self._first.id}"
                f" and now has {self._rows:,}: it lost rows that it had acknowledged; load again, with the"
                " same id"
            )
        while self._unanswered and known < answer.rows:
            known += len(self._unanswered.popleft().rows)
        if self._finished:
            self._unanswered.clear()
        for request in self._unanswered:
            self._requests.put(request)


def _requests(
    table: Table[Any, Any], binding: Binding, rows: Iterable[Message]
) -> Iterator[store_pb2.LoadRequest]:
    """Yield a request for each chunk. Raises RowError for rows that can be checked here."""
    for chunk, last in chunks(rows):
        for row in chunk:
            write.check_row(table, row)
            binding.key_of(row)
        try:
            raw = [row.SerializeToString() for row in chunk]
        except EncodeError as error:
            raise write.incomplete(table.name, error) from None
        yield store_pb2.LoadRequest(rows=raw, last=last)
