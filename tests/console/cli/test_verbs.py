"""Every command, with each way in which it can end: success, refusal, misuse, interruption, closed streams.

VERBS has, for each verb, a command line that succeeds, one that is refused, and what is run before. A new
verb without a line here fails the first test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from everlog.console.cli.main import COMMANDS, READERS, command
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console import shop
from tests.console.conftest import Run
from tests.console.test_streams import ended


class Verb(NamedTuple):
    """Command lines, as in a shell. `silent`: success prints nothing."""

    done: str
    refused: str
    before: str = ""
    silent: bool = False


DECISION = "01980f3e-0000-7000-8000-000000000001"
NOWHERE, NOBODY = "-u file:nowhere.db", "-u everlog+insecure://127.0.0.1:1/x"
VERBS = {
    "new": Verb("new more", "new a/b"),
    "build": Verb("build --force", ""),
    "lint": Verb("lint", f"{NOBODY} lint"),
    "up": Verb("up", f"{NOBODY} up"),
    "migrate": Verb("migrate", f"{NOWHERE} migrate"),
    "plan": Verb("plan", f"{NOBODY} plan"),
    "complete": Verb("", "complete"),
    "prepare": Verb(f"prepare {DECISION}", f"{NOWHERE} prepare"),
    "commit-prepared": Verb(
        f"commit-prepared {DECISION}", f"commit-prepared {DECISION}", f"prepare {DECISION}"
    ),
    "abort-prepared": Verb(f"abort-prepared {DECISION}", f"{NOWHERE} abort-prepared {DECISION}"),
    "rollback": Verb("rollback --yes", f"{NOWHERE} rollback --yes", "up"),
    "down": Verb("down --yes", f"{NOWHERE} down --yes", "up"),
    "status": Verb("status", f"{NOWHERE} status"),
    "health": Verb("health", f"{NOWHERE} health"),
    "dump": Verb("dump", f"{NOWHERE} dump"),
    "load": Verb("-u file:other.db load", "load", "dump"),
    "baseline": Verb(f"baseline {shop.FIRST}", "baseline 7"),
    "squash": Verb("squash --yes", f"{NOBODY} squash --yes", "up"),
    "create": Verb("-u file:new.db create", "-u everlog://db.example.com/x create"),
    "drop": Verb("drop --yes", "drop"),
    "wait": Verb("wait", f"{NOWHERE} wait --wait-timeout 0s"),
    "import": Verb(
        "import books books.jsonl", "import nowhere our.key --format csv", "export books books.jsonl"
    ),
    "export": Verb("export books", "export nowhere"),
    "testdata": Verb("testdata", f"{NOWHERE} testdata", "up"),
    "get": Verb("get books 978-0 1", "get books nobody 1"),
    "scan": Verb("scan books", "scan nowhere"),
    "history": Verb("history books 978-0 1", "history nowhere 1"),
    "diff": Verb("diff books 1", "diff nowhere 1"),
    "log": Verb("log", f"{NOWHERE} log"),
    "serve": Verb("", "serve a=everlog://db.example.com/x"),
    "console": Verb("", "console file:nowhere.db"),
    "top": Verb("", "top"),
    "kill": Verb("", "kill 7"),
    "propose": Verb("propose", f"{NOWHERE} propose"),
    "approve": Verb("", "approve 1234 --reason why"),
    "reject": Verb("", "reject 1234 --reason why"),
    "migrations proposals": Verb("migrations proposals", f"{NOWHERE} migrations proposals", "propose"),
    "migrations show": Verb(f"migrations show {shop.FIRST}", "migrations show 7"),
    "migrations cancel": Verb("", "migrations cancel"),
    "follow": Verb("follow --to sqlite:m.sqlite --once", "follow --to nowhere:x --once"),
    "access whoami": Verb("access whoami", f"{NOBODY} access whoami"),
    "access show": Verb("access show", f"{NOWHERE} access show"),
    "access audit": Verb("access audit books", "access audit nowhere"),
    "access reads": Verb("access reads --who ann", f"{NOWHERE} access reads", silent=True),
    "access roles": Verb("access roles", f"{NOWHERE} access roles"),
    "access explain": Verb(
        "access explain ann read",
        f"{NOWHERE} access explain ann read",
        "access grant ann reader --reason why",
    ),
    "access define": Verb("access define clerk --right read", "access define clerk --right fly"),
    "access remove-role": Verb(
        "access remove-role clerk", "access remove-role nobody", "access define clerk --right read"
    ),
    "access grant": Verb("access grant ann reader", "access grant ann nobody"),
    "access revoke": Verb("access revoke ann reader", "access revoke ann nobody", "access grant ann reader"),
    **{
        f"fleet {words.partition(' ')[0]}": Verb("", f"{NOBODY} fleet {words}")
        for words in (
            *("status", "watch", "upgrade", "abort", "remove shop", "contract", "drift", "plan", "plans"),
            *("approve 1f4c09 --reason why", "reject 1f4c09 --reason why"),
        )
    },
    **{
        f"fleet rollout {words.partition(' ')[0]}": Verb("", f"{NOBODY} fleet rollout {words}")
        for words in ("start 1f4c09", "status", "approve", "stop", "roll-back --reason why")
    },
    "token create": Verb("token create --name ann --role reader", "token create --name ann --role nobody"),
    "token list": Verb("token list", f"{NOWHERE} token list", "token create --name ann --role reader"),
    "token rotate": Verb("token rotate ann", "token rotate nobody", "token create --name ann --role reader"),
    "token revoke": Verb("token revoke ann", "token revoke nobody", "token create --name ann --role reader"),
    "api": Verb("api", ""),  # --json is its request
    "consumers": Verb("consumers", f"{NOWHERE} consumers"),
    "consumers register": Verb("consumers register mirror", f"{NOWHERE} consumers register mirror"),
    "consumers remove": Verb(
        "consumers remove mirror", "consumers remove nobody", "consumers register mirror"
    ),
    "check": Verb("check", f"{NOWHERE} check"),
    "expire": Verb("expire", f"{NOWHERE} expire"),
    "clock": Verb("clock", f"{NOWHERE} clock"),
    "rebuild": Verb("rebuild", f"{NOWHERE} rebuild"),
    "repair": Verb("repair", f"{NOWHERE} repair"),
    "forget": Verb("", "forget books 978-0 1 --reason why"),
    "rotate-key": Verb("", "rotate-key --to our.key"),
    "backup": Verb("backup copy", f"{NOWHERE} backup copy"),
    "verify-backup": Verb("verify-backup copy", "verify-backup nowhere", "backup copy"),
    "restore": Verb("restore copy again.db", "restore nowhere again.db", "backup copy"),
    "archive": Verb("archive old --keep-records 0", f"{NOWHERE} archive old --keep-records 0"),
    "keygen": Verb("keygen fresh.key", "keygen nowhere/fresh.key"),
    "checkpoint": Verb("checkpoint --key our.key", "checkpoint --key nowhere.key"),
    "prove": Verb("prove --seq 1 --key our.key", "prove --seq 99 --key our.key"),
    "verify": Verb(
        "verify proof --key our.vkey",
        "verify nowhere --key our.vkey",
        "prove --seq 1 --key our.key --out proof",
    ),
    "tiles": Verb("tiles tree --key our.key", "tiles tree --key nowhere.key"),
    "audit": Verb("audit", f"{NOWHERE} audit"),
    "cert dev": Verb("cert dev --dir made", "cert dev --dir made --client a/b"),
    "config": Verb("config", "--env-file nowhere.env config"),
    "accept": Verb("accept --reason why", "accept 7 --reason why"),
    "restore-folders": Verb("restore-folders --force", f"{NOWHERE} restore-folders"),
    "people export": Verb("", "people export books 978-0 1"),
    "people readable": Verb("", f"{NOWHERE} people readable"),
    "production": Verb("production", f"{NOWHERE} production"),
    "completion": Verb("completion zsh", ""),
}
DONE = [name for name, verb in VERBS.items() if verb.done]
REFUSED = [name for name, verb in VERBS.items() if verb.refused]


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """Return a project and its database at the first version, to be copied."""
    directory = tmp_path_factory.mktemp("begun")
    shutil.copytree(project.parent, directory / "verbs_shop", ignore=shutil.ignore_patterns("__pycache__"))
    variables = {
        **os.environ,
        "DATABASE_URL": "file:books.db",
        "EVERLOG_MIGRATIONS_DIR": "verbs_shop/migrations",
    }

    def run(*words: object) -> str:
        command = [sys.executable, "-m", "everlog.console", *map(str, words)]
        done = subprocess.run(
            command, cwd=directory, env=variables, capture_output=True, text=True, check=True
        )
        return done.stdout

    run("up", "--to", shop.FIRST)
    (directory / "our.vkey").write_text(run("keygen", "our.key").split()[-1])
    return directory


@pytest.fixture
def place(begun: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the path of a copy, which is the working directory."""
    shutil.copytree(begun, here, dirs_exist_ok=True)
    monkeypatch.setenv("DATABASE_URL", "file:books.db")
    monkeypatch.setenv("EVERLOG_MIGRATIONS_DIR", "verbs_shop/migrations")
    yield here
    for name in [name for name in sys.modules if name.partition(".")[0] == "verbs_shop"]:
        del sys.modules[name]


