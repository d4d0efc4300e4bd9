"""Address: the address of a database on a server, parsed from a URL.

    everlog://HOST[:PORT]/DATABASE[?token-file=FILE&ca=FILE&cert=FILE&key=FILE]    TLS
    everlog+insecure://HOST[:PORT]/DATABASE[?token-file=FILE]                      plain, to this machine only

The token can also be in the URL itself (?token=…), which `ps` and histories of shells show. The environment
can supply the settings, so that no secret is in a URL: the token (EVERLOG_TOKEN), the file of a private
certificate authority (EVERLOG_CA), the client's own certificate and its key (EVERLOG_CERT, EVERLOG_KEY).

Invariants
  (1) the output of `str` contains no secret; messages contain nothing else of an address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from everlog.store import urls
from everlog.store.environment import read_secret, variable
from everlog.store.errors import OpenError

SCHEME, INSECURE = "everlog", "everlog+insecure"
TOKEN = re.compile(r"[!-~]+")  # what a header can contain
PORT = 7420
PORT_MAX = 65_535

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """The address of a database. `ca`: the file of a certificate authority; empty: those of the system.
    `cert` and `key`: the files of the client's certificate; empty: it presents none. `name`: the name in the
    server's certificate; empty: the host."""

    host: str
    port: int
    database: str
    secure: bool
    token: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """HOST:PORT as gRPC expects it; an IPv6 address is in brackets."""
        return host_port(self.host, self.port)

    def __str__(self) -> str:
        return f"{SCHEME if self.secure else INSECURE}://{self.target}/{self.database}"


