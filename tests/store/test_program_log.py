"""The program's log: its two formats, repeated lines, and a reader that does not read."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.store import program_log
from everlog.store.program_log import FORMATS, LogHandler, about, writing
from everlog.store.tables import projection as kinds

MARK = "Wilhelmina"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operating.md"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return a logger with no other handlers."""
    found = logging.getLogger("everlog.test_program_log")
    found.propagate = False
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)
        handler.close()


def lines(logger: logging.Logger, form: str, *said: tuple[str, dict[str, Any]], **how: Any) -> list[str]:
    """Return the lines that are written for these sentences."""
    out = io.StringIO()
    handler = LogHandler(out, form, **how)
    logger.addHandler(handler)
    for sentence, extra in said:
        logger.warning(sentence, extra=extra)
    logger.removeHandler(handler)
    handler.close()
    return out.getvalue().splitlines()


def test_a_line_of_text_has_five_columns_a_sentence_and_fields(logger: logging.Logger) -> None:
    extra = about("call.slow", database="shop", identity="ann", ms=1204, table="orders")
    (line,) = lines(logger, "text", ("Store/Scan took 1,204 ms", extra))
    time, _, rest = line.partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert rest == "warning call.slow shop ann Store/Scan took 1,204 ms ms=1204 table=orders"


def test_json_has_the_same(logger: logging.Logger) -> None:
    (line,) = lines(logger, "json", ("it took long", about("call.slow", database="shop", ms=1204)))
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "event": "call.slow",
        "database": "shop",
        "identity": "",
        "message": "it took long",
        "ms": 1204,
    }


@pytest.mark.parametrize("form", FORMATS)
def test_no_value_makes_a_second_line(logger: logging.Logger, form: str) -> None:
    bad = 'a\n2026-11-30T03:22:28.123Z info call.denied - - \x1b[2J\u2028 x="1"'
    (line,) = lines(logger, form, (bad, about("x", database=bad, identity=bad, name=bad)))
    assert "\x1b" not in line
    assert "\u2028" not in line


@pytest.mark.parametrize("form", FORMATS)
def test_an_exception_is_logged_without_its_message(logger: logging.Logger, form: str) -> None:
    out = io.StringIO()
    handler = LogHandler(out, form)
    logger.addHandler(handler)
    name = MARK
    try:
        raise ValueError(name)
    except ValueError:
        logger.exception("it failed")
    handler.close()
    assert MARK not in out.getvalue()
    assert "ValueError" in out.getvalue()
    assert "test_program_log.py" in out.getvalue()


def test_a_repeated_line_is_written_once_and_then_with_the_number_left_out(logger: logging.Logger) -> None:
    same = [("the same", about("x"))] * 5
    found = lines(logger, "json", *same, ("another", about("x")))
    said = [(json.loads(line)["message"], json.loads(line).get("left_out")) for line in found]
    assert said == [("the same", None), ("another", None), ("the same", 3)]


def test_lines_repeat_by_what_they_name(logger: logging.Logger) -> None:
    said = [
        (f"took {ms} ms", about("call.slow", database="shop", identity=who, same="Store/Scan"))
        for ms, who in ((1, "ann"), (2, "bob"), (3, "ann"))
    ]
    found = [line.split(" ", 4)[3:] for line in lines(logger, "text", *said)]
    assert found == [["shop", "ann took 1 ms"], ["shop", "bob took 2 ms"], ["shop", "ann took 3 ms"]]


def test_the_count_is_told_when_the_time_is_over_without_another_line(logger: logging.Logger) -> None:
    written, told = threading.Event(), list[str]()

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            told.extend(text.splitlines())
            if any("left_out" in line for line in told):
                written.set()
            return len(text)

    handler = LogHandler(Out(), repeat_s=2.0)
    logger.addHandler(handler)
    for _ in range(4):
        logger.warning("again", extra=about("x"))
    assert written.wait(30)
    assert [line.split(" ", 5)[5] for line in told] == ["again", "again left_out=2"]


def test_the_lines_that_are_remembered_are_bounded(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_log, "KNOWN_MAX", 3)
    said = [(f"{number}", about("x")) for number in range(10)] + [("0", about("x"))]
    assert len(lines(logger, "text", *said)) == 11


def test_nobody_waits_for_a_reader_that_does_not_read(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_log, "QUEUED_MAX", 50)
    reads, writes = os.pipe()
    found: list[str] = []
    with os.fdopen(reads) as reader:
        with os.fdopen(writes, "w", buffering=1) as out:
            handler = LogHandler(out)
            logger.addHandler(handler)
            for number in range(5000):  # more than the pipe holds
                logger.warning("line %d %s", number, "x" * 100, extra=about("x"))
            thread = threading.Thread(target=lambda: found.extend(reader))
            thread.start()
            handler.close()
        thread.join()
    lost = [int(line.rpartition("=")[2]) for line in found if "log.lost" in line]
    assert lost
    assert len(found) - len(lost) + sum(lost) == 5000


def test_the_logger_is_left_as_it_was() -> None:
    out, one = io.StringIO(), program_log.logger
    handlers, level = list(one.handlers), one.level
    with writing("text", "debug", out):
        program_log.logger.debug("hello", extra=about("x"))
    assert (one.handlers, one.level) == (handlers, level)
    assert out.getvalue().endswith("debug x - - hello\n")


def test_other_libraries_write_nothing_that_could_be_a_secret() -> None:
    out = io.StringIO()
    with writing("text", "debug", out):
        logging.getLogger("apprise").error("Unsupported URL: json://user:%s@host", MARK)
        logging.getLogger("asyncio").error(
            "Task exception was never retrieved\nfuture: <Task exception=%r>", ValueError(MARK)
        )
    (line,) = out.getvalue().splitlines()
    assert line.endswith(" error asyncio - - Task exception was never retrieved")


def test_every_event_is_on_the_page_and_no_other() -> None:
    rooms = ("store", "audit", "migrations", "feed", "fleet", "rpc", "consumers", "console")
    sources = [path.read_text("utf-8") for room in rooms for path in (ROOT / room).rglob("*.py")]
    patterns = (r"\babout\(\s*\"([a-z_]+\.[a-z_]+)\"", r"\"((?:migration|proposal)\.[a-z_]+)\", \"")
    known = {name for text in sources for one in patterns for name in re.findall(one, text)}
    known |= {f"migration.{name}" for text in sources for name in re.findall(r"self\._about\(\"(\w+)", text)}
    known |= {kinds.REGISTERED, kinds.REMOVED, kinds.ROLE, kinds.ROLE_REMOVED, kinds.GRANTED, kinds.REVOKED}
    known |= {kinds.TOKEN, kinds.TOKEN_REVOKED}
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", row.split(" | ")[0])}
    assert listed == known
