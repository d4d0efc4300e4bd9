"""everlog: an embedded database that never forgets. This module has its public names.

A name is imported from its module when it is first used (PEP 562), so that a program loads only what it
needs: `everlog.store` alone does not load gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlog.rpc.connect import open  # noqa: A004  everlog.open is the name
    from everlog.rpc.embedded import EmbeddedDatabase
    from everlog.store.errors import (
        AccessError,
        ClosedError,
        ConflictError,
        CorruptionError,
        CursorError,
        DiskError,
        Error,
        LimitError,
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
    from everlog.store.history.diff import Difference
    from everlog.store.history.past import Moment
    from everlog.store.history.query import Entry
    from everlog.store.history.row_history import Version
    from everlog.store.progress import Progress
    from everlog.store.schema.table import Field, Fields, Index, Table
    from everlog.store.tx.reader import Scan, Snapshot
    from everlog.store.tx.transaction import CommitResult, Transaction, new_commit_id

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
    "LimitError",
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
    "new_commit_id",
    "open",
]

# The modules of the names that are not errors.
_HOMES: dict[str, str] = {
    "CommitResult": "everlog.store.tx.transaction",
    "Difference": "everlog.store.history.diff",
    "EmbeddedDatabase": "everlog.rpc.embedded",
    "Entry": "everlog.store.history.query",
    "Field": "everlog.store.schema.table",
    "Fields": "everlog.store.schema.table",
    "Index": "everlog.store.schema.table",
    "Moment": "everlog.store.history.past",
    "Progress": "everlog.store.progress",
    "Scan": "everlog.store.tx.reader",
    "Snapshot": "everlog.store.tx.reader",
    "Table": "everlog.store.schema.table",
    "Transaction": "everlog.store.tx.transaction",
    "Version": "everlog.store.history.row_history",
    "deadline": "everlog.rpc.client.channel",
    "new_commit_id": "everlog.store.tx.transaction",
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
