"""Consumers, administration, access and people in a real Chromium: each flow to its end, without scripts as
well, and with every form open for axe-core.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from everlog.console.web.setup import Setup
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from tests.console.web import browser as chrome
from tests.console.web.browser import PHONE, THEMES, WIDE, Tab
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.test_browser import serious, sign_in
from tests.console.web.visitor import console_of
from tests.store.people import PATIENTS, VISITS, open_people, patient, visit

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not chrome.chromium(), reason="Chromium is not installed (apt install chromium)"),
]

DB = "/db/flights"
PAGES = (
    f"{DB}/consumers",
    f"{DB}/consumers/one?name=mirror",
    f"{DB}/admin",
    f"{DB}/admin/backups",
    f"{DB}/admin/calls?kill=1",
    f"{DB}/admin/settings",
    f"{DB}/access?revoke=carl&role=reader",
    f"{DB}/access/roles",
    f"{DB}/access/tokens",
    f"{DB}/access/explain?who=carl&verb=read&table=airports",
    "/db/clinic/people",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chrome.browser() as found:
        yield found


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Database]:
    with open_people(tmp_path / "clinic") as db:
        with db.transaction(actor="ann", reason="the first patients") as tx:
            for number in (1, 2, 3):
                tx.put(PATIENTS, patient(number, f"s-{number}", name=f"Patient {number}"))
            tx.put(VISITS, visit(7, "s-1", "a broken arm"))
        yield db


@pytest.fixture
def url(flights: EmbeddedDatabase, clinic: Database, tmp_path: Path) -> Iterator[str]:
    """The console of two databases, which knows where the backup of one is."""
    flights.consumers.register("mirror", after=2, actor="ann", reason="the search of the site")
    flights.access.grant("carl", "reader", ("air*",), actor="ann", reason="joins sales")
    setup = Setup({"flights": str(tmp_path / "backup")})
    served = {"flights": flights, "clinic": clinic}
    with console_of(served, setup=setup, tokens=TOKENS, roles=ROLES) as web:
        yield web.url


def confirm(tab: Tab, form: str, button: str, *, typed: str, reason: str) -> None:
    tab.page.fill(f"#{form}-typed", typed)
    tab.page.fill(f"#{form}-reason", reason)
    tab.page.click(f"button:text-is('{button}')")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_consumer_is_changed_and_removed(
    browser: Browser, url: str, flights: EmbeddedDatabase, *, scripts: bool
) -> None:
    with Tab(browser, url, scripts=scripts) as tab:
        sign_in(tab, f"{DB}/consumers")
        tab.page.click("text=mirror >> nth=0")
        expect(tab.page.locator("h1")).to_contain_text("mirror")
        tab.page.click("text=Change cap or owner")
        tab.page.fill("#days", "2")
        tab.page.fill("#change-reason", "less disk")
        tab.page.click("button:text-is('Change')")
        expect(tab.page.locator(".banner.ok")).to_have_text("Consumer mirror is changed.")
        assert flights.consumers["mirror"].cap.seconds == 2 * 86_400
        tab.page.click("text=Remove this consumer")
        confirm(tab, "remove", "Remove", typed="mirrors", reason="moved away")
        expect(tab.page.locator(".banner.danger[role=alert]")).to_contain_text("Nothing was changed.")
        assert tab.page.input_value("#remove-reason") == "moved away"
        tab.wrong.clear()  # the status 400
        confirm(tab, "remove", "Remove", typed="mirror", reason="moved away")
        expect(tab.page.locator(".banner.ok")).to_contain_text("Consumer mirror is removed.")
        assert list(flights.consumers) == []
        assert tab.wrong == []


@pytest.mark.parametrize("scripts", [True, False])
def test_a_check_and_a_backup_are_followed_to_their_end(browser: Browser, url: str, *, scripts: bool) -> None:
    with Tab(browser, url, scripts=scripts) as tab:
        sign_in(tab, f"{DB}/admin")
        for path, title, button, result in (
            ("", "text=Check >> nth=0", "Start the check", "No problems found."),
            ("/backups", "text=Back up now", "Start the backup", "copied"),
        ):
            tab.go(f"{DB}/admin{path}")
            tab.page.click(f"details.fold > summary >> {title}")
            tab.page.click(f"button:text-is('{button}')")
            expect(tab.page.locator("h1")).to_contain_text("Check" if not path else "Backup")
            while not scripts and tab.page.locator("text=Reload").count():
                tab.page.click("text=Reload")
            expect(tab.page.locator("#live")).to_contain_text(result)
        tab.go(f"{DB}/admin")
        expect(tab.page.locator("#live tbody tr")).to_have_count(2)
        assert tab.wrong == []


def test_a_token_is_created_shown_once_and_signs_in(browser: Browser, url: str) -> None:
    with Tab(browser, url) as tab:
        sign_in(tab, f"{DB}/access/tokens")
        tab.page.click("text=Create a token")
        tab.page.fill("#name", "deploy")
        tab.page.check("input[name=role][value=reader]")
        tab.page.fill("#create-reason", "releases of the site")
        tab.page.click("button:text-is('Create')")
        text = tab.page.locator("#token").inner_text()
        tab.page.click("text=I have it")
        expect(tab.page.locator("tbody")).to_contain_text("deploy")
        assert text not in tab.page.content()
        with Tab(browser, url) as other:
            other.go("/sign-in")
            other.page.fill("#token", text)
            other.page.click("button.primary")
            expect(other.page.locator("h1")).to_have_text("Overview")
            assert "Access" not in other.page.locator("nav").inner_text()
        assert tab.wrong == []


@pytest.mark.parametrize("scripts", [True, False])
def test_a_person_is_found_and_forgotten(
    browser: Browser, url: str, clinic: Database, *, scripts: bool
) -> None:
    with Tab(browser, url, scripts=scripts) as tab:
        sign_in(tab, "/db/clinic/people")
        tab.page.fill("#key", "1")
        tab.page.click("text=Show what is held")
        expect(tab.page.locator("main")).to_contain_text("Forgetting deletes")
        with tab.page.expect_download() as download:
            tab.page.click("text=Download all as JSON")
        assert "a broken arm" in Path(download.value.path()).read_text()
        confirm(tab, "forget", "Forget", typed="1", reason="asked for it")
        expect(tab.page.locator("h1")).to_contain_text("Forgotten")
        assert clinic.count(VISITS) == 0
        tab.page.click("text=commit >> nth=0")
        expect(tab.page.locator("main")).to_contain_text("asked for it")
        assert tab.wrong == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_axe_finds_nothing_serious_with_every_form_open(
    browser: Browser, url: str, theme: str, size: tuple[int, int]
) -> None:
    with Tab(browser, url, theme=theme, size=size) as tab:
        sign_in(tab)
        wrong = []
        for path in PAGES:
            tab.go(path)
            tab.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            if tab.overflow():
                wrong.append(f"{path}: {tab.overflow()} pixels too wide")
            wrong += [f"{path}: {one}" for one in serious(tab)]
        assert wrong == []
