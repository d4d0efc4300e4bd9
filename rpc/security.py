"""Security: who may talk to a server, and what of it others can read.

    server   loopback            plain or TLS, token or none
             anywhere else       TLS and a token, or it does not start
    client   everlog://          TLS, against the system's authorities or a file; with a certificate
                                 of its own, where the server asks for one
             everlog+insecure:// plain, loopback only (address.py)

The token is a shared secret, sent as `authorization: Bearer …` with every call. Roles come later.

Invariants
  (1) a server that can be reached from elsewhere never speaks plain, and never to strangers;
  (2) tokens are compared in constant time, and never shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from everlog.rpc.address import Address, is_loopback
from everlog.store.errors import OpenError
from everlog.store.transaction import Actor, Proof

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
    _load_chain(context, tls.certificate, tls.key)
    if tls.client_ca is not None:
        _load_authority(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def channel_credentials(address: Address) -> grpc.ChannelCredentials:
    """Raises OpenError if a file is not what it must be."""
    chain = key = None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to say what is wrong with a file: gRPC does not
    authority = _read(address.ca) if address.ca else None
    if authority is not None:
        _load_authority(context, address.ca)
    if address.cert:
        chain, key = _read(address.cert), _read(address.key)
        _load_chain(context, address.cert, address.key)
    return grpc.ssl_channel_credentials(authority, key, chain)


def _load_chain(context: ssl.SSLContext, certificate: str | Path, key: str | Path) -> None:
    def password() -> str:
        raise OpenError(f"{key}: expected a key in PEM without a passphrase, found one with it")

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        raise OpenError(
            f"{certificate}: expected a certificate and its key ({key}) in PEM: {error.reason or error}"
        ) from None


def _load_authority(context: ssl.SSLContext, path: str | Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise OpenError(
            f"{path}: expected the certificate of an authority in PEM: {error.reason or error}"
        ) from None


def common_name(certificate: Mapping[str, Any] | None) -> str:
    """The common name of a peer's certificate that was verified, as a proven actor; empty: there is none."""
    subject = (certificate or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return Actor(names[-1], Proof.CERTIFICATE) if names else ""


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a client sends with every call."""
    return ((HEADER, f"Bearer {token}"),) if token else ()


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OpenError(f"{path}: expected a PEM file, it cannot be read: {error.strerror}") from None
