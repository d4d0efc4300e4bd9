"""Errors: convert everlog's errors to gRPC's at the server, and back at the client.

    server   Error ─▶ status code and message; in the trailing metadata
                      everlog-error-bin       := msgpack {kind, facts}
                      grpc-status-details-bin := google.rpc.Status with an ErrorInfo, for other clients; of a
                                                 LimitError with a RetryInfo
                      grpc-retry-pushback-ms  := of a LimitError (gRFC A6)
    client   with that metadata     ─▶ the same class, message and facts
             without that metadata  ─▶ UnavailableError: the transport, or another program, ended the call

Invariants
  (1) a call on a server raises the same error as the same call on an embedded database;
  (2) no bytes from the wire cause a traceback.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import grpc
import msgspec
from google.protobuf.duration_pb2 import Duration

from everlog.store import errors
from everlog.store.errors import CursorError, DiskError, Error, LimitError, UnavailableError
from everlog.store.program_log import about

KEY = "everlog-error-bin"
STANDARD_KEY = "grpc-status-details-bin"
DOMAIN = "everlog"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
FACT_MAX = 200  # characters of a fact in the standard details
TLS_REMEDIES = {  # by a part of gRPC's error
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not trusted; pass its authority as ?ca=FILE or EVERLOG_CA"
    ),
    "WRONG_VERSION_NUMBER": (
        "it does not speak TLS; on this machine, use everlog+insecure:// instead of everlog://"
    ),
    "expected TLS": "it requires TLS; use everlog:// instead of everlog+insecure://",
}
logger = logging.getLogger("everlog")
TEXT_MAX = 3000  # bytes of facts; a status is sent in headers, for which peers allow 8 KiB

_CODES: dict[type[Error], grpc.StatusCode] = {
    errors.OpenError: grpc.StatusCode.NOT_FOUND,
    errors.SchemaError: grpc.StatusCode.NOT_FOUND,
    errors.RowError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.LoadError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UniqueError: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ReadOnlyError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MigrationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SinkError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.CursorError: grpc.StatusCode.OUT_OF_RANGE,
    errors.SealedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CorruptionError: grpc.StatusCode.DATA_LOSS,
    errors.DiskError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AccessError: grpc.StatusCode.PERMISSION_DENIED,
    errors.LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ClosedError: grpc.StatusCode.UNAVAILABLE,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_KINDS: dict[str, type[Error]] = {"Error": Error} | {kind.__name__: kind for kind in _CODES}


class Details(msgspec.Struct):
    """The content of the trailing metadata."""

    kind: str
    facts: dict[str, Any]


_decoder = msgspec.msgpack.Decoder(Details)


def code_of(error: Error) -> grpc.StatusCode:
    if isinstance(error, CursorError) and error.facts.get("why") == "diverged":
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, DiskError) and error.facts.get("outcome") == "unknown":
        return grpc.StatusCode.INTERNAL
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.UNKNOWN)


def trailing(error: Error) -> tuple[tuple[str, bytes], ...]:
    """Return the facts of an error as metadata; without the facts if they are too large or cannot be
    encoded."""
    try:
        packed = msgspec.msgpack.encode(Details(type(error).__name__, error.facts), enc_hook=_plain)
    except (ValueError, OverflowError):  # an unpaired surrogate, or a number of more than 64 bits
        packed = b""
    if not packed or len(packed) > TEXT_MAX:
        packed = msgspec.msgpack.encode(Details(type(error).__name__, {}))
    return ((KEY, packed),)


def _plain(value: object) -> str:
    """Convert a fact of a type that msgpack cannot encode."""
    return str(value) if isinstance(value, str) else repr(value)


def text_of(error: Error) -> str:
    """Return the error's message, truncated to fit into headers."""
    raw = str(error).encode(errors="backslashreplace")  # file names may contain invalid text
    text = raw.decode()
    return text if len(raw) <= TEXT_MAX // 2 else raw[: TEXT_MAX // 2].decode(errors="ignore") + "…"


