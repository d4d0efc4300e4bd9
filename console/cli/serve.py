"""Serve: the command serve, which serves embedded databases over gRPC.

Migrations of each database; a package is given by name or directory:

    --migrations PACKAGE         of all databases without their own
    --migrations NAME=PACKAGE    of one database
    -d, EVERLOG_MIGRATIONS_DIR   of all, without --migrations
    ./migrations                 of the only database, without any of these

Archive targets; clients cannot choose others:

    --archive-to DIR|URL         of the only database
    --archive-to NAME=DIR|URL    of one database

With --keep-days or --keep-records the server archives automatically (everlog.audit.retention), else on
request (`archive`).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from everlog.console import output
from everlog.console.cli.backup import DAY_NS
from everlog.console.cli.connect import directory_of, open_database
from everlog.console.cli.console import (
    Proxy,
    announce,
    check_address,
    console_options,
    oidc_of,
    setup_of,
    shared_options,
    showing,
    web_of,
)
from everlog.console.cli.options import (
    Identity,
    Renamed,
    Settings,
    add_options,
    common_of_server,
    pass_settings,
    refuse_idle,
    writes,
)
from everlog.console.cli.proofs import signer_in
from everlog.console.cli.serve_config import Configured, Reloading, config_option, token_of
from everlog.console.cli.serve_fleet import check_fleet, fleet_options, in_fleet, ruled, sources_of
from everlog.console.cli.serve_http import http, http_options
from everlog.console.cli.serve_jwt import jwt_of, jwt_options
from everlog.console.cli.serve_limits import PARAMETERS as LIMITS
from everlog.console.cli.serve_limits import limit_options, quota_of
from everlog.console.cli.serve_migrate import migrated, migrating_options, rules_of
from everlog.console.cli.systemd import ServiceManager, inherited_sockets
from everlog.rpc import traces
from everlog.rpc.address import PORT
from everlog.store.crypto.master_key import NEXT_VARIABLE, master_of
from everlog.store.errors import OpenError
from everlog.store.process import Closing
from everlog.store.program_log import FORMATS, LEVELS, writing
from everlog.store.progress import Progress
from everlog.store.upkeep.status import HealthState

if TYPE_CHECKING:
    from everlog.audit.note import Signer
    from everlog.console.web.server import WebServer
    from everlog.rpc.embedded import EmbeddedDatabase
    from everlog.rpc.security import Tls
    from everlog.rpc.server.health import Readiness
    from everlog.store.database import Database
    from everlog.store.progress import OnProgress


packages_option = click.option(
    "--migrations",
    "packages",
    multiple=True,
    metavar="[NAME=]PACKAGE",
    help="Migrations of all databases, or of one; may be repeated.  [default: --migrations-dir]",
)


CONSOLE_ONLY = ("console_oidc_client", "console_upload_mb", "console_proxies")

F = TypeVar("F", bound=Callable[..., Any])


def archiving_options(command: F) -> F:
    """Add the options for archiving to `serve`."""
    return add_options(command, _OPTIONS)


def retained(
    databases: Mapping[str, Database],
    archives: Mapping[str, str],
    keep_days: float | None,
    keep_records: int | None,
    stack: ExitStack,
) -> None:
    """Archive the databases that have a target in the background, if --keep-days or --keep-records was given.
    Closing the stack ends it."""
    from everlog.audit.retention import Retention

    if keep_days is None and keep_records is None:
        return
    if not archives:
        raise click.UsageError("--keep-days and --keep-records need --archive-to DIR or URL")
    for name, target in archives.items():
        keep_ns = int((keep_days or 0) * DAY_NS)
        stack.enter_context(
            Retention(databases[name], target, keep_records=keep_records or 0, keep_ns=keep_ns)
        )


def targets(words: Sequence[str], databases: Iterable[str], option: str = "--archive-to") -> dict[str, str]:
    """Return the archive targets by the name of their database. `option`: the one that has them, if it is
    another. Raises OpenError for an unknown name, and for one target for several databases."""
    names, found = list(databases), dict[str, str]()
    for word in words:
        name, equals, target = word.partition("=")
        if not equals or (name not in names and ("/" in name or ":" in name)):
            name, target = "", word  # a path or a URL with an = in it
        if not name and len(names) > 1:
            raise OpenError(
                f"{option} {word}: each database needs its own target; name the database, as in"
                f" {option} {names[0]}={word}"
            )
        name = name or names[0]
        if name not in names:
            raise OpenError(
                f"{option} {word}: this server has no database {name!r}; it has: {', '.join(names)}"
            )
        if not target:
            raise OpenError(f"{option} {word}: expected NAME=DIR or NAME=URL, found no target")
        if name in found:
            raise OpenError(f"{option}: expected one target for {name}, found two; leave one out")
        found[name] = target
    return found


_OPTIONS = [
    click.option(
        "--archive-to",
        multiple=True,
        metavar="[NAME=]DIR|URL",
        help="Archive target, of all databases or of one; may be repeated.",
    ),
    click.option(
        "--keep-days",
        type=click.FloatRange(0),
        metavar="DAYS",
        help="Archive records older than DAYS days automatically.",
    ),
    click.option(
        "--keep-records",
        type=click.IntRange(0),
        metavar="N",
        help="Archive all but the last N records automatically.",
    ),
]


@click.command(cls=Configured)
@click.argument("databases", nargs=-1, metavar="[NAME=URL]...")
@config_option
@click.option(
    "--listen",
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to listen on; port 0 selects a free port.",
)
@click.option(
    "--proxy",
    "proxies",
    type=Proxy(),
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a proxy that names its clients by the PROXY protocol; may be repeated."
    "  [default: none]",
)
@click.option(
    "--token",
    default="",
    metavar="-",
    help="One token for all clients, without names, from standard input (-).  [env: EVERLOG_TOKEN]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File with this token.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The server's certificate chain, in PEM.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Private key of the certificate, in PEM.",
)
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate authority of the client certificates, in PEM; makes them mandatory.",
)
@click.option(
    "--tls-client-crl",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Revoked client certificates: the lists (CRL) of these authorities, in PEM.",
)
@click.option(
    "--tls-client-name",
    "client_names",
    multiple=True,
    type=click.Choice(["cn", "uri", "dns", "email"]),
    help="Where a client certificate has the name; repeated: the first that it has.  [default: cn]",
)
@jwt_options
@click.option(
    "--tokens",
    "tokens_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of named tokens, one NAME TOKEN or NAME TOKEN ROLE,ROLE per line.  [env: EVERLOG_TOKENS]",
)
@click.option(
    "--acts-for-others",
    "acting",
    type=Identity(),
    multiple=True,
    metavar="NAME",
    help="Let this client write in the name of others; may be repeated.",
)
@click.option(
    "--keys-for",
    "keys_for",
    type=Identity(),
    multiple=True,
    metavar="NAME",
    help="Release personal keys to this client, to follow sealed tables; may be repeated.",
)
@click.option(
    "--next-master-key",
    "next_master",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Next master key, for `everlog rotate-key`; FILE may be created later.  [env: {NEXT_VARIABLE}]",
)
@click.option(
    "--signing-key",
    "audit_key",
    cls=Renamed,
    was=("--audit-key",),
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Key that signs checkpoints for clients (`everlog keygen`).",
)
@click.option(
    "--audit-signed",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File that records what that key signed, to never sign an older log.  [default: KEY.signed]",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Format of the lines on standard error.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Least level of these lines.",
)
@click.option(
    "--slow-ms",
    type=click.FloatRange(0),
    default=1000.0,
    show_default="1000",
    metavar="MS",
    help="Log calls that take longer than MS milliseconds; 0: none.",
)
@http_options
@click.option(
    "--traces",
    "traces_to",
    metavar="TARGET",
    help="Where to send traces: http://HOST:4318 (OTLP), or file:PATH.  [env: EVERLOG_TRACES]",
)
@limit_options
@archiving_options
@packages_option
@migrating_options
@fleet_options
@console_options
@shared_options
@writes
@common_of_server
@pass_settings
def serve(
    settings: Settings,
    /,
    databases: tuple[str, ...],
    *,
    listen: str,
    proxies: tuple[str, ...],
    token: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    tls_client_crl: Path | None,
    client_names: tuple[str, ...],
    tokens_file: Path | None,
    acting: tuple[str, ...],
    keys_for: tuple[str, ...],
    next_master: Path | None,
    audit_key: Path | None,
    audit_signed: Path | None,
    archive_to: tuple[str, ...],
    keep_days: float | None,
    keep_records: int | None,
    packages: tuple[str, ...],
    log_format: str,
    log_level: str,
    slow_ms: float,
    backup_at: tuple[str, ...],
    traces_to: str | None,
    console_at: str | None,
    console_upload_mb: int,
    console_proxies: tuple[str, ...],
    **how: Any,
) -> None:
    """Serve databases until Ctrl-C or SIGTERM; running calls are finished first.

    Without arguments it serves the database of --url under the name of its directory. A server that
    other machines can reach needs TLS and a token. SIGHUP reloads the files of tokens, certificates,
    variables and options; connections stay open.

    Each option can also be a key of a TOML file (--config) and a variable: --tls-cert is tls-cert and
    EVERLOG_SERVE_TLS_CERT. `everlog config` shows where each value comes from.

    With --migrate auto, pending migrations are applied first. With --migrate checked, the current
    version is served until somebody approves them.

    \b
    Examples:
      everlog -u file:flights.db serve
      everlog serve flights=file:flights.db users=file:users.db --listen 127.0.0.1:7000
      everlog serve --listen 0.0.0.0:7420 --tls-cert chain.pem --tls-key key.pem
      everlog serve --config /etc/everlog/serve.toml
      everlog serve flights=file:flights.db users=file:users.db --migrate auto \\
        --migrations flights=flights.migrations --migrations users=users.migrations
      everlog -u file:flights.db serve --archive-to s3://archive/flights --keep-days 90
      everlog -u file:flights.db serve --console
      everlog serve --migrate checked --approver ann --approver bob --notify slack://…
    """
    from everlog.migrations.approval.notify import ServerEvents
    from everlog.rpc.server.auth import TokensFile, read_tokens
    from everlog.rpc.server.health import Readiness
    from everlog.rpc.server.server import Server

    manager, sockets = ServiceManager.of_environment(), inherited_sockets()
    _refuse_idle(
        databases,
        packages,
        sockets=bool(sockets),
        tls=tls_cert is not None,
        migrate=how["migrate"],
        console=console_at is not None,
        metrics=how["metrics_listen"] is not None,
        fleet=how,
    )
    tls = _tls_of(tls_cert, tls_key, tls_client_ca, tls_client_crl, client_names)
    check_address(listen, "--listen")
    given = click.get_current_context().get_parameter_source
    token = token_of(token, token_file, given("token"))
    jwt, quota = jwt_of(_taken(how, "jwt_")), quota_of({name: how.pop(name) for name in LIMITS})
    tells = tls is not None or how["migrate"] is not None
    how["notify"] = how["notify"] if tells else ()  # otherwise the variable has no effect
    master, readiness, fleet = master_of(None, next_master), Readiness(), _taken(how, "fleet", "join")
    oidc = oidc_of(_taken(how, "console_oidc_"), jwt)
    web = web_of(console_at, how.pop("console_url"), tls, oidc, implied=how["migrate"] == "checked")
    readiness.on_change = manager.show
    with ExitStack() as stack:
        log = stack.enter_context(writing(log_format, log_level))
        _close_at_end(stack, manager, web)  # also if the start fails before the console serves
        endpoints = stack.enter_context(http(readiness, **_taken(how, "health_", "metrics_")))
        if traces_to and given("traces_to") is not ParameterSource.ENVIRONMENT:  # main.py starts those
            traces.start(traces_to)
            stack.callback(traces.stop)
        named = {
            name: cast(
                "EmbeddedDatabase",  # as `_named` ensures
                stack.enter_context(
                    open_database(
                        settings, url=url, master_key=master, progress=_catching_up(readiness, name)
                    )
                ),
            )
            for name, url in _named(settings, databases).items()
        }
        log.names.update({str(db.path): name for name, db in named.items()})
        sources = sources_of(settings, packages, named, fleet["fleet"], needed=bool(how["migrate"]))
        readiness.starting(HealthState.MIGRATING if how["migrate"] == "auto" else HealthState.OPENING)
        certificates = ServerEvents(next(iter(named.values())), listen)
        approvals, notifier, problems = stack.enter_context(
            migrated(
                settings,
                named,
                sources,
                certificates,
                link=web.link if web is not None else None,
                **how,
            )
        )
        hubs = stack.enter_context(in_fleet(named, sources, rules_of(how), **fleet))
        retained(named, archives := targets(archive_to, named), keep_days, keep_records, stack)
        named_tokens = read_tokens(tokens_file, token) if tokens_file else TokensFile({}, {})
        server = Server(
            named,
            listen,
            token=token,
            tokens=named_tokens.tokens,
            roles=named_tokens.roles,
            proxies=proxies,
            acting=acting,
            keys_for=keys_for,
            next_master_key=next_master,
            tls=tls,
            jwt=jwt,
            migrations=sources,
            approvals=approvals,
            problems=problems,
            actor=how["actor"],
            reason=how["reason"],
            signer=_signer(audit_key, audit_signed),
            archives=archives,
            slow_ms=slow_ms,
            quota=quota,
            readiness=readiness,
            sockets=sockets,
            fleets=hubs,
        )
        server.on_beat = manager.beat

        def warn(found: Mapping[str, str]) -> None:
            certificates.certificates = found
            notifier.wake()

        server.on_warnings = warn
        endpoints.measure(server, backups := targets(backup_at, named, option="--backup-at"))
        reload = manager.reloading(
            Reloading(server, ruled(approvals, hubs), notifier, token, tells=tells), readiness
        )
        setup = setup_of(
            web, backups, endpoints.urls, sources, upload_mb=console_upload_mb, proxies=console_proxies
        )
        with server, showing(web, server, setup), server.on_signals(reload):
            # before the URL is printed: its reader may stop the server at once
            _announce(settings, [server.url(name) for name in named], endpoints.urls, web)
            manager.ready(readiness.whole)
            _freeze()
            server.wait()
        if not settings.json:
            click.echo("Stopped", err=True)


def _tls_of(
    cert: Path | None, key: Path | None, ca: Path | None, crl: Path | None, names: tuple[str, ...]
) -> Tls | None:
    """Return the files for TLS; None without --tls-cert. Raises UsageError, and OpenError before a database
    is opened if they cannot be read or used."""
    from everlog.rpc.security import NAMES, Tls, server_context

    if bool(cert) != bool(key):
        raise click.UsageError("expected --tls-cert and --tls-key together")
    if ca is None:
        refuse_idle("tls_client_crl", "client_names", when="without --tls-client-ca")
    if cert is None or key is None:
        return None
    server_context(found := Tls(cert, key, ca, crl, names or NAMES))
    return found


def _refuse_idle(
    databases: tuple[str, ...],
    packages: tuple[str, ...],
    *,
    sockets: bool,
    tls: bool,
    migrate: str | None,
    console: bool,
    metrics: bool,
    fleet: Mapping[str, Any],
) -> None:
    """Raise UsageError for an option that has no effect in the chosen mode."""
    check_fleet(fleet)
    if sockets:
        refuse_idle("listen", when="beside the sockets of LISTEN_FDS", variables=True)
    if migrate != "checked" and not fleet["fleet_checked"]:
        when = "without --migrate checked or --fleet-checked"
        refuse_idle("approvers", when=f"{when}: any client can migrate", variables=True)
        refuse_idle("approve_own", when=when)
    if migrate != "checked" and not console:
        refuse_idle("console_url", when="without --console or --migrate checked")
    if not (console or metrics or migrate == "checked"):
        refuse_idle("backup_at", when="without --metrics or --console")
    if migrate != "checked" and not console:
        refuse_idle(*CONSOLE_ONLY, when="without --console or --migrate checked")
    if migrate is None:
        refuse_idle("hold", "rate", "actor", "reason", when="without --migrate")
    if migrate is None and not tls:
        refuse_idle("notify", when="without --migrate or --tls-cert")
    if not tls:
        refuse_idle("tls_client_ca", when="without --tls-cert and --tls-key")
    if packages:
        refuse_idle("migrations_dir", when="beside --migrations")
    if databases:
        refuse_idle("url", "env", when="beside NAME=URL")


def _announce(
    settings: Settings, urls: Iterable[str], others: Mapping[str, str], web: WebServer | None
) -> None:
    """Print the URLs of the databases, of the endpoints, and of the pages."""
    for url in urls:
        output.echo({"url": url}) if settings.json else click.echo(f"Serving: {url}")
    for name, url in others.items():
        output.echo({name: url}) if settings.json else click.echo(f"{name.capitalize()}: {url}")
    if web is not None:
        announce(settings, web)
    sys.stdout.flush()


def _taken(how: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    """Remove the options with these prefixes, and return them."""
    return {name: how.pop(name) for name in list(how) if name.startswith(prefixes)}


def _close_at_end(stack: ExitStack, *closing: Closing | None) -> None:
    for one in closing:
        if one is not None:
            stack.callback(one.close)


def _catching_up(readiness: Readiness, name: str) -> OnProgress:
    """Return an OnProgress that reports the progress of opening a database."""
    from everlog.rpc.server.admin import throttled

    def report(at: Progress) -> None:
        total = f" of {at.total:,}" if at.total else ""
        readiness.starting(HealthState.CATCHING_UP, f"{name}: {at.done:,}{total} {at.unit}")

    return throttled(report)


def _freeze() -> None:
    """Exclude the program's own objects from full garbage collections, which delay calls."""
    gc.collect()
    gc.freeze()


def _signer(key: Path | None, signed: Path | None) -> Signer | None:
    """Return the key that signs checkpoints. Raises Error if its signatures cannot be recorded."""
    if key is None:
        if signed is not None:
            raise click.UsageError("--audit-signed needs --signing-key")
        return None
    from everlog.audit.prover import Memory

    found = signer_in(key, signed)
    assert found.signed is not None
    with Memory(found.signed).exclusive():  # fail now, not at the first checkpoint
        return found


def _named(settings: Settings, databases: tuple[str, ...]) -> dict[str, str]:
    """Return URLs by name. Raises OpenError for a database that is not on this machine."""
    if not databases:
        return {directory_of(settings.url).resolve().stem: settings.url}
    found: dict[str, str] = {}
    for word in databases:
        name, equals, url = word.partition("=")
        if not equals or not name or "/" in name:
            raise OpenError(f"expected NAME=URL, as flights=file:flights.db; found {word!r}")
        if name in found:
            raise OpenError(f"two databases are named {name!r}; give each its own name")
        directory_of(url)
        found[name] = url
    return found
