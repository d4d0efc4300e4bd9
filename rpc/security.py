"""Security: TLS and tokens of servers and clients.

    server   loopback            plain or TLS, token or none
             anywhere else       TLS and a token, or it does not start
    client   everlog://          TLS, with the system's authorities or a file, and a client
                                 certificate if the server requires one
             everlog+insecure:// plain, loopback only (address.py)

The token is a shared secret, sent as `authorization: Bearer …` with every call.

Invariants
  (1) a server that other machines can reach uses TLS and authenticates every caller;
  (2) tokens are compared in constant time, and never shown;
  (3) a key that other users can read is refused, of servers and of clients.
"""

from __future__ import annotations

import importlib.util
import socket
import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from everlog.rpc.address import Address, is_loopback
from everlog.store.environment import read_file
from everlog.store.errors import OpenError
from everlog.store.tx.transaction import Actor, Proof

HEADER = "authorization"
WARN_DAYS = 30
NAME_KINDS = {"cn": "commonName", "uri": "URI", "dns": "DNS", "email": "email"}  # as `ssl` has them
NAMES = ("cn",)


class Identity(NamedTuple):
    """A caller: its name, an `Actor` with the proof of it; empty: anonymous.

    `databases`: the only ones that its proof is for; None: all of the server. `roles`: those of its calls;
    none: the roles that are granted to the name in the database called. `expires_ns`: when its proof ends,
    nanoseconds since the Unix epoch; 0: never. `token`: SHA-256 of its token; empty: it has none.
    """

    name: str
    databases: frozenset[str] | None = None
    roles: tuple[str, ...] = ()
    expires_ns: int = 0
    token: bytes = b""

    @property
    def anonymous(self) -> bool:
        """Whether nothing authenticates the caller."""
        return not self.name and not self.token


ANONYMOUS = Identity("")


class Tls(NamedTuple):
    """Files in PEM: the server's chain and key, and the authorities of client certificates, if clients must
    show one. `client_crl`: their lists of revoked certificates. `client_names`: where a certificate has the
    client's name, in order (NAME_KINDS)."""

    certificate: str | Path
    key: str | Path
    client_ca: str | Path | None = None
    client_crl: str | Path | None = None
    client_names: tuple[str, ...] = NAMES


def check_server(host: str, *, identifies: bool, tls: Tls | None) -> None:
    """Raise OpenError if a server at this host needs TLS and identified callers, and lacks one of them.
    `identifies`: callers need a token. A client certificate identifies them as well."""
    identifies = identifies or (tls is not None and tls.client_ca is not None)
    if (identifies and tls) or (is_loopback(host) and _stays(host)):
        return
    missing = " and ".join(
        what
        for what, there in (
            ("TLS (a certificate and its key)", tls),
            ("a token, an authority of client certificates, or an issuer of JWTs", identifies),
        )
        if not there
    )
    raise OpenError(
        f"a server on {host} can be reached from other machines and needs {missing}; give it that, or"
        " serve on 127.0.0.1",
        host=host,
    )


