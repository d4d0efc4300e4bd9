"""The pages of migrations: list, one migration, proposal, decisions, progress, roll back; and who may."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.console.web.work import Key, Work
from everlog.rpc.client.migrations import RemoteMigrations
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.testing import at_version
from everlog.store.errors import MigrationError
from tests.console.web.checked import FIRST, SECOND, TOKENS, Waiting, waiting
from tests.console.web.visitor import Answer, Visitor, console_of
from tests.migrations.project import Project

LIST = "/db/airports/migrations"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Project(tmp_path)


def signed_in(server: Waiting, name: str) -> Visitor:
    visitor = Visitor(server.url)
    visitor.sign_in(TOKENS[name])
    return visitor


def decide(visitor: Visitor, page: str, decision: str, reason: str, **fields: str) -> Answer:
    """Decide, and return the page after it."""
    visitor.get(page)
    answer = visitor.post(page, None, decision=decision, reason=reason, **fields)
    return visitor.get(answer.headers["location"]) if answer.status == 303 else answer


def test_a_plan_is_read_approved_and_followed_to_its_end(project: Project) -> None:
    with waiting(project, approvers=["ann", "bob"]) as server:
        ann = signed_in(server, "ann")
        assert f"add_cities {SECOND} Waiting for approval" in ann.get(LIST).words
        assert [one["state"] for one in ann.json(LIST)["migrations"]] == ["Waiting for approval", "Applied"]
        page = ann.get(server.page)
        for words in (
            "Migrates airports from 20260101000000 to 20260101000001",
            "rewrite 21 rows of airports with up",
            "up of airports was tried on 21 rows and succeeds for all",
            "estimated now, from 21 rows",
            "Each commit to airports is written in both forms, so it takes longer, until the",
            "They see the previous version until it has ended",
            "by_city on city new",
            "deploy",
            "“release 7 of 20 rows”",
            "Approve and run",
            "// <b>how it is called</b>",
            "def up ( old : Before )",
        ):
            assert words.replace(" ", "") in page.words.replace(" ", ""), words
        assert "<b>how" not in page.text
        assert '<span class="cm">// &lt;b&gt;how' in page.text
        found = ann.json(server.page)
        assert found["sources"][f"v{SECOND}_add_cities"]["bootstrap_airports.csv"].startswith("faa,name,city")
        done = decide(ann, server.page, "approve", "read with bob")
        assert "The plan is approved" in done.words
        wait_for(server, "finished")
        page = ann.get(server.page)
        assert "Finished" in page.words
        assert "ann (token) approved it" in page.words
        assert "“read with bob”" in page.words
        one = ann.get(f"{LIST}/{SECOND}")
        assert "Applied" in one.words
        assert "ann (token) finished it" in one.words
        first = ann.get(f"{LIST}/{FIRST}")
        assert "&lt;i&gt;Kennedy&lt;/i&gt;" in first.text
        assert "<i>Kennedy" not in first.text
        assert ann.get(f"{LIST}/7").status == 404
        assert ann.get(f"{LIST}/x").status == 404
        assert ann.get("/migrations/ffffffffffff").status == 404


def wait_for(server: Waiting, step: str) -> None:
    """Wait until the newest proposal has an event with this step."""
    for commit in server.db.feed():
        if commit.HasField("migration") and server.proposal().last.step == step:
            return


def test_a_plan_is_rejected_and_proposed_again(project: Project) -> None:
    with waiting(project) as server:
        ann = signed_in(server, "ann")
        page = server.page
        answer = decide(ann, page, "reject", "  ")
        assert answer.status == 400
        assert "expected a reason" in answer.words
        answer = decide(ann, page, "reject", "not on a <Friday>")
        assert "The plan is rejected" in answer.words
        assert "Rejected" in ann.get(LIST).words
        assert "“not on a <Friday>”" in ann.get(f"{LIST}/{SECOND}").words
        assert "not on a <Friday>" not in ann.get(f"{LIST}/{SECOND}").text
        again = ann.post(f"{page}/propose", reason="it is Monday")
        assert again.headers["location"].startswith(server.page)
        assert server.page != page
        assert "Waiting for approval" in ann.get(server.page).words
        assert "Rejected" in ann.get(page).words


def test_who_may_not_decide_reads_why_sees_no_button_and_is_refused(project: Project) -> None:
    with waiting(project, approvers=["ann", "deploy"]) as server:
        before = server.db.head
        for name, says in (
            ("carl", "its roles (reader) lack the right approve. The roles approver and owner have it."),
            ("eve", "its roles (auditor) lack the right approve"),
            ("bob", "bob may not approve it. The approvers of this server are: ann, deploy."),
            ("dora", "dora may not approve it. The approvers of this server are: ann, deploy."),
        ):
            visitor = signed_in(server, name)
            page = visitor.get(server.page)
            assert says in page.words, page.words
            assert 'name="decision"' not in page.text
            for decision in ("approve", "reject"):
                answer = decide(visitor, server.page, decision, "I can")
                assert answer.status in {403, 409}
                assert "Nothing was changed." in answer.words
        assert "The folders are not shown" in signed_in(server, "carl").get(server.page).words
        assert "def up" in "".join(signed_in(server, "eve").get(server.page).words)
        assert server.db.head == before
        assert server.proposal().state == "waiting"
        ann = signed_in(server, "ann")
        ann.get(server.page)
        answer = ann.ask(
            "POST",
            server.page,
            "decision=approve&reason=x",
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.status == 403  # without the token of the form


def test_the_author_may_reject_but_not_approve(project: Project) -> None:
    with waiting(project) as server:
        ann = signed_in(server, "ann")
        ann.get(server.page)
        decide(ann, server.page, "reject", "again, as ann")
        ann.post(f"{server.page}/propose", reason="mine now")
        page = ann.get(server.page)
        assert "ann proposed this migration, so somebody else has to approve it." in page.words
        assert 'value="approve"' not in page.text
        assert 'value="reject"' in page.text
        assert decide(ann, server.page, "approve", "mine").status == 409


def test_a_pending_migration_is_applied_on_a_server_without_approval() -> None:
    source, version = "flights.migrations", 20260209154500
    page = f"/db/flights/migrations/{version}"
    with at_version(20260126083000, source) as db:
        assert isinstance(db, EmbeddedDatabase)
        how: dict[str, Any] = {"tokens": TOKENS, "roles": {"ann": ("owner",), "carl": ("migrator",)}}
        with console_of({"flights": db}, migrations={"flights": source}, **how) as web:
            ann = Visitor(web.url)
            ann.sign_in(TOKENS["ann"])
            found = ann.get(page)
            assert "Before it, in order: 20260202110000_" in found.words
            assert "Apply all 2" in found.words
            assert found.text.index("What it costs") < found.text.index("Apply all 2")
            plan = ann.json(page)["plan"]
            assert [one["version"] for one in plan] == [20260202110000, version]
            assert all(step["text"].split("`")[0] in found.words for one in plan for step in one["steps"])
            mark = field(found, "mark")
            assert ann.post(f"{page}/apply", None, reason="", mark=mark).status == 400
            assert ann.post(f"{page}/apply", None, reason="r", mark="older").status == 409
            assert db.schema.version == 20260126083000
            answer = ann.post(f"{page}/apply", None, reason="the names of zones", mark=mark)
            assert answer.status == 303, answer.words
            assert "Applied" in ann.get(page).words
            assert db.schema.version == version
            (entry,) = db.past.log(after=db.head - 1)
            assert (entry.actor, entry.reason) == ("ann", "the names of zones")
            assert ann.post(f"{page}/apply", None, reason="again", mark=mark).status == 409


def test_a_plan_is_computed_once_for_the_pages_of_a_session_and_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, plan = list[int](), RemoteMigrations.plan

    def counted(self: RemoteMigrations, *args: Any, **how: Any) -> Any:
        asked.append(how["to"])
        return plan(self, *args, **how)

    monkeypatch.setattr(RemoteMigrations, "plan", counted)
    page = "/db/flights/migrations/20260209154500"
    with at_version(20260126083000, "flights.migrations") as db:
        assert isinstance(db, EmbeddedDatabase)
        how: dict[str, Any] = {"tokens": TOKENS, "roles": {"ann": ("owner",)}}
        with console_of({"flights": db}, migrations={"flights": "flights.migrations"}, **how) as web:
            ann, elsewhere = Visitor(web.url), Visitor(web.url)
            for visitor in (ann, elsewhere):
                visitor.sign_in(TOKENS["ann"])
            assert ann.json(page)["plan"] == ann.json(page)["plan"]
            assert len(asked) == 1
            elsewhere.get(page)
            assert len(asked) == 2
            ann.get("/account")
            ann.post("/sign-out")
            ann.sign_in(TOKENS["ann"])
            ann.get(page)
            assert len(asked) == 3


def test_errors_of_a_plan_need_a_confirmation(project: Project) -> None:
    with waiting(project, index='Index("by_city", CITY, unique=True)') as server:
        ann = signed_in(server, "ann")
        page = ann.get(server.page)
        assert "Approve despite" in page.words
        answer = decide(ann, server.page, "approve", "why not")
        assert answer.status == 400
        assert "confirm that you approve it despite them" in answer.words
        assert "why not</textarea>" in answer.text
        answer = decide(ann, server.page, "approve", "why not", despite_errors="1")
        assert answer.status == 200
        wait_for(server, "failed")
        assert "Failed" in ann.get(server.page).words


def test_of_two_who_decide_at_once_the_second_gets_the_first_decision(project: Project) -> None:
    with waiting(project, rows=300, rate=2000) as server:
        visitors = [signed_in(server, name) for name in ("ann", "bob", "dora")]
        for one in visitors:
            one.get(server.page)
        page, answers = server.page, list[Answer]()
        ready = threading.Barrier(len(visitors))

        def send(one: Visitor, decision: str) -> None:
            ready.wait()
            answers.append(one.post(page, decision=decision, reason="at once"))

        threads = [
            threading.Thread(target=send, args=(one, decision))
            for one, decision in zip(visitors, ("approve", "reject", "approve"), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status for answer in answers) == [303, 409, 409]
        for answer in answers:
            if answer.status == 409:
                assert "is already decided" in answer.words or "was not recorded" in answer.words
        decisions = [one.step for one in server.proposal().events if one.step in {"approved", "rejected"}]
        assert len(decisions) == 1
        if decisions == ["approved"]:
            wait_for(server, "finished")


def test_a_page_that_is_older_than_the_decision_gets_the_decision(project: Project) -> None:
    with waiting(project) as server:
        ann, bob = signed_in(server, "ann"), signed_in(server, "bob")
        bob.get(server.page)
        decide(ann, server.page, "reject", "the index is missing")
        answer = bob.post(server.page, decision="approve", reason="fine by me")
        assert answer.status == 409
        assert "is already decided: rejected since commit" in answer.words
        assert "by ann (the index is missing)" in answer.words


def test_two_versions_are_completed_or_rolled_back(project: Project) -> None:
    with waiting(project, hold=True) as server:
        ann = signed_in(server, "ann")
        decide(ann, server.page, "approve", "with both")
        wait_for(server, "switched")
        page = ann.get(server.page)
        assert "Two versions are served" in page.words
        assert f"airports serves two versions, during {SECOND}_add_cities" in ann.get("/").words
        one = f"{LIST}/{SECOND}"
        back = ann.get(f"{one}/rollback")
        assert "What would be lost" in back.words
        assert f"add_cities {SECOND}" in back.words
        ann.get(one)
        assert ann.post(f"{one}/complete", reason="all are new", mark="old").status == 409
        mark = field(ann.get(one), "mark")
        done = ann.post(f"{one}/complete", reason="all are new", mark=mark)
        assert done.status == 303
        assert "Applied" in ann.get(one).words
        assert "“all are new”" in ann.get(one).words
        carl = signed_in(server, "carl")
        assert "carl may not roll it back" in carl.get(f"{one}/rollback").words
        carl.get(one)
        assert carl.post(f"{one}/rollback", reason="x", mark=mark, sure="1").status in {403, 409}
        back = ann.get(f"{one}/rollback")
        mark = field(back, "mark")
        if "I have read what would be lost" in back.words:
            assert ann.post(f"{one}/rollback", reason="slow", mark=mark).status == 400
        assert ann.post(f"{one}/rollback", reason="slow", mark=mark, sure="1").status == 303
        wait_for(server, "rolled_back")
        assert "Rolled back" in ann.get(LIST).words
        assert "Rolled back" in ann.get(one).words


def test_a_prepared_migration_names_its_decision_and_has_no_button(project: Project) -> None:
    with waiting(project) as server:
        ann, decision = signed_in(server, "ann"), bytes(15) + b"\x07"
        migrations.prepare(server.db, decision, server.path)
        waits, one = "00000000-0000-0000-0000-000000000007", f"{LIST}/{SECOND}"
        assert f"Migration {SECOND}_add_cities of airports is prepared" in ann.get("/").words
        assert f"waits for decision {waits}" in ann.get("/").words
        [found, _] = ann.json(LIST)["migrations"]
        assert (found["state"], found["prepared"], found["decision_id"]) == ("Prepared", True, waits)
        page = ann.get(one)
        assert f"It waits for decision {waits}" in page.words
        assert "Cancel the migration" not in page.words
        refused = decide(ann, server.page, "approve", "go")
        assert refused.status == 409
        assert "is already decided: superseded since commit" in refused.words
        migrations.commit_prepared(server.db, decision)
        assert "Applied" in ann.get(one).words


def field(page: Answer, name: str) -> str:
    """Return the value of a hidden field."""
    _, _, rest = page.text.partition(f'name="{name}" value="')
    assert rest, page.words
    return rest.partition('"')[0]


def test_a_running_migration_shows_its_progress_and_is_cancelled(project: Project) -> None:
    with waiting(project, rows=2000, rate=200) as server:
        ann = signed_in(server, "ann")
        answer = decide(ann, server.page, "approve", "go")
        assert "Running" in answer.words or "Approved" in answer.words
        for commit in server.db.feed():
            if commit.HasField("migration") and commit.migration.rows:
                break
        page = ann.get(server.page)
        assert "Running" in page.words
        assert "of 2,0" in page.words
        assert "Time left" in page.words
        assert f"Migration {SECOND}_add_cities of airports is running" in ann.get("/").words
        one = f"{LIST}/{SECOND}"
        mark = field(ann.get(one), "mark")
        done = ann.post(f"{one}/cancel", reason="it slows the shop down", mark=mark)
        assert done.status == 303, done.words
        wait_for(server, "rolled_back")
        page = ann.get(server.page)
        assert "Cancelled" in page.words
        assert "“it slows the shop down”" in page.words
        assert "Propose again" in page.words


def test_without_tokens_the_form_asks_for_a_name(project: Project) -> None:
    with waiting(project, tokens=None) as server:
        visitor = Visitor(server.url)
        assert "Your name" in visitor.get(server.page).words
        answer = decide(visitor, server.page, "reject", "no name")
        assert answer.status == 400
        assert "expected your name" in answer.words
        decide(visitor, server.page, "reject", "no time", actor="zoe")
        assert "zoe (claimed) rejected it" in visitor.get(server.page).words


def test_pages_stay_when_the_folders_are_gone_or_cannot_be_used(project: Project) -> None:
    with waiting(project) as server:
        ann = signed_in(server, "ann")
        folder = server.path / f"v{SECOND}_add_cities"
        whole = (folder / "model.proto").read_text()
        (folder / "model.proto").write_text(whole.replace("city", "town"))
        page = ann.get(server.page)
        assert page.status == 200
        assert "string city = 3" in page.words.replace("  ", " ")
        answer = decide(ann, server.page, "approve", "as proposed")
        assert answer.status == 409
        (folder / "model.proto").write_text(whole)
        folder.rename(folder.parent / "elsewhere")
        assert ann.get(server.page).status == 200
        assert ann.get(LIST).status == 200
        (folder.parent / "elsewhere").rename(folder)


def test_work_that_has_not_begun_in_time_is_shown_later_with_its_error() -> None:
    work, key, go = Work(), Key("ann", "airports/1"), threading.Event()

    def call(began: Callable[[], None]) -> None:
        assert go.wait(30)
        began()
        raise MigrationError("a row has no city")

    assert work.news(key) is None
    assert not work.start(key, call, wait_s=0)
    assert work.news(key) == ""
    assert work.news(Key("bob", "airports/1")) is None
    go.set()
    while (news := work.news(key)) in {"", None}:
        pass
    assert news == "a row has no city"
    assert work.news(key) is None
    with pytest.raises(MigrationError, match="a row has no city"):
        work.start(key, lambda _: call(lambda: None))
    assert work.start(key, lambda began: began())
