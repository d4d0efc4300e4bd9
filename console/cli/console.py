"""Console: the command console, and the options of serve for the web pages."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everlog.console import output
from everlog.console.cli.options import (
    Renamed,
    Settings,
    add_options,
    common,
    pass_settings,
    refuse_idle,
)
from everlog.rpc import address
from everlog.store.environment import read_secret
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.console.web.oidc import Oidc
    from everlog.console.web.server import WebServer
    from everlog.console.web.setup import Setup
    from everlog.rpc.security import Tls
    from everlog.rpc.server.issuer import Jwt
    from everlog.rpc.server.server import Server

F = TypeVar("F", bound=Callable[..., Any])

CONSOLE = "127.0.0.1:7421"


class Proxy(click.ParamType[str]):
    """The address or network of a proxy."""

    name = "network"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if address.network_of(str(value)) is None:
            self.fail(f"expected an address or network, such as 10.1.0.0/24, found {value!r}", param, ctx)
        return str(value)


# `serve` reads these variables as those of its other options.
_SHARED = [
    click.option(
        "--console-upload-mb",
        envvar="EVERLOG_SERVE_CONSOLE_UPLOAD_MB",
        type=click.IntRange(1, 100_000),
        default=256,
        show_default=True,
        metavar="MIB",
        help="Size of a file to import that a browser may send, at most.",
    ),
    click.option(
        "--console-proxy",
        "console_proxies",
        envvar="EVERLOG_SERVE_CONSOLE_PROXY",
        type=Proxy(),
        multiple=True,
        metavar="ADDRESS",
        help="Address or network of a proxy in front of the console, whose X-Forwarded-For is"
        " believed; may be repeated.  [default: none]",
    ),
    click.option(
        "--console-oidc-client",
        envvar="EVERLOG_SERVE_CONSOLE_OIDC_CLIENT",
        metavar="ID",
        help="Let people sign in at an OpenID Connect provider, as this client. Needs the extra `oidc`.",
    ),
    click.option(
        "--console-oidc-issuer",
        envvar="EVERLOG_SERVE_CONSOLE_OIDC_ISSUER",
        metavar="URL",
        help="The provider.  [default of serve: --jwt-issuer]",
    ),
    click.option(
        "--console-oidc-secret-file",
        envvar="EVERLOG_SERVE_CONSOLE_OIDC_SECRET_FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="File with the client's secret, if it has one.",
    ),
    click.option(
        "--console-oidc-scope",
        "console_oidc_scopes",
        envvar="EVERLOG_SERVE_CONSOLE_OIDC_SCOPE",
        multiple=True,
        metavar="SCOPE",
        help="Scope to request beside openid, such as offline_access; may be repeated.",
    ),
    click.option(
        "--console-oidc-token",
        envvar="EVERLOG_SERVE_CONSOLE_OIDC_TOKEN",
        type=click.Choice(["access", "id"]),
        default="access",
        show_default=True,
        help="The token that the console presents to the server.",
    ),
]


def console_options(command: F) -> F:
    """Add the options of the console to `serve`."""
    return add_options(command, _OPTIONS)


def shared_options(command: F) -> F:
    """Add the options that `serve` and `console` share: sign-in at a provider, and files."""
    return add_options(command, _SHARED)


def oidc_of(how: Mapping[str, Any], jwt: Jwt | None = None) -> Oidc | None:
    """Return how the console signs in at a provider; None without --console-oidc-client. `jwt`: the tokens
    that the server accepts, whose issuer is the default. Raises OpenError and UsageError."""
    others = [name for name in how if name != "console_oidc_client"]
    if not how["console_oidc_client"]:
        refuse_idle(*others, when="without --console-oidc-client")
        return None
    from everlog.console.web.oidc import Oidc, check
    from everlog.console.web.server import check_installed

    check_installed()
    issuer, file = (
        how["console_oidc_issuer"] or (jwt.issuer if jwt is not None else ""),
        how["console_oidc_secret_file"],
    )
    if not issuer:
        raise click.UsageError("--console-oidc-client needs --console-oidc-issuer, or --jwt-issuer of serve")
    secret = read_secret(file, "the client's secret").decode(errors="replace").strip() if file else ""
    kind, scopes = how["console_oidc_token"], tuple(how["console_oidc_scopes"])
    found = Oidc(issuer, how["console_oidc_client"], secret, scopes, kind)
    check(found)
    return found


def check_address(value: str, option: str) -> None:
    """Raise UsageError unless an option names an address to listen on, HOST:PORT."""
    try:
        address.listening(value)
    except OpenError:
        raise click.UsageError(f"expected {option} as HOST:PORT, found {value!r}") from None


def web_of(
    listen: str | None, url: str, tls: Tls | None, oidc: Oidc | None = None, *, implied: bool = False
) -> WebServer | None:
    """Return the console of a server that is about to start, not serving yet; None: it has none.

    `implied`: without an address there is one at the default, if its libraries are installed; otherwise a
    line on standard error says how to get it.
    """
    if listen is None and not (implied and _is_possible(tls)):
        return None
    from everlog.console.web.server import WebServer

    listen = listen or CONSOLE
    check_address(listen, "--console")
    if tls is not None and tls.client_ca is not None:
        raise click.UsageError(
            "--console cannot call a server that requires client certificates; start it by itself, with a"
            " certificate: everlog console 'everlog://HOST:PORT/NAME?cert=FILE&key=FILE'"
        )
    return WebServer(listen, url=url, tls=(tls.certificate, tls.key) if tls is not None else None, oidc=oidc)


def _is_possible(tls: Tls | None) -> bool:
    """Return whether a console can be served; if not, print why, and how people approve without it."""
    from everlog.console.web.server import check_installed

    try:
        check_installed()
    except OpenError as error:
        problem = str(error)
    else:
        if tls is None or tls.client_ca is None:
            return True
        problem = "it cannot call a server that requires client certificates; start `everlog console`"
    click.echo(f"No console: {problem}. Plans are approved with `everlog approve`", err=True)
    return False


def setup_of(
    web: WebServer | None,
    backups: Mapping[str, str],
    urls: Mapping[str, str],
    migrations: Mapping[str, str],
    *,
    upload_mb: int,
    proxies: Sequence[str],
) -> Setup | None:
    """Return what the console of the running `serve` is served with; None: it has none. The arguments: see
    Setup."""
    if web is None:
        return None
    from everlog.console.cli.serve_config import in_force
    from everlog.console.web.setup import Setting, Setup

    settings = [Setting(*one) for one in in_force(click.get_current_context())]
    return Setup(backups, urls, settings, migrations, upload_mb << 20, proxies)


@contextmanager
def showing(web: WebServer | None, server: Server, setup: Setup | None = None) -> Iterator[None]:
    """Serve the console of a running server until the block ends."""
    if web is None:
        yield
        return
    from everlog.console.web.server import own_server

    web.server = own_server(server.host, server.port, server.tls_files)
    count = server.activity
    web.setup = (setup or web.setup)._replace(on_limit=count.limited, on_denied=count.denied)
    with web:
        yield


def announce(settings: Settings, web: WebServer, *, code: str = "") -> None:
    """Print where the console is; with a code, the link that signs in once."""
    url = f"{web.url}/sign-in?once={code}" if code else web.url
    output.echo({"console": url}) if settings.json else click.echo(f"Console: {url}")


@click.command()
@click.argument("server", metavar="[URL]", required=False)
@click.option(
    "--listen",
    default=CONSOLE,
    show_default=True,
    metavar="HOST:PORT",
    help="Address of the console; port 0 selects a free port.",
)
@click.option("--console-url", default="", metavar="URL", help="Public URL of the console behind a proxy.")
@shared_options
@common
@pass_settings
def console(
    settings: Settings,
    /,
    *,
    server: str | None,
    listen: str,
    console_url: str,
    console_upload_mb: int,
    console_proxies: tuple[str, ...],
    **how: Any,
) -> None:
    """Serve the web console of a remote server, until Ctrl-C or SIGTERM.

    URL is that of any database of the server; all of them are shown. With a token (in the URL or in
    EVERLOG_TOKEN) the printed link signs in once, within ten minutes. Needs the extra `console`.

    \b
    Examples:
      everlog console everlog://db.example.com/flights
      everlog -u everlog+insecure://127.0.0.1:7420/flights console --listen 127.0.0.1:0
    """
    if server is not None:
        refuse_idle("url", "env", when="beside URL")
    check_address(listen, "--listen")
    where = settings.with_token(server) if server else settings.url
    if not address.is_url(where):
        raise OpenError(
            f"expected the URL of a server, everlog://HOST:PORT/NAME, found {address.without_secrets(where)};"
            " `everlog serve --console` serves a database of this machine together with its console"
        )
    from everlog.console.web.server import WebServer
    from everlog.console.web.setup import Setup

    found = address.parse(where)
    web = WebServer(listen, url=console_url, oidc=oidc_of(how))
    web.server = found._replace(database="", token="")
    web.setup = Setup(upload_bytes=console_upload_mb << 20, proxies=console_proxies)
    stop = threading.Event()
    with web:
        code = web.console.sessions.once(found.token) if found.token else ""
        announce(settings, web, code=code)
        sys.stdout.flush()
        stop.wait()


_OPTIONS = [
    click.option(
        "--console",
        "console_at",
        cls=Renamed,
        was=("--console-listen",),
        is_flag=False,
        flag_value=CONSOLE,
        default=None,
        metavar="[HOST:PORT]",
        help=f"Serve web pages for operators on this address; without one, on {CONSOLE}. Implied by --migrate"
        " checked. Needs the extra `console`.",
    ),
    click.option(
        "--console-url",
        default="",
        metavar="URL",
        help="Public URL of these pages behind a proxy.",
    ),
]
