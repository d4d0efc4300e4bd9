"""Serve config: read the options of `serve` from a file and from the environment, and again on SIGHUP.

    flag  >  environment  >  .env  >  --config FILE  >  default

    --tls-cert FILE   is also   tls-cert = "FILE"   and   EVERLOG_SERVE_TLS_CERT=FILE
    --token-file …              token-file = …            EVERLOG_SERVE_TOKEN_FILE
    --tokens FILE               tokens = "FILE"           EVERLOG_TOKENS   (as in store/environment.py)

Keys and variables are derived from the options of the command; there is no other list of them.

Invariants
  (1) the server does not start with a file that has an unknown key, a value of another type, or a secret
      that others can read;
  (2) SIGHUP applies all changes that can be applied, or none, and logs the others.
"""

from __future__ import annotations

import difflib
import logging
import re
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from everlog.console.cli.options import Common, Renamed, Settings
from everlog.console.cli.serve_jwt import jwt_of
from everlog.console.cli.serve_limits import PARAMETERS as LIMITS
from everlog.console.cli.serve_limits import quota_of
from everlog.store import environment
from everlog.store.environment import read_file, read_secret
from everlog.store.errors import Error, OpenError
from everlog.store.program_log import about

if TYPE_CHECKING:
    from everlog.fleet.approvals import PlanApprovals
    from everlog.migrations.approval.approval import Approval
    from everlog.migrations.approval.notify import Notifier
    from everlog.rpc.server.server import Server

FILE = "everlog.config"  # in a context's meta: the Source of its values
ARGS = "everlog.args"  # in a context's meta: the words of its command line
PREFIX = "EVERLOG_SERVE_"
NOT_IN_FILE = ("config", "env_file")  # read before the file

# Parameters that SIGHUP can change.
RELOADED = frozenset(
    {
        *("token", "token_file", "tokens_file", "acting", "keys_for", "notify", "approvers"),
        *("slow_ms", "log_level"),
        *LIMITS,
    }
)

HIDDEN = "(set, not shown)"
CREDENTIALS = re.compile(r"://[^/\s]*:[^/\s]*@")

logger = logging.getLogger("everlog")


def key_of(param: click.Parameter) -> str:
    """Return the key of a parameter: the name of its option without dashes, or of the argument."""
    if not isinstance(param, click.Option):
        return str(param.name)
    was = param.was if isinstance(param, Renamed) else frozenset[str]()
    return max((word for word in param.opts if word not in was), key=len).lstrip("-")


def variable_of(param: click.Parameter) -> str:
    """Return the variable that sets a parameter of `serve`."""
    key = key_of(param)
    for name, setting in environment.SETTINGS.items():
        if setting.flag in (f"--{key}", f"serve --{key}"):
            return name
    return PREFIX + key.upper().replace("-", "_")


def is_secret(param: click.Parameter) -> bool:
    """Return whether a parameter's value is a secret."""
    setting = environment.SETTINGS.get(variable_of(param))
    return setting is not None and setting.secret


def settable(command: click.Command) -> Iterator[click.Parameter]:
    """Yield the parameters of a command that variables can set."""
    for param in command.params:
        if param.name not in ("env_file", "help"):
            yield param


def shown(param: click.Parameter, origin: tuple[Any, str]) -> tuple[str, str, str, str]:
    """Return key, value, source and purpose of a parameter of `serve` as text, without secrets."""
    value, source = origin
    if value and is_secret(param):
        value = HIDDEN
    words = value if isinstance(value, (list, tuple)) else [value]
    text = CREDENTIALS.sub("://", " ".join(str(one) for one in words if one not in (None, False)))
    purpose = param.help if isinstance(param, click.Option) else "the databases, by name"
    return key_of(param), text, source, str(purpose).partition("  [")[0]


def in_force(ctx: click.Context) -> list[tuple[str, str, str, str]]:
    """Return key, value, source and purpose of each option of a running `serve`, without secrets."""
    command = ctx.command
    assert isinstance(command, Configured)
    values, found = command.values(ctx.meta[ARGS], ctx.parent), []
    for param in settable(command):
        name = str(param.name)
        flag = values.sources[name] is ParameterSource.COMMANDLINE
        found.append(shown(param, (values.params.get(name), "flag") if flag else values.origins[name]))
    return found


