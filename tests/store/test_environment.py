"""Files that a user names: those that are not regular, or too large, are refused at once."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from everlog.store.environment import FILE_BYTES_MAX, read_file, read_secret, variable
from everlog.store.errors import OpenError


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix, contextlib.chdir(path.parent):
        unix.bind(path.name)  # the address of a socket has at most 104 bytes


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "expected a regular file; found a pipe"),
    "directory": (os.mkdir, "expected a regular file; found a directory"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "expected a regular file; found a device"),
    "socket": (bound, "expected a regular file; found a socket"),
    "large": (large, "expected at most 16 MiB, found more"),
    "missing": (str, "No such file or directory"),
    "endless link": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_file_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = KINDS[kind]
    make(Path("x"))
    with pytest.raises(OpenError) as caught:
        read_file(Path("x"), "the key")
    assert str(caught.value) == f"x: the key cannot be read: {says}"
    with pytest.raises(OpenError, match="x: the key cannot be read"):
        read_secret(Path("x"), "the key")


def test_a_file_up_to_the_limit_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(FILE_BYTES_MAX)
    assert len(read_file(tmp_path / "x", "the key")) == FILE_BYTES_MAX


def test_a_secret_comes_from_a_file_or_a_descriptor_and_from_no_other_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokens")
    with pytest.raises(OpenError, match=r"tokens: the key cannot be read: expected a regular file, or a"):
        read_secret(tmp_path / "tokens", "the key")
    with pytest.raises(OpenError, match=r"or a descriptor .*; found a device"):
        read_secret(Path("/dev/null"), "the key")
    reading, writing = os.pipe()
    try:
        os.write(writing, b"secret")
        os.close(writing)
        assert read_secret(Path(f"/dev/fd/{reading}"), "the key") == b"secret"
    finally:
        os.close(reading)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"secret")
    for mode, refused in ((0o600, False), (0o400, False), (0o604, True), (0o660, True), (0o644, True)):
        (tmp_path / "x").chmod(mode)
        assert read_file(tmp_path / "x", "the key") == b"secret"
        if refused:
            with pytest.raises(OpenError, match=rf"can be read by others \(mode {mode:04o}\)"):
                read_secret(tmp_path / "x", "the key")
        else:
            assert read_secret(tmp_path / "x", "the key") == b"secret"


def test_an_env_file_that_cannot_be_read_is_named_and_a_directory_of_that_name_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERLOG_NOTHING", raising=False)
    os.mkfifo(".env")
    with pytest.raises(OpenError, match=r"^\.env: the file of variables cannot be read: .* found a pipe$"):
        variable("EVERLOG_NOTHING")
    Path(".env").unlink()
    assert variable("EVERLOG_NOTHING") == ""
    Path(".env").symlink_to("nowhere")
    assert variable("EVERLOG_NOTHING") == ""
    Path(".env").unlink()
    Path(".env").mkdir()  # a virtual environment
    assert variable("EVERLOG_NOTHING") == ""
