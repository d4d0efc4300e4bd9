"""URLs and paths are parsed in one way everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from everlog.audit.place import LocalPlace, place, same
from everlog.console.cli.connect import directory_of
from everlog.rpc import connect
from everlog.store import urls
from everlog.store.errors import OpenError
from everlog.store.urls import Url


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flights.db", Url("file", "flights.db")),
        ("file:flights.db", Url("file", "flights.db")),
        ("file:///var/flights.db", Url("file", "/var/flights.db")),
        ("./a:b", Url("file", "./a:b")),
        ("C:flights", Url("file", "C:flights")),
        ("memory:", Url("memory", "")),
        ("everlog+insecure://127.0.0.1/x", Url("everlog+insecure", "127.0.0.1/x")),
        ("s3://bucket/x", Url("s3", "bucket/x")),
        ("", Url("file", "")),
    ],
)
def test_a_url_has_a_scheme_and_a_rest(text: str, found: Url) -> None:
    assert urls.parse(text) == found


@pytest.mark.parametrize("text", ["flights.db", "file:flights.db", "file://flights.db"])
def test_a_directory_is_the_same_for_databases_commands_and_backups(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with connect.open(text):
        pass
    assert directory_of(text) == Path("flights.db")
    assert (tmp_path / "flights.db" / "EVERLOG").is_file()
    found = place(text)
    assert isinstance(found, LocalPlace)
    assert found.path == Path("flights.db")
    assert same(text, os.fspath(tmp_path / "flights.db"))


@pytest.mark.parametrize("text", ["", " ", "file:", "file://", "postgres:flights", "postgres://h/flights"])
def test_what_names_no_directory_is_refused_everywhere_and_makes_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (connect.open, directory_of, lambda url: place(url, create=True)):
        with pytest.raises(OpenError):
            read(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("memory://ann:secret@bucket/x", "memory://bucket/x"),
        ("memory:", "memory:"),
        ("https://host/x?signature=secret", "https://host/x"),
        ("file:a@b?c", "file:a@b?c"),
        ("a@b", "a@b"),
    ],
)
def test_messages_have_no_secret_of_a_url(url: str, shown: str) -> None:
    assert urls.without_secrets(url) == shown
