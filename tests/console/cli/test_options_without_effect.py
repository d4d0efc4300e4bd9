"""Options without effect in the chosen mode, mistyped words, and the effect of SIGHUP on a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.rpc.client.database import RemoteDatabase
from tests.console.conftest import Run
from tests.console.served import serving
from tests.migrations.receiver import Receiver
from tests.rpc.certificates import Authority

SERVE = ("serve", "--listen", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*SERVE, "--approver", "ann"), "--approver would have no effect without --migrate checked"),
        ((*SERVE, "--migrate", "auto", "--approver", "ann"), "--approver would have no effect"),
        ((*SERVE, "--approve-own", "--migrate", "auto"), "--approve-own would have no effect"),
        ((*SERVE, "--console-url", "http://x", "--migrate", "auto"), "--console-url would have no effect"),
        ((*SERVE, "--hold", "--rate", "5"), "--hold and --rate would have no effect without --migrate"),
        ((*SERVE, "--notify", "json://x"), "--notify would have no effect"),
        ((*SERVE, "--actor", "ann", "--reason", "x"), "--actor and --reason would have no effect"),
        ((*SERVE, "--tls-client-ca", "ca.pem"), "--tls-client-ca would have no effect"),
        ((*SERVE, "-d", "x", "--migrations", "y"), "--migrations-dir would have no effect beside"),
        (("-d", "x", *SERVE, "--migrations", "y"), "--migrations-dir would have no effect beside"),
        ((*SERVE, "-u", "file:x.db", "a=file:a.db"), "--url would have no effect beside NAME=URL"),
        ((*SERVE, "--schema-file", "x.txt"), "--schema-file would have no effect"),
        ((*SERVE, "--wait-timeout", "5s"), "--wait-timeout would have no effect without --wait"),
        (("up", "-u", "everlog://h/x", "-d", "x"), "--migrations-dir would have no effect at a server"),
        (("up", "--wait-timeout", "5s"), "--wait-timeout would have no effect without --wait"),
        (
            ("follow", "--to", "sqlite:x", "-u", "a", "--from", "b"),
            "--url would have no effect beside --from",
        ),
        (("follow", "--to", "sqlite:x", "-d", "x"), "--migrations-dir would have no effect"),
        (("backup", "x", "-d", "x"), "--migrations-dir would have no effect"),
        (
            ("-d", "x", "get", "books", "1"),
            "--migrations-dir would have no effect on a command that reads no",
        ),
        (("token", "list", "-d", "x"), "--migrations-dir would have no effect"),
        (
            ("scan", "books", "--schema-file", "x"),
            "--schema-file would have no effect on a command that changes",
        ),
        (("status", "--wait-timeout", "5s"), "--wait-timeout would have no effect without --wait"),
        (("backup", "x", "--no-dump-schema"), "--no-dump-schema would have no effect"),
        (("archive", "x", "--keep-days", "1", "--schema-file", "x"), "--schema-file would have no effect"),
    ],
)
def test_an_option_that_has_no_effect_is_refused(
    everlog: Run, one: Path, words: tuple[str, ...], says: str
) -> None:
    ended = everlog(*words)
    assert (ended.code, says in ended.err) == (2, True), ended.err


def test_approvers_of_the_environment_are_not_ignored(
    everlog: Run, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLOG_APPROVERS", "ann")
    ended = everlog(*SERVE)
    assert (ended.code, "EVERLOG_APPROVERS would have no effect" in ended.err) == (2, True), ended.err


@pytest.mark.parametrize("option", ["--approver", "--acts-for-others", "--keys-for"])
@pytest.mark.parametrize("name", ["", " ann", "a\nb"])
def test_a_name_that_nobody_can_have_is_refused(everlog: Run, one: Path, option: str, name: str) -> None:
    ended = everlog(*SERVE, option, name)
    assert (ended.code, f"'{option}': expected a name of 1 to 200 bytes" in ended.err) == (2, True), ended.err


def test_a_token_that_is_also_in_the_file_is_refused_at_the_start(
    everlog: Run, one: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "tokens").write_text("ann sesame\n")
    (here / "tokens").chmod(0o600)
    monkeypatch.setenv("EVERLOG_TOKEN", "sesame")
    ended = everlog(*SERVE, "--tokens", "tokens")
    assert (ended.code, "tokens:1: expected a name and a token of its own" in ended.err) == (1, True), (
        ended.err
    )
    assert "sesame" not in ended.err


def test_sighup_reloads_and_stops_nothing(everlog: Run, one: Path, here: Path) -> None:
    tokens = here / "tokens"
    tokens.write_text("ann sesame owner\nbob thyme owner\n")
    tokens.chmod(0o600)
    (here / ".env").write_text("EVERLOG_APPROVERS=bob\n")
    how = ("--migrate", "checked", "--tokens", str(tokens))
    with (
        serving(*how, cwd=here, log=True) as served,
        RemoteDatabase(f"{served.url}?token=thyme") as bob,
    ):
        (found,) = everlog("-u", f"{served.url}?token=sesame", "migrations", "proposals", "--json").json
        words = ("approve", found["digest"], "--reason", "yes")
        assert "ann may not approve" in everlog("-u", f"{served.url}?token=sesame", *words).err
        feed = iter(bob.feed(after=bob.admin.status().head))
        tokens.write_text("ann basil owner\nbob thyme owner\n")
        (here / ".env").write_text("EVERLOG_APPROVERS=ann\n")
        os.kill(served.process.pid, signal.SIGHUP)
        served.said("reloaded tokens, certificates and settings")
        assert "refuses the call" in everlog("-u", f"{served.url}?token=sesame", *words).err
        tokens.write_text("ann\n")
        os.kill(served.process.pid, signal.SIGHUP)
        said = served.said("nothing was reloaded")
        assert "tokens:1: expected a name and a token" in said
        done = everlog("-u", f"{served.url}?token=basil", *words)
        assert done.out.startswith("Finished: "), done.err
        assert next(feed).actor == "ann"


def test_sighup_has_others_told(everlog: Run, one: Path, here: Path) -> None:
    with Receiver() as before, Receiver() as after:
        (here / ".env").write_text(f"EVERLOG_NOTIFY={before.url}\n")
        with serving("--migrate", "checked", cwd=here, log=True) as served:
            before.wait_for(1)
            (here / ".env").write_text("EVERLOG_NOTIFY=nonsense://secret\n")
            os.kill(served.process.pid, signal.SIGHUP)
            said = served.said("nothing was reloaded")
            assert "secret" not in said
            (here / ".env").write_text(f"EVERLOG_NOTIFY={after.url}\n")
            os.kill(served.process.pid, signal.SIGHUP)
            served.said("reloaded tokens, certificates and settings")
            after.wait_for(1)
            (found,) = everlog("-u", served.url, "migrations", "proposals", "--json").json
            everlog("-u", served.url, "reject", found["digest"], "--actor", "ann", "--reason", "no")
            after.wait_for(2)
        assert [one.rpartition(" ")[2] for one in before.titles] == ["approval"]
        assert [one.rpartition(" ")[2] for one in after.titles] == ["approval", "rejected"]


@pytest.mark.long
def test_operators_are_told_of_a_certificate_that_ends(everlog: Run, one: Path, here: Path) -> None:
    authority = Authority(here)
    certificate, key = authority.sign("localhost", days=3)
    with Receiver() as receiver:
        how = ("--tls-cert", str(certificate), "--tls-key", str(key), "--notify", receiver.url)
        with serving(*how, log=True) as served:
            (message,) = receiver.wait_for(1)
            url = f"{served.url.replace('127.0.0.1', 'localhost')}?ca={authority.path}"
            (status,) = everlog("-u", url, "status", "--json").json
            assert message["message"].startswith(status["warnings"][0])
            screen = " ".join(everlog("-u", url, "status").out.split())  # long lines are broken
            assert f" Warning: {status['warnings'][0]}" in screen
        with serving(*how):
            pass
        assert [one.partition(": ")[2] for one in receiver.titles] == [
            "a certificate of the server must be replaced"
        ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("statsu",), "No such command 'statsu'. Did you mean 'status'?\n"),
        (("prov",), "No such command 'prov'. Did you mean 'prove'"),
        (("xyzzy",), "No such command 'xyzzy'.\n"),
        (("-u", "file:x.db", "rolback"), "Did you mean 'rollback' or 'backup'?\n"),
        (("up", "--dry-rum"), "Did you mean '--dry-run'?\n"),
    ],
)
def test_a_mistyped_word_suggests_the_nearest(everlog: Run, words: tuple[str, ...], says: str) -> None:
    ended = everlog(*words)
    assert (ended.code, says in ended.err) == (2, True), ended.err


def test_a_sighup_before_serve_can_reload_is_done_once_it_has_started(one: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "everlog.console", "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while not _blocked(process.pid) & 1 << (signal.SIGHUP - 1):
                assert process.poll() is None
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline().startswith("Serving: ")
            assert any("reloaded tokens, certificates and settings" in line for line in process.stderr)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def _blocked(pid: int) -> int:
    """Return the mask of the signals that a process blocks."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk:")
    ]
    return int(line.split()[1], 16)
