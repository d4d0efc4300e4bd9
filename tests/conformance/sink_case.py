"""Shared by the suites for sinks: the sink under test, and one way to follow into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from everlog.consumers import Difference, Followed, Follower, Sink, open_sink, verify
from tests.conformance.sink_log import HandMadeLog, index, table

MODEL = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Place { string city = 1; optional int64 floor = 2; }
message Item {
  string name = 1;
  int64 price = 2;
  optional string note = 3;
  Place place = 4;
  repeated string tags = 5;
  google.protobuf.Timestamp sold = 6;
}
message Visit { uint64 id = 1; string who = 2; }
"""
ITEMS = table("items", 1, "shop.Item", 1, indexes=[index("by_price", 1, 2), index("by_city", 2, (4, 1))])
VISITS = table("visits", 2, "shop.Visit", 1)

Opened = Callable[[], AbstractContextManager[Sink]]


def shop(*, batch: int = 3) -> HandMadeLog:
    """Return a log with two empty tables."""
    log = HandMadeLog(batch=batch)
    log.migrate(MODEL, ITEMS, VISITS)
    return log


class SinkCase:
    """A sink's own test gives the URL of an empty target, and a way to damage a row of it."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        raise NotImplementedError

    def spoil(self, url: str, table: str, column: str, value: object) -> None:
        """Change a column of every row of a table without using the sink."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, url: str) -> Opened:
        @contextmanager
        def open_and_close() -> Iterator[Sink]:
            sink = open_sink(url)
            sink.open()
            try:
                yield sink
            finally:
                sink.close()

        return open_and_close


def follow(
    log: HandMadeLog, opened: Opened, *, until: int | None = None, tables: Sequence[str] = ()
) -> Followed:
    """Open the target again and follow up to `until`, or to the end of the log."""
    with opened() as sink:
        return Follower(log, sink, tables=tables).run(until=until, bounded=until is None)


def differences(log: HandMadeLog, opened: Opened) -> list[Difference]:
    with opened() as sink:
        return verify(log, sink)
