"""Top: the commands top and kill: what a server does now, and the end of one call.

on a terminal    the screen is drawn again every --interval, until q or Ctrl-C
elsewhere, CI    once, as lines; with --json as one object
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Duration, Settings, common, pass_settings
from everlog.rpc.address import is_url, without_secrets
from everlog.store.errors import OpenError, UnavailableError, quantity

if TYPE_CHECKING:
    from everlog.rpc.calls import Now, RunningCall, WorkProgress

INTERVAL_S, INTERVAL_MIN_S = 2.0, 0.1
WIDTH = 120  # of lines that are not on a terminal
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the second screen, without a cursor
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
QUIT = ("q", "Q", "\x1b", "\x03", "\x04", "")
HEADER = ("ID", "AGE", "WHO", "FROM", "DATABASE", "METHOD", "ROWS", "BYTES", "STATE")
RIGHT = ("ID", "AGE", "ROWS", "BYTES")


@click.command()
@click.option("--once", is_flag=True, help="Print once, also on a terminal.")
@click.option(
    "--interval",
    type=Duration(),
    default="2s",
    show_default=True,
    metavar="DURATION",
    help="Time between two screens, at least 0.1 s.",
)
@click.option("--connections", is_flag=True, help="Also list the connections.")
@common
@pass_settings
def top(settings: Settings, *, once: bool, interval: float, connections: bool) -> None:
    """Show what a server does now: running calls with their callers, ages, rows and progress, what each
    waits for, queues, and migrations in progress.

    A caller sees its own calls, and those of databases in which it has the right `admin`. On a
    terminal, q quits.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights top
      everlog -u everlog://db.example.com/flights top --json | jq '.calls[0]'
    """
    check_server(settings, "top")
    lives = sys.stdout.isatty() and not (once or settings.json or os.environ.get("CI"))
    with open_database(settings, read_only=True) as db:
        title = without_secrets(db.url)
        if lives:

            def draw(width: int) -> list[str]:
                try:
                    return page(db.admin.calls(), title, width, connections=connections)
                except UnavailableError as error:
                    return [f"everlog top · {title}", "", str(error)]

            live(draw, max(INTERVAL_MIN_S, interval))
            return
        now = db.admin.calls()
        if settings.json:
            output.echo(msgspec.to_builtins(now))
            return
        for line in page(now, title, WIDTH, connections=connections):
            click.echo(line)


@click.command()
@click.argument("id", type=click.IntRange(1))
@click.option("--reason", default="", metavar="WHY", help="Why; the client and the server's log get it.")
@common
@pass_settings
def kill(settings: Settings, *, id: int, reason: str) -> None:
    """End a running call of a server; `everlog top` shows the ids.

    Its client gets an error with your name. The command prints what becomes of the work: a read ends; a
    load, a migration, a rebuild or an expiry stops before its next write, keeps what it has written, and can
    be resumed; a commit, an erasure or the completion of a migration that has begun cannot be stopped.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights kill 48290017 --reason "blocks the release"
    """
    check_server(settings, "kill")
    with open_database(settings, read_only=True) as db:
        ended = db.admin.kill(id, reason=reason)
    if settings.json:
        output.echo(msgspec.to_builtins(ended))
    else:
        whose = ended.identity or "an unnamed caller"
        click.echo(f"Ended {ended.method} of {whose} ({id}){BECOMES.get(ended.ending, '')}")


# What becomes of the work of a call that was ended.
BECOMES = {
    "stops": ": it stops before its next write, and what it has written stays",
    "finishes": ": its client got an error, but its write has begun and continues to its end",
}


def check_server(settings: Settings, verb: str) -> None:
    """Raise OpenError for a database that is not at a server."""
    if not is_url(settings.url):
        raise OpenError(
            f"{verb} is about the calls of a server: expected everlog://HOST:PORT/DATABASE, found"
            f" {without_secrets(settings.url)}"
        )


def live(draw: Callable[[int], Sequence[str] | None], interval_s: float) -> None:
    """Draw the screen every `interval_s` seconds until the user quits. `draw`: gets the width of the terminal
    and returns the lines, or None to end."""
    with _screen():
        while True:
            size = shutil.get_terminal_size()
            lines = draw(size.columns)
            if lines is None:
                return
            text = "".join(f"{line}{CLEAR_LINE}\r\n" for line in lines[: size.lines - 1])
            sys.stdout.write(HOME + text + CLEAR_REST)
            sys.stdout.flush()
            if _quits(interval_s):
                return


@contextmanager
def _screen() -> Iterator[None]:
    """Use the terminal's second screen, and read single keys from it; restore both at the end."""
    import termios
    import tty

    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keys) if keys is not None else None
    sys.stdout.write(ENTER)
    try:
        if keys is not None:
            tty.setcbreak(keys)
        yield
    finally:
        if keys is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)  # type: ignore[arg-type]
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


