"""Options: the settings and options that commands share.

    -u URL, else the variable that --env names (DATABASE_URL)
    -d DIR, else EVERLOG_MIGRATIONS_DIR, else `migrations`

The precedence is flag, environment, `.env` (store/environment.py). Options are accepted before and after the
command, as in dbmate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from everlog.console.cli.signals import StopSignals
from everlog.console.output import Streams
from everlog.store import environment
from everlog.store.environment import ENV_FILE
from everlog.store.errors import OpenError, RowError
from everlog.store.schema.times import duration_s, exact_text, time_ns_of

F = TypeVar("F", bound=Callable[..., Any])

URL_VARIABLE = "DATABASE_URL"
STDIN = "-"  # as a file
MIGRATIONS_VARIABLE = "EVERLOG_MIGRATIONS_DIR"
SCHEMA_VARIABLE = "EVERLOG_SCHEMA_FILE"


@dataclass
class Settings:
    """The values of the common options. Variables of the environment are read when they are first needed."""

    url_given: str | None = None
    token_file: str | None = None
    env: str = URL_VARIABLE
    migrations_given: str | None = None
    schema_given: str | None = None
    no_dump: bool = False
    wait: bool = False
    wait_timeout_s: float = 60.0
    json: bool = False
    verbose: bool = False
    show_rows: bool = False
    # Printed if the command is interrupted: the state, and how to resume.
    resume: str = ""
    # The user was warned of a token in --url.
    warned: bool = False
    # The token of --token-file -, which can be read once.
    _token: str | None = None
    signals: StopSignals = field(default_factory=StopSignals)
    streams: Streams | None = None

    @property
    def has_url(self) -> bool:
        """Whether a URL was given, by --url or a variable."""
        return self.url_given is not None or bool(environment.variable(self.env))

    @property
    def url(self) -> str:
        """The URL of the database. Raises OpenError if none was given."""
        if self.url_given is not None and not self.url_given.strip():  # such as "$VARIABLE" if it is not set
            raise OpenError("expected the URL of a database after --url, found an empty one")
        url = self.url_given or environment.variable(self.env)
        if not url:
            raise OpenError(
                f"expected the URL of a database, found none: pass --url, or set {self.env} in the"
                f" environment or in {ENV_FILE}, such as file:flights.db or everlog://host:7420/flights"
            )
        if self.url_given and not self.warned:
            self._warn(url)
        return self.with_token(url)

    def with_token(self, url: str) -> str:
        """Return the URL of a server with the token of --token-file, if it was given. Raises OpenError for
        another URL, and for one that has a token."""
        if self.token_file is None:
            return url
        from everlog.rpc.address import with_token, with_token_file

        if self.token_file != STDIN:
            return with_token_file(url, self.token_file)
        if self._token is None:
            self._token = sys.stdin.readline().strip()
        return with_token(url, self._token)

    def _warn(self, url: str) -> None:
        """Warn once of a token that the list of processes shows."""
        from everlog.rpc.address import shows_token

        self.warned = True
        if shows_token(url):
            click.echo(
                "warning: a token in --url can be seen by every user of this machine (ps); put it into"
                " EVERLOG_TOKEN, or into a file (--token-file FILE)",
                err=True,
            )

    @property
    def migrations(self) -> str:
        """The package or directory of the migrations."""
        from everlog.migrations.folder import SOURCE

        return self.migrations_given or environment.variable(MIGRATIONS_VARIABLE) or SOURCE

    @property
    def migrations_or_none(self) -> str | None:
        """The package or directory of the migrations if one was named; otherwise None."""
        return self.migrations_given or environment.variable(MIGRATIONS_VARIABLE) or None

    def private(self, words: str) -> str:
        """Return the suffix of a message about a row or a value: with --show-rows the value, otherwise how to
        see it."""
        if not words:
            return ""
        if not self.show_rows:
            return " (--show-rows shows what was found)"
        return f"\n  found: {' '.join(words.split())}"

    @property
    def schema_file(self) -> str | None:
        """The file that the schema is written to after each change, if one was named; otherwise None."""
        return None if self.no_dump else self.schema_given or environment.variable(SCHEMA_VARIABLE) or None


class Duration(click.ParamType[float]):
    """A duration, as 60s, 1m30s or 90d, in seconds. `unitless`: also a number of seconds, 0 included."""

    name = "duration"

    def __init__(self, *, unitless: bool = False) -> None:
        self._unitless = unitless

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            found = duration_s(value, unitless=self._unitless)
        except RowError as error:
            self.fail(str(error), param, ctx)
        if not (found or self._unitless):
            self.fail(f"expected a duration above 0, found {value!r}", param, ctx)
        return found


class Moment(click.ParamType[Any]):
    """A time, as ISO 8601 in UTC: 2026-01-05T09:30Z, 02:13, yesterday 14:00, 1h ago. Without a zone it is
    local time. `future`: it is after now."""

    name = "time"

    def __init__(self, *, future: bool = False) -> None:
        self._future = future

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return exact_text(time_ns_of(value, zone=None, future=self._future))
        except RowError as error:
            self.fail(str(error), param, ctx)


class Identity(click.ParamType[str]):
    """The name of a client or a person, as a token, a certificate or a JWT proves it."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from everlog.store.upkeep.roles import check_name

        try:
            return check_name(value, "a name")
        except RowError as error:
            self.fail(str(error), param, ctx)


