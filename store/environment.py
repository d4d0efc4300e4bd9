"""Environment: settings that a program does not pass itself.

    argument or flag   >   environment of the process   >   .env

`.env` is the file of that name in the working directory. The command line may name other files, and
loads all their variables into the environment, those of other programs as well (an object store's
credentials). A variable that is set and empty counts as set. A line that is not an assignment sets
nothing, and is reported; so is a file with secrets that other users can read.

Files that a user names, `.env` among them, are read here: settings, tokens, keys, certificates.

Invariants
  (1) reading one never waits for a writer, and takes at most FILE_BYTES_MAX of memory;
  (2) a key or token is used only if no other user can read its file.
"""

from __future__ import annotations

import io
import logging
import os
import shlex
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from everlog.store.errors import OpenError
from everlog.store.program_log import about

ENV_FILE = ".env"
PREFIX = "EVERLOG_"
FILE_BYTES_MAX = 16 << 20

_DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Setting(NamedTuple):
    """What a variable sets, and the flag that takes precedence over it."""

    purpose: str
    flag: str = ""
    secret: bool = False


APPROVERS = "EVERLOG_APPROVERS"
TRACES = "EVERLOG_TRACES"

SETTINGS = {
    "DATABASE_URL": Setting("URL of the database", "--url"),
    "EVERLOG_MIGRATIONS_DIR": Setting("directory or package of the migrations", "--migrations-dir"),
    "EVERLOG_SCHEMA_FILE": Setting("file that keeps the schema as text", "--schema-file"),
    "EVERLOG_ACTOR": Setting("who commits", "--actor"),
    "EVERLOG_TOKEN": Setting(
        "token of a client; of a server, the token without a name", "--token", secret=True
    ),
    "EVERLOG_CA": Setting("certificate authority of the server, a file", "?ca= in the URL"),
    "EVERLOG_CERT": Setting("certificate of the client, a file", "?cert= in the URL"),
    "EVERLOG_KEY": Setting("key of that certificate, a file", "?key= in the URL"),
    "EVERLOG_TOKENS": Setting("file of a server's tokens", "serve --tokens"),
    APPROVERS: Setting("who may approve migrations, separated by spaces", "serve --approver"),
    "EVERLOG_NOTIFY": Setting("URLs to notify, separated by spaces", "serve --notify", secret=True),
    "EVERLOG_FLEET": Setting("ledger of the fleet that databases join, a URL", "serve --join"),
    "EVERLOG_FLEET_NAME": Setting("name of a member of a fleet", "serve --join-name"),
    "EVERLOG_FLEET_LABELS": Setting("labels of a member, as region=eu,tenant=42", "serve --join-labels"),
    "EVERLOG_FLEET_RATE": Setting("rows a second that a member builds", "serve --join-rate"),
    TRACES: Setting("where to send traces, a URL or file:PATH", "serve --traces"),
    "EVERLOG_MASTER_KEY": Setting("master key of sealed rows, in base64", secret=True),
    "EVERLOG_MASTER_KEY_FILE": Setting("file of the master key"),
    "EVERLOG_NEXT_MASTER_KEY_FILE": Setting("file of the next master key", "serve --next-master-key"),
}

_SECRETS = {name for name, setting in SETTINGS.items() if setting.secret}

# Variables that load_files put into the environment: file and value of each.
_loaded: dict[str, tuple[str, str]] = {}
_files: list[str] = []  # the files of the last load_files
_wrong: dict[str, bool] = {}  # warnings about lines and modes of files, and whether they were reported

logger = logging.getLogger("everlog")


def variable(name: str) -> str:
    """Return the value of a variable from the environment, or else from `.env`; empty if neither sets it.

    Raises OpenError for a `.env` that cannot be read or is not text.
    """
    if name in os.environ:
        return os.environ[name]
    value = _fallback().get(name, "")
    for sentence in _unreported():
        logger.warning("%s", sentence, extra=about("environment.unclear"))
    return value


def source(name: str) -> str:
    """Return where `variable` finds a variable: `environment`, a file name, or empty."""
    if name in os.environ:
        path, value = _loaded.get(name, ("", None))
        return path if os.environ[name] == value else "environment"
    return ENV_FILE if name in _fallback() else ""


def _fallback() -> dict[str, str]:
    """Return the variables of `.env`; none if the command line names other files."""
    return {} if _files or not _is_there(ENV_FILE) else variables_in(ENV_FILE)


def _is_there(path: str) -> bool:
    """Whether there is such a file; virtual environments are directories named `.env`."""
    return Path(path).exists() and not Path(path).is_dir()


