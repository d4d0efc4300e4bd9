"""The pages of administration: jobs with their progress and results, and running calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from everlog.console.web.jobs import JOBS_MAX, PROBLEMS_MAX, RUNNING_MAX, Job, Jobs
from everlog.console.web.session import Session
from everlog.rpc.address import Address
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import ConflictError, LimitError, UnavailableError
from everlog.store.progress import Progress
from tests.console.web.test_consumers import signed_in
from tests.console.web.visitor import Visitor, console_of

PAGE = "/db/flights/admin"


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def ended(visitor: Visitor, location: str) -> Any:
    """Return a job when it has ended."""
    until(lambda: not visitor.json(location)["running"])
    return visitor.json(location)


def test_the_page_shows_the_state_of_the_database(open_console: Visitor, flights: EmbeddedDatabase) -> None:
    found = open_console.json(PAGE)
    assert found["health"]["state"] == "ready"
    assert (found["head"], found["production"], found["jobs"]) == (flights.head, False, [])
    page = open_console.get(PAGE).words
    assert "No jobs Start a check below." in page
    assert "What failed lately nothing" in page


@pytest.mark.parametrize("deep", ["", "1"])
def test_a_check_runs_as_a_job_and_its_result_stays(open_console: Visitor, deep: str) -> None:
    open_console.get(PAGE)
    begun = open_console.post(f"{PAGE}/check", deep=deep)
    assert begun.status == 303
    job = ended(open_console, begun.headers["location"])
    assert (job["state"], job["result"], job["found"]) == ("Done", "No problems found.", 0)
    (listed,) = open_console.json(PAGE)["jobs"]
    assert listed["id"] == job["id"]
    assert "No problems found." in open_console.get(f"{PAGE}/job?id={job['id']}").words
    assert open_console.get("/db/flights/admin/job?id=other").status == 404


def test_a_rebuild_says_what_equals_the_log(open_console: Visitor, flights: EmbeddedDatabase) -> None:
    open_console.get(PAGE)
    job = ended(open_console, open_console.post(f"{PAGE}/rebuild").headers["location"])
    rows = sum(one.rows for one in flights.admin.status().tables)
    assert job["result"].startswith(f"{len(flights.schema.tables)} tables with {rows:,} rows equal the log")


def test_archiving_without_a_target_fails_with_the_servers_sentence(open_console: Visitor) -> None:
    open_console.get(PAGE)
    preview = open_console.get(f"{PAGE}?keep_records=1&keep_days=0")
    assert "Would archive" in preview.words
    assert open_console.post(f"{PAGE}/archive", keep_days="soon").status == 400
    job = ended(open_console, open_console.post(f"{PAGE}/archive", keep_records="1").headers["location"])
    assert job["state"] == "Failed"
    assert "--archive-to" in job["error"]


def test_the_production_mark_needs_its_name_and_a_reason(
    open_console: Visitor, flights: EmbeddedDatabase
) -> None:
    open_console.get(PAGE)
    path = f"{PAGE}/production"
    assert open_console.post(path, production="1", reason="live").status == 400
    assert open_console.post(path, production="1", typed="flights").status == 400
    assert open_console.json(PAGE)["production"] is False
    assert open_console.post(path, production="1", typed="flights", reason="live").status == 303
    assert open_console.json(PAGE)["production"] is True
    assert "Clear the mark" in open_console.get(PAGE).words


def test_a_hold_is_released_and_rows_expire(open_console: Visitor, flights: EmbeddedDatabase) -> None:
    flights.archive.hold("audit-2026", 3)
    assert "it keeps the log from commit 3 on" in open_console.get(PAGE).words
    form = {"name": "audit-2026", "typed": "audit-2026"}
    assert open_console.post(f"{PAGE}/release", None, **form).status == 400
    assert open_console.post(f"{PAGE}/release", None, reason="closed", **form).status == 303
    assert flights.archive.holds() == {}
    assert open_console.post(f"{PAGE}/expire").status == 303
    assert open_console.post(f"{PAGE}/clock", reason="checked").status == 303


def test_who_may_not_administrate_sees_no_form_and_is_refused(console: Visitor) -> None:
    bob = signed_in(console, "bob")
    page = bob.get(PAGE)
    assert page.status == 200
    assert "<form" not in page.text
    for path in ("check", "rebuild", "archive", "expire"):
        assert bob.post(f"{PAGE}/{path}", reason="x", typed="flights").status == 403, path
    ann = signed_in(console, "ann")
    ann.get(PAGE)
    job = ended(ann, ann.post(f"{PAGE}/check").headers["location"])
    assert bob.get(f"{PAGE}/job?id={job['id']}").status == 404
    assert bob.json(PAGE)["jobs"] == []
    assert signed_in(console, "ann").json(PAGE)["jobs"][0]["who"] == "ann"


def test_a_running_call_is_shown_and_ended_with_a_reason(flights: EmbeddedDatabase) -> None:
    with console_of({"flights": flights}) as web:
        visitor, address = Visitor(web.url), web.server._replace(database="flights")
        with RemoteDatabase(address, retry_s=0) as remote, remote.feed() as feed:
            batches = iter(feed.batches())
            next(batches)
            calls = visitor.json(f"{PAGE}/calls")["calls"]
            (call,) = [one for one in calls if one["method"] == "Feed/Subscribe"]
            page = visitor.get(f"{PAGE}/calls?kill={call['id']}")
            assert f"End call {call['id']} Feed/Subscribe" in page.words
            assert visitor.post(f"{PAGE}/kill", id=str(call["id"])).status == 400
            assert visitor.post(f"{PAGE}/kill", id=str(call["id"]), reason="too slow").status == 303
            with pytest.raises(UnavailableError, match="too slow"):
                list(batches)
        assert "This call has ended meanwhile." in visitor.get(f"{PAGE}/calls?kill={call['id']}").words
        for id in (str(call["id"]), "x", ""):
            assert visitor.post(f"{PAGE}/kill", id=id, reason="x").status == 400


# jobs


def session() -> Session:
    return Session(Address("127.0.0.1", 1, "", secure=False), "")


def test_jobs_of_one_kind_run_once_and_few_run_at_a_time() -> None:
    jobs, go = Jobs(), threading.Event()

    def work(job: Job) -> str:
        assert go.wait(30)
        return "done"

    one = session()
    first = jobs.start(one, "a", "check", "Check", work)
    with pytest.raises(ConflictError, match="Check of a runs already"):
        jobs.start(one, "a", "check", "Check", work)
    for number in range(RUNNING_MAX - 1):
        jobs.start(one, f"b{number}", "check", "Check", work)
    with pytest.raises(LimitError, match="try again later"):
        jobs.start(one, "c", "check", "Check", work)
    go.set()
    until(lambda: not first.running)
    assert first.state == ("ok", "Done")
    for _ in range(JOBS_MAX + 5):
        until(lambda: not any(job.running for job in jobs.of("a")))
        jobs.start(one, "a", "check", "Check", lambda _: "done")
    assert len(jobs.of("a")) <= JOBS_MAX
    assert jobs.get(first.id) is None
    jobs.close()


def test_a_stopped_job_ends_at_its_next_step_and_a_fault_is_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs, begun, secret = Jobs(), threading.Event(), str(time.time_ns())

    def endless(job: Job) -> str:
        while True:
            job.report(Progress("check", 1, 2))
            begun.set()

    stopped = jobs.start(session(), "a", "check", "Check", endless)
    assert begun.wait(30)
    stopped.stop()
    until(lambda: not stopped.running)
    assert stopped.state == ("", "Stopped")

    def found(job: Job) -> str:
        for number in range(PROBLEMS_MAX + 1):
            job.problem(str(number))
        raise ValueError(secret)

    failed = jobs.start(session(), "a", "check", "Check", found)
    until(lambda: not failed.running)
    assert failed.state == ("danger", "Failed")
    assert (failed.found, len(failed.problems)) == (PROBLEMS_MAX + 1, PROBLEMS_MAX)
    assert secret not in failed.error + caplog.text
    assert "a job failed: ValueError" in caplog.text
    jobs.close()
