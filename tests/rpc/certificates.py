"""Certificates: an authority, and the certificates that it signs, made for one test."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from everlog.rpc.certificates import key_usage


class Authority:
    """Signs certificates, and writes them as PEM files into a directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory, self._name = directory, _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = directory / f"{name}.pem"
        certificate = self._signed(name, self._key, days=365, authority=True)
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(
        self,
        name: str,
        *,
        days: float = 365,
        file: str = "",
        names: Sequence[x509.GeneralName] | None = None,
    ) -> tuple[Path, Path]:
        """Return the files of a certificate for this name, and of its key. It ends in `days` days. `names`:
        its alternative names; None: those of this machine."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = (self.directory / f"{file or name}{end}" for end in (".pem", ".key"))
        signed = self._signed(name, key, days=days, authority=False, names=names)
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, secret

    def revoke(self, *certificates: Path) -> Path:
        """Return the file of a list of revoked certificates."""
        now = datetime.now(UTC)
        built = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - timedelta(hours=1))
            .next_update(now + timedelta(days=1))
        )
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            built = built.add_revoked_certificate(one)
        signed = built.sign(self._key, hashes.SHA256())
        path = self.directory / "revoked.pem"
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        days: float,
        authority: bool,
        names: Sequence[x509.GeneralName] | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + timedelta(days=days)) - timedelta(days=1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(  # Python 3.13 requires it
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(key_usage(authority=authority), critical=True)
        )
        if not authority:
            places = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
            shown = places if names is None else names
            if shown:
                built = built.add_extension(x509.SubjectAlternativeName(shown), critical=False)
        return built.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
