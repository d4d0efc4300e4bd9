"""Output: rows as text, progress, the standard streams, and files that are written whole.

Text: rows and keys as people type them and as programs read them.

    airports JFK              ─▶ "JFK"                      each field of a key is a word
    flights 2013 1 1 UA …     ─▶ (2013, 1, 1, "UA", …)
    row                       ─▶ {"faa": "JFK", "tz": -5}   protobuf's JSON, names as in the model

Words are read as cells of a CSV file are (everlog.migrations.values).

Progress: shown on standard error.

    on a terminal     load flights:  54%|█████▍    | 181k/337k [00:01<00:01, 112k rows/s]
    elsewhere, CI     load flights: 181,000 of 336,776 rows, 112,000 a second

Elsewhere a line is printed every few seconds, and at the end of a step that had one, so that logs of CI stay
short.

Streams: standard input, output and error, and the effect of a failed write.

    a command that only prints    stops at the first failed write        `log | head`
    a command that does work      finishes its work, then reports it        `up | head -n1`
    standard error                never stops anything: progress and errors go there

A stream that is closed at the start gets a descriptor on which reads and writes fail. Otherwise the next
opened file, such as one of the database, would become standard output.

Files: an output file appears only when it is complete.

    FILE.part, mode 0600, locked ─▶ written and synced ─▶ renamed to FILE, with the mode of the previous FILE

The next run overwrites a FILE.part left by a kill. A named pipe or a device is written to directly. A link
is kept: its target is replaced.

Invariants
  (1) FILE is the previous file or a complete one, even after a kill;
  (2) two processes never write one FILE.part.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import select
import stat
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

import click
import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations.values import as_json, dump, expected, from_text, plain
from everlog.store.errors import Error, RowError, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema.codec import TIMESTAMP, kind_of

if TYPE_CHECKING:
    from everlog.migrations.details import Details
    from everlog.migrations.estimate import Estimate
    from everlog.migrations.proposal import Proposal

__all__ = ["dotted", "dump", "echo", "moment", "path", "plain", "row_dict", "size", "values"]

Steps = tuple[FieldDescriptor, ...]


def row_dict(row: Message) -> dict[str, Any]:
    """Return a row as JSON values, without unset fields that have presence. Values that JSON cannot express
    are shown as they are stored (everlog.migrations.values)."""
    found: dict[str, Any] = as_json(row)
    return found


def proposal_dict(
    proposal: Proposal, sources: Mapping[str, Mapping[str, str | None]] | None = None
) -> dict[str, Any]:
    """Return a proposal as JSON values. `sources`: the files of its folders by folder and path."""
    found = {
        "digest": proposal.digest.hex(),
        "state": str(proposal.state),
        "url": proposal.url,
        "plan": msgspec.to_builtins(proposal.plan),
        "events": msgspec.to_builtins(proposal.events),
    }
    return found if sources is None else {**found, "sources": sources}


def details_dict(details: Details) -> dict[str, Any]:
    """Return a migration as JSON values: its files as text, null for those without text; bootstrap rows as
    they are."""
    found: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(details, files=[]))
    return {
        **found,
        "digest": details.digest.hex(),
        "files": {one.path: details.file(one.path) for one in details.files},
        "bootstrap": [
            {**msgspec.to_builtins(one), "first": list(map(json.loads, one.first))}
            for one in details.bootstrap
        ],
    }


def echo(value: Any, *, indent: bool = False) -> None:
    click.echo(dump(value, indent=indent))


def values(fields: Sequence[Steps], words: Iterable[str], role: str) -> Any:
    """Return the value of the first of these fields, or a tuple of the first ones; None for no words.

    Raises RowError naming the field whose word does not fit.
    """
    words = list(words)
    if len(words) > len(fields):
        raise RowError(
            f"{role} has the fields {dotted(fields)}; found {quantity(len(words), 'value')}:"
            f" {' '.join(words)}"
        )
    found = tuple(_value(path, word, role) for path, word in zip(fields, words, strict=False))
    return found[0] if len(found) == 1 else found or None


def dotted(fields: Sequence[Steps]) -> str:
    return ", ".join(".".join(step.name for step in path) for path in fields)


def moment(time_ns: int) -> str:
    """Return a time as 2026-01-05 09:30:00.123Z, in UTC, which commands accept as a time."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")


