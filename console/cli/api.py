"""Api: the command api: any method of a server, made from the descriptors of its services.

    everlog api                                   services and methods that the caller may call
    everlog api Store                             those of a service
    everlog api Store Count --table books         a call
    everlog api Store Count --help                the fields of its request
    everlog api Store Load --table books < rows   a stream: a JSON object a line is a request

    words ─▶ service, method ─▶ a click command, an option for each field ─▶ a request ─▶ responses as JSON

Nothing here knows a method by name. Without a server, the contract of this program describes the methods.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from everlog.console import output
from everlog.console.cli.connect import TableName, is_remote, open_database
from everlog.console.cli.options import Renamed, Settings, common_except, pass_settings
from everlog.store.errors import Error, OpenError, RowError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from everlog.rpc.client.api import Api
    from everlog.rpc.client.methods import Field, Method, Services

LINE_BYTES_MAX = 128 << 20  # of a JSON line: a request is smaller
READ_BYTES = 1 << 16
TABLES = ("table", "tables")  # fields that name tables, by the end of their name
CHOICES_MAX = 40  # characters of the names of an enum beside an option


class Words(click.ParamType[Any]):
    """The words after `everlog api`: a shell completes services, methods, fields and their values."""

    name = "words"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        words = list(ctx.params.get("words") or ())
        services = _described(ctx.ensure_object(Settings))
        try:
            if not words:
                return [
                    CompletionItem(one.name, help=one.summary)
                    for one in services
                    if one.name.startswith(incomplete)
                ]
            service = services.service(words[0])
            if len(words) == 1:
                return [
                    CompletionItem(name, help=one.summary)
                    for name, one in service.methods.items()
                    if name.startswith(incomplete)
                ]
            method = service.method(words[1])
        except Error:
            return []
        field = method.fields.get(words[-1][2:].replace("-", "_")) if words[-1].startswith("--") else None
        if field is not None and len(words) > 2:
            return FieldValue(field).shell_complete(ctx, param, incomplete)
        return _fields(method, incomplete)


class FieldValue(click.ParamType[str]):
    """A value of a field. It is checked with the whole request."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.name = field.type

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if self.field.name.rpartition(".")[2] in TABLES:
            return TableName().shell_complete(ctx, param, incomplete)
        return [CompletionItem(one) for one in self.field.choices if one.startswith(incomplete)]


