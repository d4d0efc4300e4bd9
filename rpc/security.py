"""Security: who may talk to a server, and what of it others can read.

    server   loopback            plain or TLS, token or none
             anywhere else       TLS and a token, or it does not start
    client   everlog://          TLS, against the system's authorities or a file
             everlog+insecure:// plain, loopback only (address.py)

The token is a shared secret, sent as `authorization: Bearer …` with every call. Roles come later.

Invariants
  (1) a server that can be reached from elsewhere never speaks plain, and never to strangers;
  (2) tokens are compared in constant time, and never shown.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import grpc

from everlog.rpc.address import Address, is_loopback
from everlog.store.errors import OpenError

HEADER = "authorization"


class Tls(NamedTuple):
    """Files in PEM: the server's chain and key, and, where clients must show certificates, the
    authorities that these must come from."""

    certificate: str | Path
    key: str | Path
    client_ca: str | Path | None = None


def check_server(host: str, *, token: str, tls: Tls | None) -> None:
    """Raises OpenError if a server at this host would be open to strangers."""
    if is_loopback(host) or (token and tls):
        return
    missing = " and ".join(
        what for what, there in (("TLS (a certificate and its key)", tls), ("a token", token)) if not there
    )
    raise OpenError(
        f"a server on {host} can be reached from other machines and needs {missing}; give it that, or"
        " serve on 127.0.0.1",
        host=host,
    )


def server_context(tls: Tls) -> ssl.SSLContext:
    """Raises OpenError if a file is not what it must be."""
    for path in (tls.certificate, tls.key, tls.client_ca):
        if path is not None:
            _read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise OpenError(
            f"{tls.certificate}: expected a certificate and its key in PEM: {error.reason}"
        ) from None
    return context


def channel_credentials(address: Address) -> grpc.ChannelCredentials:
    """Raises OpenError if the file of the authority cannot be read."""
    return grpc.ssl_channel_credentials(_read(address.ca) if address.ca else None)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a client sends with every call."""
    return ((HEADER, f"Bearer {token}"),) if token else ()


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OpenError(f"{path}: expected a PEM file, it cannot be read: {error.strerror}") from None