def path(found: Path) -> str:
    """Return a path, relative if it is below the working directory."""
    here = Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def cost(one: Estimate) -> str:
    """Return the cost of a migration as a clause."""
    disk = f"{_about(one.seconds)}{f' and {size(one.bytes)} of disk' if one.bytes else ''}"
    freed = f", of which {size(one.freed_bytes)} are free afterwards" if one.freed_bytes else ""
    room = "" if one.fits else f"; ONLY {size(one.free_bytes)} ARE FREE"
    waits = f"wait {_about(one.waits_s)}" if one.waits_s else "continue"
    twice = f", and commits to {', '.join(one.twice)} are written twice" if one.twice else ""
    more = f"; unknown: {'; '.join(one.unknown)}" if one.unknown else ""
    return f"{disk}{freed}{room}; writers {waits}{twice}{more}"


def _about(seconds: float) -> str:
    return f"about {span(max(seconds, 0.1))}"


def span(seconds: float) -> str:
    """Return a duration with its unit, in three digits."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _value(path: Steps, word: str, role: str) -> Any:
    field = path[-1]
    try:
        value = from_text(field)(word)
        return Timestamp(**value) if kind_of(field) is TIMESTAMP else value
    except (ValueError, TypeError) as error:
        name = ".".join(step.name for step in path)
        raise RowError(f"expected {expected(field)} for {name} in {role}, found {word!r} ({error})") from None


LINE_EVERY_S = 5.0


class Shown:
    """Show one step at a time; a new step ends the previous one. Used as an OnProgress."""

    def __init__(self, out: TextIO | None = None, *, every_s: float = LINE_EVERY_S) -> None:
        self._out = out or sys.stderr
        self._every_s = every_s
        self._is_terminal = self._out.isatty() and not os.environ.get("CI")
        self._bar: Any = None
        self._last: Progress | None = None
        self._began = self._told = 0.0
        self._from = 0

    def __call__(self, now: Progress) -> None:
        if self._last is None or self._last.step != now.step:
            self.end()
            self._began = self._told = time.monotonic()
            self._from = now.done
        self._last = now
        if self._is_terminal:
            self._draw(now)
        elif time.monotonic() - self._told >= self._every_s:
            self._write(now)

    def end(self) -> None:
        """End the current step."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._last is not None and not self._is_terminal and self._told > self._began:
            self._write(self._last)  # if lines were printed, also print the final state
        self._last = None

    def _draw(self, now: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(
                desc=now.step,
                total=now.total,
                initial=self._from,
                unit=f" {now.unit}",
                unit_scale=True,
                file=self._out,
                dynamic_ncols=True,
            )
        if now.total != self._bar.total:
            self._bar.total = now.total
        self._bar.update(now.done - self._bar.n)

    def _write(self, now: Progress) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._began, 1e-9)
        total = "" if now.total is None else f" of {now.total:,}"
        rate = (now.done - self._from) / seconds
        print(f"{now.step}: {now.done:,}{total} {now.unit}, {rate:,.0f} a second", file=self._out, flush=True)


@contextmanager
def show_progress(out: TextIO | None = None, *, every_s: float = LINE_EVERY_S) -> Iterator[OnProgress]:
    """Yield an OnProgress that shows progress, and clear its line at the end."""
    progress = Shown(out, every_s=every_s)
    try:
        yield progress
    finally:
        progress.end()


PIPE_CLOSED = 141  # 128 + SIGPIPE, as in a shell
FAILED = 1


class OutputError(Exception):
    """Raised when standard output cannot be written, and the command only prints."""


