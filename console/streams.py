"""Streams: standard input, output and error of a command, and what a failed write means.

    a command that only prints    stops at the first failed write        `log | head`
    a command that does work      finishes its work, then says so        `up | head -n1`
    standard error                never stops anything: progress and errors go there

A stream that is closed when the program starts gets a descriptor: without one, the next file that is opened,
a database's for example, would be standard output. Reading and writing it fails.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell has it for programs that die of it
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
                return super().write(data)
            except OSError as error:
                self.failure = error
                if self.stops:
                    raise OutputError from error
        return memoryview(data).nbytes


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
        """Takes the place of sys.stdout, sys.stderr and, where it is closed, sys.stdin."""
        before = sys.stdin, sys.stdout, sys.stderr
        if sys.stdin is None:
            sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput(self._input, closefd=False)))
        sys.stdout, sys.stderr = self._text, _text(self._error)
        try:
            yield self
        finally:
            self.output.stops = False
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdin, sys.stdout, sys.stderr = before

    def code(self, code: int) -> int:
        """The exit code of a command that ended with `code`, once its output is flushed. Says on standard
        error what could not be written, unless the reader has just closed the pipe."""
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
    """The descriptor of a standard stream; for one that is closed, one on which each write fails."""
    return number if found is not None else os.open(os.devnull, os.O_RDONLY)


def _text(stream: Stream) -> io.TextIOWrapper:
    """Rows are written as they are, whatever LANG says."""
    terminal = stream.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=None if terminal else "utf-8",
        errors="backslashreplace",
        line_buffering=terminal,
    )
