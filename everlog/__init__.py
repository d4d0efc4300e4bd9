"""everlog: an embedded database that never forgets. This is its face: the public names.

A name is loaded from its home when it is first used, so that importing one room loads only
what that room needs: `everlog.store` alone loads no gRPC (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlog.feed.embedded import EmbeddedDatabase
    from everlog.rpc.connect import open  # noqa: A004  everlog.open is the name
    from everlog.store.errors import (
        AccessError,
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
        SealedError,
        SinkError,
        UnavailableError,
        UniqueError,
    )
    from everlog.store.history import Version
    from everlog.store.past import Moment
    from everlog.store.past_diff import Difference
    from everlog.store.past_log import Entry
    from everlog.store.progress import Progress
    from everlog.store.reader import Scan
    from everlog.store.snapshot import Snapshot
    from everlog.store.table import Field, Fields, Index, Table
    from everlog.store.transaction import CommitResult, Transaction

__all__ = [
    "AccessError",
    "ClosedError",
    "CommitResult",
    "ConflictError",
    "CorruptionError",
    "CursorError",
    "Difference",
    "DiskError",
    "EmbeddedDatabase",
    "Entry",
    "Error",
    "Field",
    "Fields",
    "Index",
    "LoadError",
    "MigrationError",
    "Moment",
    "OpenError",
    "PreconditionError",
    "Progress",
    "ReadOnlyError",
    "RowError",
    "Scan",
    "SchemaError",
    "SealedError",
    "SinkError",
    "Snapshot",
    "Table",
    "Transaction",
    "UnavailableError",
    "UniqueError",
    "Version",
    "deadline",
    "open",
]

# Homes of the names that are not errors.
_HOMES: dict[str, str] = {
    "CommitResult": "everlog.store.transaction",
    "Difference": "everlog.store.past_diff",
    "EmbeddedDatabase": "everlog.feed.embedded",
    "Entry": "everlog.store.past_log",
    "Field": "everlog.store.table",
    "Fields": "everlog.store.table",
    "Index": "everlog.store.table",
    "Moment": "everlog.store.past",
    "Progress": "everlog.store.progress",
    "Scan": "everlog.store.reader",
    "Snapshot": "everlog.store.snapshot",
    "Table": "everlog.store.table",
    "Transaction": "everlog.store.transaction",
    "Version": "everlog.store.history",
    "deadline": "everlog.rpc.deadline",
    "open": "everlog.rpc.connect",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "everlog.store.errors")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
