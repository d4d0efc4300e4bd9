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

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from everlog.rpc.address import Address, is_loopback
from everlog.rpc.status import Context
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

HEADER = "authorization"
OPEN_METHODS = "/grpc.health.v1.Health/"  # a load balancer asks without a token


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


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Raises OpenError if a file cannot be read."""
    pair = (_read(tls.key), _read(tls.certificate))
    ca = _read(tls.client_ca) if tls.client_ca else None
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


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


class TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Lets calls with the token through, and refuses all others."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_METHODS):
            return handler
        for key, value in handler_call_details.invocation_metadata:
            if key == HEADER and hmac.compare_digest(_bytes(value), self._expected):
                return handler
        return _refusing(handler)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


async def _refuse(_: Any, context: Context) -> Any:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "this server wants its token with every call: put ?token=… into the URL, or set EVERLOG_TOKEN",
    )


async def _refuse_stream(request: Any, context: Context) -> Any:
    await _refuse(request, context)
    yield b""  # never reached: it makes this a stream


def _refusing(handler: Handler) -> Handler:
    """A handler of the same kind that refuses."""
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_refuse_stream)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(_refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_refuse_stream)
    return grpc.unary_unary_rpc_method_handler(_refuse)