def _quits(seconds: float) -> bool:
    """Wait; return whether the user has pressed a key that quits."""
    until = time.monotonic() + seconds
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    while (left := until - time.monotonic()) > 0:
        if (
            select.select([sys.stdin], [], [], left)[0]
            and os.read(sys.stdin.fileno(), 1).decode(errors="replace") in QUIT
        ):
            return True
    return False


def page(now: Now, title: str, width: int, *, connections: bool = False) -> list[str]:
    """Return the lines of one screen."""
    open_now = f"{now.connections:,} of {now.connections_max:,} connections · " if now.connections_max else ""
    lines = [f"everlog top · {title}", f"{open_now}{now.total:,} running calls"]
    busy = [
        f"{one.name}: {one.running} running, {one.waiting} waiting"
        for one in now.pools
        if one.running or one.waiting
    ]
    if busy:
        lines.append(" · ".join(busy))
    for one in now.databases:
        said = [f"{quantity(one.commits_waiting, 'commit')} waiting"] if one.commits_waiting else []
        said += [f"migrated by {one.migrated_by}"] if one.migrated_by else []
        said += [f"lease of call {one.lease}"] if one.lease else []
        said += [_progress(one.migration)] if one.migration else []
        if said:
            lines.append(f"{one.name}: {'; '.join(said)}")
    lines.append("")
    rows = [_row(one) for one in now.calls]
    lines += _table(rows, [_under(one) for one in now.calls])
    if now.total > len(now.calls):
        lines.append(f"… and {now.total - len(now.calls):,} more")
    if connections:
        lines += ["", "Connections"]
        lines += [
            f"  {one.peer}  {','.join(one.identities) or '-'}  {one.calls} calls  {_age(one.age_s)}"
            f"  {output.size(one.bytes_in)} in  {output.size(one.bytes_out)} out"
            for one in now.peers
        ]
    return [plain(line)[:width].rstrip() for line in lines]


def plain(line: str) -> str:
    """Return a line without control characters: names in requests may have some."""
    return line if line.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in line)


def _row(one: RunningCall) -> tuple[str, ...]:
    return (
        str(one.id or "-"),
        _age(one.age_s),
        one.identity or "-",
        one.peer or "-",
        one.database or "-",
        one.method,
        f"{one.rows:,}",
        output.size(one.bytes),
        _state(one),
    )


def _state(one: RunningCall) -> str:
    said = f"ended: {one.ending}" if one.ending in BECOMES else one.state
    if one.waits_for:
        said += f": {one.waits_for}"
    if one.ahead:
        said += f", {one.ahead} before it"
    if one.behind:
        said += f", behind {' '.join(map(str, one.behind))}"
    return said


def _under(one: RunningCall) -> str:
    """Return the line below a call: its tables and its progress; empty if there is nothing to say."""
    said = ["on " + ", ".join(one.tables)] if one.tables else []
    said += [_progress(one.progress)] if one.progress else []
    return "; ".join(said)


def _progress(one: WorkProgress) -> str:
    of = f" of {one.total:,}" if one.total else ""
    said = f"{one.step}: {one.done:,}{of} {one.unit}"
    said += f", {one.rate:,.0f} a second" if one.rate >= 1 else ""
    return said + (f", about {_age(one.left_s)} left" if one.left_s else "")


def _age(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}m"


def _table(rows: list[tuple[str, ...]], under: list[str]) -> list[str]:
    first, *lines = output.columns([HEADER, *rows], RIGHT)
    indent = " " * (max(len(row[0]) for row in [HEADER, *rows]) + 2)
    found = [first]
    for line, more in zip(lines, under, strict=True):
        found.append(line)
        if more:
            found.append(indent + more)
    return found