def _stays(host: str) -> bool:
    """Return whether all addresses of a host are of this machine alone. A name may have others."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True  # the listener reports it
    return all(is_loopback(str(address[0]).partition("%")[0]) for *_, address in found)


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS context of a server. Raises OpenError for files that cannot be read or used."""
    for path in (tls.certificate, tls.client_ca, tls.client_crl):
        if path is not None:
            _read(path)
    _read_key(tls.key)
    for kind in tls.client_names:
        if kind not in NAME_KINDS:
            raise OpenError(
                f"expected the name of a client certificate in {', '.join(NAME_KINDS)}, found {kind!r}"
            )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    _load_chain(context, tls.certificate, tls.key)
    if tls.client_ca is not None:
        _load_authority(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        if tls.client_crl is not None:
            _load_authority(context, tls.client_crl, "the list of revoked certificates of an authority")
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


class ServerTls:
    """The TLS of a server, reloadable while it listens: new connections use the new files, the others keep
    theirs. Raises OpenError for files that cannot be read or used."""

    def __init__(self, tls: Tls) -> None:
        self.files = tls
        self._loaded = self._seen = self._stamp()
        self._now = server_context(tls)
        self.context = server_context(tls)  # the context with which the server listens
        self.context.sni_callback = self._choose

    def load(self) -> None:
        """Read the files again. Raises OpenError; the previous ones then stay in use."""
        self._loaded = self._stamp()
        self._now = server_context(self.files)

    def look(self) -> bool:
        """Load the files if they have changed since they were loaded, and not since the last look. Return
        whether they were loaded. Raises OpenError, once for each change; the previous ones stay in use."""
        before, self._seen = self._seen, self._stamp()
        if self._seen == self._loaded or self._seen != before:
            return False
        self.load()
        return True

    def _stamp(self) -> tuple[object, ...]:
        files = self.files
        return tuple(
            _state(path)
            for path in (files.certificate, files.key, files.client_ca, files.client_crl)
            if path is not None
        )

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._now


def _state(path: str | Path) -> tuple[int, ...]:
    """Return what tells whether a file was changed or replaced."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def ends(path: str | Path) -> list[tuple[str, datetime]]:
    """Return the subject and the end (UTC) of each certificate in a PEM file.

    Raises OpenError if the file cannot be read or holds no certificates, ImportError without the
    library `cryptography`."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise OpenError(f"{path}: expected certificates in PEM: {error}") from None
    return [(one.subject.rfc4514_string(), one.not_valid_after_utc) for one in found]


def hosts_of(path: str | Path) -> list[str]:
    """Return the hosts that the first certificate in a PEM file names, addresses last. Raises OpenError if
    the file cannot be read or has no certificates, or if the library `cryptography` is missing."""
    if importlib.util.find_spec("cryptography") is None:
        raise OpenError("certificates need the library cryptography; pip install 'everlog[tls]'")
    from cryptography import x509

    try:
        first = x509.load_pem_x509_certificates(_read(path))[0]
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except ValueError as error:
        raise OpenError(f"{path}: expected certificates in PEM: {error}") from None
    except x509.ExtensionNotFound:
        return []
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def warnings(tls: Tls, now: datetime | None = None) -> dict[str, str]:
    """Return warnings about certificates of a server's files that end within WARN_DAYS days or have ended.

    Each value is a sentence. Its key identifies the certificate, and is the same every day; it is empty if
    the library that reads certificates is missing. Raises OpenError.
    """
    if importlib.util.find_spec("cryptography") is None:
        return {"": "certificates are not checked for their end; pip install 'everlog[tls]' enables this"}
    now, found = now or datetime.now(UTC), dict[str, str]()
    for path in (tls.certificate, tls.client_ca):
        for whose, end in ends(path) if path is not None else ():
            days = (end - now) / timedelta(days=1)
            if days < WARN_DAYS:
                when = f"{end:%Y-%m-%d %H:%M} UTC"
                said = f"ends on {when}, in {days:.0f} days" if days >= 0 else f"ended on {when}"
                found[f"{path} {whose} {end.isoformat()}"] = (
                    f"the certificate {path} ({whose}) {said}; replace the file and send SIGHUP"
                )
    return found


def channel_credentials(address: Address) -> grpc.ChannelCredentials:
    """Return the TLS credentials of a client. Raises OpenError for files that cannot be read or used."""
    chain = key = None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # only for its errors: those of gRPC name no file
    authority = _read(address.ca) if address.ca else None
    if authority is not None:
        _load_authority(context, address.ca)
    if address.cert:
        chain, key = _read(address.cert), _read_key(address.key)
        _load_chain(context, address.cert, address.key)
    return grpc.ssl_channel_credentials(authority, key, chain)


def _load_chain(context: ssl.SSLContext, certificate: str | Path, key: str | Path) -> None:
    def password() -> str:
        raise OpenError(f"{key}: expected a key in PEM without a passphrase, found one with a passphrase")

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        raise OpenError(
            f"{certificate}: expected a certificate and its key ({key}) in PEM: {error.reason or error}"
        ) from None


def _load_authority(
    context: ssl.SSLContext, path: str | Path, what: str = "the certificate of an authority"
) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise OpenError(f"{path}: expected {what} in PEM: {error.reason or error}") from None


def name_of(certificate: Mapping[str, Any] | None, kinds: Iterable[str] = NAMES) -> str:
    """Return the name in a verified certificate, as a proven actor; empty without one.

    The first of these kinds (NAME_KINDS) that the certificate has gives the name. It gives none if the
    certificate has several of that kind, or one that cannot be an actor.
    """
    found = certificate or {}
    for kind in kinds:
        if kind == "cn":
            names = [value for part in found.get("subject", ()) for key, value in part if key == "commonName"]
        else:
            names = [value for key, value in found.get("subjectAltName", ()) if key == NAME_KINDS[kind]]
        if names:
            name = str(names[0])
            usable = len(names) == 1 and name.isprintable() and name == name.strip() != ""
            return Actor(name, Proof.CERTIFICATE) if usable else ""
    return ""


def end_of(certificate: Mapping[str, Any] | None) -> int:
    """Return the end of a verified certificate, nanoseconds since the Unix epoch; 0 without one."""
    end = (certificate or {}).get("notAfter")
    return int(ssl.cert_time_to_seconds(end) * 1e9) if end else 0


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a client sends with every call."""
    return ((HEADER, f"Bearer {token}"),) if token else ()


def _read(path: str | Path) -> bytes:
    return read_file(Path(path), "the PEM file")


def _read_key(path: str | Path) -> bytes:
    return read_file(Path(path), "the key in PEM", secret=True)
