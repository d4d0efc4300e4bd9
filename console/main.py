"""Main: the command `everlog`, and how a command ends.

    everlog [OPTIONS] COMMAND [ARGS]
       │
       ├─ settings.py      which database, which migrations
       ├─ opening.py       the library's database behind a URL
       └─ a command        prints what the library gives: a file each, or a few that belong together

Exit codes: 0 done · 1 it could not be done, one sentence says why · 2 the command line is not one ·
130 interrupted · 143 terminated.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from everlog.console import (
    approve,
    archive,
    audit,
    backup,
    care,
    complete,
    completion,
    data,
    database,
    diff,
    expire,
    follow,
    history,
    lint,
    log,
    migrations_log,
    new,
    people,
    proofs,
    rollback,
    rows,
    schema,
    serve,
    status,
    testdata,
    up,
)
from everlog.console.settings import Settings, common
from everlog.store.errors import Error

INTERRUPTED, TERMINATED = 130, 143

# What goes wrong is told by a command in one sentence; gRPC's own lines would stand before it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class OutputClosedError(Exception):
    """Raised when whoever reads the output has enough, as `head` has."""


class Commands(click.Group):
    """The commands in the order in which one needs them, not in that of the alphabet."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would make it an exit code of 1
            raise OutputClosedError from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`everlog COMMAND --help` has examples. Variables: DATABASE_URL,"
    " EVERLOG_TOKEN, EVERLOG_MIGRATIONS_DIR.",
)
@common
@click.version_option(package_name="everlog", message="everlog %(version)s")
def cli() -> None:
    """An embedded database that never forgets."""


for command in (
    new.new,
    new.build,
    lint.lint,
    up.up,
    up.migrate,
    up.plan,
    complete.complete,
    rollback.rollback,
    rollback.down,
    status.status,
    schema.dump,
    schema.load,
    schema.baseline,
    new.squash,
    database.create,
    database.drop,
    database.wait,
    data.import_,
    data.export,
    testdata.testdata,
    rows.get,
    rows.scan,
    history.history,
    diff.diff,
    log.log,
    serve.serve,
    approve.propose,
    approve.approve,
    approve.reject,
    migrations_log.migrations,
    follow.follow,
    care.check,
    expire.expire,
    care.rebuild,
    care.repair,
    people.forget,
    people.rotate_key,
    backup.backup,
    backup.verify_backup,
    backup.restore,
    archive.archive,
    proofs.keygen,
    proofs.checkpoint,
    proofs.prove,
    audit.verify,
    proofs.tiles,
    audit.audit,
    completion.completion,
):
    cli.add_command(command)


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # a package of migrations is looked for where one stands
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # rows are written as they are, whatever LANG says
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    settings = Settings()

    def told(*_: object) -> NoReturn:
        settings.terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, told)  # what was begun is left as by Ctrl-C: closed, and whole
    sys.exit(run(args, settings))


def run(args: list[str] | None, settings: Settings) -> int:
    """Runs the command line; returns its exit code. What goes wrong is one sentence."""
    try:
        code = cli.main(args, prog_name="everlog", standalone_mode=False, obj=settings)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Error as error:
        return _say(f"error: {error}", 1)
    except (click.Abort, KeyboardInterrupt):
        word, code = ("terminated", TERMINATED) if settings.terminated else ("interrupted", INTERRUPTED)
        return _say(f"{word}{settings.resume and f'; {settings.resume}'}", code)
    except OutputClosedError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"error: {place}{error.strerror or error}", 1)


def _say(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code
