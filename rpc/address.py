"""Address: where a server is, from a URL, and what may be shown of it.

    everlog://HOST[:PORT]/DATABASE[?token=…&ca=FILE&cert=FILE&key=FILE]    TLS
    everlog+insecure://HOST[:PORT]/DATABASE[?token=…]                      plain, to this machine only

The token may come from EVERLOG_TOKEN, the file of a private certificate authority from EVERLOG_CA, the
client's own certificate and its key from EVERLOG_CERT and EVERLOG_KEY, so that none needs to stand in a URL.

Invariants
  (1) what `str` gives has no secret in it; nothing else is put into a message.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from everlog.store import urls
from everlog.store.environment import variable
from everlog.store.errors import OpenError

SCHEME, INSECURE = "everlog", "everlog+insecure"
PORT = 7420
PORT_MAX = 65_535


class Address(NamedTuple):
    """Where a database is. `ca` is the file of an authority; empty: the system's are trusted. `cert` and
    `key` are the files of the certificate that the client shows; empty: it shows none."""

    host: str
    port: int
    database: str
    secure: bool
    token: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def target(self) -> str:
        """As gRPC wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{SCHEME if self.secure else INSECURE}://{self.target}/{self.database}"


def is_url(url: str) -> bool:
    """Return whether a URL names a database on a server."""
    return urls.parse(url).scheme in (SCHEME, INSECURE)


def without_secrets(url: str) -> str:
    """Return any URL for messages. Raises OpenError for an invalid URL of a server."""
    return str(parse(url)) if is_url(url) else urls.without_secrets(url)


def parse(url: str) -> Address:
    """The address in a URL. Raises OpenError; the URL's secrets are not in its message."""
    try:
        parts = urlsplit(url)
        host, port, database = parts.hostname or "", parts.port or PORT, unquote(parts.path.strip("/"))
    except ValueError as error:
        raise OpenError(f"expected everlog://HOST:PORT/DATABASE, found a URL that is none: {error}") from None
    settings = dict(parse_qsl(parts.query))
    useless = [name for name in ("ca", "cert", "key") if name in settings and parts.scheme == INSECURE]
    address = Address(
        host,
        port,
        database,
        parts.scheme == SCHEME,
        settings.pop("token", "") or unquote(parts.password or "") or variable("EVERLOG_TOKEN"),
        settings.pop("ca", "") or variable("EVERLOG_CA"),
        settings.pop("cert", "") or variable("EVERLOG_CERT"),
        settings.pop("key", "") or variable("EVERLOG_KEY"),
    )
    if parts.scheme not in (SCHEME, INSECURE) or not host or not database or "/" in database:
        raise OpenError(f"expected everlog://HOST:PORT/DATABASE, found {parts.scheme}://{host}/{database}")
    if settings:
        raise OpenError(
            f"{address}: expected the settings token and ca, or cert and key, in the URL, found"
            f" {', '.join(settings)}"
        )
    if bool(address.cert) != bool(address.key):
        there, lacks = ("certificate", "key") if address.cert else ("key", "certificate")
        raise OpenError(
            f"{address}: expected a certificate and its key to show, found a {there} alone; name the {lacks}"
            " as well (?cert=FILE&key=FILE, or EVERLOG_CERT and EVERLOG_KEY)"
        )
    if useless:
        raise OpenError(
            f"{address}: {', '.join(useless)} in the URL would have no effect, as everlog+insecure:// speaks"
            " without TLS; use everlog://, or leave them out",
            url=str(address),
        )
    if not address.secure and not is_loopback(host):
        raise OpenError(
            f"{address}: everlog+insecure:// is for servers on this machine; {host} is not: use everlog://",
            url=str(address),
        )
    return address


def listening(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, where a server is to listen. Raises OpenError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > PORT_MAX:
        raise OpenError(
            f"expected HOST:PORT to serve on, as 127.0.0.1:{PORT}, with a port up to {PORT_MAX}; found"
            f" {address!r}",
            address=address,
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