class ApiCommand(click.Command):
    """The command, whose options after the method are those of the method."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        words = list(ctx.params.get("words") or ())
        found: list[CompletionItem] = []
        if len(words) > 1:
            try:
                method = _described(ctx.ensure_object(Settings)).method(words[0], words[1])
                found = _fields(method, incomplete)
            except Error:
                pass
        names = {one.value for one in found}
        return found + [one for one in super().shell_complete(ctx, incomplete) if one.value not in names]


def option_of(name: str) -> str:
    """Return the option of a field, such as `--at-seq`; `--at_seq` is accepted, too."""
    return f"--{name.replace('_', '-')}"


def _fields(method: Method, incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(option_of(name), help=" ".join(one.help.split()))
        for name, one in method.fields.items()
        if option_of(name).startswith(incomplete)
    ]


@click.command(
    cls=ApiCommand,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("words", nargs=-1, type=Words(), metavar="[SERVICE [METHOD [--FIELD VALUE]...]]")
@click.option(
    "--json",
    "json_",
    metavar="JSON|FILE|-",
    help="The request as a JSON object, in a file, or on standard input.",
)
@click.option("--grpcurl", is_flag=True, help="Print the call as a line of grpcurl; call nothing.")
@click.option(
    "-h", "--help", "help_", is_flag=True, help="Show this message, or that of the method, and exit."
)
@common_except("json")
@pass_settings
@click.pass_context
def api(
    ctx: click.Context,
    settings: Settings,
    *,
    words: tuple[str, ...],
    json_: str | None,
    grpcurl: bool,
    help_: bool,
) -> None:
    """Call any method of a server, or list those that the caller may call.

    Each field of the request is an option: `--table books`, `--grant.role reader`; a repeated field may be
    given several times. Responses are printed as JSON. A stream takes requests from standard input, and
    prints responses as they come, a JSON object a line. Rows and keys are JSON, times like 2026-01-05T09:30Z,
    durations like 1h30m; other bytes are base64, or hex:.

    `everlog api SERVICE METHOD --help` describes a method.

    \b
    Examples:
      everlog -u everlog://db.example.com/shop api
      everlog api Store Scan --table orders --start 2026 --limit 10
      everlog api Store Commit --json '{"writes": [{"table": "orders", "row": {"id": 7}}]}'
      everlog api Feed Subscribe --now true
      everlog api Store Count --table orders --grpcurl
    """
    names = list(takewhile(lambda word: not word.startswith("-"), words[:2]))
    if help_ and len(names) < 2:
        click.echo(ctx.get_help())
        return
    if len(names) < 2:
        if len(words) > len(names):
            raise click.UsageError(f"expected SERVICE and METHOD before {words[len(names)]}", ctx)
        _list(settings, names[0] if names else "")
        return
    if help_:
        inner = _command(_described(settings).method(*names), lambda _: None)
        click.echo(inner.get_help(inner.make_context(_path(ctx, inner), [], parent=ctx.parent)))
        return
    with _connected(settings) as found:
        method = (_described(settings) if grpcurl else found.services).method(*names)

        def run(texts: Mapping[str, Sequence[str]]) -> None:
            sent = _sent(context, found, method, texts, json_)
            if grpcurl:
                _print_line(settings, method, sent)
            else:
                _print(settings, found, method, sent)

        inner = _command(method, run)
        with inner.make_context(_path(ctx, inner), list(words[2:]), parent=ctx.parent) as context:
            inner.invoke(context)


def _path(ctx: click.Context, inner: click.Command) -> str:
    return f"{ctx.info_name} {inner.name}"


def _list(settings: Settings, name: str) -> None:
    """Print the services, or one, with their methods."""
    services = _server(settings) if is_remote_url(settings) else None
    if services is None:
        from everlog.rpc.client.methods import Services

        services = Services.of_contract()
    for service in [services.service(name)] if name else services:
        if not settings.json:
            click.echo(f"{service.name}: {service.summary}")
        for method in service.methods.values():
            if settings.json:
                output.echo(_described_method(method))
            else:
                click.echo(f"  {method.name:<16} {method.summary}{_streams(method)}")


def _described_method(method: Method) -> dict[str, Any]:
    return {
        "service": method.service.full_name,
        "method": method.name,
        "help": method.help,
        "takes_stream": method.client_streaming,
        "returns_stream": method.server_streaming,
        "needs": [str(need) for need in method.needs],
        "needs_reason": method.needs_reason,
        "fields": [
            {"name": one.name, "type": one.type, "repeated": one.repeated, "help": one.help}
            for one in method.fields.values()
        ],
    }


def _streams(method: Method) -> str:
    if method.client_streaming and method.server_streaming:
        return "  (streams requests and responses)"
    if method.client_streaming:
        return "  (streams requests)"
    return "  (streams responses)" if method.server_streaming else ""


# the command of a method


def _command(method: Method, run: Callable[[Mapping[str, Sequence[str]]], None]) -> click.Command:
    """Return the command of a method. `run` gets the given texts by the names of fields."""
    names = {f"field_{at}": name for at, name in enumerate(method.fields)}

    def callback(**given: tuple[str, ...]) -> None:
        run({names[key]: texts for key, texts in given.items() if texts})

    params: list[click.Parameter] = [_option(key, method.fields[name]) for key, name in names.items()]
    return click.Command(
        f"{method.service.name} {method.name}",
        params=params,
        callback=callback,
        help=_help(method),
        add_help_option=False,
        epilog="The other options are those of `everlog api --help`.",
        context_settings={"help_option_names": []},
    )


def _option(key: str, field: Field) -> click.Option:
    words = [" ".join(field.help.split())]
    notes = []
    if field.repeated and field.type.count("=") == 0:
        notes.append("may be repeated")
    if field.oneof:
        notes.append(f"one of the group {field.oneof}")
    if field.name == "database":
        notes.append("default: that of the URL")
    if notes:
        words.append(f"[{'; '.join(notes)}]")
    attributes: dict[str, Any] = {}
    if field.type == "bool":  # the value may be left out
        attributes = {"is_flag": False, "flag_value": "true"}
    return Renamed(
        [option_of(field.name), key],
        was=[f"--{field.name}"] if "_" in field.name else [],
        type=FieldValue(field),
        multiple=True,
        metavar=_metavar(field),
        help="  ".join(filter(None, words)),
        **attributes,
    )


def _metavar(field: Field) -> str:
    choices = "|".join(field.choices)
    if choices and len(choices) <= CHOICES_MAX:
        return choices
    kind = field.descriptor.message_type
    if "=" in field.type:
        return "KEY=VALUE"
    return (
        "JSON"
        if (kind is not None and field.type[:1].isupper()) or field.type == "row"
        else field.type.upper()
    )


def _help(method: Method) -> str:
    parts = [method.help]
    if method.client_streaming:
        parts.append("Standard input has one request a line, as JSON. The options make the first request.")
    if method.server_streaming:
        parts.append("The responses are printed as they come, one a line.")
    if method.needs:
        reason = "; it cannot be undone, so it needs a reason" if method.needs_reason else ""
        parts.append(f"Needs {'; '.join(str(need) for need in method.needs)}{reason}.")
    if not method.service.may(method):
        parts.append("You may not call it.")
    return "\n\n".join(filter(None, parts))


# requests and responses


def _sent(
    ctx: click.Context, api: Api, method: Method, texts: Mapping[str, Sequence[str]], json_: str | None
) -> Iterator[Message]:
    """Yield the requests of a call. Raises RowError, and UsageError for an option that does not fit."""
    from everlog.rpc.client.api import table_of
    from everlog.rpc.client.requests import decoded, merged, tree

    if method.client_streaming and json_ == "-":
        json_ = None  # standard input is the stream
    given: dict[str, Any] = {}
    try:
        if json_ is not None:
            text, where = _json_text(json_)
            given = decoded(text, where)
        given = merged(given, tree(method, texts))
        table = table_of(given)
        if given or not method.client_streaming:
            yield api.request(method, given)
    except RowError as error:
        raise click.UsageError(str(error), ctx) from None
    if not method.client_streaming:
        return
    for number, line in enumerate(_lines(), 1):
        found = decoded(line, f"line {number} of standard input")
        first = not given and number == 1
        table = table or table_of(found)
        try:
            yield api.request(method, found, table=table, first=first)
        except RowError as error:
            raise RowError(f"line {number} of standard input: {error}") from None


def _json_text(word: str) -> tuple[bytes, str]:
    """Return the text of --json, and where it is from. Raises RowError for one that is too large."""
    if word.lstrip().startswith("{"):
        return word.encode(errors="surrogateescape"), "--json"
    if word == "-":
        raw, where = b"".join(_pieces()), "standard input"
    else:
        with Path(word).open("rb") as file:
            raw, where = file.read(LINE_BYTES_MAX + 1), word
    if len(raw) > LINE_BYTES_MAX:
        raise RowError(f"expected a request of at most {LINE_BYTES_MAX >> 20} MiB in {where}, found more")
    return raw, where


def _pieces() -> Iterator[bytes]:
    """Yield standard input, up to a little more than a request. Not through its buffer, whose lock a thread
    that waits for input would keep at the end of the process."""
    size = 0
    while size <= LINE_BYTES_MAX and (piece := output.read_some(sys.stdin.fileno(), READ_BYTES)):
        size += len(piece)
        yield piece


def _lines() -> Iterator[bytes]:
    """Yield the lines of standard input that are not empty. Raises RowError for one that is too long."""
    rest = bytearray()
    while piece := output.read_some(sys.stdin.fileno(), READ_BYTES):
        start = len(rest)
        rest += piece
        while (end := rest.find(b"\n", start)) >= 0:
            if line := bytes(rest[:end]).strip():
                yield line
            del rest[: end + 1]
            start = 0
        if len(rest) > LINE_BYTES_MAX:
            raise RowError(f"expected lines of at most {LINE_BYTES_MAX >> 20} MiB, found a longer one")
    if line := bytes(rest).strip():
        yield line


def _print(settings: Settings, api: Api, method: Method, sent: Iterator[Message]) -> None:
    """Make the call, and print each response as it comes."""
    seen: list[str] = []

    def watched() -> Iterator[Message]:
        for request in sent:
            if not seen:
                seen.append(str(getattr(request, "table", "") or ""))
            yield request

    if method.server_streaming and settings.streams is not None:
        settings.streams.output.stops = True  # `| head` ends the call
    with closing(api.call(method, watched())) as answers:
        for answer in answers:
            table = seen[0] if seen else ""
            output.echo(api.shown(answer, table=table), indent=not (method.server_streaming or settings.json))


def _print_line(settings: Settings, method: Method, sent: Iterator[Message]) -> None:
    from everlog.rpc import address
    from everlog.rpc.client.api import grpcurl

    click.echo(grpcurl(address.parse(settings.url), method, sent))


# the server


def is_remote_url(settings: Settings) -> bool:
    return settings.has_url and is_remote(settings.url)


@contextmanager
def _connected(settings: Settings) -> Iterator[Api]:
    """Yield the methods of the server of the settings. Raises OpenError for another kind of URL."""
    from everlog.rpc import address
    from everlog.rpc.client.api import Api
    from everlog.rpc.client.channel import CONNECT_S, Channel

    if not is_remote(settings.url):
        raise OpenError(
            f"expected the URL of a server, everlog://HOST:PORT/NAME, found {settings.url}; to serve a"
            " database: everlog serve NAME=URL"
        )
    if settings.wait:
        open_database(settings, read_only=True).close()
    with closing(Channel(address.parse(settings.url), retry_s=CONNECT_S)) as channel:
        yield Api(channel)


def _server(settings: Settings) -> Services:
    with _connected(settings) as found:
        return found.services


def _described(settings: Settings) -> Services:
    """Return the services of the server if it can be reached, otherwise those of this program."""
    from everlog.rpc import address
    from everlog.rpc.client.channel import Channel
    from everlog.rpc.client.methods import Services

    if is_remote_url(settings):
        try:
            with closing(Channel(address.parse(settings.url), retry_s=0)) as channel:
                return Services.of_server(channel)
        except Error:
            pass
    return Services.of_contract()
