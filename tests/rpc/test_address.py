from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

import everlog
from everlog.rpc.address import Address, is_loopback, listening, parse


def test_the_parts_of_a_url() -> None:
    assert parse("everlog://db.example:7000/flights?token=s3cret&ca=/ca.pem") == Address(
        "db.example", 7000, "flights", secure=True, token="s3cret", ca="/ca.pem"
    )
    assert parse("everlog+insecure://127.0.0.1/x") == Address("127.0.0.1", 7420, "x", secure=False)
    assert parse("everlog+insecure://[::1]:9/x").target == "[::1]:9"


def test_token_and_authority_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLOG_TOKEN", "from-env")
    monkeypatch.setenv("EVERLOG_CA", "/env.pem")
    monkeypatch.setenv("EVERLOG_CERT", "/cert.pem")
    monkeypatch.setenv("EVERLOG_KEY", "/cert.key")
    assert parse("everlog://h/x")[4:8] == ("from-env", "/env.pem", "/cert.pem", "/cert.key")
    assert parse("everlog://h/x?token=mine").token == "mine"
    assert parse("everlog://user:word@h/x").token == "word"


def test_what_is_shown_of_an_address_has_no_secret() -> None:
    for url in ("everlog://u:s3cret@h:1/x", "everlog://h:1/x?token=s3cret"):
        assert str(parse(url)) == "everlog://h:1/x"


@pytest.mark.parametrize(
    "url",
    [
        "everlog://",
        "everlog://h",
        "everlog://h/",
        "everlog://h/a/b",
        "everlog://:1/x",
        "everlog://h:port/x?token=s3cret",
        "http://h/x?token=s3cret",
        "everlog://h/x?tokn=s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(everlog.OpenError, match="expected") as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_plain_connections_stay_on_this_machine() -> None:
    with pytest.raises(everlog.OpenError, match=r"db\.example is not: use everlog://"):
        parse("everlog+insecure://db.example/x")
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "::", "db.example"))  # noqa: S104


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:7420", ("127.0.0.1", 7420)), ("[::1]:0", ("::1", 0)), ("localhost:80", ("localhost", 80))],
)
def test_where_a_server_listens_is_a_host_and_a_port(text: str, found: tuple[str, int]) -> None:
    assert listening(text) == found


@pytest.mark.parametrize(
    "text", ["7420", ":7420", "localhost", "localhost:", "x:http", "x:99999", "x:-1", ""]
)
def test_what_is_no_place_to_listen_is_refused(text: str) -> None:
    with pytest.raises(everlog.OpenError, match="expected an address to listen on as HOST:PORT"):
        listening(text)


def test_an_empty_url_is_not_the_directory_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(everlog.OpenError, match="found an empty one"):
        everlog.open("")
    assert list(tmp_path.iterdir()) == []


def test_a_token_comes_from_a_file_that_only_its_owner_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("sesame\n")
    path.chmod(0o600)
    monkeypatch.setenv("EVERLOG_TOKEN", "thyme")
    url = f"everlog://h/x?token-file={path}"
    assert parse(url).token == "sesame"
    assert "sesame" not in str(parse(url))
    assert parse("everlog://h/x").token == "thyme"
    with pytest.raises(everlog.OpenError, match="found both"):
        parse(f"{url}&token=basil")
    path.chmod(0o644)
    with pytest.raises(everlog.OpenError, match="can be read by others"):
        parse(url)
    path.chmod(0o600)
    for wrong in ("two words", "", "s\u00e9same"):
        path.write_text(wrong)
        with pytest.raises(everlog.OpenError, match=r"expected (one|a) token of visible ASCII") as caught:
            parse(url)
        assert "same" not in str(caught.value)
    with pytest.raises(everlog.OpenError, match="cannot be read"):
        parse(f"everlog://h/x?token-file={tmp_path}/none")


@pytest.mark.parametrize(
    "token", ["sesame\n", " sesame", "ses ame", "s\u00e9same", "\ufeffsesame", "ses\x7fame"]
)
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    words = "h:7420/x: expected a token of visible ASCII characters, found other characters or spaces in"
    monkeypatch.setenv("EVERLOG_TOKEN", token)
    with pytest.raises(everlog.OpenError, match=f"{words} EVERLOG_TOKEN") as caught:
        everlog.open("everlog://h/x")
    assert "same" not in str(caught.value)
    with pytest.raises(everlog.OpenError, match=f"{words} the URL"):
        everlog.open(f"everlog://h/x?token={quote(token)}")