def read_file(path: Path, what: str, *, secret: bool = False, pipe: bool = False) -> bytes:
    """Return the content of a file that a user names. Read-only.

    `what` names it in errors. `secret`: only its owner may be able to read it; the group as well if root owns
    it. `pipe`: it is read once, so a pipe is accepted as well, through a descriptor of this process such as
    /dev/stdin; its mode is not checked. Raises OpenError, without showing any of the content.
    """
    piped = pipe and str(path).startswith(_DESCRIPTORS)
    try:
        kind = stat.S_IFMT(path.stat().st_mode)  # opening a socket fails, and a terminal changes by it
        if kind != stat.S_IFREG and not piped:
            descriptor = ", or a descriptor of this process such as /dev/stdin or /dev/fd/3" if pipe else ""
            raise OpenError(
                f"{path}: {what} cannot be read: expected a regular file{descriptor}; found"
                f" {_KINDS.get(kind, 'another kind of file')}",
                path=str(path),
            )
        with open(path, "rb", opener=None if piped else without_waiting) as file:
            found = os.fstat(file.fileno())
            if secret and (said := _open_to_others(path, found, what)):
                raise OpenError(said, path=str(path))
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise OpenError(f"{path}: {what} cannot be read: {error.strerror}", path=str(path)) from None
    if len(content) > FILE_BYTES_MAX:
        raise OpenError(
            f"{path}: {what} cannot be read: expected at most {FILE_BYTES_MAX >> 20} MiB, found more",
            path=str(path),
        )
    return content


def read_secret(path: Path, what: str) -> bytes:
    """Return the content of a file of keys or tokens, as `read_file` with `secret` and `pipe`."""
    return read_file(path, what, secret=True, pipe=True)


def _open_to_others(path: Path, found: os.stat_result, what: str) -> str:
    """Return a sentence if others can read a file with secrets; empty: they cannot, or it is a pipe."""
    others = 0o037 if found.st_uid == 0 else 0o077
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & others:
        return ""
    return (
        f"{path}: {what} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): expected a file that"
        f" only its owner can read. Run `chmod 600 {shlex.quote(str(path))}`, and replace its content if"
        " others may have read it"
    )


def without_waiting(path: str, flags: int) -> int:
    """Opener for `open`: a FIFO without a writer opens at once."""
    return os.open(path, flags | os.O_NONBLOCK)


def variables_in(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the variables in a file. Raises OpenError if it cannot be read or is not text."""
    raw = read_file(Path(path), "the file of variables")
    from dotenv import dotenv_values  # noqa: PLC0415  most programs have no such file
    from dotenv.parser import parse_stream  # noqa: PLC0415

    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise OpenError(f"{path}: expected variables as UTF-8 text, found other bytes: {error}") from None
    kept = []
    for one in parse_stream(io.StringIO(text)):
        whole = one.original.string
        if one.error or (
            one.key is not None and one.value is None and not whole.lstrip().startswith("export")
        ):
            line = one.original.line + whole[: len(whole) - len(whole.lstrip())].count("\n")
            _wrong.setdefault(
                f"{path}, line {line}: expected NAME=VALUE or a comment; the line is ignored",
                False,
            )
        else:
            kept.append(whole)
    values = dotenv_values(stream=io.StringIO("".join(kept)))
    secret = next((name for name, value in values.items() if value and name in _SECRETS), "")
    if secret and (said := _open_to_others(Path(path), Path(path).stat(), secret)):
        _wrong.setdefault(said, False)  # not refused: other programs have such files as well
    return {name: value or "" for name, value in values.items()}


def _unreported() -> list[str]:
    """Return the warnings in `_wrong` that were not reported yet, and mark them as reported."""
    found = [sentence for sentence, reported in _wrong.items() if not reported]
    _wrong.update(dict.fromkeys(found, True))
    return found


def load_files(files: Sequence[str]) -> None:
    """Load the variables of files into the environment, unless it sets them already; the first file wins.

    Without files, load `.env` if it exists. Variables of an earlier call are removed first. Raises
    OpenError if a named file is missing, and for one that cannot be read or is not text.
    """
    _files[:] = files
    while _loaded:
        name, (_, value) = _loaded.popitem()
        if os.environ.get(name) == value:
            del os.environ[name]
    for path in files or ([ENV_FILE] if _is_there(ENV_FILE) else []):
        if not Path(path).exists():
            raise OpenError(f"{path}: file not found; --env-file names a file of variables")
        for name, value in variables_in(path).items():
            if name not in os.environ:
                os.environ[name] = value
                _loaded[name] = path, value


def reload_files() -> None:
    """Load the same files again. Raises OpenError; the environment is then unchanged."""
    before, loaded = dict(os.environ), dict(_loaded)
    try:
        load_files(list(_files))
    except OpenError:
        os.environ.clear()
        os.environ.update(before)
        _loaded.clear()
        _loaded.update(loaded)
        raise


def unknown(others: Callable[[], Collection[str]] = tuple) -> list[str]:
    """Return a warning for each unknown variable with the prefix EVERLOG_, and for each invalid line,
    once. `others` returns the names of further known variables."""
    found = _unreported()
    unusual = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in SETTINGS)
    more = others() if unusual else ()
    for name in unusual:
        if name not in more:
            words = [known.removeprefix(PREFIX) for known in (*SETTINGS, *more) if known.startswith(PREFIX)]
            import difflib  # noqa: PLC0415  only for an unknown variable

            close = difflib.get_close_matches(name.removeprefix(PREFIX), words, 1)
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else "; `everlog config` lists them"
            found.append(f"{name} ({source(name)}) is not a setting of everlog{hint}")
    return found
