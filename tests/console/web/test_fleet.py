"""The pages of a fleet: members at a glance, runs with votes and audit; abort, contract, remove, forget."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog.console.web import fleet as pages
from everlog.feed import cursor
from everlog.fleet.hub import Hub
from everlog.fleet.protocol import Phase
from everlog.fleet.status import MemberReport
from everlog.rpc.embedded import EmbeddedDatabase
from tests.console.web.fleets import END, TOKENS, Fleet, fleet_of
from tests.console.web.visitor import Visitor, console_of

ALL = "/db/ledger/fleet"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each page read the status again."""
    monkeypatch.setattr(pages, "SHARED_S", 0.0)
    monkeypatch.setattr(pages, "PATIENCE", 0)


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    with fleet_of(tmp_path) as found:
        yield found


def signed_in(fleet: Fleet, name: str) -> Visitor:
    visitor = Visitor(fleet.url)
    visitor.sign_in(TOKENS[name])
    return visitor


def of_run(run: bytes) -> str:
    return f"{ALL}/runs/{cursor.name(run)}"


def of_member(one: MemberReport) -> str:
    return f"{ALL}/members/{cursor.name(one.database)}"


def test_without_a_ledger_the_page_says_how_to_make_one(open_console: Visitor) -> None:
    assert "Fleet" not in open_console.get("/").words
    assert "This server coordinates no fleet" in open_console.get("/fleet").words
    assert open_console.json("/fleet")["members"] == []
    page = open_console.get("/db/flights/fleet")
    assert page.status == 404
    assert "database flights is not the ledger of a fleet" in page.words


def test_members_are_shown_at_a_glance_stragglers_first(fleet: Fleet) -> None:
    ann = signed_in(fleet, "ann")
    assert "No members yet" in ann.get("/fleet").words
    first, second, third, last = fleet.join(["shop-1", "shop-2", "shop-3", "shop-4"], region="eu")
    fleet.say(last, version=END, pending=0)
    fleet.leave(third)
    run = fleet.start([first, second])
    fence = fleet.hub.status().epoch
    building: dict[str, Any] = {"phase": Phase.PREPARING, "decision_id": run, "fence": fence}
    fleet.say(second, **building, rows=500, total=2000, rate=150.0, waits_for="<i>another</i> build")
    page = ann.get("/fleet")
    for words in (
        "4 members, 3 connected",
        "2 databases go from 20260105093000 to 20260112093000 together: all of them, or none",
        "2 members have not prepared",
        "500 of 2,000 rows, 150 a second, 10 s left, waits for <i>another</i> build",
        "1 away",
        "1 preparing",
        "1 pending",
        "1 current",
        "ann (claimed) started the run",
        "“release 2; ticket 4711”",
    ):
        assert words in page.words, words
    assert "<i>another" not in page.text
    grid = page.text[page.text.index('<ul class="members') :]
    places = [grid.index(cursor.name(one.database)) for one in (first, second, third, last)]
    assert places == sorted(places)
    found = ann.json("/fleet")
    assert [one["name"] for one in found["members"]] == ["shop-1", "shop-2", "shop-3", "shop-4"]
    assert found["members"][1]["waits_for"] == "<i>another</i> build"
    assert [len(one["seats"]) for one in found["runs"]] == [2]
    assert "The fleet of ledger prepares 2 members" in ann.get("/").words
    one = ann.get(of_member(second))
    assert "Preparing" in one.words
    assert "region=eu" in one.words
    assert ann.json(of_member(second))["member"]["rows"] == 500
    assert ann.get(f"{ALL}/members/{uuid.UUID(int=7)}").status == 404
    assert ann.get(f"{ALL}/members/7").status == 404


def test_members_are_filtered_by_labels_and_state_and_listed(fleet: Fleet) -> None:
    ann = signed_in(fleet, "ann")
    fleet.join([f"eu-{number:03}" for number in range(pages.LISTED + 20)], region="eu")
    fleet.join(["us-1"], region="us")
    page = ann.get(f"{ALL}?q=region%3Dus")
    assert page.text.count('<a id="m') == 1
    assert "1 pending" in page.words
    assert "No member matches" in ann.get(f"{ALL}?q=region%3Dasia").words
    assert "expected" in ann.get(f"{ALL}?q=region%3D%3D").words
    assert ann.get(f"{ALL}?state=nowhere").status == 400
    assert "No member matches" in ann.get(f"{ALL}?state=away").words
    page = ann.get(f"{ALL}?view=list&q=region%3Deu")
    assert "1 to 100 of 120" in page.words
    assert "eu-000" in page.text
    page = ann.get(f"{ALL}?view=list&q=region%3Deu&from=100")
    assert "101 to 120 of 120" in page.words
    assert "eu-119" in page.text
    assert 'rel="prev"' in page.text
    many = fleet.join([f"eu-{number:03}" for number in range(pages.DENSE + 1)], region="eu")
    assert len(many) > pages.DENSE
    assert 'class="members dense"' in ann.get(ALL).text


