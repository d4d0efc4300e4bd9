"""Tokens: the file of a server's tokens, and its refused lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog import OpenError
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.auth import read_tokens
from everlog.rpc.server.server import Server


def test_a_file_has_a_name_and_a_token_a_line_comments_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# who may come\n\nann  sesame\nbob\tthyme\n")
    assert read_tokens(tmp_path / "tokens", "salt") == ({"ann": "sesame", "bob": "thyme"}, {})


def test_a_third_word_is_the_roles_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("ann sesame owner\nbob thyme reader,clerk\ncy basil\n")
    found = read_tokens(tmp_path / "tokens")
    assert found.tokens == {"ann": "sesame", "bob": "thyme", "cy": "basil"}
    assert found.roles == {"ann": ("owner",), "bob": ("reader", "clerk")}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"ann sesame\nbob sesame\n", ":2: .*found the token of line 1"),
        ("caf\u00e9 sesame\ncafe\u0301 thyme\n".encode(), ":2: .*found the name cafe.* of line 1"),
        ("ann sesame\n\uff41nn thyme\n".encode(), ":2: .*found the name .*nn of line 1"),
        (b"ann sesame\n\nann thyme\n", ":3: .*found the name ann of line 1"),
        (
            b"ann sesame\nbob salt\n",
            ":2: .*found the token of --token, or EVERLOG_TOKEN: its callers would not be identified as bob",
        ),
        (b"\xef\xbb\xbfann sesame\n", ":1: .*found a byte order mark"),
        (b"ann sesame\nbob thyme\r\n", ":2: .*found a carriage return"),
        (b"sesame\n", ":1: .*found 1 word"),
        (b"ann of kent sesame\n", ":1: .*found 4 words"),
        (b"ann sesame\n thyme\n", ":2: .*found whitespace at the beginning"),
        (b"ann sesame\n  # bob\n", ":2: .*found whitespace at the beginning"),
        (b"ann sesame \n", ":1: .*found whitespace"),
        (b"ann sesame\n \t\n", ":2: .*found whitespace"),
        (b"ann sesame reader,,writer\n", ":1: .*found a role without a name"),
        (b"ann #bob\n", ":1: .*begins with #"),
        (b"ann ses\xe2\x80\x8bame\n", ":1: .*not visible"),
        ("ann\u00a0sesame\n".encode(), ":1: .*found 1 word"),
        (b"ann \xff\n", ":1: .*not UTF-8"),
        (b"", ": expected a line with a name and a token, .* found none"),
        (b"# nobody\n", ": expected a line with a name and a token, .* found none"),
    ],
)
def test_what_would_take_a_name_from_its_token_is_refused_with_its_line(
    tmp_path: Path, raw: bytes, says: str
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(raw)
    with pytest.raises(OpenError, match=f"tokens{says}") as caught:
        read_tokens(path, "salt")
    assert "sesame" not in str(caught.value)
    assert "thyme" not in str(caught.value)


@pytest.mark.parametrize(
    ("token", "tokens", "says"),
    [
        ("salt", {"ann": "salt"}, "the token of ann is also that of another"),
        ("", {"ann": "sesame", "bob": "sesame"}, "the token of bob is also that of another"),
        ("salt", {"": "sesame"}, "expected the name of a token, found ''"),
        ("salt", {"ann": ""}, "expected the token of ann to be visible"),
        ("salt\n", {}, "expected a token of visible ASCII characters"),
    ],
)
def test_a_server_refuses_them_as_well(
    db: EmbeddedDatabase, token: str, tokens: dict[str, str], says: str
) -> None:
    with pytest.raises(OpenError, match=says):
        Server({"x": db}, token=token, tokens=tokens)
