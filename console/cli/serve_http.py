"""Serve HTTP: the addresses at which `serve` answers health and metrics over HTTP (rpc/server/endpoint.py).

    --health HOST:PORT     /healthz, /readyz
    --metrics HOST:PORT    /metrics, /healthz, /readyz, /readyz/NAME

They are served from before the databases are opened, so that an orchestrator sees what the start waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everlog.console.cli.console import check_address
from everlog.console.cli.options import add_options, refuse_idle
from everlog.rpc.server.endpoint import Endpoint
from everlog.store.environment import read_secret
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.rpc.server.health import Readiness
    from everlog.rpc.server.server import Server

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--health",
        "health_listen",
        metavar="HOST:PORT",
        help="Serve /healthz and /readyz over HTTP on this address, without a token.",
    ),
    click.option(
        "--metrics",
        "metrics_listen",
        metavar="HOST:PORT",
        help="Serve metrics for Prometheus on this address, at /metrics; also /healthz and /readyz.",
    ),
    click.option(
        "--metrics-token-file",
        "metrics_token",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="File with the token that readers of the metrics must send.",
    ),
    click.option(
        "--backup-at",
        multiple=True,
        metavar="[NAME=]DIR|URL",
        help="Where the backup of a database is: metrics and the console tell its age, and the console"
        " continues and verifies it; may be repeated.",
    ),
    click.option(
        "--metrics-public", is_flag=True, help="Let other machines read the metrics without a token."
    ),
]


def http_options(command: F) -> F:
    """Add the options for health and metrics to `serve`."""
    return add_options(command, _OPTIONS)


class Http:
    """The endpoints of one server. `urls`: of each, by what it serves."""

    def __init__(self, health: Endpoint | None, metrics: Endpoint | None) -> None:
        self._health, self._metrics = health, metrics
        self.urls = {
            name: one.url for name, one in (("health", health), ("metrics", metrics)) if one is not None
        }

    def measure(self, server: Server, backups: Mapping[str, str]) -> None:
        """Serve the metrics of a server. `backups`: where the backup of a database is, by its name."""
        from everlog.rpc.server.metrics import Metrics

        for one in (self._health, self._metrics):
            if one is not None:
                one.on_limit = server.activity.limited
        if self._metrics is not None:
            self._metrics.measure(Metrics(server, backups))


@contextmanager
def http(
    readiness: Readiness,
    *,
    health_listen: str | None,
    metrics_listen: str | None,
    metrics_token: Path | None,
    metrics_public: bool,
) -> Iterator[Http]:
    """Serve health, and metrics once they are there. Raises OpenError and UsageError."""
    if metrics_listen is None:
        refuse_idle("metrics_token", "metrics_public", when="without --metrics")
    elif metrics_listen == health_listen:
        refuse_idle("health_listen", when="beside --metrics of the same address, which serves health as well")
    with ExitStack() as stack:
        health = metrics = None
        if health_listen is not None and health_listen != metrics_listen:
            check_address(health_listen, "--health")
            health = stack.enter_context(Endpoint(health_listen, readiness))
        if metrics_listen is not None:
            check_address(metrics_listen, "--metrics")
            token = _token(metrics_token) if metrics_token is not None else ""
            metrics = stack.enter_context(
                Endpoint(metrics_listen, readiness, measured=True, token=token, public=metrics_public)
            )
        yield Http(health, metrics)


def _token(file: Path) -> str:
    words = read_secret(file, "the token of the metrics").split()
    if len(words) != 1:
        raise OpenError(f"{file}: expected one token, found {len(words)} words")
    return words[0].decode()
