"""Status: the one seam between everlog's errors and gRPC's.

    server   Error ─▶ code, the error's own sentence, and in the trailing metadata
                      everlog-error-bin := msgpack {kind, facts}
    client   the same class with the same sentence and facts; what comes without them comes
             from elsewhere (the transport, another program) and is an UnavailableError

Invariants
  (1) an error is the same to who asks here and to who asks over the network;
  (2) nobody sees a traceback because of what came over the wire.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

import grpc
import msgspec

from everlog.store import errors
from everlog.store.errors import CursorError, DiskError, Error, UnavailableError

KEY = "everlog-error-bin"
logger = logging.getLogger("everlog")
TEXT_MAX = 3000  # all of a status travels in headers, for which peers allow 8 KiB

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
    errors.ClosedError: grpc.StatusCode.UNAVAILABLE,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_KINDS: dict[str, type[Error]] = {"Error": Error} | {kind.__name__: kind for kind in _CODES}


class Told(msgspec.Struct):
    """What the trailing metadata carries."""

    kind: str
    facts: dict[str, Any]


_decoder = msgspec.msgpack.Decoder(Told)


def code_of(error: Error) -> grpc.StatusCode:
    if isinstance(error, CursorError) and error.facts.get("why") == "diverged":
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, DiskError) and error.facts.get("outcome") == "unknown":
        return grpc.StatusCode.INTERNAL
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.UNKNOWN)


def trailing(error: Error) -> tuple[tuple[str, bytes], ...]:
    """The facts of an error as metadata."""
    try:
        told = msgspec.msgpack.encode(Told(type(error).__name__, error.facts), enc_hook=_plain)
    except (ValueError, OverflowError):  # half a character, a number of more than 64 bits
        told = b""
    if not told or len(told) > TEXT_MAX:
        told = msgspec.msgpack.encode(Told(type(error).__name__, {}))
    return ((KEY, told),)


def _plain(value: object) -> str:
    """A fact that msgpack has no type for."""
    return str(value) if isinstance(value, str) else repr(value)


def text_of(error: Error) -> str:
    """The error's sentence, cut where it would not fit into headers."""
    raw = str(error).encode(errors="backslashreplace")  # names of files may hold what is no text
    text = raw.decode()
    return text if len(raw) <= TEXT_MAX // 2 else raw[: TEXT_MAX // 2].decode(errors="ignore") + "…"


def of(error: Exception) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, text and metadata that a call ends with. What is no everlog error is a fault of the
    server's program."""
    if isinstance(error, Error):
        return code_of(error), text_of(error), trailing(error)
    # Without its words, which may be those of a row: where it happened, and what kind it is.
    name, trace = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
    logger.error("a call ended with a fault: %s\n%s", name, trace.rstrip())
    fault = Error(f"a fault in the server: {name}; its log says where")
    return grpc.StatusCode.INTERNAL, text_of(fault), trailing(fault)


def translate(error: grpc.RpcError, url: str) -> Error:
    """The everlog error that a call ended with."""
    call: Any = error  # every RpcError that a call raises is a Call, too
    for key, value in call.trailing_metadata() or ():
        if key == KEY:
            try:
                told = _decoder.decode(value)
                return _KINDS[told.kind](call.details() or "", **told.facts)
            except (msgspec.MsgspecError, KeyError, TypeError):
                break
    code, details = call.code(), call.details() or ""
    facts: dict[str, Any] = {"refused": True} if "Connection refused" in details else {}
    return UnavailableError(f"{url}: {_sentence(code, details)}", url=url, code=code.name, **facts)


def _sentence(code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        if "CERTIFICATE_VERIFY_FAILED" in details:
            remedy = "its certificate is not trusted here; name its authority, ?ca=FILE or EVERLOG_CA"
        elif "WRONG_VERSION_NUMBER" in details:
            remedy = "it does not speak TLS; on this machine, use everlog+insecure:// instead of everlog://"
        else:
            remedy = f"{details}; see that it runs, and that the URL is right"
        return f"the server cannot be reached: {remedy}"
    told = {
        grpc.StatusCode.UNAUTHENTICATED: f"the server refuses the call: {details}",
        grpc.StatusCode.DEADLINE_EXCEEDED: (
            "the server did not answer in time; what was asked for may yet have happened"
        ),
        grpc.StatusCode.UNIMPLEMENTED: (
            f"what answers there is no everlog server, or an older one ({details})"
        ),
        grpc.StatusCode.RESOURCE_EXHAUSTED: f"the request, or its answer, is too large: {details}",
        grpc.StatusCode.CANCELLED: "the call was cancelled, or passed its deadline",
    }
    return told.get(code) or f"expected an answer of an everlog server, found {code.name}: {details}"


def is_transient(error: Error) -> bool:
    """Whether the same call may succeed a little later, the server having gone away or stopped."""
    if isinstance(error, UnavailableError):
        return bool(error.facts.get("code", "UNAVAILABLE") == "UNAVAILABLE")
    return isinstance(error, errors.ClosedError)
