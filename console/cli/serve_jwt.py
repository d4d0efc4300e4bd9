"""Serve JWT: the options of serve for tokens of an OpenID Connect issuer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everlog.console.cli.options import add_options, refuse_idle
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.rpc.server.issuer import Jwt

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--jwt-issuer",
        metavar="URL",
        help="Accept JSON Web Tokens of this OpenID Connect issuer, exactly as in `iss`.",
    ),
    click.option("--jwt-audience", metavar="TEXT", help="Audience of these tokens, exactly as in `aud`."),
    click.option(
        "--jwt-jwks",
        metavar="URL|FILE",
        help="The issuer's keys, as a JWKS.  [default: by discovery]",
    ),
    click.option(
        "--jwt-algorithm",
        "jwt_algorithms",
        multiple=True,
        metavar="ALG",
        help="Signature algorithm to accept; may be repeated.  [default: RS256, PS256, ES256, ES384, EdDSA,"
        " Ed25519]",
    ),
    click.option(
        "--jwt-name-claim", default="sub", show_default=True, metavar="CLAIM", help="Claim with the name."
    ),
    click.option(
        "--jwt-name-prefix", default="", metavar="TEXT", help="Put this before each name of the issuer."
    ),
    click.option(
        "--jwt-roles-claim", metavar="CLAIM", help="Claim with groups that --jwt-role maps to roles."
    ),
    click.option(
        "--jwt-role",
        "jwt_roles",
        multiple=True,
        metavar="GROUP=ROLE",
        help="Give members of this group a role in all databases; may be repeated.",
    ),
    click.option(
        "--jwt-leeway",
        type=click.FloatRange(0, 300),
        default=30.0,
        show_default="30",
        metavar="SECONDS",
        help="Accepted difference of clocks.",
    ),
]


def jwt_options(command: F) -> F:
    """Add the options for tokens of an issuer to `serve`."""
    return add_options(command, _OPTIONS)


def jwt_of(how: Mapping[str, Any]) -> Jwt | None:
    """Return the settings for tokens of an issuer; None without --jwt-issuer. Raises OpenError and
    UsageError."""
    if not how["jwt_issuer"]:
        refuse_idle(*(name for name in how if name != "jwt_issuer"), when="without --jwt-issuer")
        return None
    from everlog.rpc.server.issuer import DEFAULT_ALGORITHMS, Jwt

    return Jwt(
        how["jwt_issuer"],
        how["jwt_audience"] or "",
        how["jwt_jwks"] or "",
        tuple(how["jwt_algorithms"]) or DEFAULT_ALGORITHMS,
        how["jwt_name_claim"],
        how["jwt_name_prefix"],
        how["jwt_roles_claim"] or "",
        _mapped(how["jwt_roles"]),
        how["jwt_leeway"],
    )


def _mapped(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = dict[str, tuple[str, ...]]()
    for word in words:
        group, _, role = word.rpartition("=")
        if not group or not role:
            raise OpenError(f"--jwt-role: expected GROUP=ROLE, found {word!r}")
        found[group] = (*found.get(group, ()), role)
    return found
