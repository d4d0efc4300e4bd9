"""The console in a real Chromium: signing in, following, time travel; without scripts; accessibility."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from everlog.console.web.server import WebServer, own_server
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.rpc.testing import at_version
from flights.migrations.v20260209154500_airport_time_zones import AIRPORTS, Airport
from tests.console.web import browser as chrome
from tests.console.web.browser import PHONE, THEMES, WIDE, Tab
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.visitor import console_of

pytestmark = pytest.mark.skipif(
    not chrome.chromium(), reason="Chromium is not installed (apt install chromium)"
)

HERE = Path(__file__).parent
AXE = HERE / "axe.min.js"
DB = "/db/flights"
ROW = f"{DB}/tables/airports/row?k=ZZZ"
EDIT, DELETE = ROW.replace("row?", "row/edit?"), ROW.replace("row?", "row/delete?")
PAGES = (
    "/",
    "/account",
    "/migrations",
    f"{DB}/tables",
    f"{DB}/tables/flights?q=nowhere+%3D+1",
    f"{DB}/tables/airports?k=ZZZ&q=faa+%3D+ZZZ",
    f"{DB}/tables/airports?at=8",
    ROW,
    EDIT,
    DELETE,
    f"{DB}/tables/flights/new",
    f"{DB}/log",
    f"{DB}/log?follow=1",
    f"{DB}/log/4",
    f"{DB}/log/4/proof",
    f"{DB}/consumers",
    f"{DB}/consumers/one?name=mirror",
    f"{DB}/load",
    f"{DB}/load/version/20260105093000",
    f"{DB}/people",
    f"{DB}/access",
    f"{DB}/access?revoke=carl&role=reader",
    f"{DB}/access/roles",
    f"{DB}/access/tokens",
    f"{DB}/access/explain?who=carl&verb=read&table=airports",
    f"{DB}/admin",
    f"{DB}/admin/calls",
    f"{DB}/admin/backups?at=4",
    f"{DB}/admin/settings",
    "/api",
    "/api/Store/Scan?table=airports",
    "/api/Archive/Release",
    "/nowhere",
    "/sign-in",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chrome.browser() as found:
        yield found


@pytest.fixture(scope="module")
def flights() -> Iterator[EmbeddedDatabase]:
    with at_version(source="flights.migrations", testdata=True) as db:
        assert isinstance(db, EmbeddedDatabase)
        for name in ("first", "second"):
            write(db, name)
        db.access.grant("carl", "reader", ("air*",), actor="ann", reason="joins sales")
        db.consumers.register("mirror", after=2, actor="ann", reason="the search of the site")
        yield db


@pytest.fixture(scope="module")
def url(flights: EmbeddedDatabase) -> Iterator[str]:
    """The console of a server with tokens."""
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES) as web:
        yield web.url


def write(db: EmbeddedDatabase, name: str, *, actor: str = "ann", alt: int = 0) -> int:
    with db.transaction(actor=actor, reason=f"the name {name}") as tx:
        tx.put(AIRPORTS, Airport(faa="ZZZ", name=name, lat=1.5, alt=alt, tzone="Europe/London"))
    return db.head


def sign_in(tab: Tab, path: str = "/") -> None:
    tab.go(path)
    tab.page.fill("#token", TOKENS["ann"])
    tab.page.click("button.primary")
    tab.page.wait_for_url(f"{tab.url}{path}")


def serious(tab: Tab) -> list[str]:
    """Return the serious findings of axe-core in a page."""
    tab.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.map((one) =>"
        " [one.impact, one.id, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | ')]))"
    )
    return [": ".join(one) for one in found if one[0] in {"serious", "critical"}]


def test_axe_is_the_one_that_the_readme_names() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() in (HERE / "README.md").read_text()


def test_signing_in_leads_to_the_page_that_was_asked_for_and_out_again(browser: Browser, url: str) -> None:
    with Tab(browser, url) as tab:
        tab.go(ROW)
        expect(tab.page.locator("h1")).to_have_text("Sign in")
        tab.page.fill("#token", "wrong")
        tab.page.click("button.primary")
        expect(tab.page.locator("#wrong")).to_have_text("This token is not accepted.")
        tab.wrong.clear()  # the status 403 is an error to the browser
        tab.page.fill("#token", TOKENS["ann"])
        tab.page.click("button.primary")
        expect(tab.page.locator("h1")).to_contain_text("ZZZ")
        tab.page.click("text=ann >> nth=0")
        tab.go("/account")
        tab.page.click("text=Sign out everywhere")
        expect(tab.page.locator("h1")).to_have_text("Sign in")
        assert tab.wrong == []


def test_new_commits_appear_in_the_log_and_plots_move(
    browser: Browser, url: str, flights: EmbeddedDatabase
) -> None:
    with Tab(browser, url) as tab:
        sign_in(tab, f"{DB}/log?follow=1")
        expect(tab.page.locator(".badge.live")).to_be_visible()
        seq = write(flights, "<i>live</i>", actor="bob")
        first = tab.page.locator("#commits > li").first
        expect(first).to_contain_text(f"{seq:,}")
        expect(first).to_contain_text("<i>live</i>")
        assert tab.page.locator("#commits > li").count() > 1
        assert tab.wrong == []


def test_the_slider_leads_to_the_table_and_the_row_as_they_were(
    browser: Browser, url: str, flights: EmbeddedDatabase
) -> None:
    with Tab(browser, url) as tab:
        sign_in(tab, f"{DB}/tables/airports?q=faa+%3D+ZZZ")
        tab.page.locator("#ms").evaluate(
            "(slider) => { slider.value = slider.min;"
            " slider.dispatchEvent(new Event('change', {bubbles: true})); }"
        )
        expect(tab.page.locator(".asof")).to_contain_text("As of commit")
        at = re.search(r"[?&]at=(\d+)", tab.page.url)
        assert at
        assert int(at[1]) < flights.head
        tab.wrong.clear()  # the table is missing then: status 404
        tab.page.click("text=Now")
        expect(tab.page.locator(".asof")).to_contain_text("Now")
        tab.go(ROW)
        tab.page.click("text=as of this commit >> nth=-1")
        expect(tab.page.locator("h1")).to_contain_text("in the past")
        expect(tab.page.locator(".pairs")).to_contain_text("first")
        assert tab.wrong == []


def test_a_row_opens_beside_the_others_and_closes(browser: Browser, url: str) -> None:
    with Tab(browser, url) as tab:
        sign_in(tab, f"{DB}/tables/airlines")
        tab.page.locator("a.rowlink").first.click()
        drawer = tab.page.locator("aside.drawer")
        expect(drawer).to_be_visible()
        assert "k=" in tab.page.url
        drawer.get_by_text("Close").click()
        expect(drawer).to_have_count(0)
        tab.page.go_back()
        expect(tab.page.locator("aside.drawer")).to_be_visible()
        assert tab.wrong == []


def test_keys_lead_to_the_filter_through_the_rows_and_out_of_one(browser: Browser, url: str) -> None:
    with Tab(browser, url) as tab:
        sign_in(tab, f"{DB}/tables/airports")
        tab.page.keyboard.press("/")
        expect(tab.page.locator("#q")).to_be_focused()
        tab.page.keyboard.type("ZZZ/")
        tab.page.keyboard.press("Backspace")
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("tbody tr")).to_have_count(1)
        tab.go(f"{DB}/tables/airports")
        links = tab.page.locator("tbody a.rowlink")
        links.first.focus()
        tab.page.keyboard.press("ArrowDown")
        expect(links.nth(1)).to_be_focused()
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("aside.drawer")).to_be_visible()
        tab.page.keyboard.press("Escape")
        expect(tab.page.locator("aside.drawer")).to_have_count(0)
        assert tab.wrong == []


@pytest.mark.parametrize("scripts", [True, False])
def test_a_row_changed_in_two_tabs_is_shown_side_by_side(
    browser: Browser, url: str, flights: EmbeddedDatabase, scripts: bool
) -> None:
    write(flights, "began", alt=1)
    with Tab(browser, url, scripts=scripts) as tab:
        sign_in(tab, EDIT)
        other = tab.context.new_page()
        other.goto(f"{url}{EDIT}")
        other.fill('[name="f.name"]', "theirs")
        other.fill('[name="f.alt"]', "2")
        other.fill("#reason", "the other tab")
        other.click("button.primary")
        expect(other.get_by_role("status").first).to_contain_text("Saved in commit")
        tab.page.fill('[name="f.name"]', "mine")
        tab.page.fill('[name="f.tzone"]', "Asia/Tokyo")
        tab.page.fill("#reason", "this tab")
        tab.page.press('[name="f.name"]', "Enter")
        expect(tab.page.locator("h1")).to_have_text("ZZZ: somebody was faster")
        expect(tab.page.locator(".sides")).to_contain_text("theirs")
        if scripts:
            assert serious(tab) == []
        tab.page.get_by_label("name: yours").check()
        tab.page.click("button.primary")
        expect(tab.page.get_by_role("status").first).to_contain_text("Saved in commit")
        row = flights.get(AIRPORTS, "ZZZ")
        assert row is not None
        assert (row.name, row.alt, row.tzone) == ("mine", 2, "Asia/Tokyo")
        assert [one for one in tab.wrong if "409" not in one] == []


def test_without_scripts_every_page_can_be_read_and_forms_work(browser: Browser, url: str) -> None:
    with Tab(browser, url, scripts=False) as tab:
        sign_in(tab)
        for path in PAGES[:-2]:
            answer = tab.page.goto(f"{url}{path}")
            assert answer is not None
            assert answer.status == 200, path
            expect(tab.page.locator("h1")).to_be_visible()
        tab.go(f"{DB}/tables/airports")
        tab.page.fill("#q", "faa = ZZZ")
        tab.page.click("button:text('Filter')")
        expect(tab.page.locator("tbody tr")).to_have_count(1)
        tab.page.click("tbody a.rowlink")
        expect(tab.page.locator("aside.drawer")).to_be_visible()
        tab.page.click("button:text('Show')")  # the slider stands at now
        expect(tab.page.locator(".asof")).to_contain_text("Now")


@pytest.mark.long
def test_a_server_that_goes_away_is_named_and_the_page_comes_back(
    browser: Browser, flights: EmbeddedDatabase
) -> None:
    server = Server({"flights": flights}).start()
    web = WebServer("127.0.0.1:0")
    web.server = own_server(server.host, server.port, None)
    with web, Tab(browser, web.url) as tab:
        tab.go(f"{DB}/log?follow=1")
        expect(tab.page.locator("#lost")).to_be_hidden()
        server.stop()
        expect(tab.page.locator("#lost")).to_be_visible()
        with Server({"flights": flights}, server.address):
            expect(tab.page.locator("#lost")).to_be_hidden()
            seq = write(flights, "back")
            expect(tab.page.locator("#commits > li").first).to_contain_text(f"{seq:,}")


@pytest.mark.long
def test_pages_of_what_changes_are_read_again_also_after_a_restart(
    browser: Browser, flights: EmbeddedDatabase
) -> None:
    server = Server({"flights": flights}).start()
    web = WebServer("127.0.0.1:0")
    web.server = own_server(server.host, server.port, None)
    with web, contextlib.ExitStack() as stack:
        pages = {}
        for path in ("/", f"{DB}/consumers", f"{DB}/admin"):
            tab = stack.enter_context(Tab(browser, web.url))
            pages[path] = tab.go(path)
            tab.page.evaluate("window.kept = true")
        pages[f"{DB}/consumers"].focus("text=mirror")
        server.stop()
        for page in pages.values():
            expect(page.locator("#lost")).to_be_visible(timeout=30_000)
        with Server({"flights": flights}, server.address):
            flights.consumers.register("late", after=1, actor="ann", reason="the search of the site")
            head = f"{flights.head:,}"
            for path, page in pages.items():
                expect(page.locator("#lost")).to_be_hidden(timeout=30_000)
                expect(page.locator("main")).to_contain_text(head, timeout=30_000)
                if path != f"{DB}/admin":
                    expect(page.locator("#live")).to_contain_text("late", timeout=30_000)
                assert page.evaluate("window.kept"), path
            focused = "document.activeElement.textContent"
            assert pages[f"{DB}/consumers"].evaluate(focused) == "mirror", "the focus was lost"
            expect(pages[f"{DB}/consumers"].locator("#head")).to_contain_text(head, timeout=30_000)
        flights.consumers.remove("late", actor="ann", reason="the test ends")


@pytest.mark.parametrize("theme", ["dark", pytest.param("light", marks=pytest.mark.long)])
def test_axe_finds_nothing_serious_and_nothing_is_too_wide(browser: Browser, url: str, theme: str) -> None:
    with Tab(browser, url, theme=theme, size=PHONE if theme == "dark" else WIDE) as tab:
        sign_in(tab)
        check(tab, (f"{DB}/tables/airports?k=ZZZ&q=faa+%3D+ZZZ", f"{DB}/log"))


@pytest.mark.long
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_axe_finds_nothing_serious_on_any_page(
    browser: Browser, url: str, theme: str, size: tuple[int, int]
) -> None:
    with Tab(browser, url, theme=theme, size=size) as tab:
        sign_in(tab)
        check(tab, PAGES)


def check(tab: Tab, paths: tuple[str, ...]) -> None:
    wrong = []
    for path in paths:
        tab.go(path)
        if tab.overflow():
            wrong.append(f"{path}: {tab.overflow()} pixels too wide")
        wrong += [f"{path}: {one}" for one in serious(tab)]
    assert not wrong, "\n".join(wrong)