def host_port(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_url(url: str) -> bool:
    """Return whether a URL names a database on a server."""
    return urls.parse(url).scheme in (SCHEME, INSECURE)


def without_secrets(url: str) -> str:
    """Return any URL for messages. Raises OpenError for an invalid URL of a server."""
    return str(parse(url)) if is_url(url) else urls.without_secrets(url)


def parse(url: str) -> Address:
    """Parse a URL. Raises OpenError, whose message contains no secret of the URL."""
    try:
        parts = urlsplit(url)
        host, port, database = parts.hostname or "", parts.port or PORT, unquote(parts.path.strip("/"))
    except ValueError as error:
        raise OpenError(f"expected everlog://HOST:PORT/DATABASE, found an invalid URL: {error}") from None
    settings = dict(parse_qsl(parts.query))
    useless = [name for name in ("ca", "cert", "key") if name in settings and parts.scheme == INSECURE]
    address = Address(
        host,
        port,
        database,
        parts.scheme == SCHEME,
        settings.pop("token", "") or unquote(parts.password or ""),
        settings.pop("ca", "") or variable("EVERLOG_CA"),
        settings.pop("cert", "") or variable("EVERLOG_CERT"),
        settings.pop("key", "") or variable("EVERLOG_KEY"),
    )
    file = settings.pop("token-file", "")
    if file and address.token:
        raise OpenError(f"{address}: expected one of token and token-file in the URL, found both")
    address = address._replace(
        token=address.token or (_token_in(file) if file else variable("EVERLOG_TOKEN"))
    )
    if address.token and not TOKEN.fullmatch(address.token):
        raise OpenError(
            f"{address}: expected a token of visible ASCII characters, found other characters or spaces in"
            f" {file or ('the URL' if shows_token(url) else 'EVERLOG_TOKEN')}"
        )
    if parts.scheme not in (SCHEME, INSECURE) or not host or not database or "/" in database:
        raise OpenError(f"expected everlog://HOST:PORT/DATABASE, found {parts.scheme}://{host}/{database}")
    if settings:
        raise OpenError(
            f"{address}: expected only the settings token-file, token, ca, cert and key in the URL, found"
            f" {', '.join(settings)}"
        )
    if bool(address.cert) != bool(address.key):
        there, lacks = ("certificate", "key") if address.cert else ("key", "certificate")
        raise OpenError(
            f"{address}: expected a client certificate together with its key, found only the {there}; name"
            f" the {lacks} as well (?cert=FILE&key=FILE, or EVERLOG_CERT and EVERLOG_KEY)"
        )
    if useless:
        raise OpenError(
            f"{address}: {', '.join(useless)} in the URL would have no effect, because everlog+insecure://"
            " does not use TLS; use everlog://, or leave them out",
            url=str(address),
        )
    if not address.secure and not is_loopback(host):
        raise OpenError(
            f"{address}: everlog+insecure:// is for servers on this machine; {host} is not: use everlog://",
            url=str(address),
        )
    return address


def with_token_file(url: str, file: str) -> str:
    """Return the URL of a server with the file of its token. Raises OpenError if it has a token."""
    return _with(url, "token-file", file)


def with_token(url: str, token: str) -> str:
    """Return the URL of a server with its token. Raises OpenError if it has one, or for an invalid token."""
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise OpenError("expected one token of visible ASCII characters, found another text or none")
    return _with(url, "token", token)


def _with(url: str, name: str, value: str) -> str:
    if not is_url(url):
        raise OpenError(
            f"{without_secrets(url)}: a token is for a server, and the files of a database need none; leave"
            " --token-file out"
        )
    if shows_token(url) or "token-file" in dict(parse_qsl(urlsplit(url).query)):
        raise OpenError(f"{without_secrets(url)}: expected one token, found one in the URL and --token-file")
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"


def shows_token(url: str) -> bool:
    """Return whether a URL has a token in itself."""
    try:
        parts = urlsplit(url)
        return parts.scheme in (SCHEME, INSECURE) and bool(
            parts.password or dict(parse_qsl(parts.query)).get("token")
        )
    except ValueError:
        return False


def _token_in(file: str) -> str:
    """Return the token in a file that only its owner can read. Raises OpenError."""
    words = read_secret(Path(file), "the token").split()
    if len(words) != 1:
        raise OpenError(f"{file}: expected one token of visible ASCII characters, found {len(words)} words")
    return words[0].decode("latin-1")


def listening(address: str) -> tuple[str, int]:
    """Parse the address that a server listens on, HOST:PORT. Raises OpenError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > PORT_MAX:
        raise OpenError(
            f"expected an address to listen on as HOST:PORT, such as 127.0.0.1:{PORT}, with a port up to"
            f" {PORT_MAX}; found {address!r}",
            address=address,
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether data sent to this host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def network_of(text: str) -> Network | None:
    """Return an address or network as a network; None: it is neither."""
    try:
        found = ipaddress.ip_network(text.partition("%")[0], strict=False)
    except ValueError:
        return None
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    return ipaddress.ip_network(mapped) if mapped is not None and found.prefixlen == 128 else found


class Networks:
    """Addresses and networks of proxies. Raises OpenError for a word that is neither."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._networks = list[Network]()
        for word in words:
            found = network_of(word)
            if found is None:
                raise OpenError(
                    "expected the address or network of a proxy, such as 10.1.0.9 or 10.1.0.0/24, found"
                    f" {word!r}"
                )
            self._networks.append(found)

    def has(self, host: str) -> bool:
        """Return whether a host is in one of them."""
        mine = network_of(host)
        return mine is not None and any(
            mine.version == one.version and mine.subnet_of(one)  # type: ignore[arg-type]
            for one in self._networks
        )

    def __bool__(self) -> bool:
        return bool(self._networks)


def machine_of(host: str) -> str:
    """Return the address that stands for a machine where callers are limited: of IPv6 its network of 64 bits,
    since one machine has a whole such network. A text that is no address is returned as it is."""
    found = network_of(host)
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen == 128:
        return str(found.supernet(new_prefix=64))
    return host if found is None else str(found.network_address)


def host_of(header: str) -> str:
    """Return the host that a Host header of HTTP names; empty if it is not a host. A page of another origin
    cannot send the name of this machine (DNS rebinding)."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
