"""Main: the command `everlog`, its subcommands and its exit codes.

    everlog [OPTIONS] COMMAND [ARGS]
       │
       ├─ cli/options.py    settings: database, migrations, output
       ├─ cli/connect.py    the database behind a URL
       └─ a command         one module for related commands

Exit codes: 0 done · 1 failed, with one sentence · 2 invalid command line, or missing folder or file of
migrations · 3 `health`: not ready · 129 SIGHUP · 130 SIGINT · 141 standard output was closed early
(output.py) · 143 SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache, wraps
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from everlog.console.cli.options import Common, Settings, check_common, common
from everlog.console.output import OutputError, Streams
from everlog.store import VERSION, environment
from everlog.store.errors import Error

T = TypeVar("T")

# For a command that a signal stopped: the word that is printed, and the exit code: 128 + the signal's number.
STOPPED = {
    signal.SIGINT: ("interrupted", 130),
    signal.SIGTERM: ("terminated", 143),
    signal.SIGHUP: ("hung up", 129),
}

# A folder or file of migrations is missing; the same code as for an invalid option.
MISSING = 2

# A command reports an error in one sentence; gRPC would print lines of its own before it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


# Each command and its module, in the order of --help. A module is imported when its command runs: all of
# them together take half a second.
COMMANDS = {
    "new": "project",
    "build": "project",
    "lint": "lint",
    "up": "migrate",
    "migrate": "migrate",
    "plan": "migrate",
    "complete": "migrate",
    "prepare": "migrate",
    "commit-prepared": "migrate",
    "abort-prepared": "migrate",
    "rollback": "migrate",
    "down": "migrate",
    "status": "status",
    "health": "health",
    "dump": "project",
    "load": "project",
    "baseline": "project",
    "squash": "project",
    "accept": "project",
    "restore-folders": "project",
    "create": "database",
    "drop": "database",
    "wait": "database",
    "import": "data",
    "export": "data",
    "testdata": "data",
    "production": "database",
    "get": "rows",
    "scan": "rows",
    "history": "rows",
    "diff": "rows",
    "log": "log",
    "serve": "serve",
    "console": "console",
    "top": "top",
    "kill": "top",
    "propose": "approve",
    "approve": "approve",
    "reject": "approve",
    "migrations": "approve",
    "follow": "follow",
    "consumers": "follow",
    "fleet": "fleet",
    "access": "access",
    "token": "access",
    "api": "api",
    "check": "check",
    "expire": "check",
    "clock": "check",
    "rebuild": "check",
    "repair": "check",
    "forget": "erase",
    "people": "erase",
    "rotate-key": "erase",
    "backup": "backup",
    "verify-backup": "backup",
    "restore": "backup",
    "archive": "backup",
    "keygen": "proofs",
    "checkpoint": "proofs",
    "prove": "proofs",
    "verify": "proofs",
    "tiles": "proofs",
    "audit": "proofs",
    "cert": "cert",
    "config": "config",
    "completion": "config",
}


# Commands that only print: they stop when their output cannot be written. All others finish their work, and
# then report that their output was lost.
READERS = frozenset(
    {
        *("audit", "check", "completion", "config", "diff", "dump", "export", "get", "health", "history"),
        *("lint", "log", "people", "plan", "prove", "scan", "status", "top", "verify"),
        *("verify-backup", "wait"),
    }
)


# Commands that read folders of migrations. All others refuse --migrations-dir.
READ_FOLDERS = frozenset(
    {
        *(
            "accept",
            "approve",
            "baseline",
            "build",
            "check",
            "complete",
            "completion",
            "config",
            "down",
            "lint",
        ),
        *(
            "migrate",
            "migrations",
            "new",
            "plan",
            "prepare",
            "propose",
            "reject",
            "restore-folders",
            "rollback",
            "serve",
        ),
        *("squash", "status", "testdata", "up"),
    }
)

# Commands after which the schema file is written, or that only read or write that file. All others refuse
# --schema-file and --no-dump-schema.
DUMP_SCHEMA = frozenset(
    {
        *("baseline", "commit-prepared", "complete", "completion", "config", "down", "dump", "load"),
        *("migrate", "plan", "rollback", "up"),
    }
)


class Commands(click.Group):
    """The group of all COMMANDS."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and args[0][:1].isalnum() and not ctx.resilient_parsing:
            near = " or ".join(map(repr, get_close_matches(args[0], COMMANDS)))
            ctx.fail(f"No such command {args[0]!r}.{near and f' Did you mean {near}?'}")
        found = super().resolve_command(ctx, args)
        if (streams := ctx.ensure_object(Settings).streams) is not None:
            streams.output.stops = found[0] in READERS
        if found[0] != "serve":  # which accepts it as soon as it can reload
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in COMMANDS else None