class Stream(io.FileIO):
    """A descriptor to write to. After the first failure it accepts all bytes and writes none.

    `failure` is the error of the first failed write, or None. With `stops` that write raises OutputError.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.failure: OSError | None = None
        self.stops = False

    def write(self, data: Any, /) -> int:
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:
                    _wait(self.fileno(), select.POLLOUT)
                return written
            except OSError as error:
                self.failure = error
                if self.stops:
                    raise OutputError from error
        return memoryview(data).nbytes


class _Input(io.FileIO):
    """A descriptor to read from, which waits for data even if it is non-blocking."""

    def readinto(self, buffer: Any, /) -> int | None:
        while (got := super().readinto(buffer)) is None:
            _wait(self.fileno(), select.POLLIN)
        return got

    def readall(self) -> bytes:
        return io.RawIOBase.readall(self) or b""  # by `readinto`


def read_some(descriptor: int, size: int) -> bytes:
    """Do `os.read`, but wait for data even if the descriptor is non-blocking."""
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            _wait(descriptor, select.POLLIN)


def _wait(descriptor: int, event: int) -> None:
    """Wait until a non-blocking descriptor can be used. Others may have made it so: programs share pipes."""
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()


class _ClosedInput(io.FileIO):
    def readinto(self, buffer: Any, /) -> int | None:
        raise OSError(errno.EBADF, "it is closed", "standard input")


class Streams:
    """The standard streams while a command runs."""

    def __init__(self) -> None:
        self._input = _descriptor(0, sys.stdin)  # in this order: the lowest free one is taken
        self.output = Stream(_descriptor(1, sys.stdout))
        self._error = Stream(_descriptor(2, sys.stderr))
        self._text = _text(self.output)

    @contextmanager
    def installed(self) -> Iterator[Streams]:
        """Replace sys.stdout, sys.stderr and, except for a terminal, sys.stdin."""
        before = sys.stdin, sys.stdout, sys.stderr
        if sys.stdin is None:
            sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput(self._input, closefd=False)))
        elif (given := sys.__stdin__) is not None and sys.stdin is given and not given.isatty():
            waiting = io.BufferedReader(_Input(self._input, closefd=False))
            sys.stdin = io.TextIOWrapper(waiting, given.encoding, given.errors)
        sys.stdout, sys.stderr = self._text, _text(self._error)
        try:
            yield self
        finally:
            self.output.stops = False
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdin, sys.stdout, sys.stderr = before

    def code(self, code: int) -> int:
        """Flush the output, and return the exit code of a command that ended with `code`. Reports a failed
        write on standard error, unless the reader has closed the pipe."""
        self.output.stops = False
        self._text.flush()
        failure = self.output.failure
        if code or failure is None:
            return code
        if failure.errno == errno.EPIPE:
            return PIPE_CLOSED
        why = "it is closed" if failure.errno == errno.EBADF else failure.strerror
        print(f"error: standard output could not be written: {why}", file=sys.stderr)
        return FAILED


def _descriptor(number: int, found: object) -> int:
    """Return the descriptor of a standard stream; if it is closed, one on which each write fails."""
    return number if found is not None else os.open(os.devnull, os.O_RDONLY)


def _text(stream: Stream) -> io.TextIOWrapper:
    """Return a text stream in UTF-8, whatever LANG is."""
    terminal = stream.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=None if terminal else "utf-8",
        errors="backslashreplace",
        line_buffering=terminal,
    )


@contextmanager
def atomic_file(file: str) -> Iterator[IO[bytes]]:
    """Open a file to write into: FILE when the block ends without an error, removed if it raises.

    Raises OSError with the name of the file, and Error if another process writes it.
    """
    path = Path(os.path.realpath(file))
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as out:
                yield out
            return
        with _locked(Path(f"{path}.part"), file) as (out, part):
            yield out
            out.flush()
            os.fsync(out.fileno())  # before the rename, so that a power failure cannot leave an empty FILE
            os.fchmod(out.fileno(), _mode(path))
            part.replace(path)
    except OSError as error:
        error.filename = file  # the error of a full disk names no file
        raise


@contextmanager
def _locked(part: Path, file: str) -> Iterator[tuple[IO[bytes], Path]]:
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Error(f"{file} is being written by another process; wait for it") from None
            if not _is(part, handle):  # it was renamed or removed since it was opened
                continue
            try:
                os.fchmod(handle, 0o600)
                os.ftruncate(handle, 0)
                yield out, part
            finally:
                if _is(part, handle):
                    part.unlink()
            return


def _is(part: Path, handle: int) -> bool:
    """Return whether the path leads to the open file."""
    try:
        return os.path.samestat(part.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _mode(path: Path) -> int:
    """Return the mode of the file to be replaced, or of a new file."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        os.umask(mask := os.umask(0o077))
        return 0o666 & ~mask


@contextmanager
def as_text(out: IO[bytes]) -> Iterator[IO[str]]:
    """Open `out` as text in UTF-8, with line ends as given. `out` stays open."""
    lines = io.TextIOWrapper(out, encoding="utf-8", newline="")
    try:
        yield lines
        lines.flush()
    finally:
        with suppress(OSError):  # of an earlier write, which raised it already
            lines.detach()


def columns(rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """Return rows as lines of aligned columns. The first row has their names. `right`: those that are aligned
    to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            word.rjust(width) if name in right else word.ljust(width)
            for name, word, width in zip(rows[0], row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
