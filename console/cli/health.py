"""Health: the command health, for containers, scripts and monitors.

    everlog://HOST:PORT/NAME      a database at a server: state and reason; needs the right `status`
    everlog://HOST:PORT           the whole server, by grpc.health.v1; needs no token
    http://HOST:PORT[/readyz]     the whole server, over HTTP (`serve --health`, `--metrics`); needs no token
    file:PATH                     a database on this machine, as a reader sees it

Exit codes: 0 ready · 1 it could not be asked · 2 invalid command line · 3 not ready.
"""

from __future__ import annotations

import http.client
import time
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import check_url, is_remote, open_database
from everlog.console.cli.options import Settings, common, pass_settings
from everlog.rpc.address import parse, without_secrets
from everlog.store.errors import Error, OpenError, UnavailableError
from everlog.store.upkeep.status import Health

NOT_READY = 3
ASK_S, TRY_EVERY_S = 5.0, 0.25
BODY_MAX = 4096


class _Asked(NamedTuple):
    where: str
    health: Health


@click.command()
@click.argument("where", metavar="[URL]", required=False)
@common
@pass_settings
@click.pass_context
def health(ctx: click.Context, settings: Settings, *, where: str | None) -> None:
    """Print whether a database or a server takes calls, and why not.

    Exit code 0: ready; 3: not ready; 1: it could not be reached. With --wait it waits until it is
    ready. A URL without a database asks about the whole server, and needs no token.

    \b
    Examples:
      everlog health everlog://db.example.com/flights
      everlog health everlog+insecure://127.0.0.1:7420 --wait --wait-timeout 30s
      everlog health http://127.0.0.1:7422
      everlog -u file:flights.db health --json
    """
    if where is not None:
        settings.url_given = where
    found = _waited(settings) if settings.wait else _asked(settings, settings.url)
    if settings.json:
        output.echo({"url": found.where, **msgspec.structs.asdict(found.health)})
    else:
        click.echo(_sentence(found))
    if not found.health.ready:
        ctx.exit(NOT_READY)


def _waited(settings: Settings) -> _Asked:
    """Ask until it is ready, or the time to wait has passed."""
    until, where = time.monotonic() + settings.wait_timeout_s, settings.url
    _check(where)
    settings.wait = False  # here, and not in `open_database`
    while True:
        try:
            found = _asked(settings, where)
            if found.health.ready or time.monotonic() >= until:
                return found
        except (UnavailableError, OpenError):
            if time.monotonic() >= until:
                raise
        time.sleep(TRY_EVERY_S)


def _check(url: str) -> None:
    """Raise OpenError for a URL that can never be asked."""
    if not _is_http(url):
        check_url(_named(url)[0] if is_remote(url) else url)


def _asked(settings: Settings, url: str) -> _Asked:
    if _is_http(url):
        return _over_http(url)
    if is_remote(url):
        named, whole = _named(url)
        if whole:
            return _of_server(named)
    with open_database(settings, url=url, read_only=not is_remote(url)) as db:
        return _Asked(without_secrets(db.url), db.admin.health())


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _named(url: str) -> tuple[str, bool]:
    """Return the URL with a name of a database, and whether it had none."""
    parts = urlsplit(url)
    return (parts._replace(path="/-").geturl(), True) if not parts.path.strip("/") else (url, False)


def _of_server(url: str) -> _Asked:
    """Return the health of the whole server. Raises UnavailableError."""
    from everlog.rpc.client.admin import server_health

    where = parse(url)
    return _Asked(str(where).removesuffix("/-"), server_health(where, timeout_s=ASK_S))


def _over_http(url: str) -> _Asked:
    """Return the health of the whole server, or what the path of the URL names. Raises UnavailableError."""
    parts = urlsplit(url)
    where = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=ASK_S)
    except (ValueError, http.client.InvalidURL):
        raise OpenError(f"expected http://HOST:PORT, found {where!r}") from None
    try:
        connection.request("GET", parts.path.rstrip("/") or "/readyz")
        answer = connection.getresponse()
        text = answer.read(BODY_MAX).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{where} cannot be reached: {error}") from None
    finally:
        connection.close()
    if answer.status == HTTPStatus.OK:
        return _Asked(where, Health(state=text))
    if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
        raise Error(f"{where} answered {answer.status} {answer.reason}: {text}")
    state, _, reason = text.removeprefix("not ready: ").partition(": ")
    return _Asked(where, Health(ready=False, state=state, reason=reason))


def _sentence(found: _Asked) -> str:
    one = found.health
    since = f" since {output.moment(one.since_ns)}" if one.since_ns else ""
    text = f"{one.state}{since}{f': {one.reason}' if one.reason else ''}"
    if one.ready:
        return f"Ready: {found.where}" + (f" ({text})" if text not in ("ready", "alive") else "")
    return f"Not ready: {found.where}" + (f": {text}" if text != "not ready" else "")
