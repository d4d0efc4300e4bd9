"""What pages show of the samples that a server takes: sizes, lags of consumers, latencies of writers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from everlog.console.web import migrations, plots
from everlog.console.web.page import fragment
from everlog.migrations import load
from everlog.migrations.status import MigrationInfo, State
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import MigrationError
from everlog.store.measures import SECONDS
from everlog.store.upkeep import samples
from everlog.store.upkeep.consumers import Cap
from everlog.store.upkeep.samples import Sample
from flights.migrations.v20260209154500_airport_time_zones import AIRPORTS
from tests.console.web.checked import TOKENS, waiting
from tests.console.web.visitor import Visitor, console_of
from tests.migrations.project import Project

AGO_NS = 50 * 60 * 10**9


@pytest.fixture
def ago(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By how many nanoseconds the clock of the samples is late; all that are asked for are taken."""
    late = [0]
    own = SimpleNamespace(
        time_ns=lambda: time.time_ns() - late[0], monotonic=lambda: time.monotonic() - late[0] / 1e9
    )
    monkeypatch.setattr(samples, "time", own)
    monkeypatch.setattr(samples, "EVERY_S", 0.0)
    return late


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sizes_and_lags_are_plotted_from_before_the_page_was_opened(
    flights: EmbeddedDatabase, ago: list[int]
) -> None:
    flights.consumers.register("mirror", after=2, cap=Cap(), actor="ann", reason="x")
    ago[0] = AGO_NS
    with console_of({"flights": flights}) as web:
        with RemoteDatabase(web.server._replace(database="flights")) as remote:
            until(lambda: len(remote.admin.samples()) > 1)
            behind = remote.admin.samples(consumers=True)[0].lags["mirror"]
            ago[0] = 0
            jfk = flights.get(AIRPORTS, "JFK")
            assert jfk is not None
            for _ in range(5):
                flights.put(AIRPORTS, jfk)
        visitor = Visitor(web.url)
        overview = visitor.get("/?range=1h")
        assert "Bytes over time: Log now" in overview.text
        assert "Sizes over time are known since" in overview.words
        table = visitor.get("/db/flights/tables/flights")
        assert "Bytes over time: Rows now" in table.text
        assert "when the server started" in table.words
        assert "Bytes over time" not in visitor.get("/db/flights/tables/flights?at=9").text
        lag = visitor.json("/db/flights/consumers/one?name=mirror&range=1h")["lag"]
        known = [one for one in lag if one is not None]
        assert len(lag) * 3 // 4 < len(known) < len(lag)
        assert (known[0], known[-1]) == (behind, flights.head - 2)
        assert 'class="spark"' in visitor.get("/db/flights/consumers").text


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.long
def test_a_running_migration_shows_what_its_writers_notice(project: Project, ago: list[int]) -> None:
    with waiting(project, rows=2000, rate=150) as server:
        visitor = Visitor(server.url)
        visitor.get("/sign-in")
        assert visitor.sign_in(TOKENS["ann"]).status == 303
        table, number = load(server.path)[0].tables[0], 0

        def write() -> bool:
            nonlocal number
            number += 1
            server.db.put(table, table.model(faa=f"B{number:05}", name="x"))
            return False

        began = time.monotonic()
        until(lambda: write() or time.monotonic() - began > 2.5)

        def approve() -> None:
            with contextlib.suppress(MigrationError):  # it is cancelled at the end
                server.approval.approve_and_run(server.proposal().short, actor="ann", reason="read")

        thread = threading.Thread(target=approve)
        thread.start()
        try:
            page = ""

            def shown() -> bool:
                nonlocal page
                write()
                page = visitor.get(server.page).words
                return "before it began: p50" in page and "Commits of writers p50" in page

            until(shown)
            assert "ms, p99" in page
        finally:
            server.approval.cancel(actor="ann", reason="enough was seen")
            thread.join(60)
            assert not thread.is_alive()


def test_a_series_begins_with_its_first_sample() -> None:
    taken = [Sample(10, 1, 100, 0, 0), Sample(20, 2, 300, 0, 0)]
    times = [5, 10, 15, 20, 25]
    found = plots.series(taken, lambda one: one.log_bytes, times)
    assert found == [None, 100, 100, 300, 300]
    drawn = plots.lines([("Log", found)], times, width=100, height=10)
    assert drawn is not None
    assert drawn["lines"][0]["path"].startswith("M25.0 ")
    assert drawn["lines"][0]["now"] == 300
    assert drawn["since_ns"] == 10
    assert plots.lines([("Log", [None] * 5)], times, width=100, height=10) is None
    assert plots.series([], lambda one: one.head, times) == [None] * 5


def test_latencies_are_those_between_two_samples() -> None:
    none, fast, slow = [0] * (len(SECONDS) + 1), [0, 10, *[0] * (len(SECONDS) - 1)], [0, 10, *[0] * 19]
    slow[9] = 10
    taken = [Sample(number, 1, 0, 0, 0, latency=each) for number, each in enumerate((none, fast, slow))]
    before, now = migrations.latency_between(taken[:2]), migrations.latency_between(taken[1:])
    assert (before.p50, now.p50) == pytest.approx((1.75e-5, 7.5e-3))
    assert migrations.latency_between(taken[:1]) == migrations.latency_between([]) == (None, None)
    assert migrations.latency_between([taken[0], taken[0]]) == (None, None)
    info = MigrationInfo(1, "x", State.BUILDING, started_ns=1, rows=1, total=2)
    progress = migrations.progress(info, writers=migrations.Writers(now, before))
    html = fragment("_progress.html", progress=progress)
    assert "p50 7.5 ms, p99 10 ms" in html
    assert "before it began: p50 0.018 ms, p99 0.025 ms" in html
    html = fragment("_progress.html", progress=migrations.progress(info))
    assert "Commits of writers" not in html
