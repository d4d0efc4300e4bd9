"""Servers that wait for approval, in their own processes, with real clients, pages and receivers."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

import everlog as room
from everlog import migrations
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.console import shop
from tests.console.conftest import Run
from tests.console.served import serving
from tests.console.web.visitor import Visitor
from tests.migrations.receiver import Receiver

TOLD = ["waits for approval", "is approved", "has started", "has finished"]


def events(found: dict[str, Any]) -> list[str]:
    return [event["step"] for event in found["events"]]


def test_checked_serves_the_version_that_is_there_until_somebody_approves(
    everlog: Run, one: Path, project: Path
) -> None:
    with serving("--migrate", "checked", "--actor", "deploy", "--reason", "release 7") as served:
        at = ("-u", served.url)
        assert everlog(*at, "get", "books", "978-0", "1").code == 0
        (status,) = everlog(*at, "status", "--json").json
        assert (status["schema_version"], status["pending"]) == (shop.FIRST, 1)
        (found,) = everlog(*at, "migrations", "proposals", "--json").json
        assert (found["state"], events(found)) == ("waiting", ["proposed"])
        assert found["url"] == f"{served.console}/migrations/{found['digest']}"
        with pytest.raises(room.MigrationError, match="waiting for approval") as caught:
            room.open(served.url, migrations=project)
        assert found["url"] in str(caught.value)
        for words, says in (
            (("up",), "is migrated after approval, not by `up`"),
            (("approve", found["digest"][:8], "--reason", "go"), "pass --actor"),
            (("approve", found["digest"][:8], "--actor", "ann"), "expected a reason"),
            (("approve", found["digest"], "--actor", "deploy", "--reason", "go"), "may not approve it"),
            (("approve", "abc", "--actor", "ann", "--reason", "go"), "expected the digest of a proposal"),
        ):
            ended = everlog(*at, *words)
            assert (ended.code, says in ended.err) == (1, True), ended.err
        done = everlog(*at, "approve", found["digest"][:8], "--actor", "ann", "--reason", "looked at it")
        assert done.out.startswith(f"Finished: {found['digest'][:12]}, migration to {shop.SECOND}\n")
        with room.open(served.url, migrations=project) as db:
            assert db.schema.version == shop.SECOND
        text = everlog(*at, "migrations", "proposals", "--verbose").out
        for word in (
            "deploy  release 7",
            "approved  ann  looked at it",
            "finished",
            "build index books.by_title",
        ):
            assert word in text
    assert "approved  ann  looked at it" in everlog("migrations", "proposals").out


def test_the_page_of_a_plan_is_html_or_json(everlog: Run, one: Path, project: Path) -> None:
    with serving("--migrate", "checked", "--reason", "<script>") as served:
        (found,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
        digest = found["digest"]
        whole = served.page(digest)
        sources = whole.pop("sources")
        assert whole == found
        assert served.page(digest[:10]) == whole | {"sources": sources}
        (folder,) = project.glob(f"v{shop.SECOND}_*")
        assert sources[folder.name].keys() == found["plan"]["migrations"][0]["files"].keys()
        for path, text in sources[folder.name].items():
            assert text == (folder / path).read_text()
        status, headers, html = served.get(f"/migrations/{digest}", Accept="text/html,*/*;q=0.8")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'self'" in headers["content-security-policy"]
        for part in (digest, "build index books.by_title", "&lt;script&gt;", "Waiting for approval"):
            assert part in html
        assert "<script>" not in html
        assert "<code>model.proto</code>" in html
        assert digest in served.get("/migrations")[2]
        listed = json.loads(served.get("/migrations", Accept="application/json")[2])
        assert listed == {"proposals": [found], "problems": {}}
        assert served.get("/migrations/ffffffffffff")[0] == 404
        assert served.get("/etc/passwd")[0] == 404
        assert served.get("/migrations", Host="evil.example")[0] == 421
        assert served.get("/migrations", Host="[")[0] == 421
        answer = served.get("/migrations", Accept="text/html;q=0.1, application/json")
        assert answer[1]["content-type"] == "application/json"


@pytest.mark.long
def test_operators_are_told_of_each_event_once_across_restarts(everlog: Run, one: Path) -> None:
    with Receiver() as receiver:
        how = ("--migrate", "checked", "--notify", receiver.url, "--actor", "deploy")
        with serving(*how) as served:
            (first,) = receiver.wait_for(1)
            (found,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
            assert first["title"] == f"books: the migration to {shop.SECOND} waits for approval"
            assert found["url"] in first["message"]
            assert first["type"] == "warning"
        with serving(*how, kill=True):
            pass
        with serving(*how) as served:
            everlog("-u", served.url, "approve", found["digest"], "--actor", "ann", "--reason", "yes")
            receiver.wait_for(4)
        with Receiver() as other, serving(*how, "--notify", other.url):
            other.wait_for(4)  # after the first, which was notified of nothing
        words = [title.removeprefix(f"books: the migration to {shop.SECOND} ") for title in receiver.titles]
        assert words == TOLD


@pytest.mark.long
def test_a_rejection_is_told_and_holds_until_it_is_proposed_again(everlog: Run, one: Path) -> None:
    with Receiver() as receiver:
        how = ("--migrate", "checked", "--notify", receiver.url)
        with serving(*how) as served:
            (found,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
            by = ("--actor", "bob", "--reason", "not on a Friday")
            ended = everlog("-u", served.url, "reject", found["digest"][:6], *by)
            assert ended.out.startswith("Rejected: ")
            assert "not on a Friday" in receiver.wait_for(2)[1]["message"]
        with serving(*how) as served:
            again = everlog("-u", served.url, "propose", "--actor", "cy", "--reason", "it is Monday")
            assert again.out.startswith("Waiting: ")
            assert receiver.wait_for(3)[2]["title"].endswith("waits for approval")
            both = everlog("-u", served.url, "migrations", "proposals", "--json").json
            assert [one["state"] for one in both] == ["rejected", "waiting"]


def test_an_approval_of_what_was_edited_meanwhile_is_refused_and_the_old_version_goes_on(
    everlog: Run, one: Path, project: Path
) -> None:
    with serving("--migrate", "checked") as served:
        (found,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
        folder = next(project.glob(f"v{shop.SECOND}_*"))
        edited = folder / "__init__.py"
        before = edited.read_text()
        try:
            edited.write_text(before + "# edited\n")
            ended = everlog("-u", served.url, "approve", found["digest"], "--actor", "ann", "--reason", "yes")
        finally:
            edited.write_text(before)
        assert ended.code == 1
        assert f"{shop.SECOND}_index_books was edited: __init__.py has changed" in ended.err
        assert everlog("-u", served.url, "get", "books", "978-0", "1").code == 0
        states = [one["state"] for one in everlog("-u", served.url, "migrations", "proposals", "--json").json]
        assert states == ["superseded", "waiting"]


def test_tokens_have_names_and_approvers_are_named(everlog: Run, one: Path, here: Path) -> None:
    tokens = here / "tokens"
    tokens.write_text("# who may come\nann sesame owner\nbob thyme owner\n")
    how = ("--migrate", "checked", "--tokens", str(tokens), "--approver", "bob")
    with serving(*how) as served:
        (found,) = everlog("-u", f"{served.url}?token=sesame", "migrations", "proposals", "--json").json
        words = ("approve", found["digest"], "--reason", "yes")
        ended = everlog("-u", f"{served.url}?token=sesame", *words, "--actor", "bob")
        assert "the request names bob as actor, its token is that of ann" in ended.err
        assert "ann may not approve" in everlog("-u", f"{served.url}?token=sesame", *words).err
        assert "refuses the call" in everlog("-u", served.url, *words).err
        assert everlog("-u", f"{served.url}?token=thyme", *words).code == 0
        (found,) = everlog("-u", f"{served.url}?token=thyme", "migrations", "proposals", "--json").json
        assert {event["proof"] for event in found["events"][1:]} == {"token"}
        text = everlog("-u", f"{served.url}?token=thyme", "migrations", "proposals").out
        assert "approved  bob  yes  (token)" in text
        visitor = Visitor(served.console)
        visitor.sign_in("thyme")
        assert "bob (token) approved it" in visitor.get(f"/migrations/{found['digest']}").words
        (status,) = everlog("-u", f"{served.url}?token=thyme", "status", "--json").json
        assert status["pending"] == 0


def test_without_a_server_it_is_proposed_and_approved_where_the_files_are(
    everlog: Run, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert everlog("propose", "--actor", "deploy").out.startswith("Waiting: ")
    (found,) = everlog("migrations", "proposals", "--json").json
    monkeypatch.setenv("EVERLOG_APPROVERS", "ann bob")
    words = ("approve", found["digest"][:6], "--reason", "yes", "--actor")
    assert "the approvers are: ann, bob" in everlog(*words, "cy").err
    assert everlog(*words, "ann").out.startswith("Finished: ")
    assert "approved  ann  yes  (claimed)" in everlog("migrations", "proposals").out
    assert {event["proof"] for event in everlog("migrations", "proposals", "--json").json[0]["events"]} == {
        "claimed"
    }
    assert "approved (claimed)" in everlog("log", "--kind", "migration").out
    assert everlog("propose").out == "Nothing to propose: the database is up to date\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--console-listen", "0.0.0.0:0"), 1, "could be read from other machines"),
        (("--console-listen", "nowhere"), 2, "expected --console as HOST:PORT"),
        (("--notify", "nonsense://x", "--console-listen", "127.0.0.1:0"), 1, "unsupported scheme 'nonsense'"),
    ],
)
def test_what_cannot_be_is_said(
    everlog: Run, one: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    ended = everlog("serve", "--migrate", "checked", "--listen", "127.0.0.1:0", *words)
    assert (ended.code, says in ended.err) == (code, True), ended.err
    gc.collect()  # reports a socket that was left open
    assert "://x" not in ended.err


@pytest.mark.long
@pytest.mark.parametrize(("ends", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
def test_a_server_that_ends_while_it_applies_is_followed_by_one_that_goes_on(
    everlog: Run, one: Path, project: Path, ends: signal.Signals, code: int
) -> None:
    table = migrations.load(project)[0].tables[0]
    with Receiver() as receiver:
        how = ("--migrate", "checked", "--notify", receiver.url)
        with serving(*how, "--rate", "500", kill=True) as served, RemoteDatabase(served.url) as db:
            db.load(table, (table.model(isbn=f"b{number}", volume=1) for number in range(3000)))
            (found,) = db.migrations.proposals()
            words = [sys.executable, "-m", "everlog.console", "-u", served.url, "approve", found.short]
            with subprocess.Popen([*words, "--actor", "ann", "--reason", "yes"]) as approving:
                seen: set[str] = set()  # until it has started, and this was sent and recorded
                for commit in db.feed():
                    seen.add(commit.notice.subject.rpartition("/")[2] or str(commit.migration.step))
                    if {str(log_pb2.Migration.STARTED), "proposed", "approved", "started"} <= seen:
                        break
                served.process.send_signal(ends)
                assert (approving.wait(60), served.process.wait(60)) == (1, code)
        with serving(*how) as served:
            titles = [message["title"] for message in receiver.wait_for(4)]
            assert [title.rpartition(f"{shop.SECOND} ")[2] for title in titles] == TOLD
            with room.open(served.url, migrations=project) as opened:
                assert opened.count(table) == 3001
            (done,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
            assert (done["state"], done["digest"]) == ("finished", found.digest.hex())
            assert everlog("-u", served.url, "check").code == 0


@pytest.mark.long
def test_what_was_rolled_back_is_logged_told_and_not_proposed_again_by_a_restart(
    everlog: Run, one: Path, project: Path
) -> None:
    by = ("--actor", "ann", "--reason", "yes")
    with Receiver() as receiver:
        how = ("--migrate", "checked", "--notify", receiver.url, "--actor", "deploy")
        with serving(*how) as served:
            at = ("-u", served.url)
            (found,) = everlog(*at, "migrations", "proposals", "--json").json
            assert everlog(*at, "approve", found["digest"], *by).code == 0
            assert everlog(*at, "rollback", "--actor", "bob", "--reason", "it was a slip").code == 0
            (after,) = everlog(*at, "migrations", "proposals", "--json").json
            assert (after["state"], events(after)[-1]) == ("rolled back", "rolled_back")
            assert "bob" in everlog(*at, "migrations", "proposals").out.splitlines()[-2]
            assert "rolled it back" in served.get(f"/migrations/{found['digest']}")[2]
            title = f"{shop.SECOND}_index_books was rolled back"  # two threads: any order
            (message,) = [one for one in receiver.wait_for(5) if one["title"].endswith(title)]
            assert "Rolled back by bob (claimed): it was a slip" in message["message"]
        with serving(*how) as served:
            at = ("-u", served.url)
            with pytest.raises(room.MigrationError, match=r"was rolled back by bob \(it was a slip\)"):
                room.open(served.url, migrations=project)
            assert len(everlog(*at, "migrations", "proposals", "--json").json) == 1
            assert everlog(*at, "propose", "--actor", "cy").out.startswith("Waiting: ")
            receiver.wait_for(6)
    assert receiver.titles[-1].endswith("waits for approval")


@pytest.mark.long
def test_who_may_approve_cancels_a_migration_while_the_server_builds_it(
    everlog: Run, one: Path, project: Path, here: Path
) -> None:
    table = migrations.load(project)[0].tables[0]
    tokens = here / "tokens"
    tokens.write_text("ann sesame owner\nbob thyme owner\ncy basil owner\n")
    tokens.chmod(0o600)
    how = ("--migrate", "checked", "--tokens", str(tokens), "--approver", "ann", "--approver", "bob")
    with serving(*how, "--rate", "100", kill=True) as served:
        ann, bob, cy = (f"{served.url}?token={token}" for token in ("sesame", "thyme", "basil"))
        with RemoteDatabase(ann) as db:
            db.load(table, (table.model(isbn=f"b{number}", volume=1) for number in range(3000)))
            hashes = db.admin.hashes()
            (found,) = db.migrations.proposals()
            words = [sys.executable, "-m", "everlog.console", "-u", ann, "approve", found.short]
            with subprocess.Popen([*words, "--reason", "yes"], stderr=subprocess.PIPE) as approving:
                for commit in db.feed():
                    if commit.migration.step == log_pb2.Migration.STARTED:
                        break
                for who, more, says in (
                    (cy, ("--reason", "no"), "cy may not cancel a migration of books"),
                    (bob, ("--reason", ""), "expected a reason"),
                ):
                    assert says in everlog("-u", who, "migrations", "cancel", *more).err
                ended = everlog("-u", bob, "migrations", "cancel", "--reason", "it is slow")
                assert ended.out.startswith(f"Cancelled: {shop.SECOND}_index_books (commit "), ended.err
                assert approving.stderr is not None
                assert b"it was cancelled by bob (it is slow)" in approving.stderr.read()
                assert approving.wait(60) == 1
            assert db.admin.hashes() == hashes
        assert "is in progress" in everlog("-u", bob, "migrations", "cancel", "--reason", "again").err
    with serving(*how) as served:
        (done,) = everlog("-u", f"{served.url}?token=sesame", "migrations", "proposals", "--json").json
        assert (done["state"], done["events"][-1]["actor"]) == ("rejected", "bob")
        assert everlog("-u", f"{served.url}?token=sesame", "check").code == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "wrong",
    ["syntax", "edited", "not built", "gone"],
)
def test_a_bad_folder_is_reported_and_the_version_that_is_there_is_served(
    everlog: Run, one: Path, project: Path, tmp_path: Path, wrong: str
) -> None:
    own = shutil.copytree(project.parent, tmp_path / "own" / project.parent.name) / project.name
    (first,), (second,) = own.glob(f"v{shop.FIRST}_*"), own.glob(f"v{shop.SECOND}_*")
    if wrong == "edited":
        (first / "__init__.py").write_text((first / "__init__.py").read_text() + "EDITED = 1\n")
    elif wrong == "syntax":
        (second / "__init__.py").write_text("def up(:\n")
    elif wrong == "not built":
        (second / "model_pb2.py").unlink()
    else:
        own.rename(own.parent / "elsewhere")
    problem, message = "", dict[str, str]()
    with Receiver() as receiver:
        how = ("--migrate", "checked", "--notify", receiver.url, "-d", str(own))
        for _ in range(2 if wrong == "syntax" else 1):
            with serving(*how) as served:
                at = ("-u", served.url)
                assert everlog(*at, "get", "books", "978-0", "1").code == 0
                (status,) = everlog(*at, "status", "--json").json
                problem = status["migrations_problem"]
                assert status["schema_version"] == shop.FIRST
                assert f"cannot be applied, and version {shop.FIRST} is served" in everlog(*at, "status").out
                assert everlog(*at, "status", "--quiet").code == 1
                assert everlog(*at, "propose", "--actor", "ann").code > 0
                assert escape(problem) in served.get("/migrations")[2]
                assert health(served.url, "") == "SERVING"
                assert health(served.url, "books/migrations") == "NOT_SERVING"
                (message,) = receiver.wait_for(1)
    assert problem
    assert problem in message["message"]
    assert (message["title"], message["type"]) == ("books: pending migrations cannot be applied", "failure")


@pytest.mark.parametrize(
    "wrong",
    ["syntax", *(pytest.param(one, marks=pytest.mark.long) for one in ("edited", "gone", "no directory"))],
)
def test_without_a_mode_a_bad_folder_under_way_is_reported_and_goes_on_once_it_is_mended(
    everlog: Run, one: Path, project: Path, tmp_path: Path, wrong: str
) -> None:
    own = shutil.copytree(project.parent, tmp_path / "own" / project.parent.name) / project.name
    (second,) = own.glob(f"v{shop.SECOND}_*")

    def stop(step: Progress) -> None:
        if step.done and "index" in step.step:
            raise KeyboardInterrupt

    with Database(one) as db:
        table = migrations.load(project)[0].tables[0]
        db.load(table, (table.model(isbn=f"b{number}", volume=1) for number in range(3000)))
        with pytest.raises(KeyboardInterrupt):
            migrations.apply(db, project, progress=stop)
    whole, source = (second / "__init__.py"), (second / "__init__.py").read_text()
    if wrong in {"edited", "syntax"}:
        whole.write_text(source + ("EDITED = 1\n" if wrong == "edited" else "def up(:\n"))
    else:
        (second if wrong == "gone" else own).rename(tmp_path / "elsewhere")
    with serving("-d", str(own)) as served:
        at = ("-u", served.url)
        assert everlog(*at, "get", "books", "978-0", "1").code == 0
        (status,) = everlog(*at, "status", "--json").json
        assert status["migrations_problem"]
        assert status["schema_version"] == shop.FIRST
        assert everlog(*at, "status", "--quiet").code == 1
        assert health(served.url, "books/migrations") == "NOT_SERVING"
        assert everlog(*at, "up").code > 0
        if wrong in {"edited", "syntax"}:
            whole.write_text(source)
        else:
            (tmp_path / "elsewhere").rename(second if wrong == "gone" else own)
        assert everlog(*at, "up").code == 0
        (status,) = everlog(*at, "status", "--json").json
        assert (status["migrations_problem"], status["schema_version"]) == ("", shop.SECOND)
        assert health(served.url, "books/migrations") == "SERVING"
        assert everlog(*at, "check").code == 0


def health(url: str, name: str) -> str:
    """Return the health service's state of a name."""
    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found.status))
