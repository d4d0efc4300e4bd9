"""The page of a fleet in a real Chromium: it changes by itself, and a form that is being filled in stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from everlog.feed import cursor
from everlog.fleet.protocol import Phase
from tests.console.web import browser as chrome
from tests.console.web.browser import PHONE, WIDE, Tab
from tests.console.web.fleets import fleet_of
from tests.console.web.test_browser import serious, sign_in

pytestmark = pytest.mark.skipif(
    not chrome.chromium(), reason="Chromium is not installed (apt install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chrome.browser() as found:
        yield found


def test_a_fleet_is_followed_filtered_and_aborted(browser: Browser, tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet, Tab(browser, fleet.url) as tab:
        members = fleet.join([f"shop-{number:03}" for number in range(200)], region="eu")
        run = fleet.start(members)
        sign_in(tab, "/db/ledger/fleet")
        tab.page.evaluate("window.kept = true")
        expect(tab.page.locator(".members li")).to_have_count(200)
        tab.page.fill("#why-abort", "not on a")
        for one in members[10:]:
            fleet.prepared(one, run)
        building: dict[str, Any] = {"phase": Phase.PREPARING, "fence": fleet.hub.status().epoch}
        fleet.say(members[0], decision_id=run, rows=500, total=2000, rate=150.0, **building)
        fleet.leave(members[1])
        expect(tab.page.locator(".stages .n").first).to_have_text("190 of 200")
        expect(tab.page.locator(".members .lost")).to_have_count(1)
        expect(tab.page.locator("main")).to_contain_text("500 of 2,000 rows")
        expect(tab.page.locator(".members li").first).to_have_class("lost")
        assert tab.page.input_value("#why-abort") == "not on a"
        assert tab.page.evaluate("window.kept"), "the page was loaded again"
        wrong = []
        for theme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=theme)
            for size in (WIDE, PHONE):
                tab.page.set_viewport_size({"width": size[0], "height": size[1]})
                wrong += [f"{theme} {size}: {one}" for one in serious(tab)]
                wrong += [f"{size}: {tab.overflow()} pixels too wide"] * (tab.overflow() > 0)
        assert wrong == []
        tab.page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        tab.page.fill("#why-abort", "not on a Friday")
        tab.page.click("button:text-is('Abort at all 200 members')")
        expect(tab.page.locator(".banner.ok")).to_contain_text("The run is aborted.")
        expect(tab.page.locator(".timeline")).to_contain_text("“not on a Friday”")
        assert serious(tab) == []
        tab.go("/db/ledger/fleet?state=away")
        tab.page.click(".members a")
        expect(tab.page.locator("h1")).to_contain_text("shop-001")
        assert serious(tab) == []
        assert tab.wrong == []


def test_without_scripts_everything_can_be_read(browser: Browser, tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet, Tab(browser, fleet.url, scripts=False) as tab:
        first, second = fleet.join(["shop-1", "shop-2"])
        run = fleet.start([first, second])
        fleet.prepared(first, run)
        sign_in(tab, "/fleet")
        expect(tab.page.locator("main")).to_contain_text("1 member has not prepared")
        tab.page.click(f"text={cursor.name(run)}")
        expect(tab.page.locator("tbody")).to_contain_text("No vote yet")
        tab.go("/fleet")
        tab.page.click("text=List")
        expect(tab.page.locator("footer").first).to_contain_text("1 to 2 of 2")
