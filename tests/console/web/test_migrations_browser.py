"""Migrations in a real Chromium: from the notification to the audit, by webhook and by e-mail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from everlog import migrations
from everlog.migrations.approval.notify import targets
from everlog.rpc.embedded import EmbeddedDatabase
from tests.console.served import serving
from tests.console.web import browser as chrome
from tests.console.web.browser import PHONE, THEMES, WIDE, Tab
from tests.console.web.checked import FIRST, NAMES, SECOND, TOKENS, Waiting, waiting, written
from tests.console.web.mailbox import Mailbox
from tests.console.web.test_browser import serious
from tests.migrations.project import Project
from tests.migrations.receiver import Receiver

pytestmark = pytest.mark.skipif(
    not chrome.chromium(), reason="Chromium is not installed (apt install chromium)"
)

LIST = "/db/airports/migrations"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chrome.browser() as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Project(tmp_path)


def follow(tab: Tab, link: str, name: str) -> None:
    """Open a link while signed out, sign in, and arrive at the page."""
    tab.page.goto(link)
    expect(tab.page.locator("h1")).to_have_text("Sign in")
    tab.page.fill("#token", TOKENS[name])
    tab.page.click("button.primary")
    tab.page.wait_for_url(link)


def decide(tab: Tab, decision: str, reason: str) -> None:
    tab.page.fill("textarea[name=reason]", reason)
    tab.page.click(f"button[value={decision}]")


def link_in(text: str) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+/migrations/[0-9a-f]{64}", text)
    assert found, text
    return found[0]


@pytest.mark.long
def test_the_link_of_a_webhook_leads_to_the_plan_its_approval_and_its_end(
    browser: Browser, project: Project
) -> None:
    with Receiver() as receiver, waiting(project, notify=[receiver.url], rows=400, rate=200) as server:
        (message,) = receiver.wait_for(1)
        with Tab(browser, server.url) as tab, Tab(browser, server.url) as other:
            follow(tab, link_in(message["message"]), "ann")
            follow(other, tab.page.url, "bob")
            expect(tab.page.locator("main")).to_contain_text("rewrite 401 rows of airports")
            decide(tab, "approve", "read it, with bob")
            expect(tab.page.locator("progress.big")).to_be_visible()
            expect(other.page.locator("main")).to_contain_text("ann (token) approved it")  # by itself
            expect(tab.page.locator("h1")).to_contain_text("Finished")
            expect(other.page.locator("h1")).to_contain_text("Finished")
            expect(tab.page.locator(".timeline")).to_contain_text("“read it, with bob”")
            assert tab.wrong == []
        titles = [one["title"].rpartition(f"{SECOND} ")[2] for one in receiver.wait_for(4)]
        assert titles == ["waits for approval", "is approved", "has started", "has finished"]


@pytest.mark.long
def test_a_deployment_is_approved_from_the_link_that_its_server_sends(
    browser: Browser, project: Project, tmp_path: Path
) -> None:
    path, db, tokens = written(project), tmp_path / "airports.db", tmp_path / "tokens"
    tokens.write_text("".join(f"{name} {TOKENS[name]} {role}\n" for name, role in NAMES.items()))
    tokens.chmod(0o600)
    with EmbeddedDatabase(db) as opened:
        migrations.apply(opened, path, to=FIRST)
    with Receiver() as receiver, Mailbox() as mailbox:
        notify = ("--notify", receiver.url, "--notify", mailbox.url)
        who = ("--tokens", str(tokens), "--approver", "bob", "--actor", "deploy", "--reason", "release 7")
        how = ("-u", f"file:{db}", "-d", str(path), "--migrate", "checked")
        with serving(*how, *who, *notify) as served, Tab(browser, served.console) as tab:
            link = link_in(receiver.wait_for(1)[0]["message"])
            assert link == link_in(str(mailbox.wait_for(1)[0].get_content()))
            assert link.startswith(served.console)
            follow(tab, link, "bob")
            expect(tab.page.locator(".timeline")).to_contain_text("“release 7”")
            decide(tab, "approve", "read on the way home")
            expect(tab.page.locator("h1")).to_contain_text("Finished")
            expect(tab.page.locator(".timeline")).to_contain_text("bob (token) approved it")
            receiver.wait_for(4)
            mailbox.wait_for(4)


@pytest.mark.long
def test_what_was_typed_stays_when_the_page_changes(browser: Browser, project: Project) -> None:
    unique = 'Index("by_city", CITY, unique=True)'
    with waiting(project, index=unique) as server, Tab(browser, server.url) as tab:
        follow(tab, f"{server.url}{server.page}", "ann")
        tab.page.fill("textarea[name=reason]", "half of a sentence")
        tab.page.check("#despite")
        tab.page.evaluate(
            "document.querySelector('#live').dataset.old = 1;"
            " htmx.trigger('[hx-trigger=\"sse:changed\"]', 'sse:changed')"
        )
        expect(tab.page.locator("#live[data-old]")).to_have_count(0)
        expect(tab.page.locator("textarea[name=reason]")).to_have_value("half of a sentence")
        expect(tab.page.locator("#despite")).to_be_checked()


@pytest.mark.long
def test_the_link_of_an_e_mail_leads_to_the_plan_and_its_rejection_without_scripts(
    browser: Browser, project: Project
) -> None:
    with Mailbox() as mailbox, waiting(project, notify=[mailbox.url]) as server:
        (message,) = mailbox.wait_for(1)
        assert message["subject"] == f"airports: the migration to {SECOND} waits for approval"
        body = message.get_body(("plain",))
        assert body is not None
        link = link_in(body.get_content())
        with Tab(browser, server.url, scripts=False) as tab:
            follow(tab, link, "bob")
            expect(tab.page.locator("#m20260101000001-m")).to_be_visible()
            tab.page.click("summary:has-text('model.proto')")
            expect(tab.page.locator("main")).to_contain_text("// <b>how it is called</b>")
            decide(tab, "reject", "no test of up")
            expect(tab.page.locator("h1")).to_contain_text("Rejected")
            expect(tab.page.locator(".timeline")).to_contain_text("bob (token) rejected it")
        assert "no test of up" in str(mailbox.wait_for(2)[1].get_content())
        assert mailbox.received[1]["subject"].endswith("is rejected")


@pytest.mark.long
def test_who_may_not_decide_sees_no_button_and_the_second_of_two_reads_the_first_decision(
    browser: Browser, project: Project
) -> None:
    with waiting(project, approvers=["ann", "bob"]) as server:
        link = f"{server.url}{server.page}"
        with Tab(browser, server.url) as carl, Tab(browser, server.url, scripts=False) as bob:
            follow(carl, link, "carl")
            expect(carl.page.locator("main")).to_contain_text("carl may not approve it")
            expect(carl.page.locator("button[name=decision]")).to_have_count(0)
            follow(bob, link, "bob")
            with Tab(browser, server.url) as ann:
                follow(ann, link, "ann")
                decide(ann, "reject", "the index is missing")
                expect(ann.page.locator("h1")).to_contain_text("Rejected")
            decide(bob, "approve", "fine by me")  # his page has no scripts, and is older
            expect(bob.page.locator("[role=alert]").first).to_contain_text("by ann (the index is missing)")


@pytest.mark.long
def test_two_versions_are_completed_and_rolled_back_and_a_build_is_cancelled(
    browser: Browser, project: Project
) -> None:
    with waiting(project, hold=True, rows=1500, rate=300) as server:
        with Tab(browser, server.url) as tab:
            follow(tab, f"{server.url}{server.page}", "ann")
            decide(tab, "approve", "first try")
            tab.page.fill("#why-cancel", "too slow today")
            tab.page.click("text=Cancel the migration")
            expect(tab.page.locator("h1")).to_contain_text("Cancelled")
            tab.page.click("text=Proposal")
            server.approval.rate = None
            tab.page.fill("#why-propose", "at night")
            tab.page.click("button:text('Propose again')")
            expect(tab.page.locator("h1")).to_contain_text("Waiting for approval")
        with Tab(browser, server.url) as tab:
            follow(tab, f"{server.url}{server.page}", "bob")
            expect(tab.page.locator("main")).to_contain_text("Your decision")
        with Tab(browser, server.url) as tab:
            follow(tab, f"{server.url}{server.page}", "dora")
            decide(tab, "approve", "second try")
            expect(tab.page.locator("h1")).to_contain_text("Two versions")
            tab.page.fill("#why-complete", "all programs are new")
            tab.page.click("button:text('Complete')")
            expect(tab.page.locator("h1")).to_contain_text("Applied")
            tab.page.click("text=Roll back …")
            expect(tab.page.locator("h1")).to_contain_text("Roll back")
            tab.page.fill("#why-rollback", "it was a slip")
            if tab.page.locator("[name=sure]").count():
                tab.page.check("[name=sure]")
            tab.page.click("button:text('Roll back')")
            expect(tab.page.locator("h1")).to_contain_text("Rolled back")
            expect(tab.page.locator(".timeline")).to_contain_text("“it was a slip”")
            assert tab.wrong == []


@pytest.mark.long
def test_a_link_of_another_site_keeps_the_session(browser: Browser, project: Project) -> None:
    with waiting(project) as server, Tab(browser, server.url) as tab:
        link = f"{server.url}{server.page}"
        follow(tab, link, "ann")
        tab.page.route(
            "http://mail.example/*", lambda route: route.fulfill(body=f'<a href="{link}">Open</a>')
        )
        for _ in range(2):
            tab.page.goto("http://mail.example/")
            tab.page.click("a")
            tab.page.wait_for_url(link)
            expect(tab.page.locator("h1")).to_contain_text("Waiting for approval")


@pytest.mark.long
@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_serious_and_nothing_is_too_wide(
    browser: Browser, project: Project, theme: str
) -> None:
    with waiting(project, index='Index("by_city", CITY, unique=True)') as server:
        for size in (WIDE, PHONE):
            with Tab(browser, server.url, theme=theme, size=size) as tab:
                follow(tab, f"{server.url}{server.page}", "ann")
                assert looked_at(tab, server) == []


def looked_at(tab: Tab, server: Waiting) -> list[str]:
    wrong = []
    for path in (
        LIST,
        f"{LIST}/{FIRST}",
        f"{LIST}/{SECOND}",
        server.page,
        "/migrations",
        f"{LIST}/{FIRST}/rollback",
    ):
        tab.go(path)
        if tab.overflow():
            wrong.append(f"{path}: {tab.overflow()} pixels too wide")
        wrong += [f"{path}: {one}" for one in serious(tab)]
    return wrong


@pytest.mark.long
def test_the_address_of_the_mailbox_is_one_for_apprise() -> None:
    with Mailbox() as mailbox:
        assert len(targets([mailbox.url])) == 1
