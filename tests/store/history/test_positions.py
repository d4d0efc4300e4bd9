"""Positions of the log at times, embedded and at a server."""

from __future__ import annotations

import pytest

from everlog.rpc.testing import at_version
from everlog.store.errors import RowError
from everlog.store.history.past import POSITIONS_MAX

EVERY = ("memory", "server")


@pytest.mark.parametrize("on", EVERY)
def test_positions_are_those_of_at(on: str) -> None:
    with at_version(source="flights.migrations", testdata=True, on=on) as db:
        entries = list(db.past.log())
        times = [one.time_ns for one in entries]
        asked = [*times, times[0] - 1, times[-1] + 10**9, *(time + 1 for time in times[:-1])]
        found = db.past.positions(asked)
        newest = {one.time_ns: one.seq for one in entries}  # of equal times the last
        assert found.seqs[: len(times)] == [newest[time] for time in times]
        assert found.seqs[len(times) : len(times) + 2] == [0, entries[-1].seq]
        for time, seq in zip(asked[len(times) + 2 :], found.seqs[len(times) + 2 :], strict=True):
            assert db.at(time=time).seq == seq
        assert (found.oldest, found.oldest_ns) == (1, times[0])
        assert (found.head, found.head_ns) == (entries[-1].seq, times[-1])
        assert db.past.positions([]).seqs == []


@pytest.mark.parametrize("on", EVERY)
def test_too_many_times_and_invalid_ones_are_refused(on: str) -> None:
    with at_version(source="flights.migrations", on=on) as db:
        with pytest.raises(RowError, match="at most 1,000 times"):
            db.past.positions([1] * (POSITIONS_MAX + 1))
        with pytest.raises(RowError):
            db.past.positions(["some day or other"])