@cache
def command(name: str) -> click.Command:
    """Return the command of this name, one of COMMANDS."""
    module = import_module(f"everlog.console.cli.{COMMANDS[name]}")
    found: click.Command = getattr(module, {"import": "import_"}.get(name, name.replace("-", "_")))
    for one in (found, *(found.commands.values() if isinstance(found, click.Group) else ())):
        shared = [max(option.opts, key=len) for option in one.params if isinstance(option, Common)]
        if one.callback is not None:
            one.callback = _checked(name, one.callback)
        one.epilog = f"Options of every command: {', '.join(shared)}. `everlog --help` describes them."
    return found


def _checked(name: str, run: Callable[..., T]) -> Callable[..., T]:
    """Return `run` of a command, after a check of the options that all commands have."""

    @wraps(run)
    def checked(*args: Any, **how: Any) -> T:
        settings = click.get_current_context().ensure_object(Settings)
        check_common(
            folders=name in READ_FOLDERS,
            dumps=name in DUMP_SCHEMA,
            waits=settings.wait or name == "wait",
        )
        return run(*args, **how)

    return checked


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`everlog COMMAND --help` has examples. Variables: DATABASE_URL,"
    " EVERLOG_TOKEN, EVERLOG_MIGRATIONS_DIR.",
)
@common
@click.version_option(VERSION, message="everlog %(version)s")
def cli() -> None:
    """An embedded database that never forgets."""


def main(args: list[str] | None = None) -> None:
    """Run the command line, and exit."""
    with contextlib.suppress(OSError):  # the working directory was removed
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)  # packages of migrations are found in the working directory
    settings = Settings()
    settings.signals.install()  # the command ends, and closes its database
    streams = Streams()
    with streams.installed():
        code = run(args, settings, streams)
    settings.signals.ignore()  # the exit code is known
    sys.exit(code)


def run(args: list[str] | None, settings: Settings, streams: Streams | None = None) -> int:
    """Run the command line, and return its exit code. An error is printed as one sentence."""
    settings.streams = streams
    code = _run(args, settings)
    return streams.code(code) if streams else code


def _run(args: list[str] | None, settings: Settings) -> int:
    args = sys.argv[1:] if args is None else args
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        environment.load_files(_env_files(args))  # before click looks for the variables of options
        for sentence in environment.unknown(_variables):
            click.echo(f"warning: {sentence}", err=True)
        if target := environment.variable(environment.TRACES):
            _trace(target)
        code = cli.main(args, prog_name="everlog", standalone_mode=False, obj=settings)
        return code if isinstance(code, int) else 0
    except OutputError:
        return 0  # the streams have the error
    except (click.ClickException, click.Abort, KeyboardInterrupt, Error, OSError) as error:
        return _failed(error, settings, as_json=settings.json or "--json" in _before_api(args))
    finally:
        settings.signals.ended()


def _before_api(args: Sequence[str]) -> Sequence[str]:
    """Return the arguments up to `api`, whose --json is the request."""
    return args[: args.index("api")] if "api" in args else args


def _variables() -> set[str]:
    """Return the variables that only `serve` reads."""
    from everlog.console.cli.serve_config import settable, variable_of

    return {variable_of(param) for param in settable(command("serve"))}


def _trace(target: str) -> None:
    from everlog.rpc import traces

    traces.start(target)


def _failed(error: BaseException, settings: Settings, *, as_json: bool) -> int:
    """Print the error of a command to standard error, with --json as an object, and return the exit code."""
    settings.signals.ended()
    facts: dict[str, Any] = {}
    kind, code, private = type(error).__name__, 1, ""
    match error:
        case click.ClickException():
            if not as_json:
                error.show()  # with the usage
                return error.exit_code
            said, code, kind = error.format_message(), error.exit_code, "UsageError"
        case Error():
            said, private = str(error), settings.private(error.private)
            code = MISSING if "missing" in error.facts else 1
            facts = {
                name: fact for name, fact in error.facts.items() if name != "value" or settings.show_rows
            }
        case OSError():
            said = f"{error.filename}: " if error.filename else ""
            said, facts = f"{said}{error.strerror or error}", {"errno": error.errno}
        case _:
            word, code = STOPPED[settings.signals.number]
            said, kind = f"{word}{settings.resume and f'; {settings.resume}'}", "Stopped"
    if as_json:
        told = {"error": f"{said}{private}", "kind": kind, "exit_code": code, "facts": facts}
        plain = msgspec.to_builtins(told, enc_hook=str, str_keys=True)
        click.echo(json.dumps(plain, ensure_ascii=False, separators=(",", ":")), err=True)
    else:
        click.echo(f"{'' if kind == 'Stopped' else 'error: '}{said}{private}", err=True)
    return code


def _env_files(args: Sequence[str]) -> list[str]:
    """Return the files of all options --env-file, before or after the command."""
    found = []
    for word, after in pairwise([*args, ""]):
        if word == "--env-file":
            found.append(after)
        elif word.startswith("--env-file="):
            found.append(word.partition("=")[2])
    return [path for path in found if path]
