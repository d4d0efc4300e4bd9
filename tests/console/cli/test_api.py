"""The command api: every method of a server, made from its descriptors."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from everlog.console.cli.api import option_of
from everlog.console.cli.main import cli, command
from everlog.console.cli.options import Settings
from everlog.rpc.client.methods import Services
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, Airport, open_case
from tests.console.conftest import Run
from tests.rpc.added import weather


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a service that no line of everlog knows; the caller is its reader ann."""
    tokens, roles = {"root": "of-root", "ann": "of-ann"}, {"root": ("owner",), "ann": ("reader",)}
    with open_case("file", tmp_path) as case:
        db: EmbeddedDatabase = case.embedded
        db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
        with Server({"x": db}, tokens=tokens, roles=roles, services=[weather()]) as server:
            monkeypatch.setenv("DATABASE_URL", server.url("x"))
            monkeypatch.setenv("EVERLOG_TOKEN", "of-ann")
            yield server


def completed(words: str, incomplete: str) -> list[str]:
    shell = ShellComplete(cli, {"obj": Settings()}, "everlog", "_EVERLOG_COMPLETE")
    return [one.value for one in shell.get_completions(shlex.split(words), incomplete)]


def child(*words: str, **how: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "everlog.console", "api", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)  # type: ignore[call-overload,no-any-return]


def test_a_new_service_is_listed_described_and_called(everlog: Run, server: Server) -> None:
    lines = everlog("api").out.splitlines()
    assert "Weather: What it is like outside" in lines
    assert "  Forecast         Forecasts the weather of a place" in lines
    assert (
        "  Observe          Streams a value a tick, until the caller has seen enough  (streams responses)"
        in lines
    )
    assert not [line for line in lines if line.startswith(("  Change", "  Commit", "Proofs:"))]
    assert everlog("api", "added.v1.Weather").out.splitlines()[0] == "Weather: What it is like outside"
    words = everlog("api", "Weather", "Forecast", "--help").out
    for said in (
        "Usage: everlog api Weather Forecast [OPTIONS]",
        "Forecasts the weather of a place. A second sentence.",
        "Needs read.",
        "--place.height SINT32",
        "In metres.",
        "--kinds SUNNY|RAINY",
        "--weights KEY=VALUE",
        "--since-ns TIME",
        "--places JSON",
    ):
        assert said in " ".join(words.split()), said
    done = everlog(
        *("api", "Weather", "Forecast", "--place.name", "Ulm", "--kinds", "SUNNY", "--kinds", "RAINY"),
        *(
            "--wait-ms",
            "1.5s",
            "--since_ns",
            "2026-01-05T00:00Z",
            "--weights",
            "n=1.5",
            "--celsius",
            "--count=3",
        ),
    )
    assert json.loads(done.out)["sky"] == "blue over Ulm"
    assert json.loads(done.out)["request"] == {
        "database": "x",
        "place": {"name": "Ulm"},
        "kinds": ["SUNNY", "RAINY"],
        "weights": {"n": 1.5},
        "wait_ms": 1500,
        "since_ns": "2026-01-05T00:00:00Z",
        "celsius": True,
        "count": 3,
    }
    told = [line for line in everlog("--json", "api", "Weather").json if line["method"] == "Observe"]
    assert (told[0]["returns_stream"], told[0]["needs"]) == (True, ["read"])


def test_a_value_may_begin_with_a_dash_and_no_field_has_the_name_of_an_option(
    everlog: Run, server: Server
) -> None:
    done = everlog("api", "Weather", "Forecast", "--place.height", "-3", "--place.name=--verbose")
    assert json.loads(done.out)["request"]["place"] == {"name": "--verbose", "height": -3}
    taken = {word for param in command("api").params for word in param.opts}
    fields = {
        option_of(name)
        for service in Services.of_contract()
        for method in service.methods.values()
        for name in method.fields
    }
    assert "--table" in fields
    assert not taken & fields, "give it in --json only, or rename it"


def test_what_the_caller_may_not_call_is_refused_by_the_server(everlog: Run, server: Server) -> None:
    done = everlog("api", "Weather", "Change", "--reason", "why")
    assert (done.code, done.out) == (1, "")
    assert "ann lacks the right admin" in done.err
    assert "You may not call it." in everlog("api", "Weather", "Change", "--help").out
    os.environ["EVERLOG_TOKEN"] = "of-root"
    assert json.loads(everlog("api", "Weather", "Change", "--reason", "why").out)["sky"] == "blue over "