def test_a_run_is_aborted_with_a_reason_by_those_who_may(fleet: Fleet) -> None:
    ann, bob = signed_in(fleet, "ann"), signed_in(fleet, "bob")
    first, second = fleet.join(["shop-1", "shop-2"])
    run = fleet.start([first, second])
    fleet.prepared(first, run)
    page = bob.get(of_run(run))
    assert "bob may not abort the run: its roles (reader, operator) lack the right migrate." in page.words
    assert "<textarea" not in page.text
    assert bob.post(f"{of_run(run)}/abort", None, reason="no").status == 403
    page = ann.get(of_run(run))
    assert "Abort at all 2 members" in page.words
    assert page.words.index("shop-2 No vote yet") < page.words.index("shop-1 Prepared")
    refused = ann.post(f"{of_run(run)}/abort", None, reason=" ")
    assert refused.status == 400
    assert "expected a reason" in refused.words
    assert fleet.hub.status().runs[0].decision is None
    done = ann.post(f"{of_run(run)}/abort", None, reason="not on a <b>Friday</b>")
    assert done.status == 303
    page = ann.get(done.headers["location"])
    assert "The run is aborted. Its members drop what they built." in page.words
    assert "Aborting" in page.words
    assert "ann (token) aborted the run" in page.words
    assert "“not on a <b>Friday</b>”" in page.words
    assert "<b>Friday" not in page.text
    late = ann.post(f"{of_run(run)}/abort", None, reason="again")
    assert late.status == 409
    assert "is decided: ABORT" in late.words
    assert ann.json(of_run(run))["decision"] == "ABORT"


def test_a_run_that_ended_keeps_its_page_when_the_coordinator_starts_again(tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet:
        (one,) = fleet.join(["shop-1"])
        run = fleet.start([one])
        fleet.hub.abort(run, actor="ann", reason="too slow")
        fence = fleet.hub.status().epoch
        fleet.say(one, phase=Phase.ABORTED, decision_id=run, fence=fence)
    with EmbeddedDatabase(tmp_path / "ledger.db") as db:
        hub = Hub(db, tmp_path / "ledger.mark")
        hub.start()
        assert hub.status().runs == []
        with console_of({"ledger": db}, fleets={"ledger": hub}) as web:
            page = Visitor(web.url).get("/fleet")
            assert f"{cursor.name(run)[:8]} Aborted 1" in page.words
            page = Visitor(web.url).get(of_run(run))
            assert "Aborted" in page.words
            assert "ann (claimed) aborted the run" in page.words
            assert "“too slow”" in page.words
            assert "coordinator (claimed) saw the last member end" in page.words
            assert Visitor(web.url).get(f"{ALL}/runs/{uuid.UUID(int=7)}").status == 404
        hub.close()


def test_a_member_is_removed_from_the_run_and_forgotten(fleet: Fleet) -> None:
    ann = signed_in(fleet, "ann")
    first, second = fleet.join(["shop-1", "shop-2"])
    run = fleet.start([first, second])
    fleet.leave(second)
    ann.get(of_member(second))
    ids = {"run": cursor.name(run)}
    assert ann.post(f"{of_member(second)}/remove", None, reason="gone", run="7").status == 400
    done = ann.post(f"{of_member(second)}/remove", None, reason="its shop is closed", **ids)
    assert done.status == 303
    assert "Removed" in ann.get(of_member(second)).words
    assert "ann (token) removed shop-2 from the run" in ann.get(of_run(run)).words
    assert ann.post(f"{of_member(second)}/forget", None, typed="shop-2", reason="closed").status == 409
    fleet.say(second, phase=Phase.ABORTED, decision_id=run, fence=fleet.hub.status().epoch)
    fleet.leave(second)
    assert ann.post(f"{of_member(second)}/forget", None, typed="shop", reason="closed").status == 400
    done = ann.post(f"{of_member(second)}/forget", None, typed="shop-2", reason="closed")
    assert done.headers["location"].startswith(ALL)
    assert [one["name"] for one in ann.json(ALL)["members"]] == ["shop-1"]


def test_two_versions_of_a_fleet_are_ended(fleet: Fleet) -> None:
    ann = signed_in(fleet, "ann")
    members = fleet.join(["shop-1", "shop-2"])
    run = fleet.start(members, hold=True)
    for one in members:
        fleet.prepared(one, run)
    fence = fleet.hub.status().epoch
    assert "Committing" in ann.get("/fleet").words
    assert "decided that all members switch" in ann.get(of_run(run)).words
    for one in members:
        fleet.say(one, phase=Phase.COMMITTED, decision_id=run, fence=fence, version=END, pending=0)
    page = ann.get("/fleet")
    assert "Two versions are served" in page.words
    assert "4. One version" in page.words
    done = ann.post(f"{of_run(run)}/contract", None, reason="all clients are new")
    assert done.status == 303
    assert "ann (token) ended the time of two versions" in ann.get(of_run(run)).words
    for one in members:
        fleet.say(one, phase=Phase.CONTRACTED, decision_id=run, fence=fence, version=END, pending=0)
    assert "Finished" in ann.get(of_run(run)).words
    assert "2 current" in ann.get("/fleet").words


def test_alarms_come_first_everywhere(fleet: Fleet) -> None:
    ann = signed_in(fleet, "ann")
    first, _ = fleet.join(["shop-1", "shop-2"])
    fleet.say(first, seq=3)
    page = ann.get("/fleet")
    assert "1 alarm" in page.words
    assert page.words.index("shop-1") < page.words.index("shop-2")
    overview = ann.get("/")
    assert "1 member of the fleet has an alarm" in overview.words
    assert "Fleet 1 need attention" in overview.words


def test_a_database_that_joins_is_shown(tmp_path: Path) -> None:
    with (
        fleet_of(tmp_path, tokens={}) as fleet,
        everlog.open(
            tmp_path / "shop", fleet=fleet.ledger_url, fleet_name="shop", fleet_labels={"region": "eu"}
        ),
    ):
        visitor = Visitor(fleet.url)
        until = time.monotonic() + 60
        while not (found := visitor.json("/fleet")["members"]):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert (found[0]["name"], found[0]["state"]) == ("shop", "current")
        assert "1 member, 1 connected" in visitor.get("/fleet").words
