"""Errors: one root, and a child for each moment at which things go wrong.

    Error
      OpenError          opening
      SchemaError        loading constants, models and migration folders
      RowError           handing over a row or a key
      PreconditionError  committing: what must hold of a row does not
        UniqueError
      ConflictError      committing: somebody else was faster; run it again
      ReadOnlyError
      MigrationError     planning and applying migrations
      LoadError          reading a source of rows
      CursorError        subscribing
      SinkError          following
      SealedError        reading rows whose key is not at hand, or was forgotten
      CorruptionError    reading what is on disk
      DiskError          writing to disk
      UnavailableError   calling a server
      AccessError        calling a server: it is not for this caller
      ClosedError        using what was closed

A message says what was expected, what was found, where, and the remedy; the facts in it are
attributes as well. It never has the contents of a row: messages are kept in the log and sent to
operators. They are in `private`, for the terminal of the person who runs it. RocksDB's errors are
translated in `everlog.store.rocks.engine`, gRPC's in `everlog.rpc.errors`, and nowhere else.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Root of every error that everlog raises. Facts of the message are attributes.

    `private`: the row or value that the message is about, as text; empty: there is none. It is never
    stored, logged or sent.
    """

    def __init__(self, message: str, *, private: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts
        self.private = private

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None


class OpenError(Error):
    """Raised when a database cannot be opened: no database there, another process has it, its
    format is newer than this program, or the URL is not one."""


class SchemaError(Error):
    """Raised when constants, models or migration folders do not fit together (`where`)."""


class RowError(Error):
    """Raised when a row or a key cannot be written: wrong type, another table's model, a key
    field that is missing, too large."""


class PreconditionError(Error):
    """Raised when what a write expects of its row does not hold (`table`, `key`)."""


class UniqueError(PreconditionError):
    """Raised when a row would be the second with a value of a unique index (`index`, `value`,
    `key` of the row that has it)."""


class ConflictError(Error):
    """Raised when what a transaction read was changed before it committed. Nothing was written:
    run the transaction again, as `db.run` does."""


class ReadOnlyError(Error):
    """Raised when something is written to what was opened for reading."""


class MigrationError(Error):
    """Raised when a migration cannot be planned or applied; nothing of it was."""


class LoadError(Error):
    """Raised when a source of rows has one that does not fit (`file`, `line`, `column`)."""


class CursorError(Error):
    """Raised when a subscription cannot start at its cursor: ahead of the log, before its oldest
    record, or of another history."""


class SinkError(Error):
    """Raised when a follower's target refuses, or is not what it was."""


class SealedError(Error):
    """Raised when a sealed row cannot be opened, or written: `erased` says that its key was forgotten;
    else there is no master key, or no key store."""


class CorruptionError(Error):
    """Raised when what is on disk or on the wire is not what was written (`seq` or `place`)."""


class DiskError(Error):
    """Raised when the disk refuses. `outcome` is "nothing written" or "unknown"."""


class UnavailableError(Error):
    """Raised when a server cannot be reached or does not speak everlog (`url`)."""


class AccessError(Error):
    """Raised when whoever calls a server may not do that (`actor`), or says to be somebody else."""


class ClosedError(Error):
    """Raised when something is used after it was closed."""
