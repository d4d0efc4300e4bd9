"""Serve limits: the options of serve for the quotas of callers.

--limit-calls 1000                      of each name, and of each address
--limit-for batch:calls=50              of one name
--limit-for 10.1.0.9:connections=0      of an address or a network, such as that of a proxy; 0: no limit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everlog.console.cli.options import add_options
from everlog.store.upkeep.allowance import LIMITS

if TYPE_CHECKING:
    from everlog.rpc.server.quotas import Quota

F = TypeVar("F", bound=Callable[..., Any])

_HELP = {
    "connections": "Connections of one name, and of one address; at most half of what the server accepts."
    " 0: half.",
    "streams": "Running calls, with subscriptions, of one name, and of one address; 0: any number.",
    "calls": "Calls a second of one name, and of one address; 0: any number.",
    "bytes_in": "Bytes a second from one name, and from one address.",
    "bytes_out": "Bytes a second to one name, and to one address.",
    "rows": "Rows in the responses of one call.",
    "heavy": "Long reads, and as many long writes, of one name that run; others wait. 0: any number.",
}

PARAMETERS = (*(f"limit_{name}" for name in _HELP), "limit_for")

_OPTIONS = [
    *(
        click.option(
            f"--limit-{name.replace('_', '-')}",
            type=click.IntRange(0),
            default=LIMITS[name].default,
            show_default=str(LIMITS[name].default or "any number"),
            metavar="N",
            help=help_,
        )
        for name, help_ in _HELP.items()
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
    return add_options(command, _OPTIONS)


def quota_of(how: Mapping[str, Any]) -> Quota:
    """Return the quotas from the values of these options. Raises OpenError."""
    from everlog.rpc.server.quotas import FIELDS, Limits, Quota, read_own

    limits = Limits(**{name: float(how[f"limit_{name}"]) for name in FIELDS})
    return Quota(limits, read_own(how["limit_for"]))
