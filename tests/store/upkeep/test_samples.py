"""Samples: what a server keeps of sizes, lags and latencies, and how much."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from everlog import Error
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.measures import SECONDS, Histogram, quantile
from everlog.store.upkeep import samples
from everlog.store.upkeep.samples import MINUTES, RECENT, Samples
from tests.store.models import ITEMS, Item, declare

MINUTE_NS = 60 * 10**9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that the test moves, in nanoseconds."""
    now = [1_700_000_000 * 10**9]
    own = SimpleNamespace(time_ns=lambda: now[0], monotonic=lambda: now[0] / 1e9)
    monkeypatch.setattr(samples, "time", own)
    return now


def test_the_newest_are_ten_seconds_apart_and_older_ones_a_minute_for_a_day(
    db: EmbeddedDatabase, clock: list[int]
) -> None:
    kept = Samples(db.core, db.consumers, db.measure)
    for _ in range(4 * (MINUTES + RECENT)):
        kept.take()
        kept.take()  # too early
        clock[0] += MINUTE_NS // 2
    found = kept.since()
    assert len(found) == MINUTES + RECENT + 1
    times = [one.time_ns for one in found]
    assert times == sorted(times)
    assert {after - before for before, after in pairwise(times[:100])} == {MINUTE_NS}
    assert times[-1] == clock[0]
    assert [one.time_ns for one in kept.since(times[-5])][:-1] == times[-6:-1]
    few = kept.since(points=11)
    assert (len(few), few[0], few[-1].time_ns) == (11, found[0], clock[0])


def test_a_sample_has_sizes_lags_and_latencies(tmp_path: Path, clock: list[int]) -> None:
    with EmbeddedDatabase(tmp_path / "x.db") as db:
        declare(db, ITEMS)
        kept = Samples(db.core, db.consumers, db.measure)
        db.consumers.register("mirror", actor="ann", reason="r")
        kept.take()
        head = db.head
        db.load(ITEMS, (Item(id=number, text=f"{number:x}" * 50) for number in range(5_000)))
        db.engine.flush()
        now = kept.since()[-1]
        assert now.lags["mirror"] == db.head
        assert sum(now.tables["items"]) == now.table_bytes + now.index_bytes > 10_000
        assert sum(now.latency) == db.head - head > 0
        age_s, grown = kept.growth()
        assert (age_s, grown["items"] > 10_000) == (0.0, True)


def test_a_server_takes_them_and_shows_what_the_caller_may_see(tmp_path: Path) -> None:
    tokens = {"ann": "token-of-ann", "bob": "token-of-bob"}
    roles = {"ann": ("owner",), "bob": ()}
    with EmbeddedDatabase(tmp_path / "x.db") as db:
        declare(db, ITEMS)
        with pytest.raises(Error, match="takes no samples; open the database at its server"):
            db.admin.samples()
        db.consumers.register("mirror", actor="ann", reason="r")
        db.access.grant("bob", "reader", ("items",), actor="ann", reason="r")
        with Server({"x": db}, tokens=tokens, roles=roles) as server:
            with RemoteDatabase(f"{server.url('x')}?token=token-of-ann") as ann:
                found = ann.admin.samples(table="items", consumers=True, latency=True)[-1]
                assert list(found.tables) == ["items"]
                assert "mirror" in found.lags
                assert len(found.latency) == len(SECONDS) + 1
                assert found.log_bytes == db.engine.log_bytes()
                assert ann.admin.samples(1 << 62)[-1].lags == {}
            with RemoteDatabase(f"{server.url('x')}?token=token-of-bob") as bob:
                found = bob.admin.samples(table="items", consumers=True, latency=True)[-1]
                assert (list(found.tables), found.lags, found.latency) == (["items"], {}, [])
                assert (found.log_bytes, found.table_bytes) == (0, 0)


def test_a_quantile_is_between_the_bounds_that_have_it() -> None:
    histogram = Histogram()
    assert quantile(histogram.counts, 0.5) is None
    for _ in range(98):
        histogram.add(0.0015)
    histogram.add(0.02)
    histogram.add(100.0)
    p50, p99 = quantile(histogram.counts, 0.5), quantile(histogram.counts, 0.99)
    assert p50 is not None
    assert p99 is not None
    assert 0.001 < p50 < 0.0025
    assert 0.01 < p99 <= 0.025
    assert quantile(histogram.counts, 1.0) == SECONDS[-1]
