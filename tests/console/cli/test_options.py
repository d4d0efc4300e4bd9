import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from everlog.console.cli.main import command
from everlog.console.cli.options import Duration
from everlog.console.cli.serve_config import settable, variable_of
from everlog.rpc import address, connect
from everlog.store import environment
from everlog.store.environment import SETTINGS
from tests.console.conftest import Run
from tests.test_tidy import ROOMS, ROOT


def url_of(everlog: Run, *words: object) -> str:
    return str(everlog(*words, "create", "--json").json[0]["url"])


def test_the_option_wins_over_the_variable_and_the_variable_over_the_file(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".env").write_text("DATABASE_URL=file:of-env-file.db\n")
    assert url_of(everlog) == "file:of-env-file.db"
    monkeypatch.setenv("DATABASE_URL", "file:of-variable.db")
    assert url_of(everlog) == "file:of-variable.db"
    assert url_of(everlog, "-u", "file:of-option.db") == "file:of-option.db"


def test_the_variable_can_have_another_name(everlog: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "file:other.db")
    assert url_of(everlog, "--env", "TEST_DATABASE_URL") == "file:other.db"


def test_files_of_variables_can_be_named(everlog: Run, here: Path) -> None:
    (here / "first.env").write_text("DATABASE_URL=file:first.db\n")
    (here / "second.env").write_text("DATABASE_URL=file:second.db\nOTHER=1\n")
    assert url_of(everlog, "--env-file", "first.env", "--env-file", "second.env") == "file:first.db"


def test_a_named_file_that_is_not_there_is_an_error(everlog: Run) -> None:
    ended = everlog("--env-file", "nowhere.env", "status")
    assert ended.code == 1
    assert "nowhere.env: file not found" in ended.err


def test_without_a_url_the_sentence_says_how_to_give_one(everlog: Run) -> None:
    ended = everlog("status")
    assert ended.code == 1
    assert "pass --url, or set DATABASE_URL" in ended.err


def test_options_are_taken_before_and_after_the_command(everlog: Run) -> None:
    assert everlog("-u", "file:a.db", "create").code == 0
    assert everlog("create", "-u", "file:b.db").code == 0
    assert everlog("-u", "file:a.db", "create", "-u", "file:b.db").out == "Exists already: file:b.db\n"


@pytest.mark.parametrize(
    ("url", "verb"),
    [  # a command that calls the server waits some seconds for it, so each has one URL
        ("everlog+insecure://127.0.0.1:1/books?token=secret", "status"),
        ("everlog+insecure://ann:secret@127.0.0.1:1/books", "drop"),
        ("everlog://:secret@127.0.0.1:1/books", "create"),
    ],
)
def test_a_secret_in_a_url_is_never_printed(everlog: Run, url: str, verb: str) -> None:
    for words in ((verb,), ("wait", "--wait-timeout", "0s")):
        ended = everlog("-u", url, *words)
        assert ended.code == 1
        assert "127.0.0.1:1" in ended.err
        assert "secret@" not in ended.out + ended.err
        assert "=secret" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("1m30s", 90), ("2h", 7200), ("0.5", 0.5), ("5", 5)]
)
def test_durations_are_seconds_or_as_dbmate_writes_them(text: str, seconds: float) -> None:
    assert Duration(unitless=True).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "s", "1m30"])
def test_other_durations_are_refused(everlog: Run, text: str) -> None:
    assert everlog("--wait-timeout", text, "status").code == 2


def test_times_of_options_are_local_and_as_people_write_them(
    everlog: Run, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        made = everlog("token", "create", "--name", "ann", "--expires", "tomorrow 14:00", "--json").json[0]
        ends = datetime.fromtimestamp(made["expires_ns"] / 1e9, ZoneInfo("Asia/Kathmandu"))
        assert (ends.hour, ends.minute, ends - datetime.now(UTC) < timedelta(hours=38)) == (14, 0, True)
        assert everlog("log", "--since", "1h ago").out.count("token.created") == 1
        assert everlog("log", "--since", "1h", "--before", "30m").out == ""
        assert "found 'in 2h'" in everlog("log", "--since", "in 2h").err
        assert everlog("log", "--before", "2026-01-05 09:30").out == ""
        assert "Created" not in everlog("access", "show", "--at", "now").err
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("url", ["", " "])
def test_an_empty_url_is_not_that_of_the_environment(everlog: Run, books: Path, url: str) -> None:
    ended = everlog("-u", url, "drop", "--yes")
    assert ended.code == 1
    assert "found an empty one" in ended.err
    assert books.exists()


def sources(everlog: Run, *words: object) -> dict[str, tuple[str, str]]:
    return {one["setting"]: (one["value"], one["source"]) for one in everlog(*words, "config", "--json").json}


def test_config_says_where_each_value_comes_from(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".env").write_text("EVERLOG_APPROVERS='ann bob'\nEVERLOG_ACTOR=of-file\nEVERLOG_TOKEN=s3cret\n")
    monkeypatch.setenv("EVERLOG_ACTOR", "of-environment")
    found = sources(everlog, "-u", "everlog://ann:s3cret@db.example.com/flights")
    assert found["DATABASE_URL"] == ("everlog://db.example.com:7420/flights", "flag")
    assert found["EVERLOG_ACTOR"] == ("of-environment", "environment")
    assert found["EVERLOG_APPROVERS"] == ("ann bob", ".env")
    assert found["EVERLOG_MIGRATIONS_DIR"] == ("migrations", "default")
    assert found["EVERLOG_TOKEN"] == ("(set, not shown)", ".env")
    assert "s3cret" not in everlog("config").out


def test_an_empty_variable_hides_the_one_of_the_file(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".env").write_text("EVERLOG_ACTOR=of-file\n")
    monkeypatch.setenv("EVERLOG_ACTOR", "")
    assert sources(everlog)["EVERLOG_ACTOR"] == ("", "environment")


def test_a_file_with_a_byte_order_mark_sets_its_first_variable(everlog: Run, here: Path) -> None:
    (here / ".env").write_bytes(b"\xef\xbb\xbfEVERLOG_ACTOR=ann\r\nEVERLOG_CA=ca.pem\r\n")
    assert sources(everlog)["EVERLOG_ACTOR"] == ("ann", ".env")
    assert sources(everlog)["EVERLOG_CA"] == ("ca.pem", ".env")


def test_a_variable_that_sets_nothing_is_reported(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".env").write_text("EVERLOG_APROVERS=ann\n")
    monkeypatch.setenv("EVERLOG_PURPLE", "red")
    ended = everlog("-u", "file:a.db", "create")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "warning: EVERLOG_APROVERS (.env) is not a setting of everlog; did you mean EVERLOG_APPROVERS?",
        "warning: EVERLOG_PURPLE (environment) is not a setting of everlog; `everlog config` lists them",
    ]


