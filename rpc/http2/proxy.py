"""Proxy: the header of the PROXY protocol, with which a proxy names the client of a connection.

    version 1   "PROXY " ("TCP4" | "TCP6") " " source " " destination " " port " " port CR LF
                "PROXY UNKNOWN" … CR LF                                 at most 107 bytes
    version 2   12 bytes of signature │ version and command │ family │ length:u16 │ addresses │ extensions

The header comes first, before TLS, and neither TLS nor HTTP/2 begins like it. A proxy that checks the server
sends LOCAL or UNKNOWN: such a connection has the address of the proxy. Source: "The PROXY protocol, versions
1 and 2" (HAProxy, proxy-protocol.txt).
"""

from __future__ import annotations

import ipaddress

LINE = b"PROXY "
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED = 16  # bytes of version 2 before the addresses
LINE_MAX, BYTES_MAX = 107, 4096
UNNAMED = "the proxy sends the PROXY protocol, and the server does not know it: `serve --proxy ADDRESS`"
_LOCAL, _PROXY = 0x20, 0x21  # version 2, with the command
_SIZES = {0x11: 4, 0x21: 16}  # of an address, by family: TCP over IPv4 and over IPv6


def begins(head: bytes | bytearray) -> bool:
    """Return whether a connection begins with a header."""
    return head.startswith((LINE, SIGNATURE))


class ProxyError(Exception):
    """Raised for an invalid header."""


def wanted(head: bytes) -> int:
    """Return how many bytes are needed before more is known; if `head` has as many, this is the size of the
    header. 0: it begins with something else. Raises ProxyError for a header that is too long."""
    if not head:
        return 1
    if SIGNATURE.startswith(head[: len(SIGNATURE)]):
        if len(head) < FIXED:
            return FIXED
        size = FIXED + int.from_bytes(head[FIXED - 2 : FIXED])
        if size > BYTES_MAX:
            raise ProxyError(f"expected a header of at most {BYTES_MAX} bytes, found one of {size}")
        return size
    if LINE.startswith(head[: len(LINE)]):
        end = head[:LINE_MAX].find(b"\r\n")
        if end >= 0:
            return end + 2
        if len(head) < LINE_MAX:
            return len(head) + 1
        raise ProxyError(f"expected a line of at most {LINE_MAX} bytes, found a longer one")
    return 0


def client_of(header: bytes) -> str:
    """Return the address of the client in a whole header, as HOST:PORT, of IPv6 without brackets; empty: the
    connection is the proxy's own. Raises ProxyError."""
    return _of_line(header) if header.startswith(LINE) else _of_binary(header)


def _of_line(header: bytes) -> str:
    words = header.decode("ascii", errors="replace").rstrip("\r\n").split(" ")
    if words[1] == "UNKNOWN":
        return ""
    try:
        family, source, target, *ports = words[1:]
        version = {"TCP4": 4, "TCP6": 6}[family]
        port, _ = (int(one) for one in ports if one.isascii() and one.isdecimal() and len(one) <= 5)
        if {ipaddress.ip_address(one).version for one in (source, target)} != {version} or port > 0xFFFF:
            raise ValueError
    except (KeyError, ValueError):
        raise ProxyError(
            f"expected `PROXY TCP4 SOURCE TARGET PORT PORT`, found {' '.join(words)!r}"
        ) from None
    return f"{ipaddress.ip_address(source)}:{port}"


def _of_binary(header: bytes) -> str:
    command, family = header[12], header[13]
    if command == _LOCAL:
        return ""
    if command != _PROXY:
        raise ProxyError(f"expected version 2 with the command PROXY or LOCAL, found the byte {command:#04x}")
    size = _SIZES.get(family)
    if size is None:
        return ""  # another family has no address of a client
    addresses = header[FIXED:]
    if len(addresses) < 2 * size + 4:
        raise ProxyError(f"expected {2 * size + 4} bytes of addresses, found {len(addresses)}")
    port = int.from_bytes(addresses[2 * size : 2 * size + 2])
    return f"{ipaddress.ip_address(addresses[:size])}:{port}"
