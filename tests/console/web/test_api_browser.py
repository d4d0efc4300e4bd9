"""The forms of methods in a real Chromium: a response beside its form, a stream as it comes, a page that is
left.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from everlog.console.web.server import WebServer, own_server
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console.web import browser as chrome
from tests.console.web.browser import PHONE, Tab
from tests.rpc.added import weather

pytestmark = pytest.mark.skipif(
    not chrome.chromium(), reason="Chromium is not installed (apt install chromium)"
)


@pytest.fixture
def server(flights: EmbeddedDatabase) -> Iterator[Server]:
    with Server({"flights": flights}, services=[weather()]) as server:
        yield server


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    web = WebServer("127.0.0.1:0")
    web.server = own_server(server.host, server.port, None)
    with web:
        yield web.url


@pytest.mark.long
def test_forms_of_methods_answer_and_stream_in_place(server: Server, url: str) -> None:
    with chrome.browser() as found:
        with Tab(found, url) as tab:
            page = tab.go("/api")
            page.click("#Weather >> xpath=../.. >> text=Forecast")
            page.fill("[name='place.name']", "<b>Ulm</b>")
            page.select_option("[name=celsius]", "true")
            page.click("button.primary")
            expect(page.locator("#result pre.code").first).to_contain_text('"sky": "blue over <b>Ulm</b>"')
            expect(page.locator("#result .line").first).to_contain_text("everlog -u everlog+insecure://")
            page.fill("[name=count]", "many")
            page.click("button.primary")
            expect(page.locator("#result [role=alert]")).to_contain_text("expected a uint32 for count")
            assert page.input_value("[name='place.name']") == "<b>Ulm</b>"
            page.goto(f"{url}/api/Weather/Observe?wait_ms=20")
            page.click("button.primary")
            expect(page.locator(".messages > li").nth(4)).to_be_attached()
            expect(page.locator("#result .live")).to_have_text("as they come")
            assert server.activity.running
            page.goto(f"{url}/account")  # the page of the stream is left
            while any("Observe" in one.method for one in [*server.activity.running.values()]):
                page.wait_for_timeout(50)
            page.goto(f"{url}/api/Weather/Observe?count=7&wait_ms=1")
            page.click("button.primary")
            expect(page.locator(".ended")).to_have_text("The stream has ended after 7 responses.")
            expect(page.locator(".messages > li")).to_have_count(7)
            page.click(".messages summary >> nth=6")
            expect(page.locator(".messages pre").nth(6)).to_contain_text('"number": 7')
            assert tab.wrong == []
        with Tab(found, url, size=PHONE, scripts=False) as tab:
            page = tab.go("/api/Weather/Observe?count=45")
            page.click("button.primary")
            expect(page.locator(".messages > li")).to_have_count(20)
            page.click("text=Show up to 200")
            expect(page.locator(".messages > li")).to_have_count(45)