class Configured(click.Command):
    """A command whose parameters can also be set by variables, and by a file that `--config` names."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        for param in settable(self):
            variable = variable_of(param)
            if not (isinstance(param, Common) and variable in environment.SETTINGS):  # read by Settings
                param.envvar = variable

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGS] = list(args)
        return super().parse_args(ctx, args)

    def values(self, args: list[str], parent: click.Context | None = None) -> Values:
        """Return the values of a command line, with the variables and the file as they are now. Raises
        Error and click.UsageError."""
        with self.make_context(self.name, list(args), parent, obj=Settings()) as ctx:
            file = ctx.meta.get(FILE) or Source()
            sources = dict[str, ParameterSource | None]()
            origins = dict[str, tuple[Any, str]]()
            for param in settable(self):
                name, variable = str(param.name), variable_of(param)
                sources[name] = ctx.get_parameter_source(name)
                if by := environment.source(variable):
                    origins[name] = environment.variable(variable), by
                elif name in file.values:
                    origins[name] = file.values[name], file.at(name)
                else:
                    value = param.get_default(ctx)  # a sentinel if there is none
                    origins[name] = value if isinstance(value, (str, int, float)) else None, "default"
            return Values(dict(ctx.params), sources, origins)


@dataclass
class Source:
    """What a file sets. `values` and `lines` are by the names of parameters."""

    path: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, name: str) -> str:
        return f"{self.path}:{self.lines[name]}"


class Values(NamedTuple):
    """The values of the parameters, and the source of each. `origins`: the value that applies without the
    command line, and its place."""

    params: dict[str, Any]
    sources: dict[str, ParameterSource | None]
    origins: dict[str, tuple[Any, str]]


def read_config(path: Path, command: click.Command, ctx: click.Context) -> Source:
    """Return what a file sets. Raises OpenError, with file and line, for a file that is not TOML, an unknown
    key, a value of another type, and for secrets that others can read."""
    try:
        text = read_file(path, "the configuration").decode()
        found = tomllib.loads(text)
    except UnicodeDecodeError:
        raise OpenError(f"{path}: expected TOML as UTF-8 text, found other bytes") from None
    except tomllib.TOMLDecodeError as error:
        raise OpenError(f"{path}: expected TOML: {error}") from None
    known = {key_of(param): param for param in settable(command) if param.name not in NOT_IN_FILE}
    lines, source = _lines(text), Source(str(path))
    for key, value in found.items():
        at, param = f"{path}:{lines[key]}", known.get(key)
        if param is None:
            raise OpenError(f"{at}: {_unknown(key, list(known))}")
        assert param.name is not None
        source.lines[param.name] = lines[key]
        source.values[param.name] = _value(param, value, ctx, at)
        if is_secret(param) or CREDENTIALS.search(str(value)):
            read_file(path, f"the secret in line {lines[key]} of this configuration", secret=True)
    return source


def _unknown(key: str, known: list[str]) -> str:
    if key in ("config", "env-file"):
        return f"--{key} cannot be set in the file, because it is read first"
    close = difflib.get_close_matches(key.replace("_", "-"), known, 1)
    hint = f"; did you mean {close[0]}?" if close else "; `everlog serve --help` lists the options"
    return f"expected the name of an option of `everlog serve`, found {key!r}{hint}"


def _lines(text: str) -> dict[str, int]:
    """Return the line at which each key of a valid TOML text begins; also those of keys in its tables."""
    found, rows, begins = dict[str, int](), text.splitlines(keepends=True), 1
    for end in range(1, len(rows) + 1):
        try:
            keys = tomllib.loads("".join(rows[begins - 1 : end]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        for key in keys:
            found.setdefault(key, begins)
        begins = end + 1
    return found


def _value(param: click.Parameter, value: Any, ctx: click.Context, at: str) -> Any:
    """Return a value of the file as click expects it. Raises OpenError for another type."""
    key, several = key_of(param), param.multiple or param.nargs == -1
    if several:
        if isinstance(value, dict) and "[NAME=]" in str(param.metavar).replace("[NAME=URL]", "[NAME=]"):
            wrong = [name for name, one in value.items() if not isinstance(one, str)]
            if wrong:
                raise OpenError(f"{at}: {key}.{wrong[0]}: expected text, found {_said(value[wrong[0]])}")
            return [f"{name}={one}" for name, one in value.items()]
        values = value if isinstance(value, list) else [value]
        return [_one(param, one, ctx, at) for one in values]
    return _one(param, value, ctx, at)


def _one(param: click.Parameter, value: Any, ctx: click.Context, at: str) -> Any:
    key = key_of(param)
    if isinstance(param, click.Option) and param.is_flag:
        expected, fits = "true or false", isinstance(value, bool)
    elif isinstance(param.type, click.types.IntParamType):
        expected, fits = "an integer", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(param.type, click.types.FloatParamType):
        expected, fits = "a number", isinstance(value, (int, float)) and not isinstance(value, bool)
    elif param.type.name == "duration":
        expected = 'a duration, as 60 or "1m30s"'
        fits = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    else:
        expected, fits = "text", isinstance(value, str)
    if not fits:
        raise OpenError(f"{at}: {key}: expected {expected}, found {_said(value)}")
    try:
        param.type.convert(value, param, ctx)
    except click.BadParameter as error:
        raise OpenError(f"{at}: {key}: {error.message}") from None
    return value


def _said(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


def _load(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Read the file, whose values become the defaults of the options."""
    if path is None or ctx.resilient_parsing:
        return
    found = read_config(path, ctx.command, ctx)
    ctx.meta[FILE] = found
    ctx.default_map = found.values


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_load,
    help="TOML file with options of this command.  [env: EVERLOG_SERVE_CONFIG]",
)