def standard_details(code: grpc.StatusCode, text: str, error: Error) -> tuple[tuple[str, bytes], ...]:
    """Return the error in the form of gRPC's richer error model, as metadata; nothing if it does not fit.

    Encoded here: the messages have eight fields, and their package would be a dependency of every server.

        Status    := code:1 message:2 details:3 Any*     google/rpc/status.proto
        Any       := type_url:1 value:2
        RetryInfo := retry_delay:1
        ErrorInfo := reason:1 domain:2 metadata:3 (key:1 value:2)*   google/rpc/error_details.proto
    """
    reason = (
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).upper() or "ERROR"
    )
    info = _field(1, reason) + _field(2, DOMAIN)
    for name, value in error.facts.items():
        if isinstance(value, str | int | float) and len(str(value)) <= FACT_MAX:
            info += _field(3, _field(1, name) + _field(2, str(value)))
    number: int = code.value[0]
    packed = _field(1, ERROR_INFO) + _field(2, info)
    status = b"\x08" + bytes((number,)) + _field(2, text) + _field(3, packed)
    found: tuple[tuple[str, bytes], ...] = ()
    if isinstance(error, LimitError) and not error.facts.get("retry_s", 1.0):
        found = ((PUSHBACK_KEY, b"-1"),)  # never
    elif isinstance(error, LimitError):
        delay = Duration()
        delay.FromMilliseconds(max(1, round(error.facts.get("retry_s", 1.0) * 1e3)))
        retry = _field(1, RETRY_INFO) + _field(2, _field(1, delay.SerializeToString()))
        status += _field(3, retry)
        found = ((PUSHBACK_KEY, b"%d" % delay.ToMilliseconds()),)
    return (*found, (STANDARD_KEY, status)) if len(status) <= TEXT_MAX // 2 else found


def _field(number: int, value: str | bytes) -> bytes:
    """Return a protobuf field of text or bytes."""
    raw = value.encode(errors="backslashreplace") if isinstance(value, str) else value
    size, rest = bytearray(), len(raw)
    while rest >= 128:
        size.append(rest & 127 | 128)
        rest >>= 7
    size.append(rest)
    return bytes((number << 3 | 2,)) + bytes(size) + raw


def of(error: Exception) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return code, text and metadata with which a call ends. An exception that is not an everlog error is a
    fault in the server's program."""
    if isinstance(error, Error):
        code, text = code_of(error), text_of(error)
        return code, text, trailing(error) + standard_details(code, text, error)
    # Without its text, which may contain values of rows: only its type, and where it happened.
    name = type(error).__name__
    logger.error(
        "a call ended with a fault: %s",
        name,
        exc_info=(Exception, Exception(name), error.__traceback__),
        extra=about("call.fault"),
    )
    fault = Error(f"a fault in the server: {name}; its log says where")
    return grpc.StatusCode.INTERNAL, text_of(fault), trailing(fault)


def translate(error: grpc.RpcError, url: str) -> Error:
    """Return the everlog error for the error with which a call ended."""
    call: Any = error  # every RpcError that a call raises is also a Call
    for key, value in call.trailing_metadata() or ():
        if key == KEY:
            try:
                told = _decoder.decode(value)
                return _KINDS[told.kind](call.details() or "", **told.facts)
            except (msgspec.MsgspecError, KeyError, TypeError):
                break
    code, details = call.code(), call.details() or ""
    facts: dict[str, Any] = {"refused": True} if "Connection refused" in details else {}
    if code is grpc.StatusCode.UNAVAILABLE and any(mark in details for mark in TLS_REMEDIES):
        facts["tls"] = True
    return UnavailableError(f"{url}: {_sentence(code, details, url)}", url=url, code=code.name, **facts)


def _sentence(code: grpc.StatusCode, details: str, url: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        if tls := next((remedy for mark, remedy in TLS_REMEDIES.items() if mark in details), ""):
            remedy = tls
        elif "Socket closed" in details and url.startswith("everlog://"):
            remedy = (
                f"{details}; check that it runs, that the URL is correct, and whether it requires a client"
                " certificate (?cert=FILE&key=FILE, or EVERLOG_CERT and EVERLOG_KEY)"
            )
        else:
            remedy = f"{details}; check that it runs, and that the URL is correct"
        return f"the server cannot be reached: {remedy}"
    told = {
        grpc.StatusCode.UNAUTHENTICATED: f"the server refuses the call: {details}",
        grpc.StatusCode.DEADLINE_EXCEEDED: (
            "the server did not respond in time; it may still complete the call"
        ),
        grpc.StatusCode.UNIMPLEMENTED: (
            f"expected an everlog server, found another program or an older version ({details})"
        ),
        grpc.StatusCode.RESOURCE_EXHAUSTED: f"the request or the response is too large: {details}",
        grpc.StatusCode.CANCELLED: "the call was cancelled, or its deadline has passed",
    }
    return told.get(code) or f"expected a response of an everlog server, found {code.name}: {details}"


def is_transient(error: Error) -> bool:
    """Return whether the same call may succeed later, because the server is unavailable, stopping or busy."""
    if isinstance(error, UnavailableError):
        return bool(error.facts.get("code", "UNAVAILABLE") == "UNAVAILABLE")
    return isinstance(error, errors.ClosedError | LimitError)
