"""Cert: the command cert, which creates certificates for development."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from everlog.console import output
from everlog.console.cli.options import Settings, common, pass_settings
from everlog.rpc.address import PORT, host_port


@click.group()
@common
def cert() -> None:
    """Create certificates for development.

    \b
    Examples:
      everlog cert dev
      everlog cert dev --dir certs --host db.example.com
    """


@cert.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("certs"),
    show_default=True,
    metavar="DIR",
    help="Directory of the files.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Name or address of the server; may be repeated.  [default: localhost, 127.0.0.1, ::1]",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="NAME",
    help="Name of a client; may be repeated.  [default: dev, with a new authority]",
)
@click.option(
    "--days",
    type=click.IntRange(1, 397),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Days until the certificates end.",
)
@common
@pass_settings
def dev(
    settings: Settings, *, directory: Path, hosts: tuple[str, ...], clients: tuple[str, ...], days: int
) -> None:
    """Create an authority, the certificate of a server and those of clients, and print how to use them.

    Not for production: the owner of the authority's key can create a certificate of any name. If
    the directory has an authority already, only clients are added. No file is overwritten. Only the owner
    can read keys.

    \b
    Examples:
      everlog cert dev
      everlog cert dev --dir certs --host db.test --client ann --client bob
      everlog cert dev --client carol
    """
    from everlog.rpc import certificates

    new = not certificates.pair(directory, certificates.AUTHORITY).certificate.exists()
    hosts = hosts or ("localhost", "127.0.0.1", "::1")
    files = certificates.create(directory, hosts, clients or (("dev",) if new else ()), days=days)
    if settings.json:
        for one in files:
            output.echo({"certificate": str(one.certificate), "key": str(one.key)})
        return
    for one in files:
        click.echo(f"Created: {one.certificate}, {one.key}")
    top, server = (
        certificates.pair(directory, name) for name in (certificates.AUTHORITY, certificates.SERVER)
    )
    click.echo(
        "\nServe:\n"
        f"  everlog -u file:app.db serve --listen 127.0.0.1:{PORT} --tls-cert {server.certificate}"
        f" --tls-key {server.key} --tls-client-ca {top.certificate}\nURL:"
    )
    for one in files[2 if new else 0 :]:
        words = "&".join(
            f"{name}={quote(str(path))}"
            for name, path in (("ca", top.certificate), ("cert", one.certificate), ("key", one.key))
        )
        click.echo(f"  everlog://{host_port(hosts[0], PORT)}/app?{words}")