def names() -> Iterator[str]:
    for name in COMMANDS:
        yield from below(name)


def below(name: str) -> Iterator[str]:
    found = verb(name)
    if isinstance(found, click.Group):
        for more in found.list_commands(click.Context(found)):
            yield from below(f"{name} {more}")
        if not found.invoke_without_command:
            return
    yield name


def verb(name: str) -> click.Command:
    first, *rest = name.split()
    found = command(first)
    for more in rest:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), more)
        assert inner is not None
        found = inner
    return found


def test_every_verb_is_tried() -> None:
    assert set(names()) == set(VERBS)


@pytest.mark.parametrize("name", DONE)
def test_what_is_done_exits_with_0_and_141_where_nobody_reads(place: Path, name: str) -> None:
    tried = VERBS[name]
    assert not tried.before or ended(*tried.before.split()) == 0
    assert ended(*tried.done.split(), output="unread", error="unread") == (0 if tried.silent else 141)
    if name in READERS:
        assert ended(*tried.done.split(), output="full") == 1
        assert ended(*tried.done.split(), error="full") == 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_exits_with_1_whatever_the_streams_are(place: Path, everlog: Run, name: str) -> None:
    words = VERBS[name].refused.split()
    assert ended(*words, output="unread", error="full") == 1
    refused = everlog(*words, "--json")
    assert (refused.code, json.loads(refused.err.splitlines()[-1])["exit_code"]) == (1, 1)


