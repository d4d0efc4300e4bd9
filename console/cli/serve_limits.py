"""Serve limits: the options of serve for the quotas of callers.

--limit-calls 1000                      of each name, and of each address
--limit-for batch:calls=50              of one name
--limit-for 10.1.0.9:connections=0      of an address or a network, such as that of a proxy; 0: no limit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from everlog.rpc.server.quotas import Quota

F = TypeVar("F", bound=Callable[..., Any])

PARAMETERS = (
    *("limit_connections", "limit_streams", "limit_calls", "limit_bytes_in", "limit_bytes_out"),
    *("limit_rows", "limit_heavy", "limit_for"),
)

_OPTIONS = [
    click.option(
        "--limit-connections",
        type=click.IntRange(0),
        default=10_000,
        show_default=True,
        metavar="N",
        help="Connections of one name, and of one address; at most half of what the server accepts. 0: half.",
    ),
    click.option(
        "--limit-streams",
        type=click.IntRange(0),
        default=20_000,
        show_default=True,
        metavar="N",
        help="Running calls, with subscriptions, of one name, and of one address; 0: any number.",
    ),
    click.option(
        "--limit-calls",
        type=click.IntRange(0),
        default=50_000,
        show_default=True,
        metavar="N",
        help="Calls a second of one name, and of one address; 0: any number.",
    ),
    click.option(
        "--limit-bytes-in",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Bytes a second from one name, and from one address.  [default: any number]",
    ),
    click.option(
        "--limit-bytes-out",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Bytes a second to one name, and to one address.  [default: any number]",
    ),
    click.option(
        "--limit-rows",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Rows in the responses of one call.  [default: any number]",
    ),
    click.option(
        "--limit-heavy",
        type=click.IntRange(0),
        default=4,
        show_default=True,
        metavar="N",
        help="Long reads, and as many long writes, of one name that run; others wait. 0: any number.",
    ),
    click.option(
        "--limit-for",
        multiple=True,
        metavar="WHO:LIMIT=N",
        help="Another limit of a name, or of an address or network, such as batch:calls=50; may be repeated.",
    ),
]


def limit_options(command: F) -> F:
    """Add the options for the quotas of callers to `serve`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def quota_of(how: Mapping[str, Any]) -> Quota:
    """Return the quotas from the values of these options. Raises OpenError."""
    from everlog.rpc.server.quotas import FIELDS, Limits, Quota, read_own

    limits = Limits(**{name: float(how[f"limit_{name}"]) for name in FIELDS})
    return Quota(limits, read_own(how["limit_for"]))