class Renamed(click.Option):
    """An option that was renamed: earlier names are accepted, and not shown in the help."""

    def __init__(self, words: Sequence[str], *, was: Sequence[str], **attributes: Any) -> None:
        super().__init__([*words, *was], **attributes)
        self.was = frozenset(was)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        words, self.opts = self.opts, [word for word in self.opts if word not in self.was]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = words


class Common(click.Option):
    """An option of every command. `everlog --help` describes it; the help of a command only names it."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return None if ctx.parent is not None else super().get_help_record(ctx)


def to_version(what: str) -> Callable[[F], F]:
    """Add the option that names a migration to a command; `what` is its help."""
    return click.option(
        "--to-version", "to", cls=Renamed, was=("--to",), type=int, metavar="VERSION", help=what
    )


def add_options(command: F, options: Sequence[Callable[[F], F]]) -> F:
    """Add options to a command. Its help shows them in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def common(command: F) -> F:
    """Add the options that all commands have to a command."""
    return common_of_server(_token_option(command))


def common_of_server(command: F) -> F:
    """Add the options that all commands have to a command that is no client, and has tokens of its own."""
    return add_options(command, _OPTIONS)


def common_except(*names: str) -> Callable[[F], F]:
    """Add the options that all commands have, without those that a command has in its own way."""

    return lambda command: add_options(command, [option for name, option in _NAMED if name not in names])


def writes(command: F) -> F:
    """Add the options of commands that commit: actor and reason."""
    return add_options(command, _WRITES)


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None and value != () and not _outranked(ctx, param):
            setattr(ctx.ensure_object(Settings), name, list(value) if isinstance(value, tuple) else value)

    return keep


def _outranked(ctx: click.Context, param: click.Parameter) -> bool:
    """Return whether a flag before the command, or a variable that Settings reads, takes precedence over the
    value of a command's variable or file."""
    assert param.name is not None
    source = ctx.get_parameter_source(param.name)
    if source not in (ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP):
        return False
    above = ctx.parent and ctx.parent.get_parameter_source(param.name)
    if above is ParameterSource.COMMANDLINE:
        return True
    names = {
        "url": ctx.ensure_object(Settings).env,
        "migrations_dir": MIGRATIONS_VARIABLE,
        "schema_file": SCHEMA_VARIABLE,
    }
    return source is ParameterSource.DEFAULT_MAP and bool(environment.source(names.get(param.name, "")))


def _common(*words: str, to: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*words, cls=Common, expose_value=False, callback=_keep(to), **attributes)


