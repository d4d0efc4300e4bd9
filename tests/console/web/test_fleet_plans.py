"""The pages of a fleet's plans: an upgrade is planned, reviewed, approved or rejected, and started."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog.console.web import fleet as pages
from everlog.migrations.proposal import Rules
from everlog.rpc.embedded import EmbeddedDatabase
from tests.console.web.fleets import Fleet, fleet_of
from tests.console.web.visitor import Answer, Visitor
from tests.fleet.test_transport import END, START, made
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

PLANS = "/db/ledger/fleet/plans"
TOKENS = {name: f"{name}-token" for name in ("ann", "bob", "shop")}
ROLES = {"ann": ("migrator",), "bob": ("approver",), "shop": ("member",)}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each page read the status again."""
    monkeypatch.setattr(pages, "SHARED_S", 0.0)
    monkeypatch.setattr(pages, "PATIENCE", 0)


@pytest.fixture
def airports(project: Project, tmp_path: Path) -> Airports:
    with EmbeddedDatabase(tmp_path / "first") as db:
        return Airports(project, db, 50)


@pytest.fixture
def checked(tmp_path: Path, airports: Airports) -> Iterator[Fleet]:
    """A fleet whose plans need approval, with one member."""
    hub = {"checked": True, "rules": Rules(frozenset({"bob"}))}
    with (
        fleet_of(tmp_path / "fleet", tokens=TOKENS, roles=ROLES, hub=hub) as fleet,
        joined(fleet, airports, tmp_path / "north", "?token=shop-token"),
    ):
        yield fleet


def joined(fleet: Fleet, airports: Airports, path: Path, query: str = "") -> Any:
    db = everlog.open(
        made(airports, path),
        migrations=airports.path,
        fleet=f"{fleet.ledger_url}{query}",
        fleet_name=path.name,
    )
    until = time.monotonic() + 60
    while not any(one.report.name == path.name for one in fleet.hub.status().members):
        assert time.monotonic() < until
        time.sleep(0.02)
    return db


def signed_in(fleet: Fleet, name: str) -> Visitor:
    visitor = Visitor(fleet.url)
    visitor.sign_in(TOKENS[name])
    return visitor


def send(visitor: Visitor, path: str, **fields: str) -> Answer:
    """Send a form, and return the page after it."""
    answer = visitor.post(path, None, **fields)
    return visitor.get(answer.headers["location"]) if answer.status == 303 else answer


def planned(visitor: Visitor) -> str:
    """Plan the upgrade of all members, and return the page of the plan."""
    visitor.get(PLANS)
    answer = visitor.post(PLANS, None, reason="release 2")
    assert answer.status == 303, answer.words
    return answer.headers["location"].partition("?")[0]


def test_an_upgrade_is_planned_approved_started_and_followed(checked: Fleet) -> None:
    ann, bob = signed_in(checked, "ann"), signed_in(checked, "bob")
    assert "No plans" in ann.get(PLANS).words
    page = planned(ann)
    found = ann.get(page)
    for words in (
        "Waiting for approval",
        f"Upgrades 1 member to {END} in unison: all of them, or none.",
        "rewrite rows of airports with up",
        f"north {START} 50",
        "ann may not approve it",
        "ann (token) proposed it",
    ):
        assert words in found.words, words
    assert 'value="approve"' not in found.text
    assert ann.json(page)["document"]["members"][0]["name"] == "north"
    assert "A plan of the fleet waits for approval" in bob.get("/").words
    assert ann.post(page, None, decision="approve", reason="mine").status == 403
    bob.get(page)
    assert bob.post(page, None, decision="approve", reason="").status == 400
    assert "bob (token) approved it" in send(bob, page, decision="approve", reason="read with ann").words


def test_an_approved_plan_is_started_and_its_run_is_followed(checked: Fleet) -> None:
    ann, bob = signed_in(checked, "ann"), signed_in(checked, "bob")
    page = planned(ann)
    bob.get(page)
    send(bob, page, decision="approve", reason="read with ann")
    assert "Start the upgrade" in ann.get(page).words
    assert ann.post(f"{page}/start", None, reason="now", hours="never").status == 400
    run = send(ann, f"{page}/start", reason="now", hours="0.5")
    assert "The run has started." in run.words
    (id,) = set(re.findall(r"fleet/runs/([0-9a-f-]{36})/", run.text)) or {""}
    until = time.monotonic() + 60
    while ann.json("/fleet")["runs"][-1]["state"] != "contracted":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert "1 current" in ann.get("/fleet").words
    found = ann.get(page)
    assert "Started" in found.words
    assert id in found.words
    assert ann.post(f"{page}/start", None, reason="again").status == 409


def test_a_plan_is_rejected_once(checked: Fleet) -> None:
    ann, bob = signed_in(checked, "ann"), signed_in(checked, "bob")
    page = planned(ann)
    bob.get(page)
    found = send(bob, page, decision="reject", reason="not on a Friday")
    assert "Rejected" in found.words
    assert "“not on a Friday”" in found.words
    assert bob.post(page, None, decision="approve", reason="after all").status == 409
    assert bob.get(f"{PLANS}/{'0' * 64}").status == 404


def test_without_approval_a_plan_is_started_at_once_and_mistakes_are_named(
    airports: Airports, tmp_path: Path
) -> None:
    with (
        fleet_of(tmp_path / "fleet", tokens={}) as fleet,
        joined(fleet, airports, tmp_path / "north"),
    ):
        visitor = Visitor(fleet.url)
        visitor.get(PLANS)
        how = {"reason": "release 2", "actor": "ann"}
        for fields, said in (
            ({**how, "selector": "region=="}, "expected"),
            ({**how, "selector": "region=us"}, "no member is selected"),
            ({**how, "to": "newest"}, "expected a version such as"),
            ({**how, "to": "7"}, "has a pending migration to 7"),
            ({"reason": "release 2"}, "expected your name"),
        ):
            answer = visitor.post(PLANS, None, **fields)
            assert answer.status in {400, 409}, answer.words
            assert said in answer.words, answer.words
        found = visitor.get(visitor.post(PLANS, None, **how).headers["location"])
        assert "Planned" in found.words
        assert "Start the upgrade" in found.words
        assert "Your decision" not in found.words
