from pathlib import Path

import pytest

from everlog.console.settings import Duration
from tests.console.conftest import Run


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
    assert "nowhere.env: there is no such file" in ended.err


def test_without_a_url_the_sentence_says_how_to_give_one(everlog: Run) -> None:
    ended = everlog("status")
    assert ended.code == 1
    assert "give --url, or set DATABASE_URL" in ended.err


def test_options_are_taken_before_and_after_the_command(everlog: Run) -> None:
    assert everlog("-u", "file:a.db", "create").code == 0
    assert everlog("create", "-u", "file:b.db").code == 0
    assert everlog("-u", "file:a.db", "create", "-u", "file:b.db").out == "There already: file:b.db\n"


@pytest.mark.parametrize(
    ("url", "verb"),
    [  # a verb that asks the server waits some seconds for it, so each has one URL
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
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "s"])
def test_other_durations_are_refused(everlog: Run, text: str) -> None:
    assert everlog("--wait-timeout", text, "status").code == 2


@pytest.mark.parametrize("url", ["", " "])
def test_an_empty_url_is_not_that_of_the_environment(everlog: Run, books: Path, url: str) -> None:
    ended = everlog("-u", url, "drop", "--yes")
    assert ended.code == 1
    assert "found an empty one" in ended.err
    assert books.exists()
