"""Program log: the lines that a process writes for its operators.

    logger.warning("…", extra=about("writes.refused", database="flights"))
        │
        └─ LogHandler ─▶ repeated? ─▶ TextFormat or JsonFormat ─▶ bounded queue ─▶ thread ─▶ standard error

    text  := time level event database identity sentence {" " name "=" value}
    json  := {"time", "level", "event", "database", "identity", "message", <fields>}

    2026-11-30T03:22:28.123Z warning call.slow flights ann Store/Scan took 1,204 ms ms=1204 rows=90210

The store and the server log through `logging`, to the logger `everlog`; a program that embeds them sees the
same records with its own handlers. `about` names the event and its fields. `everlog serve` installs the
LogHandler. Events, and which fields each has: docs/operating.md.

Invariants
  (1) one record is one line, whatever its values contain; in text, a trace follows it, indented;
  (2) a line that repeats is written at most once every REPEAT_S, then with the number of those left out;
  (3) logging never waits for a reader of standard error: beyond QUEUED_MAX lines, lines are counted and lost;
  (4) no line has the message of an exception that is not an everlog error: it may contain values of rows.
      Other libraries than asyncio write no lines here: theirs may contain secrets.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, TextIO

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
REPEAT_S = 60.0
KNOWN_MAX = 1000  # lines that are remembered, to recognise a repeated one
QUEUED_MAX = 10_000
CLOSE_S = 5.0
BEGINNING_MAX = 100

logger = logging.getLogger("everlog")

# Of events that the caller learns in another way, from a result or an error: without a handler of the program
# they are not printed.
quiet = logging.getLogger("everlog.quiet")
quiet.addHandler(logging.NullHandler())

_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class About(NamedTuple):
    """What a line is about. `same` identifies repeated lines, in place of the sentence."""

    event: str
    database: str
    identity: str
    same: str | None
    fields: dict[str, Any]


def about(
    event: str, *, database: str = "", identity: str = "", same: str | None = None, **fields: Any
) -> dict[str, About]:
    """Return the `extra` of a logging call.

    `event`: a short name, as `writes.refused`. `same`: lines of the same event, database, identity and `same`
    repeat each other, whatever their sentences say; None: only equal sentences do. `fields`: further values,
    with their units in their names. Values of rows, keys of rows, tokens and passwords are not allowed.
    """
    return {"everlog": About(event, str(database), str(identity), same, fields)}


def about_of(record: logging.LogRecord) -> About:
    """Return what a record is about; of other libraries' records the logger's name is the event."""
    found = getattr(record, "everlog", None)
    return found if isinstance(found, About) else About(record.name, "", "", None, {})


def _sentence(record: logging.LogRecord) -> str:
    """Return the sentence of a record; of other libraries only its beginning: exceptions and arguments, with
    their values, come later."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  wrong arguments of a library's call: no reason to fail here
        text = str(record.msg)
    if record.name.startswith(logger.name):
        return text
    return re.split(r"[^\w ]", text, maxsplit=1)[0][:BEGINNING_MAX].strip()


def _trace(record: logging.LogRecord) -> str:
    """Return where the exception of a record was raised, and its type."""
    if not record.exc_info or record.exc_info[2] is None:
        return ""
    kind, _, at = record.exc_info
    return f"{''.join(traceback.format_tb(at)).rstrip()}\n{kind.__name__ if kind else ''}"


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


class TextFormat(logging.Formatter):
    """One line for people and for `cut`: five columns, the sentence, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        it = about_of(record)
        words = [_time(record), record.levelname.lower(), it.event, _word(it.database), _word(it.identity)]
        words.append(_CONTROL.sub(_escaped, _sentence(record)))
        words += [f"{name}={_word(value)}" for name, value in it.fields.items()]
        line = " ".join(words)
        for one in _trace(record).split("\n") if record.exc_info else ():
            line += f"\n    {_CONTROL.sub(_escaped, one)}"
        return line


class JsonFormat(logging.Formatter):
    """One JSON object per line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        it = about_of(record)
        found = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": it.event,
            "database": it.database,
            "identity": it.identity,
            "message": _sentence(record),
            **it.fields,
        }
        if trace := _trace(record):
            found["trace"] = trace
        return json.dumps(found, default=str, separators=(",", ":"))


