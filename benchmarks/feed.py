"""feed: a log of one-row commits, read from its start by one remote client.

everlog: decoded to commits. Raw: the same bytes in messages of 1,000 records, not decoded. The memory is the
client's.
"""

from pathlib import Path
from typing import Any

from benchmarks.helper import Helper, Starter
from benchmarks.measure import Measure, Run, once
from benchmarks.rebuild import prepared
from benchmarks.served import DATABASE


def everlog(run: Run) -> Measure:
    from everlog.rpc.client.database import RemoteDatabase

    folder = prepared(run, 1)
    with (
        Helper("benchmarks.feed:everlog_server", folder=str(folder)) as server,
        RemoteDatabase(f"everlog+insecure://127.0.0.1:{server.hear()['port']}/{DATABASE}") as db,
    ):
        found = 0

        def read() -> None:
            nonlocal found
            for commit in db.feed(after=0, bounded=True):
                found += len(commit.changes)

        seconds = once(read)
    assert found == run.n, f"expected {run.n} changes, found {found}"
    return run.measure(run.n, seconds)


def raw(run: Run) -> Measure:
    import grpc

    from benchmarks.bare import REPLAYED

    times = max(1, run.n // REPLAYED)
    with Helper("benchmarks.feed:raw_server", folder=str(run.folder)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.hear()['port']}") as channel:
            replay: Any = channel.unary_stream("/bare.Bare/Replay")
            found = 0

            def read() -> None:
                nonlocal found
                for message in replay(str(times).encode()):
                    found += bool(message)

            seconds = once(read)
        assert found == times, f"expected {times} messages, found {found}"
    return run.measure(times * REPLAYED, seconds)


def everlog_server(starter: Starter, folder: str) -> None:
    from benchmarks.items import open_items
    from everlog.rpc.server.server import Server

    with open_items(Path(folder)) as db, Server({DATABASE: db}) as server:
        starter.say({"port": server.port})
        starter.hear()


def raw_server(starter: Starter, folder: str) -> None:
    from benchmarks.bare import BareServer

    with BareServer(Path(folder)) as server:
        starter.say({"port": server.port})
        starter.hear()
