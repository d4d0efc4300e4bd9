"""Follower: carries the commits of a database into a sink, each exactly once.

    source.feed(after=position) ─▶ batches ─▶ Run ─▶ sink: rows and position in one transaction

Several commits share one transaction of the sink, for speed. None is ever split.

Invariants
  (1) the position is written with the rows: whatever stops a follower, it goes on after the last
      commit that is in the sink, with no gap and no repeat;
  (2) a commit that does not follow the one before it is refused, not skipped;
  (3) the sink knows a migration's schema before its own changes, and after all earlier ones;
  (4) it raises or returns; it never logs and goes on. A target that refuses for a while is tried again only
      where `retrying` is given, and that is called first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from everlog.consumers.bookmark import Bookmark
from everlog.consumers.followable import Followable, Subscription
from everlog.consumers.run import CHANGES_MAX, Followed, Run
from everlog.consumers.sink import Sink, State
from everlog.proto import log_pb2
from everlog.rpc.status import is_transient
from everlog.store.consumers import Cap
from everlog.store.errors import DiskError, Error, SinkError, UnavailableError
from everlog.store.progress import OnProgress

RETRY_FIRST_S, RETRY_MAX_S = 0.1, 10.0  # the wait for a target doubles from the one to the other
HEARTBEAT_S = 1.0  # how soon `stop` is noticed when nothing comes
LOOK_EVERY_S = 0.25  # and where not even heartbeats come

OnRetry = Callable[[Error, float], None]


class Follower:
    """Follows `source` into `sink`: all tables, or only those named in `tables`.

    While it catches up, a transaction of the sink ends after about `changes_max` changes. With `consumer`
    it registers under that durable name: the source says how far it is, and archiving leaves what it
    lacks, up to `cap`. A name is that of one sink; whoever registers last has it.

    `retrying(error, seconds)` is called before each wait for a target that refuses for a while (another
    process has locked it, its disk is full) or a server that is away. Without it such an error ends the run.
    """

    def __init__(
        self,
        source: Followable,
        sink: Sink,
        *,
        tables: Sequence[str] | None = None,
        progress: OnProgress | None = None,
        changes_max: int = CHANGES_MAX,
        consumer: str | None = None,
        cap: Cap | None = None,
        retrying: OnRetry | None = None,
    ) -> None:
        self.source = source
        self.sink = sink
        self.tables = tuple(sorted(set(tables or ())))
        self.progress = progress
        self.changes_max = changes_max
        self.consumer, self.cap = consumer, cap
        self.retrying = retrying
        self._settled = False

    def run(
        self, *, until: int | None = None, bounded: bool = False, stop: threading.Event | None = None
    ) -> Followed:
        """Follows until `until` is in the sink, or (`bounded`) all that is in the log now, or `stop`
        is set, or for ever. Writes to the sink. Raises SinkError if the sink refuses or is of another
        database, CursorError if the log has no such position any more or another record there, or its
        name was taken by another; then the sink is as after its last transaction."""
        stop = stop or threading.Event()
        total = Followed(log_pb2.Cursor(database=self.source.uuid))
        wait_s = RETRY_FIRST_S
        while True:
            transactions = total.transactions
            try:
                self._run(total, until=until, bounded=bounded, stop=stop)
                return total
            except (SinkError, DiskError, UnavailableError) as error:
                passes = error.facts.get("transient") or is_transient(error)
                if self.retrying is None or not passes:
                    raise
                if total.transactions > transactions:  # it went well for a while
                    wait_s = RETRY_FIRST_S
                self.retrying(error, wait_s)
            if stop.wait(wait_s):
                return total
            wait_s = min(RETRY_MAX_S, 2 * wait_s)

    def _run(self, total: Followed, *, until: int | None, bounded: bool, stop: threading.Event) -> None:
        """Follows once, from where the sink is; adds to `total` what the sink has committed."""
        state = self.sink.open()
        if state is not None:
            self._check(state)
        bookmark = None
        if self.consumer is not None:
            position = state.position if state else None
            bookmark = Bookmark.of(self.source, self.consumer, position, self.cap)
        run = Run(
            self.sink,
            state,
            database=self.source.uuid,
            tables=self.tables,
            progress=self.progress,
            changes_max=self.changes_max,
            settled=self._settled,
            opener=self.source.opener(self.tables),
            done=total,
        )
        feed = self.source.feed(
            after=state.position if state else 0,
            tables=self.tables or None,
            until=until,
            bounded=bounded,
            heartbeat_s=HEARTBEAT_S,
        )
        try:
            with _closed_after(stop, feed):
                for batch in feed.batches():
                    run.take(batch)
                    if bookmark is not None:
                        bookmark.at(run.done.position)
                    if stop.is_set():
                        break
            run.commit(caught_up=not stop.is_set())
            if bookmark is not None:
                bookmark.at(run.done.position, last=True)
        except BaseException:
            self.sink.rollback()
            raise
        finally:
            feed.close()
        self._settled = run.settled

    def _check(self, state: State) -> None:
        name, expected, found = self.sink.name, state.position.database, self.source.uuid
        if expected != found:
            raise SinkError(
                f"{name} follows database {expected.hex()}, this one is {found.hex()};"
                " follow into a new target, or from the database that it belongs to",
                expected=expected,
                found=found,
            )
        if state.tables != self.tables:
            raise SinkError(
                f"{name} follows {_listed(state.tables)}, and was asked to follow {_listed(self.tables)};"
                " what it passed over is lost to it: follow the same tables, or into a new target",
                expected=state.tables,
                found=self.tables,
            )


@contextmanager
def _closed_after(stop: threading.Event, feed: Subscription) -> Iterator[None]:
    """Closes the feed where `stop` is set and nothing comes that it would be noticed by: the server
    is away, and the feed waits for it."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            if stop.is_set() and not ended.wait(2 * HEARTBEAT_S):
                feed.close()
                return

    watcher = threading.Thread(target=watch, name="everlog-follower", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _listed(tables: tuple[str, ...]) -> str:
    return ", ".join(tables) or "all tables"