def token_of(
    token: str, file: Path | None, source: ParameterSource | None, *, again: str | None = None
) -> str:
    """Return the token without a name. `token`: the value of --token, `-`: standard input; `file`: its file.
    `again`: the token that was read from standard input at the start.

    Raises UsageError for a token on the command line, which every user of the machine can see.
    """
    if token and file is not None:
        raise click.UsageError("expected one of --token and --token-file, found both (see `everlog config`)")
    if file is not None:
        return _word(read_secret(file, "the token"), str(file))
    if token == "-":  # noqa: S105  not a token
        if again is not None:
            return again
        return _word(sys.stdin.buffer.readline(), "standard input")
    if token and source is ParameterSource.COMMANDLINE:
        raise click.UsageError(
            "a token on the command line can be seen by every user of this machine (ps); pass it by"
            " --token-file FILE, the variable EVERLOG_TOKEN, or --token - (standard input)"
        )
    return token


def _word(text: bytes, where: str) -> str:
    words = text.split()
    if len(words) != 1:
        raise OpenError(f"{where}: expected one token, found {len(words)} words")
    return words[0].decode("ascii", "replace")


class Reloading:
    """The handler of SIGHUP: reads the variables, the configuration, and the files of tokens and certificates
    again, and applies what can be applied without a restart. If something is invalid, it logs the error, and
    all settings stay as they are."""

    def __init__(
        self,
        server: Server,
        ruled: Sequence[Approval | PlanApprovals],
        notifier: Notifier,
        token: str,
        *,
        tells: bool,
    ) -> None:
        """`ruled`: whose approvers can change. `tells`: whether the server notifies. Create it only while a
        command runs."""
        context = click.get_current_context()
        assert isinstance(context.command, Configured)
        self._command, self._parent = context.command, context.parent
        self._args: list[str] = context.meta[ARGS]
        self._server, self._ruled, self._notifier = server, ruled, notifier
        self._token, self._tells = token, tells
        self._began = self._values()
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            try:
                environment.reload_files()
                later = self._apply(self._values())
            except (Error, OSError, click.ClickException) as error:
                text = error.format_message() if isinstance(error, click.ClickException) else error
                logger.error(  # noqa: TRY400  the message suffices
                    "nothing was reloaded, the previous settings stay in use: %s",
                    text,
                    extra=about("reload.failed"),
                )
            else:
                logger.warning("reloaded tokens, certificates and settings", extra=about("reload.done"))
                for what in later:
                    logger.warning("%s takes effect at the next start", what, extra=about("reload.later"))

    def _values(self) -> Values:
        return self._command.values(self._args, self._parent)

    def _apply(self, now: Values) -> list[str]:
        """Apply the values that SIGHUP can change. Return the others that changed since the start, with their
        sources."""
        from everlog.migrations.approval.notify import targets
        from everlog.rpc.server.auth import TokensFile, read_tokens

        get = now.params
        token = token_of(get["token"], get["token_file"], now.sources["token"], again=self._token)
        named = read_tokens(get["tokens_file"], token) if get["tokens_file"] else TokensFile({}, {})
        told = targets(get["notify"]) if self._tells else None
        quota = quota_of(get)
        jwt = {name: value for name, value in get.items() if name.startswith("jwt_")}
        both = bool(get["jwt_issuer"] and self._began.params["jwt_issuer"])
        self._server.reload(
            token=token,
            tokens=named.tokens,
            roles=named.roles,
            acting=get["acting"],
            keys_for=get["keys_for"],
            jwt=jwt_of(jwt) if both else None,
        )
        self._server.limit(quota)
        self._server.activity.log_slower_than(get["slow_ms"])
        logger.setLevel(get["log_level"].upper())
        if told is not None:
            self._notifier.replace(told)
        for one in self._ruled:
            one.rules = replace(one.rules, approvers=frozenset(get["approvers"]))
        before = self._began.params
        return [
            self._named(name, now)
            for name in get
            if name not in RELOADED and not (both and name in jwt) and get[name] != before.get(name)
        ]

    def _named(self, name: str, now: Values) -> str:
        param = next(param for param in self._command.params if param.name == name)
        return f"{key_of(param)} ({now.origins[name][1]})"