def refuse_idle(*names: str, when: str, variables: bool = False) -> None:
    """Raise UsageError if one of these options was given, because it would have no effect.

    `variables`: also if it comes from the environment. Only while a command runs. `when` completes the
    sentence.
    """
    sources = [ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP]
    sources += [ParameterSource.ENVIRONMENT] if variables else []
    context: click.Context | None = click.get_current_context()
    found: list[str] = []
    while context is not None:
        for option in context.command.params:
            source = context.get_parameter_source(option.name or "")
            if option.name in names and source in sources:
                by_variable = source is ParameterSource.ENVIRONMENT
                found.append(str(option.envvar) if by_variable else max(option.opts, key=len))
        context = context.parent
    if found:
        raise click.UsageError(
            f"{' and '.join(dict.fromkeys(found))} would have no effect {when}; leave"
            f" {'them' if len(set(found)) > 1 else 'it'} out"
        )


def check_common(*, folders: bool, dumps: bool, waits: bool) -> None:
    """Raise UsageError for a common option that has no effect on a command that reads no `folders`, `dumps`
    no schema or does not wait (`waits`)."""
    if not folders:
        refuse_idle("migrations_dir", when="on a command that reads no migrations")
    if not dumps:
        refuse_idle("schema_file", "no_dump_schema", when="on a command that changes no schema")
    if not waits:
        refuse_idle("wait_timeout", when="without --wait")


_OPTIONS = [
    _common(
        "-u",
        "--url",
        metavar="URL",
        to="url_given",
        help="URL of the database: file:PATH or everlog://HOST:PORT/NAME.  [env: DATABASE_URL]",
    ),
    _common(
        "-e",
        "--env",
        metavar="NAME",
        to="env",
        help=f"Variable that holds the URL.  [default: {URL_VARIABLE}]",
    ),
    click.option(  # read before the command line is parsed (cli/main.py)
        "--env-file",
        cls=Common,
        metavar="FILE",
        multiple=True,
        expose_value=False,
        help=f"File of variables; may be repeated.  [default: {ENV_FILE}]",
    ),
    _common(
        "-d",
        "--migrations-dir",
        metavar="DIR",
        to="migrations_given",
        help=f"Directory or package of the migrations.  [default: migrations; env: {MIGRATIONS_VARIABLE}]",
    ),
    _common(
        "--schema-file",
        metavar="FILE",
        to="schema_given",
        help=f"Write the schema as text to this file after each change.  [env: {SCHEMA_VARIABLE}]",
    ),
    _common(
        "--no-dump-schema", is_flag=True, default=None, to="no_dump", help="Do not write the schema file."
    ),
    _common(
        "--wait",
        is_flag=True,
        default=None,
        to="wait",
        help="Wait until the database is available.",
    ),
    _common(
        "--wait-timeout",
        type=Duration(unitless=True),
        to="wait_timeout_s",
        help="Maximum wait, in seconds or as 1m30s.  [default: 60s]",
    ),
    _common("--json", is_flag=True, default=None, to="json", help="Print JSON, one object per line."),
    _common("-v", "--verbose", is_flag=True, default=None, to="verbose", help="Print verbose output."),
    _common(
        "--show-rows",
        is_flag=True,
        default=None,
        to="show_rows",
        help="Include rows and values in error messages, on this terminal only.",
    ),
]

_NAMED = [(one.name, option) for option in _OPTIONS for one in option(click.Command("")).params[-1:]]

_token_option = _common(
    "--token-file",
    metavar="FILE",
    to="token_file",
    help="File with the token for a server, which only its owner can read; - for standard input.  [env:"
    " EVERLOG_TOKEN, the token itself]",
)

actor_option = click.option(
    "--actor",
    default="",
    metavar="WHO",
    envvar="EVERLOG_ACTOR",
    help="Actor, recorded in the log.  [env: EVERLOG_ACTOR]",
)

_WRITES = [
    actor_option,
    click.option("--reason", default="", metavar="WHY", help="Reason, recorded in the log."),
]

# What a command that changes something would change.
dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")

pass_settings = click.make_pass_decorator(Settings, ensure=True)