def test_a_line_that_is_no_assignment_is_reported_with_its_file_and_number(
    everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environment, "_wrong", {})
    lines = [
        "export OTHER",
        "# a comment",
        "",
        "EVERLOG_APPROVERS ann bob",
        'EVERLOG_CA="two',
        'lines"',
        "",
        "ALONE",
    ]
    (here / ".env").write_text("\r\n".join([*lines, "EVERLOG_ACTOR=ann"]), newline="")
    ended = everlog("config")
    says = "expected NAME=VALUE or a comment; the line is ignored"
    assert ended.err.splitlines() == [f"warning: .env, line 4: {says}", f"warning: .env, line 8: {says}"]
    monkeypatch.setattr(environment, "_wrong", {})
    monkeypatch.delenv("EVERLOG_ACTOR")
    assert environment.variable("EVERLOG_ACTOR") == environment.variable("EVERLOG_ACTOR") == "ann"
    assert [record.getMessage() for record in caplog.records] == [f".env, line {at}: {says}" for at in (4, 8)]


def test_every_variable_in_the_documents_and_in_the_source_is_a_setting() -> None:
    named = set()
    for path in [*ROOT.glob("docs/*.md"), *(one for room in ROOMS for one in ROOT.glob(f"{room}/**/*.py"))]:
        named |= set(re.findall(r"(?<!_)\bEVERLOG_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
    of_serve = {variable_of(param) for param in settable(command("serve"))} - {*SETTINGS}
    named -= of_serve | {"EVERLOG_TORTURE_S", "EVERLOG_SERVE"}  # the last one is their prefix
    assert named == {name for name in SETTINGS if name.startswith("EVERLOG_")}


@pytest.mark.parametrize("place", ["environment", ".env", "named file"])
def test_whoever_may_approve_follows_from_any_source(
    everlog: Run, one: Path, here: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: tuple[str, ...] = ()
    if place == "environment":
        monkeypatch.setenv("EVERLOG_APPROVERS", "ann bob")
    else:
        words = () if place == ".env" else ("--env-file", "our.env")
        (here / (".env" if place == ".env" else "our.env")).write_text("EVERLOG_APPROVERS=ann bob\n")
    assert everlog("propose", "--actor", "carl", *words).code == 0
    digest = str(everlog("migrations", "proposals", "--json").json[-1]["digest"])
    refused = everlog("approve", digest, "--actor", "dora", "--reason", "fine", *words)
    assert (refused.code, "dora" in refused.err) == (1, True)
    assert everlog("approve", digest, "--actor", "ann", "--reason", "fine", *words).code == 0


def test_a_program_reads_the_same_file_as_the_command(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".env").write_text("DATABASE_URL=file:a.db\nEVERLOG_TOKEN=of-file\n")
    assert address.parse("everlog://db.example.com/a").token == "of-file"
    monkeypatch.setenv("EVERLOG_TOKEN", "of-environment")
    assert address.parse("everlog://db.example.com/a").token == "of-environment"
    with connect.open() as db:
        assert db.url == "file:a.db"


def test_a_named_file_takes_the_place_of_the_default_one(everlog: Run, here: Path) -> None:
    (here / ".env").write_text("DATABASE_URL=file:default.db\nEVERLOG_APPROVERS=ann\n")
    (here / "our.env").write_text("EVERLOG_ACTOR=ours\n")
    assert "expected the URL of a database, found none" in everlog("--env-file", "our.env", "status").err
    found = sources(everlog, "--env-file", "our.env")
    assert found["EVERLOG_ACTOR"] == ("ours", "our.env")
    assert found["EVERLOG_APPROVERS"] == ("", "default")
    assert environment.variable("EVERLOG_APPROVERS") == ""
    environment.load_files([])
    assert environment.variable("EVERLOG_APPROVERS") == "ann"


def test_a_token_in_the_url_of_a_command_line_is_warned_of_and_one_in_a_variable_is_not(
    everlog: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "everlog+insecure://127.0.0.1:1/x?token=sesame"
    ended = everlog("-u", url, "get", "books", "1", "--json")
    assert ended.err.count("can be seen by every user of this machine") == 1
    assert "sesame" not in ended.err
    monkeypatch.setenv("DATABASE_URL", url)
    assert "can be seen" not in everlog("get", "books", "1").err
