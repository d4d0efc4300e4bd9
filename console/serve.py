"""Serve: databases of this machine, over gRPC, until it is stopped."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from everlog.console import text
from everlog.console.opening import directory_of, open_database
from everlog.console.settings import Settings, common, pass_settings
from everlog.rpc.address import PORT
from everlog.store.errors import OpenError


@click.command()
@click.argument("databases", nargs=-1, metavar="[NAME=URL]...")
@click.option(
    "--listen",
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where; port 0 is any.",
)
@click.option(
    "--token", envvar="EVERLOG_TOKEN", default="", help="What clients must show.  [env: EVERLOG_TOKEN]"
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="The server's certificate chain, in PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key.")
@click.option(
    "--tls-client-ca", type=click.Path(path_type=Path), help="Clients must show a certificate of this."
)
@common
@pass_settings
def serve(
    settings: Settings,
    databases: tuple[str, ...],
    *,
    listen: str,
    token: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
) -> None:
    """Serves databases until Ctrl-C or SIGTERM; then what runs is finished first.

    Without arguments it serves that of --url, under the name of its directory. Whoever can be
    reached from other machines needs a token and TLS.

    \b
    Examples:
      everlog -u file:flights.db serve
      everlog serve flights=file:flights.db users=file:users.db --listen 127.0.0.1:7000
      everlog serve --listen 0.0.0.0:7420 --tls-cert chain.pem --tls-key key.pem
    """
    from everlog.rpc.security import Tls
    from everlog.rpc.server import Server

    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if not listen.rpartition(":")[2].isdecimal():
        raise click.UsageError(f"expected --listen as HOST:PORT, found {listen!r}")
    tls = Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    settings.read_files()
    token = token or os.environ.get("EVERLOG_TOKEN", "")
    with ExitStack() as stack:
        named = {
            name: stack.enter_context(open_database(settings, url=url))
            for name, url in _named(settings, databases).items()
        }
        migrations = dict.fromkeys(named, settings.migrations_or_none or "")
        server = Server(
            named,  # type: ignore[arg-type]  # of this machine: _named sees to it
            listen,
            token=token,
            tls=tls,
            migrations=migrations if settings.migrations_or_none else None,
        )
        with server:
            for name in named:
                url = server.url(name)
                text.echo({"url": url}) if settings.json else click.echo(f"Serving: {url}")
            sys.stdout.flush()
            server.wait()
        if not settings.json:
            click.echo("Stopped", err=True)


def _named(settings: Settings, databases: tuple[str, ...]) -> dict[str, str]:
    """URLs by name. Raises OpenError for one that is none of this machine."""
    if not databases:
        return {directory_of(settings.url).resolve().stem: settings.url}
    found: dict[str, str] = {}
    for word in databases:
        name, equals, url = word.partition("=")
        if not equals or not name or "/" in name:
            raise OpenError(f"expected NAME=URL, as flights=file:flights.db; found {word!r}")
        if name in found:
            raise OpenError(f"two databases are named {name!r}; name them apart")
        directory_of(url)
        found[name] = url
    return found
