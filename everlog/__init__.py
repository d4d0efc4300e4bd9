"""everlog: an embedded database that never forgets. This is its face: the public names.

A name is loaded from its home when it is first used, so that importing one room loads only
what that room needs: `everlog.store` alone loads no gRPC (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlog.store.errors import (
        ClosedError,
        ConflictError,
        CorruptionError,
        CursorError,
        DiskError,
        Error,
        LoadError,
        MigrationError,
        OpenError,
        PreconditionError,
        ReadOnlyError,
        RowError,
        SchemaError,
        SinkError,
        UnavailableError,
        UniqueError,
    )

__all__ = [
    "ClosedError",
    "ConflictError",
    "CorruptionError",
    "CursorError",
    "DiskError",
    "Error",
    "LoadError",
    "MigrationError",
    "OpenError",
    "PreconditionError",
    "ReadOnlyError",
    "RowError",
    "SchemaError",
    "SinkError",
    "UnavailableError",
    "UniqueError",
]

# Homes of the names that are not errors.
_HOMES: dict[str, str] = {}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "everlog.store.errors")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