def _word(value: object) -> str:
    """Return a value as one word: quoted if it has spaces, quotes or control characters; `-` if empty."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=True) if text else "-"


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found.group(), ensure_ascii=True)[1:-1]


class _Repeated:
    """A line that was written, until when it is not written again, and how many were left out since."""

    __slots__ = ("last", "left_out", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.left_out = 0
        self.last: logging.LogRecord | None = None


class LogHandler(logging.Handler):
    """Writes records to `out` in a separate thread. Safe to use from many threads."""

    def __init__(self, out: TextIO, form: str = "text", *, repeat_s: float = REPEAT_S) -> None:
        super().__init__()
        self.setFormatter(JsonFormat() if form == "json" else TextFormat())
        self._out, self._repeat_s = out, repeat_s
        self.names: dict[str, str] = {}  # names of databases by their directories
        self._known: OrderedDict[tuple[str, ...], _Repeated] = OrderedDict()
        self._lines: deque[str] = deque()
        self._lost = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="everlog-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record, or count it as a repeated one."""
        it = about_of(record)
        record.everlog = it._replace(database=self.names.get(it.database, it.database))
        with self._changed:
            if not self._is_repeated(record):
                self._add(record)
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued, and how many lines were left out. Waits CLOSE_S for a slow reader."""
        with self._changed:
            if not self._closed:
                self._tell(float("inf"))
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)
        super().close()

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        it, now = about_of(record), time.monotonic()
        key = (it.event, it.database, it.identity, _sentence(record) if it.same is None else it.same)
        found = self._known.get(key)
        if found is not None and now < found.until:
            found.left_out += 1
            found.last = record
            return True
        if found is not None and found.left_out:
            self._tell_one(found)
        self._known[key] = _Repeated(now + self._repeat_s)
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            _, oldest = self._known.popitem(last=False)
            self._tell_one(oldest)
        return False

    def _tell(self, now: float) -> float:
        """Write the last of each repeated line whose time is over. Return when the next one is due."""
        due = float("inf")
        for key, one in list(self._known.items()):
            if one.until > now:
                due = min(due, one.until) if one.left_out else due
            elif one.left_out:
                self._tell_one(one)
                one.until = now + self._repeat_s
            else:
                del self._known[key]
        return due

    def _tell_one(self, one: _Repeated) -> None:
        if one.last is not None:
            it, others = about_of(one.last), one.left_out - 1
            if others:
                one.last.everlog = it._replace(fields=it.fields | {"left_out": others})
            self._add(one.last)
        one.left_out, one.last = 0, None

    def _add(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= QUEUED_MAX:
            self._lost += 1
        else:
            self._lines.append(self.format(record))

    def _run(self) -> None:
        while True:
            with self._changed:
                due = self._tell(time.monotonic())
                if not self._lines and not self._closed:
                    self._changed.wait(None if due == float("inf") else max(0.0, due - time.monotonic()))
                lines, ends = list(self._lines), self._closed
                self._lines.clear()
                lost, self._lost = self._lost, 0
            if lost:
                said = "%d lines were lost: standard error is read too slowly"
                record = logging.LogRecord("everlog", logging.WARNING, "", 0, said, (lost,), None)
                record.everlog = about("log.lost", lost=lost)["everlog"]
                lines.append(self.format(record))
            if lines:
                with contextlib.suppress(OSError, ValueError):  # its reader is gone
                    self._out.write("\n".join(lines) + "\n")
                    self._out.flush()
            if ends:
                return


@contextlib.contextmanager
def writing(form: str = "text", level: str = "info", out: TextIO | None = None) -> Iterator[LogHandler]:
    """Write the log of this process to `out` (default: standard error) for the block: records of everlog from
    `level` on, and of asyncio. Those of other libraries may have secrets, such as URLs with passwords."""
    handler, loggers = LogHandler(out or sys.stderr, form), (logger, logging.getLogger("asyncio"))
    before = logger.level
    logger.setLevel(level.upper())
    for one in loggers:
        one.addHandler(handler)
    try:
        yield handler
    finally:
        for one in loggers:
            one.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
