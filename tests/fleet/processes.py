"""The coordinator and the members of a fleet, each in a separate process that is called over a pipe, and that
may kill itself at a point of tests/crash/points.py."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import everlog
from everlog import migrations
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import SOURCE, LedgerStore
from everlog.fleet.member import FleetMember
from everlog.migrations.in_progress import attach
from everlog.rpc.embedded import EmbeddedDatabase
from tests.crash import points

WAIT_S = 60.0
RATE = 20_000  # a slice has 80 rows then

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])

Calls = dict[str, Callable[..., Any]]


class Killed(Exception):  # noqa: N818  what happened to the process is no error
    """The process killed itself during a call."""


@contextmanager
def coordinator(path: Path, mark: Path) -> Iterator[Calls]:
    with everlog.open(f"file:{path}", migrations=SOURCE) as db:
        one = FleetCoordinator(LedgerStore(db, mark))
        yield {
            "take_over": one.take_over,
            "start": one.start,
            "receive": one.receive,
            "retry": one.retry,
            "run": one.run,
        }


@contextmanager
def member(path: Path, source: Path) -> Iterator[Calls]:
    with EmbeddedDatabase(path) as db:
        db.folders = source
        one, known = FleetMember(db, rate=RATE), migrations.load(source)
        attach(db, known)
        old, new = (migration.tables[0] for migration in known)

        def put(number: int) -> None:
            if db.schema.version == known[1].version and not db.schema.is_online:
                db.put(new, new.model(faa=f"W{number:05}", first="Jane", last=str(number)))
            else:
                db.put(old, old.model(faa=f"W{number:05}", name=f"Jane {number}"))

        yield {"report": one.report, "obey": one.obey, "put": put}


def serve(
    calls: Connection, kind: Callable[..., AbstractContextManager[Calls]], args: Any, point: str
) -> None:
    with kind(*args) as functions:
        if point:
            points.arm(points.Point.parse(point))
        while (call := calls.recv()) is not None:
            name, given, named = call
            result: tuple[Any, str | None]
            try:
                result = functions[name](*given, **named), None
            except everlog.Error as error:
                result = None, f"{type(error).__name__}: {error}"
            calls.send(result)


class Process:
    """One of them, running."""

    def __init__(
        self, kind: Callable[..., AbstractContextManager[Calls]], *args: Any, point: str = ""
    ) -> None:
        self._calls, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=serve, args=(theirs, kind, args, point), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, name: str, *args: Any, **named: Any) -> Any:
        """Call a function there. Raises Killed; a database's error fails the test."""
        try:
            self._calls.send((name, args, named))
            assert self._calls.poll(WAIT_S), f"{name} takes longer than {WAIT_S} s"
            result, error = self._calls.recv()
        except (EOFError, OSError):
            self._process.join(WAIT_S)
            self._calls.close()
            assert self._process.exitcode == -signal.SIGKILL
            raise Killed(name) from None
        assert error is None, error
        return result

    def stop(self) -> None:
        """End it in order, or kill it if it does not end."""
        if not self._calls.closed:
            self._calls.send(None)
            self._process.join(WAIT_S)
            self._calls.close()
        if self._process.is_alive():
            self._process.kill()
            self._process.join(WAIT_S)
        ended = self._process.exitcode
        self._process.close()
        assert ended in {0, -signal.SIGKILL}
