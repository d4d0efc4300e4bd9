"""Served: the subjects of benches over the network: a server with a writer, in its own process, and writers
and subscribers in others.

    Helper "benchmarks.served:everlog"    an everlog server and a writer embedded in it
    Helper "benchmarks.served:raw"        a bare gRPC stream and a bare RocksDB (bare.py)
    Helper "benchmarks.served:…_writer"   a writer in a separate process

On {"write": n, "rate": r}, each writes n rows, r per second, and reports the start of each commit
(nanoseconds since the Unix epoch), its duration, and the peak memory of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from benchmarks.helper import Starter
from benchmarks.measure import paced, peak_rss_mb
from benchmarks.rows import row

DATABASE = "bench"
# Method and request of a subscription to all later commits.
RAW_METHOD = "/bare.Bare/Tail"
EVERLOG_METHOD = "/everlog.v1.Feed/Subscribe"


def obey(starter: Starter, first: int, prepare: Callable[[int], Any], write: Callable[[Any], object]) -> None:
    """Write rows from `first` on, one for each line of standard input, until it ends."""
    while (told := starter.hear()) is not None:
        n = told["write"]
        items = [prepare(number) for number in range(first, first + n)]
        first += n
        starts, took = paced(items, write, told["rate"])
        starter.say({"starts": list(starts), "took": list(took), "rss_mb": peak_rss_mb()})


def everlog(starter: Starter, folder: str) -> None:
    from benchmarks.items import ITEMS, message, open_items
    from everlog.rpc.server.server import Server

    with open_items(Path(folder), durability="sync") as db, Server({DATABASE: db}) as server:
        starter.say({"port": server.port, "head": db.head})
        obey(starter, db.head + 1, lambda number: message(row(number)), lambda item: db.insert(ITEMS, item))


def everlog_writer(starter: Starter, port: int, first: int) -> None:
    from benchmarks.items import ITEMS, message
    from everlog.rpc.client.database import RemoteDatabase

    with RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/{DATABASE}") as db:
        starter.say("ready")
        obey(starter, first, lambda number: message(row(number)), lambda item: db.insert(ITEMS, item))


def raw(starter: Starter, folder: str) -> None:
    from benchmarks.bare import BareServer
    from benchmarks.raw_items import commit

    with BareServer(Path(folder)) as server:
        starter.say({"port": server.port, "head": 0})
        obey(starter, 1, lambda seq: commit(seq, [row(seq)]), server.commit)


def raw_writer(starter: Starter, port: int, first: int) -> None:
    import grpc

    from benchmarks.bare import pack
    from benchmarks.raw_items import commit

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(10)
        write: Any = channel.unary_unary("/bare.Bare/Commit")
        starter.say("ready")
        obey(starter, first, lambda seq: pack(commit(seq, [row(seq)])), write)


def everlog_tail(port: int) -> Generator[list[int], None, None]:
    """Yield the seqs that arrive together; first an empty list, when it is subscribed."""
    from everlog.rpc.client.database import RemoteDatabase

    with RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/{DATABASE}") as db:
        for batch in db.feed(now=True).batches():
            yield [commit.seq for commit in batch.commits]


def raw_tail(port: int) -> Generator[list[int], None, None]:
    import grpc

    from everlog.store.record import seq_of, split

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        tail: Any = channel.unary_stream(RAW_METHOD)
        for message in tail(b""):
            yield [seq_of(framed) for framed in split(message)]


def everlog_request() -> bytes:
    from everlog.proto import feed_pb2

    return feed_pb2.SubscribeRequest(database=DATABASE, now=True).SerializeToString()
