"""Certificates: an authority for development, and the certificates that it signs.

    DIR/ca.pem      ca.key       the authority. It signs only until it ends, with its certificates
    DIR/server.pem  server.key   for the hosts at which clients reach the server
    DIR/NAME.pem    NAME.key     for a client; the common name is its name

For a machine of a developer and for tests: the owner of `ca.key` can take every name. Production has an
authority of its own. Needs the library `cryptography` (the extra `tls`).

Invariants
  (1) no file is overwritten, and none is left behind that is not whole;
  (2) only the owner can read keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from everlog.store.environment import read_file, read_secret
from everlog.store.errors import OpenError

with suppress(ImportError):  # an extra: `create` reports that it is missing
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 30
DAYS_MAX = 397  # what browsers and libraries accept of a server's certificate
EARLIER = timedelta(minutes=5)  # for machines whose clock is behind
AUTHORITY, SERVER = "ca", "server"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", re.ASCII)


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


def pair(directory: Path, name: str) -> Pair:
    """Return the files of a name. Raises OpenError for a name that is no file name."""
    if not _FILE.fullmatch(name):
        raise OpenError(
            "expected the name of a client of letters, digits and _ . @ -, at most 64 of them, found"
            f" {name[:80]!r}"
        )
    return Pair(directory / f"{name}.pem", directory / f"{name}.key")


def create(directory: Path, hosts: Iterable[str], clients: Iterable[str], *, days: int = DAYS) -> list[Pair]:
    """Create certificates of clients; before them an authority and the certificate of a server, unless the
    directory has an authority. Return the files that were written, the authority's first.

    All end after `days` days, but none later than its authority. Raises OpenError, and writes nothing, if a
    file exists, for an invalid host or name, and for an authority that has ended.
    """
    if find_spec("cryptography") is None:
        raise OpenError("certificates need the library cryptography; pip install 'everlog[tls]'")
    if not 1 <= days <= DAYS_MAX:
        raise OpenError(f"expected a life of 1 to {DAYS_MAX} days, found {days}")
    top, names = pair(directory, AUTHORITY), list(dict.fromkeys(clients))
    for reserved in {AUTHORITY, SERVER} & set(names):
        raise OpenError(
            f"expected another name of a client than {reserved}, which names the file of the {reserved}"
        )
    new = not (top.certificate.exists() or top.key.exists())
    wanted = [*([AUTHORITY, SERVER] if new else []), *names]
    files = [pair(directory, name) for name in wanted]
    for path in (path for one in files for path in one):
        if path.exists():
            raise OpenError(
                f"{path} exists already, and is never overwritten; remove it, or name another --dir"
            )
    if not wanted:
        raise OpenError(
            f"{directory} has an authority already: name clients to add (--client), or another --dir"
        )
    found = _Authority.new(days) if new else _Authority.read(top)
    made: list[tuple[x509.Certificate, EllipticCurvePrivateKey]] = (
        [(found.certificate, found.key)] if new else []
    )
    for name in wanted[2:] if new else wanted:
        key = ec.generate_private_key(ec.SECP256R1())
        made.append((found.sign(key, name, days), key))
    if new:
        key = ec.generate_private_key(ec.SECP256R1())
        made.insert(1, (found.sign(key, SERVER, days, places(hosts)), key))
    _write(directory, list(zip(files, made, strict=True)))
    return files


def places(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Return hosts as names of a certificate: addresses and DNS names. Raises OpenError."""
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ip_address(host)))
            continue
        except ValueError:
            pass
        if not re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", host) or len(host) > 253:
            raise OpenError(f"expected a host as a DNS name or an address, found {host[:80]!r}")
        found.append(x509.DNSName(host))
    if not found:
        raise OpenError("expected at least one host, found none")
    return found


class _Authority(NamedTuple):
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @classmethod
    def new(cls, days: int) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        built = _built("everlog development authority", None, key, days).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        built = built.add_extension(key_usage(authority=True), critical=True)
        return cls(built.sign(key, hashes.SHA256()), key)

    @classmethod
    def read(cls, files: Pair) -> _Authority:
        secret = read_secret(files.key, "the key of the authority")
        raw = read_file(files.certificate, "the certificate of the authority")
        try:
            key = serialization.load_pem_private_key(secret, None)
            certificate = x509.load_pem_x509_certificate(raw)
        except (ValueError, TypeError):
            raise OpenError(
                f"{files.certificate}: expected an authority that `everlog cert dev` created"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise OpenError(f"{files.key}: expected the key of {files.certificate}, found another one")
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise OpenError(
                f"{files.certificate} ended on {certificate.not_valid_after_utc:%Y-%m-%d}; remove the"
                " directory, and run the command again"
            )
        return cls(certificate, key)

    def sign(
        self, key: EllipticCurvePrivateKey, name: str, days: int, hosts: list[x509.GeneralName] | None = None
    ) -> x509.Certificate:
        """Return a certificate for a client, or with `hosts` for a server."""
        use = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        built = _built(name, self.certificate, key, days)
        built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        built = built.add_extension(key_usage(authority=False), critical=True)
        built = built.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        built = built.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
            critical=False,
        )
        if hosts:
            built = built.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return built.sign(self.key, hashes.SHA256())


def _built(
    name: str, issuer: x509.Certificate | None, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(min(end, issuer.not_valid_after_utc) if issuer is not None else end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def key_usage(*, authority: bool) -> x509.KeyUsage:
    """Return what the key of a certificate may be used for."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    directory: Path, made: list[tuple[Pair, tuple[x509.Certificate, EllipticCurvePrivateKey]]]
) -> None:
    """Write all files, or none."""
    written: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for files, (certificate, key) in made:
            secret = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            for path, mode, content in (
                (files.key, 0o600, secret),
                (files.certificate, 0o644, certificate.public_bytes(serialization.Encoding.PEM)),
            ):
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                written.append(path)
                with os.fdopen(handle, "wb") as out:
                    out.write(content)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise OpenError(f"cannot write certificates to {directory}: {error.strerror}") from None