@pytest.mark.parametrize("name", VERBS)
def test_a_wrong_command_line_exits_with_2(place: Path, name: str) -> None:
    assert ended(*name.split(), "--nonsense") == 2


@pytest.mark.parametrize("name", VERBS)
def test_what_is_stopped_exits_with_the_number_of_the_signal(
    place: Path, everlog: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verb(name)

    def stopped(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(found, "callback", stopped)
    monkeypatch.setattr(found, "params", [])
    assert ended(*name.split()) == 130


# Options of several commands, and the type of their value. A second meaning needs a second name.
MEANINGS = {
    "--actor": "WHO",
    "--at": "SEQ|TIME",
    "--before": "TIME",
    "--checkpoint": "FILE",
    "--console-oidc-client": "ID",
    "--console-oidc-issuer": "URL",
    "--console-oidc-scope": "SCOPE",
    "--console-oidc-secret-file": "FILE",
    "--console-oidc-token": None,
    "--console-proxy": "ADDRESS",
    "--console-upload-mb": "MIB",
    "--column": None,  # of a file to read, or to write
    "--console-url": "URL",
    "--deep": "",
    "--deadline": "DURATION",
    "--despite-errors": "",
    "--detach": "",
    "--dry-run": "",
    "--force": "",
    "--format": None,  # of findings, or of a file
    "--from": "URL",
    "--hold": "",
    "--interval": "DURATION",
    "--keep-days": "DAYS",
    "--keep-records": "N",
    "--listen": "HOST:PORT",
    "--limit": None,  # rows, versions, commits, proposals
    "--name": "NAME",
    "--null": "TEXT",
    "--once": "",
    "--origin": "TEXT",
    "--out": "FILE",
    "--out-of-order": "",
    "--person": "VALUE",
    "--fence": "N",
    "--rate": "ROWS",
    "--since": "TIME",
    "--reason": "WHY",
    "--select": "SELECTOR",
    "--signed-by": "VKEY",
    "--signing-key": "FILE",
    "--next-master-key": "FILE",
    "--survey-timeout": "DURATION",
    "--table": None,
    "--to-version": "VERSION",
    "--until": "SEQ",
    "--verify": "",
    "--yes": "",
}


def options() -> Iterator[tuple[str, str, str]]:
    """Yield command, option and metavar of every option in a help text, except options of all commands."""
    every = {param.opts[-1] for param in command("config").params}
    for name in names():
        for param in verb(name).params:
            if isinstance(param, click.Option) and not param.hidden:
                words = [word for word in param.opts if word not in getattr(param, "was", ())]
                longest = max(words, key=len)
                if longest not in every:
                    yield name, longest, "" if param.is_flag else param.metavar or ""


def test_an_option_means_one_thing() -> None:
    meanings: dict[str, set[str]] = {}
    users: dict[str, list[str]] = {}
    for name, option, metavar in options():
        meanings.setdefault(option, set()).add(metavar)
        users.setdefault(option, []).append(name)
    shared = {option for option, verbs in users.items() if len(verbs) > 1}
    assert shared == set(MEANINGS) & set(users), (
        "an option of several verbs is in MEANINGS, with its kind of value"
    )
    wrong = {
        option: meanings[option]
        for option in shared
        if MEANINGS[option] is not None and meanings[option] != {MEANINGS[option]}
    }
    assert not wrong


def test_what_cannot_be_undone_can_be_tried() -> None:
    tried = {name for name, option, _ in options() if option == "--dry-run"}
    assert {
        "archive",
        "complete",
        "drop",
        "expire",
        "forget",
        "import",
        "prepare",
        "repair",
        "rollback",
        "testdata",
        "up",
    } <= tried


@pytest.mark.parametrize(
    ("words", "code"),
    [("top", 0), ("top --once", 0), ("top --json", 0), ("top --connections", 0), ("kill 7", 1)],
)
@pytest.mark.parametrize("stream", ["unread", "full"])
def test_what_needs_a_server_ends_as_others_do(place: Path, words: str, code: int, stream: str) -> None:
    """Without a terminal, `top` prints once."""
    with EmbeddedDatabase("books.db") as db, Server({"books": db}) as server:
        url = server.url("books")
        assert ended("-u", url, *words.split()) == code
        lost = 1 if stream == "full" or code else 141
        assert ended("-u", url, *words.split(), output=stream, error="unread") == lost


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("expire --dry-run", "Would expire: 0 rows\n"),
        ("drop --dry-run", "Would drop: file:books.db, 1 row in 2 commits\n"),
        (
            "import books books.jsonl --dry-run",
            "Would import: 1 row of books",
        ),
        ("testdata --dry-run --scale 2", "Would load: 20 rows of books\n"),
        ("archive old --keep-records 0 --dry-run", "Nothing to archive: "),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    place: Path, everlog: Run, words: str, says: str
) -> None:
    if "testdata" in words:
        everlog("up")
    assert everlog("export", "books", "books.jsonl").code == 0
    before = everlog("log", "--json").out
    done = everlog(*words.split())
    assert (done.code, done.out.startswith(says)) == (0, True), done
    assert everlog("log", "--json").out == before
    assert not (place / "old").exists()


def test_the_test_data_that_was_loaded_is_listed(place: Path, everlog: Run) -> None:
    everlog("up")
    assert everlog("testdata", "--list").out == "No test data was loaded\n"
    assert everlog("testdata", "--scale", "2", "--yes").code == 0
    found = json.loads(everlog("testdata", "--list", "--json").out)
    assert (found["table"], found["rows"], found["scale"], found["finished"]) == ("books", 20, 2, True)
    assert everlog("testdata", "--list").out.startswith("20 rows of books (version 2026")
    again = everlog("testdata", "--version", str(found["version"]), "--scale", "2", "--yes")
    assert again.code == 0
    assert "has no folder" in everlog("testdata", "--version", "7", "--yes").err


def test_a_dry_run_of_an_import_finds_what_is_wrong(place: Path, everlog: Run) -> None:
    (place / "wrong.csv").write_text("isbn,volume\n978-1,many\n")
    ended_ = everlog("import", "books", "wrong.csv", "--dry-run")
    assert ended_.code == 1
    assert "wrong.csv:2" in ended_.err
