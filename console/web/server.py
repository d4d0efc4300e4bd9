"""Server: the console on a thread of its own, with the event loop of uvicorn.

    web = WebServer("127.0.0.1:7421")
    web.server = Address("127.0.0.1", 7420, "", secure=False)
    with web: web.url

A browser reaches it at `url`: by HTTP on this machine, by HTTPS with a certificate, or through a proxy.

Invariants
  (1) a console that other machines can reach has TLS, or does not start;
  (2) two consoles never share a port.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import ssl
import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from everlog.console.web.setup import Setup
from everlog.rpc.address import Address, host_port, is_loopback, listening
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.console.web.app import Console
    from everlog.console.web.oidc import Oidc
    from everlog.rpc.security import Tls

PORT = 7421
NEEDED = ("jinja2", "pygments", "python_multipart", "starlette", "uvicorn")
STOP_S = 2.0


def check_installed() -> None:
    """Raise OpenError if the libraries of the console are missing."""
    lacks = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacks:
        raise OpenError(
            f"the console needs {', '.join(lacks)}, not installed here; install it with `pip install"
            " 'everlog[console]'`"
        )


def own_server(host: str, port: int, tls: Tls | None) -> Address:
    """Return the address at which a console in the process of a server calls it: over loopback, with the
    server's own certificate as its authority. Raises OpenError if the certificate has no name."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  where the server listens
    if tls is None:
        return Address(host, port, "", secure=False)
    from everlog.rpc.security import hosts_of

    names = hosts_of(tls.certificate)
    if not names:
        raise OpenError(f"{tls.certificate}: expected the name of a host in it, found none")
    return Address(
        host, port, "", secure=True, ca=str(tls.certificate), name=names[0].replace("*", "console")
    )


class Certificate:
    """A certificate for HTTPS. New connections use the files as they are then. Raises OpenError."""

    def __init__(self, certificate: str | Path, key: str | Path) -> None:
        self._files = Path(certificate), Path(key)
        self._seen = self._stamp()
        self._now = self._load()
        self.context = self._load()
        self.context.sni_callback = self._choose

    def _load(self) -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.minimum_version = ssl.TLSVersion.TLSv1_2
        found.set_alpn_protocols(["http/1.1"])
        try:
            found.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            raise OpenError(f"{self._files[0]}: expected a certificate and its key in PEM: {error}") from None
        return found

    def _stamp(self) -> list[tuple[int, int]]:
        return [(one.st_mtime_ns, one.st_ino) for one in map(Path.stat, self._files)]

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError, OpenError):  # half-written files: the previous ones stay in use
            stamp = self._stamp()
            if stamp != self._seen:
                self._now, self._seen = self._load(), stamp
        connection.context = self._now


class WebServer:
    """Serves the console of a server while it is entered.

    `listen` is HOST:PORT; port 0 is any free port. `url` is the public URL, if a proxy gives it another one.
    `tls` is the certificate and its key. `oidc`: the provider where people sign in. Before entering it, set
    `server`, the address that the console calls, without database and token, and `setup`, if there is more to
    show.

    Raises OpenError for missing libraries, an address that is not available, and one that other machines can
    reach without TLS.
    """

    def __init__(
        self,
        listen: str,
        *,
        url: str = "",
        tls: tuple[str | Path, str | Path] | None = None,
        oidc: Oidc | None = None,
    ) -> None:
        check_installed()
        host, port = listening(listen)
        if tls is None and not is_loopback(host):
            raise OpenError(
                f"the console on {host} could be read from other machines without TLS; give the server a"
                " certificate (--tls-cert, --tls-key), or listen on 127.0.0.1 behind a proxy, whose address"
                " is --console-url",
                host=host,
            )
        self._oidc = oidc
        self._certificate = Certificate(*tls) if tls else None
        try:
            self._socket = _bound(host, port)
        except OSError as error:
            raise OpenError(
                f"cannot serve the console on {listen}: {error.strerror or error}; choose another address",
                address=listen,
            ) from None
        address = host_port(host, self._socket.getsockname()[1])
        self.port: int = self._socket.getsockname()[1]
        self.url = url.rstrip("/") or f"http{'s' if tls else ''}://{address}"
        self.server: Address
        self.setup = Setup()
        self.console: Console
        self._ready = threading.Event()
        self._uvicorn: Any = None
        self._thread = threading.Thread(target=self._run, name="everlog-console", daemon=True)

    def link(self, digest: bytes) -> str:
        """Return the URL of a proposal's page, by digest. The form of these URLs never changes."""
        return f"{self.url}/migrations/{digest.hex()}"

    def close(self) -> None:
        """Close the listening socket of a server that is not entered; may be called twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        from everlog.console.web.app import Console

        self.console = Console(self.server, url=self.url, setup=self.setup, oidc=self._oidc)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.console.stopping = True
        self._uvicorn.should_exit = True
        self._thread.join()
        self._socket.close()
        self.console.close()

    def _run(self) -> None:
        import uvicorn

        from everlog.console.web.listener import Places, TimedProtocol

        places = Places(self.console.proxies, self.console.limited)
        config = uvicorn.Config(
            self.console.app,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            http=partial(TimedProtocol, places=places),  # type: ignore[arg-type]
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(STOP_S),
        )
        config.load()
        if self._certificate is not None:
            config.ssl = self._certificate.context
        self._uvicorn = uvicorn.Server(config)
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        while not self._uvicorn.started and not serving.done():  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.005)
        self._ready.set()
        await serving


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens alone on this address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol, so that asyncio disables Nagle's algorithm: it would add 40 ms to each response.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(1024)
    except BaseException:
        found.close()
        raise
    return found