def test_the_request_may_be_json_in_a_word_a_file_or_standard_input(
    everlog: Run, server: Server, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "request.json").write_text('{"table": "airports", "key": "JFK"}')
    for given in ('{"table": "airports", "key": ["JFK"]}', "request.json"):
        assert (
            json.loads(everlog("api", "Store", "Get", "--json", given).out)["row"]["row"]["name"] == "Kennedy"
        )
    done = everlog("api", "Store", "Get", "--json", '{"table": "airports"}', "--key", "JFK")
    assert json.loads(done.out)["row"]["key"] == ["JFK"]
    with child("Store", "Get", "--json", "-", stdin=subprocess.PIPE) as process:
        out, _ = process.communicate((here / "request.json").read_bytes(), 60)
    assert json.loads(out)["row"]["row"]["name"] == "Kennedy"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("Store Count --tabel x", 2, "No such option '--tabel'"),
        ("Store Count --table airports --limit many", 2, "No such option '--limit'"),
        ("Store Scan --table airports --limit many", 2, "expected a uint64 for limit, found 'many'"),
        ("Store Scan --table airpots --start J", 1, "there is no table 'airpots'"),
        ("Store Scan --table airports --json '{\"table\": 1}'", 2, "expected table once"),
        ("Store Scan --json '{\"tabel\": 1}'", 2, "did you mean table"),
        ("Store Scan --json nowhere.json", 1, "nowhere.json: No such file"),
        ("Store Scan --json '{'", 2, "expected a JSON object in --json"),
        ("Stor", 1, "did you mean Store"),
        ("Store Cuont", 1, "did you mean Count"),
        ("--table airports", 2, "expected SERVICE and METHOD before --table"),
        ("Store --table airports", 2, "expected SERVICE and METHOD before --table"),
        ("Store Count airports", 2, "unexpected extra argument"),
        ("Weather Forecast --kinds STORMY", 2, "SUNNY"),
    ],
)
def test_a_mistake_is_told(everlog: Run, server: Server, words: str, code: int, says: str) -> None:
    done = everlog("api", *shlex.split(words))
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_without_a_server_the_contract_describes_and_nothing_is_called(everlog: Run, here: Path) -> None:
    assert "  Commit           Validates a transaction" in everlog("api", "Store").out
    assert (
        "--table STRING"
        in everlog("-u", "everlog+insecure://127.0.0.1:1/x", "api", "Store", "Get", "--help").out
    )
    done = everlog("-u", "file:books.db", "api", "Store", "Count", "--table", "books")
    assert (done.code, done.out) == (1, "")
    assert "expected the URL of a server" in done.err
    done = everlog("-u", "everlog+insecure://127.0.0.1:1/x", "api", "Store", "Count", "--table", "books")
    assert "cannot be reached" in done.err


def test_the_line_of_grpcurl_calls_nothing(everlog: Run, server: Server) -> None:
    words = ("--grant.identity", "ann", "--grant.role", "owner", "--reason", "it's $HOME")
    done = everlog("api", "Access", "Grant", *words, "--grpcurl")
    assert shlex.split(done.out)[-4:] == [
        "-d",
        '{"database": "x", "grant": {"identity": "ann", "role": "owner"}, "reason": "it\'s $HOME"}',
        server.address,
        "everlog.v1.Access/Grant",
    ]
    assert "of-ann" not in done.out


def test_a_shell_completes_services_methods_fields_and_values(server: Server) -> None:
    assert {"Store", "Weather"} <= set(completed("api", ""))
    assert completed("api", "Wea") == ["Weather"]
    assert completed("api Weather", "") == ["Forecast", "Observe", "Sum"]
    assert completed("api Weather Forecast", "--pl") == [
        "--place",
        "--place.name",
        "--place.height",
        "--place.near",
        "--places",
    ]
    assert completed("api Weather Forecast --kinds", "S") == ["SUNNY"]
    assert completed("api Weather Forecast --celsius", "t") == ["true"]
    assert completed("api Store Count --table", "air") == ["airports"]
    assert completed("api Nowhere", "") == []


def test_streams_are_json_lines_and_ctrl_c_ends_them(server: Server) -> None:
    with child("Weather", "Sum", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(b'{"count": 1}\n\n{"count": 2}\n{"count": 39}', 60)
    assert (json.loads(out)["number"], process.returncode, err) == (42, 0, b"")
    with child("Weather", "Sum", "--count", "1", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(b'{"count": 1}\n{"cuont": 2}\n', 60)
    assert (process.returncode, out) == (1, b"")
    assert b"line 2 of standard input: cuont: ForecastRequest has no such field; did you mean count?" in err
    with child("Weather", "Observe", "--wait-ms", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert [json.loads(process.stdout.readline())["number"] for _ in range(3)] == [1, 2, 3]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].strip() == b"interrupted"
    assert process.returncode == 130
    with child("Weather", "Sum", stdin=subprocess.PIPE) as process:  # while it waits for standard input
        assert process.stderr is not None
        assert process.stdin is not None
        process.stdin.write(b'{"count": 1}\n')
        process.stdin.flush()
        while not any(call.method == "added.v1.Weather/Sum" for call in [*server.activity.running.values()]):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().strip() == b"interrupted"


def test_a_reader_that_has_gone_ends_the_stream(server: Server) -> None:
    with child("Weather", "Observe") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141


def peak_kb(lines: int) -> int:
    """Return the peak memory of a call that sends lines of a megabyte."""
    code = (
        "import resource, sys\n"
        "from everlog.console.cli.main import run\n"
        "from everlog.console.cli.options import Settings\n"
        "assert run(['api', 'Weather', 'Sum'], Settings()) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    line = b'{"count": 1, "reason": "%s"}\n' % (b"x" * (1 << 20))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        for _ in range(lines):
            process.stdin.write(line)
        out, err = process.communicate()
    assert json.loads(out)["number"] == lines
    return int(err.split()[-1])


@pytest.mark.long
def test_a_long_stream_takes_no_more_memory_than_a_short_one(server: Server) -> None:
    assert peak_kb(300) - peak_kb(20) < 100 * 1024
