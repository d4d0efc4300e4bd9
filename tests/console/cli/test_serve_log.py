"""The log of a server, read from the standard error of its process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.store.database import Database
from everlog.store.errors import DiskError, UnavailableError
from tests.console import shop
from tests.console.conftest import Run
from tests.console.served import fetch, serving
from tests.rpc.certificates import Authority
from tests.store.models import ITEMS, Item, declare

JSON = ("--log-format", "json")
SECRET, MARK = "s3same-0pen", "Wilhelmina"


def test_start_calls_followers_and_stop_are_logged(everlog: Run, books: Path, here: Path) -> None:
    (here / "tokens").write_text(f"ann {SECRET} owner\n")
    (here / "tokens").chmod(0o600)
    with serving(*JSON, "--slow-ms", "0.001", "--tokens", "tokens", cwd=here, log=True) as served:
        started = served.logged("server.started")
        assert started["level"] == "info"
        assert (started["tls"], started["tokens"]) == (False, 1)
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", started["time"])
        with pytest.raises(UnavailableError), RemoteDatabase(f"{served.url}?token=wrong", retry_s=0) as db:
            db.admin.status()
        denied = served.logged("call.denied")
        assert (denied["level"], denied["identity"], denied["database"]) == ("warning", "", "")
        assert denied["peer"].startswith("127.0.0.1:")
        url = f"{served.url}?token={SECRET}"
        assert everlog("-u", url, "scan", "books").code == 0
        while (slow := served.logged("call.slow"))["method"] != "Store/Scan":
            pass
        assert (slow["database"], slow["identity"], slow["table"]) == ("books", "ann", "books")
        assert (slow["status"], slow["rows"]) == ("OK", 1)
        assert slow["ms"] >= 0
        assert (
            everlog("-u", url, "follow", "--to", "sqlite:copy.db", "--once", "--consumer", "copy").code == 0
        )
        assert served.logged("consumer.registered")["consumer"] == "copy"
        began, ended = served.logged("feed.began"), served.logged("feed.ended")
        assert began["identity"] == ended["identity"] == "ann"
        os.kill(served.process.pid, signal.SIGHUP)
        assert served.logged("reload.done")["level"] == "warning"
        os.kill(served.process.pid, signal.SIGTERM)
        served.logged("server.stopping")
        served.logged("server.stopped")
        assert served.process.wait(30) == 0


def test_neither_secrets_nor_rows_are_logged_at_any_level(everlog: Run, books: Path, here: Path) -> None:
    (here / "tokens").write_text(f"ann {SECRET} owner\n")
    (here / "tokens").chmod(0o600)
    how = (*JSON, "--log-level", "debug", "--slow-ms", "0.001", "--tokens", "tokens")
    with serving(*how, cwd=here, log=True) as served:
        url = f"{served.url}?token={SECRET}"
        (here / "rows.csv").write_text(f"isbn,volume,title\n{MARK},1,{MARK}\n{MARK},x,{MARK}\n")
        everlog("-u", url, "import", "books", "rows.csv")
        (here / "rows.csv").write_text(f"isbn,volume,title\n{MARK},1,{MARK}\n")
        assert everlog("-u", url, "import", "books", "rows.csv").code == 0
        for words in (("get", "books", MARK, "1"), ("history", "books", MARK, "1"), ("get", "books", MARK)):
            everlog("-u", url, *words)
        everlog("-u", f"{served.url}?token={SECRET}x", "status")
        os.kill(served.process.pid, signal.SIGTERM)
        assert served.process.stderr is not None
        text = served.process.stderr.read()
        assert served.process.wait(30) == 0
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert '"method":"Store/Get"' in text
    assert MARK not in text
    assert SECRET not in text


def test_text_is_the_default_and_repeated_lines_are_counted(everlog: Run, books: Path) -> None:
    with serving(log=True, EVERLOG_TOKEN=SECRET) as served:
        for _ in range(5):
            with (
                contextlib.suppress(UnavailableError),
                RemoteDatabase(served.url, retry_s=0) as db,
            ):
                db.admin.status()
        os.kill(served.process.pid, signal.SIGTERM)
        assert served.process.stderr is not None
        lines = served.process.stderr.read().splitlines()
        assert served.process.wait(30) == 0
    denied = [line for line in lines if " call.denied " in line]
    assert all(re.match(r"\S+Z warning call\.denied - - \S+ was denied: ", line) for line in denied)
    first, last = denied
    assert "left_out=" not in first
    assert int(last.rpartition(" left_out=")[2]) >= 3


def test_migrations_and_approvals_are_logged(everlog: Run, one: Path) -> None:
    title = f"{shop.SECOND}_index_books"
    with serving("--migrate", "auto", "--actor", "deploy", *JSON, log=True) as served:
        for event in ("migration.started", "migration.finished"):
            found = served.logged(event)
            assert (found["database"], found["identity"], found["migration"]) == ("books", "deploy", title)
        everlog("-u", served.url, "rollback", "--yes", "--actor", "bob", "--reason", "later")
        assert served.logged("migration.rolled_back")["identity"] == "bob"


@pytest.mark.long
def test_approvals_are_logged(everlog: Run, one: Path) -> None:
    with serving("--migrate", "checked", "--actor", "deploy", *JSON, log=True) as served:
        proposed = served.logged("proposal.proposed")
        assert (proposed["identity"], proposed["database"]) == ("deploy", "books")
        (proposal,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
        everlog("-u", served.url, "reject", proposal["digest"], "--actor", "bob", "--reason", "no")
        assert served.logged("proposal.rejected")["identity"] == "bob"


def test_a_certificate_that_ends_is_logged(everlog: Run, books: Path, here: Path) -> None:
    certificate, key = Authority(here).sign("localhost", days=3)
    with serving("--tls-cert", str(certificate), "--tls-key", str(key), *JSON, log=True) as served:
        assert "ends on" in served.logged("certificate.ends")["message"]


@pytest.mark.long
def test_a_full_disk_is_logged_and_its_end(small_disk: Path) -> None:
    with Database(small_disk / "db") as db:
        declare(db, ITEMS)
    url = f"full=file:{small_disk / 'db'}"
    with serving(url, *JSON, log=True) as served, RemoteDatabase(served.url) as db:
        with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
            file.write(bytes(64 << 20))
        with contextlib.suppress(DiskError):
            for number in range(1000):
                db.put(ITEMS, Item(id=number, text=os.urandom(100_000).hex()))
        refused = served.logged("writes.refused")
        assert (refused["database"], refused["full"], refused["level"]) == ("full", True, "warning")
        (small_disk / "ballast").unlink()
        assert served.logged("writes.accepted")["seconds"] > 0


def test_a_server_serves_its_metrics(everlog: Run, books: Path, here: Path) -> None:
    (here / "token").write_text(f"{SECRET}\n")
    (here / "token").chmod(0o600)
    how = ("--metrics", "127.0.0.1:0", "--metrics-token-file", "token")
    with serving(*how, cwd=here) as served:
        assert served.process.stdout is not None
        url = json.loads(served.process.stdout.readline())["metrics"]
        assert everlog("-u", served.url, "scan", "books").code == 0
        assert fetch(url)[0] == 401
        status, headers, body = fetch(url, Authorization=f"Bearer {SECRET}")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        assert 'everlog_table_rows{database="books",table="books"} 1.0' in body
        assert 'everlog_migrations{database="books",state="applied"} 2.0' in body
        assert 'everlog_calls_total{method="Store/Scan",status="OK"} 1.0' in body
        assert SECRET not in body
    ended = everlog("serve", "--listen", "127.0.0.1:0", "--metrics-public")
    assert (ended.code, "--metrics-public would have no effect without --metrics" in ended.err) == (2, True)
    ended = everlog("serve", "--listen", "127.0.0.1:0", "--metrics", "0.0.0.0:0")
    assert (ended.code, "metrics on 0.0.0.0 could be read from other machines" in ended.err) == (1, True)
