"""Options of `serve` from a file and from variables."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from everlog.console.cli.main import command
from everlog.console.cli.serve_config import Configured, key_of, settable, variable_of
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.environment import SETTINGS
from everlog.store.errors import LimitError, OpenError, UnavailableError
from tests.console.conftest import Run
from tests.console.served import serving
from tests.rpc.issuing import AUDIENCE, TestIssuer

SAMPLES: dict[str, tuple[Any, str, Any]] = {  # by type of click: in the file, in a variable, the value
    "name": ("ann", "ann", "ann"),
    "text": ("one", "one", "one"),
    "network": ("10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"),
    "file": ("one", "one", Path("one")),
    "path": ("one", "one", Path("one")),
    "integer range": (7, "7", 7),
    "float range": (7, "7.0", 7.0),
    "duration": ("1m", "60s", 60.0),
    "boolean": (True, "true", True),
}


def serve_command() -> Configured:
    found = command("serve")
    assert isinstance(found, Configured)
    return found


def options() -> list[click.Parameter]:
    return [param for param in settable(serve_command()) if param.name not in ("config", "tokens_file")]


@pytest.mark.parametrize("param", options(), ids=key_of)
def test_every_option_is_a_key_and_a_variable(
    here: Path, param: click.Parameter, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve, name = serve_command(), str(param.name)
    if isinstance(param.type, click.Choice):
        in_file = in_variable = value = param.type.choices[0]
    else:
        in_file, in_variable, value = SAMPLES[param.type.name]
    if param.multiple or param.nargs == -1:
        value = (value,)
    (here / "serve.toml").write_text(f"# comment\n{key_of(param)} = {json.dumps(in_file)}\n")
    (here / "serve.toml").chmod(0o600)
    found = serve.values(["--config", "serve.toml"])
    assert found.origins[name][1] == "serve.toml:2"
    assert found.params.get(name, value) == value
    assert (name in found.params) == param.expose_value
    monkeypatch.setenv(variable_of(param), in_variable)
    found = serve.values([])
    assert found.origins[name] == (in_variable, "environment")
    assert found.params.get(name, value) == value


def test_the_flag_outranks_variables_and_these_the_file(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = serve_command()
    (here / "serve.toml").write_text("log-level = 'error'\nslow-ms = 1\nkeep-records = 1\nkeep-days = 1\n")
    (here / ".env").write_text("EVERLOG_SERVE_SLOW_MS=2\nEVERLOG_SERVE_KEEP_RECORDS=2\n")
    monkeypatch.setenv("EVERLOG_SERVE_KEEP_RECORDS", "3")
    rows = everlog("config", "--config", "serve.toml", "--json").json  # which reads .env
    found = {row["setting"].removeprefix("serve --"): (row["value"], row["source"]) for row in rows}
    assert found["log-level"] == ("error", "serve.toml:1")
    assert found["slow-ms"] == ("2", ".env")
    assert found["keep-records"] == ("3", "environment")
    assert found["listen"] == ("127.0.0.1:7420", "default")
    params = serve.values(["--config", "serve.toml", "--keep-records", "4"]).params
    assert (params["keep_records"], params["slow_ms"], params["keep_days"]) == (4, 2, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nlisen = 'x'", "serve.toml:2: expected the name of an option of `everlog serve`, found 'lisen';"),
        ("tls_cert = 'x'", "did you mean tls-cert?"),
        ("slow-ms = 'x'", "serve.toml:1: slow-ms: expected a number, found text"),
        ("slow-ms = true", "serve.toml:1: slow-ms: expected a number, found a boolean"),
        ("slow-ms = -1", "serve.toml:1: slow-ms: "),
        ("keep-records = 1.5", "keep-records: expected an integer, found a number"),
        ("hold = 'yes'", "hold: expected true or false, found text"),
        ("listen = ['a']", "listen: expected text, found a list"),
        ("approver = [\n 'a',\n 3]\n", "serve.toml:1: approver: expected text, found an integer"),
        ("hold = false\n[databases]\na = 1", "serve.toml:2: databases.a: expected text, found an integer"),
        ("log-level = 'loud'", "serve.toml:1: log-level: 'loud' is not one of"),
        ("wait-timeout = 'soon'", "serve.toml:1: wait-timeout: expected a duration like 90s"),
        ("listen = 2026-01-01", "listen: expected text, found a date or time"),
        ("config = 'x'", "--config cannot be set in the file"),
        ("env-file = 'x'", "--env-file cannot be set in the file"),
        ("listen = x\n", "serve.toml: expected TOML: Invalid value (at line 1"),
        ("a = 1\na = 2\n", "serve.toml: expected TOML: Cannot overwrite a value (at line 2"),
    ],
)
def test_a_wrong_file_starts_nothing_and_says_where(everlog: Run, here: Path, text: str, says: str) -> None:
    (here / "serve.toml").write_text(text)
    for words in (("serve",), ("config",)):
        ended = everlog(*words, "--config", "serve.toml")
        assert (ended.code, says in ended.err) == (1, True), ended.err


def test_a_file_that_cannot_be_read_is_a_sentence(everlog: Run, here: Path) -> None:
    assert (
        "nowhere.toml: the configuration cannot be read" in everlog("serve", "--config", "nowhere.toml").err
    )
    (here / "serve.toml").write_bytes(b"\xff")
    assert "expected TOML as UTF-8 text" in everlog("serve", "--config", "serve.toml").err


@pytest.mark.parametrize("secret", ["token = 'sesame'", "archive-to = 's3://key:sesame@bucket'"])
def test_a_file_with_a_secret_that_others_can_read_is_refused(everlog: Run, here: Path, secret: str) -> None:
    path = here / "serve.toml"
    path.write_text(f"listen = '127.0.0.1:0'\n{secret}\n")
    path.chmod(0o644)
    ended = everlog("serve", "--config", "serve.toml")
    assert ended.code == 1
    assert "serve.toml: the secret in line 2 of this configuration can be read by others" in ended.err
    path.chmod(0o600)
    shown = everlog("config", "--config", "serve.toml").out
    assert "sesame" not in ended.err + shown
    path.write_text("listen = '127.0.0.1:0'\n")
    path.chmod(0o644)
    assert everlog("config", "--config", "serve.toml").code == 0


def test_a_misspelled_variable_of_serve_is_reported(everlog: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLOG_SERVE_LISEN", "x")
    monkeypatch.setenv("EVERLOG_SERVE_LISTEN", "127.0.0.1:7")
    ended = everlog("config", "--json")
    assert ended.err == (
        "warning: EVERLOG_SERVE_LISEN (environment) is not a setting of everlog; did you mean"
        " EVERLOG_SERVE_LISTEN?\n"
    )
    assert ended.json[-1]["setting"] == "serve --listen"
    assert ended.json[-1]["source"] == "environment"
    monkeypatch.setenv("EVERLOG_SERVE_SLOW_MS", "soon")
    assert "Invalid value for '--slow-ms'" in everlog("serve").err


def test_what_has_no_effect_is_refused_in_a_file_as_well(everlog: Run, one: Path, here: Path) -> None:
    (here / "serve.toml").write_text("hold = true\n")
    ended = everlog("serve", "--config", "serve.toml")
    assert (ended.code, "--hold would have no effect without --migrate" in ended.err) == (2, True)


def test_the_token_is_never_on_the_command_line(everlog: Run, one: Path, here: Path) -> None:
    ended = everlog("serve", "--token", "sesame")
    assert (ended.code, "--token-file FILE" in ended.err, "sesame" in ended.err) == (2, True, False)
    file = here / "token"
    file.write_text("sesame\n")
    file.chmod(0o644)
    assert "token: the token can be read by others" in everlog("serve", "--token-file", file).err
    file.chmod(0o600)
    with serving("--token-file", str(file)) as served:
        assert everlog("-u", f"{served.url}?token=sesame", "status").code == 0
        assert everlog("-u", f"{served.url}?token=other", "status").code == 1
    file.write_text("two words")
    assert "expected one token, found 2 words" in everlog("serve", "--token-file", file).err
    (here / "serve.toml").write_text(f"token-file = '{file}'\n")
    (here / ".env").write_text("EVERLOG_TOKEN=thyme\n")
    assert "expected one of --token and --token-file" in everlog("serve", "--config", "serve.toml").err


def test_the_token_comes_from_standard_input(everlog: Run, one: Path) -> None:
    words = [sys.executable, "-m", "everlog.console", "serve", "--listen", "127.0.0.1:0", "--json", "--token"]
    with subprocess.Popen([*words, "-"], stdin=-1, stdout=-1, text=True, env=os.environ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("sesame\n")
            process.stdin.close()
            url = json.loads(process.stdout.readline())["url"]
            assert everlog("-u", f"{url}?token=sesame", "status").code == 0
            assert everlog("-u", url, "status").code == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_sighup_applies_the_file_and_says_what_must_wait(everlog: Run, one: Path, here: Path) -> None:
    file = here / "serve.toml"

    def write(more: str, token: str) -> None:
        file.write_text(f"token = '{token}'\nlog-format = 'json'\n{more}")

    write("", "sesame")
    file.chmod(0o600)
    with serving("--config", str(file), log=True, cwd=here) as served:
        with RemoteDatabase(f"{served.url}?token=sesame") as db:
            db.admin.status()
        write("slow-ms = 0.001\nconsole-url = 'http://x'\nkeep-days = 3\n", "thyme")
        os.kill(served.process.pid, signal.SIGHUP)
        served.logged("reload.done")
        waits = {served.logged("reload.later")["message"] for _ in range(2)}
        assert waits == {
            f"console-url ({file}:4) takes effect at the next start",
            f"keep-days ({file}:5) takes effect at the next start",
        }
        with RemoteDatabase(f"{served.url}?token=thyme") as db:
            db.admin.status()
        assert served.logged("call.slow")["method"]
        with pytest.raises((UnavailableError, OpenError)):
            RemoteDatabase(f"{served.url}?token=sesame", connect_s=0).admin.status()
        write("slow-ms = 'x'\n", "basil")
        os.kill(served.process.pid, signal.SIGHUP)
        said = served.logged("reload.failed")["message"]
        assert f"{file}:3: slow-ms: expected a number, found text" in said
        with RemoteDatabase(f"{served.url}?token=thyme") as db:
            db.admin.status()


def test_sighup_applies_the_limits_of_callers(everlog: Run, one: Path, here: Path) -> None:
    file = here / "serve.toml"
    file.write_text("log-format = 'json'\nlimit-heavy = 2\n")
    with serving("--config", str(file), log=True, cwd=here) as served:
        with RemoteDatabase(served.url, retry_s=0) as db:
            db.admin.status()
            file.write_text("log-format = 'json'\nlimit-for = ['127.0.0.1:streams=1', 'ann:calls=5']\n")
            os.kill(served.process.pid, signal.SIGHUP)
            served.logged("reload.done")
            feed = iter(db.feed().batches())
            next(feed)
            with pytest.raises(LimitError, match="of this address is reached: expected at most 1 running"):
                db.admin.status()
            assert served.logged("limit.reached")["limit"] == "streams"
        file.write_text("log-format = 'json'\nlimit-for = ['127.0.0.1:speed=1']\n")
        os.kill(served.process.pid, signal.SIGHUP)
        assert "expected WHO:LIMIT=N" in served.logged("reload.failed")["message"]


def test_sighup_applies_the_rules_for_tokens_of_an_issuer(everlog: Run, one: Path, here: Path) -> None:
    file = here / "serve.toml"
    with TestIssuer() as issuer:

        def write(role: str, more: str = "") -> None:
            rules = f"jwt-issuer = '{issuer.url}'\njwt-audience = '{AUDIENCE}'\njwt-roles-claim = 'groups'\n"
            file.write_text(f"log-format = 'json'\n{rules}jwt-role = ['staff={role}']\n{more}")

        write("follower")
        with serving("--config", str(file), log=True, cwd=here) as served:
            url = f"{served.url}?token={issuer.token('ann', groups=['staff'])}"
            with RemoteDatabase(url) as ann:
                assert ann.access.whoami().roles == ("follower",)
                write("reader", "jwt-leeway = 10\n")
                os.kill(served.process.pid, signal.SIGHUP)
                served.logged("reload.done")
                assert ann.access.whoami().roles == ("reader",)
            write("reader", "jwt-leeway = 1000\n")
            os.kill(served.process.pid, signal.SIGHUP)
            assert "leeway" in served.logged("reload.failed")["message"]
            file.write_text("log-format = 'json'\n")
            os.kill(served.process.pid, signal.SIGHUP)
            assert "jwt-issuer" in served.logged("reload.later")["message"]


def test_variables_that_other_commands_read_keep_their_names() -> None:
    variables = {variable_of(param) for param in settable(serve_command())}
    assert {"EVERLOG_TOKEN", "EVERLOG_TOKENS", "EVERLOG_NOTIFY", "DATABASE_URL"} <= variables
    for name, setting in SETTINGS.items():
        if setting.flag.startswith("serve "):
            assert name in variables
