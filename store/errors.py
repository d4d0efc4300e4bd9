"""Errors: one root, and one class for each situation in which something fails.

    Error
      OpenError          opening
      SchemaError        loading constants, models and migration folders
      RowError           passing a row or a key
      PreconditionError  committing: a row is not as the write expects
        UniqueError
      ConflictError      committing: another commit came first; run the transaction again
      ReadOnlyError
      MigrationError     planning and applying migrations
      LoadError          reading a source of rows
      CursorError        subscribing
      SinkError          following
      SealedError        reading or writing sealed rows without their key
      CorruptionError    reading from disk or from the wire
      DiskError          writing to disk
      UnavailableError   calling a server
      AccessError        calling a server without permission
      LimitError         calling a server more than it allows
      ClosedError        using a closed object

A message says what was expected, what was found, where, and the remedy; its facts are attributes as
well. It never contains data of rows, because messages are stored in the log and sent to operators. Such
data is in `private`, for the terminal of the person who runs the program. RocksDB's errors are
translated in `everlog.store.rocks.errors`, gRPC's in `everlog.rpc.errors`, and nowhere else.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Root of every error that everlog raises. The facts of the message are attributes.

    `private`: the row or value that the message is about, as text; empty: none. It is never stored, logged
    or sent.
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
    """Raised when a database cannot be opened: the path or URL is no database, another process has it open,
    or its format is newer than this program."""


class SchemaError(Error):
    """Raised when constants, models or migration folders do not fit together (`where`)."""


class RowError(Error):
    """Raised when a row, a key or another argument is invalid: wrong type, another table's model, a missing
    key field, too large."""


class PreconditionError(Error):
    """Raised when a row is not as a write expects it (`table`, `key`)."""


class UniqueError(PreconditionError):
    """Raised when another row has the same values in a unique index (`index`, `value`, and `key` of that
    row)."""


class ConflictError(Error):
    """Raised when data that a transaction read was changed before it committed. Nothing was written: run
    the transaction again, as `db.run` does."""


class ReadOnlyError(Error):
    """Raised when a write is attempted on a database opened for reading."""


class MigrationError(Error):
    """Raised when a migration cannot be planned or applied. Nothing of it was applied."""


class LoadError(Error):
    """Raised when a source of rows has an invalid row (`file`, `line`, `column`)."""


class CursorError(Error):
    """Raised when a subscription cannot start at its cursor: it is ahead of the log, before its oldest
    record, or of another history."""


class SinkError(Error):
    """Raised when a follower's target refuses a write, or was changed by another program."""


class SealedError(Error):
    """Raised when a sealed row cannot be unsealed or written. `erased`: its key was shredded; otherwise the
    master key or the key store is missing."""


class CorruptionError(Error):
    """Raised when data on disk or on the wire is not what was written (`seq` or `place`)."""


class DiskError(Error):
    """Raised when the disk refuses a write. `outcome` is "nothing written", "written" or "unknown"."""


class UnavailableError(Error):
    """Raised when a server cannot be reached or does not speak everlog (`url`)."""


class AccessError(Error):
    """Raised when a caller may not do what it requests (`actor`), or claims another caller's name."""


class LimitError(Error):
    """Raised when a server refuses a call because its caller exceeds a limit (`limit`). The same call may
    succeed after `retry_s` seconds; 0: it never does, request less."""


class ClosedError(Error):
    """Raised when an object is used after it was closed."""


def quantity(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, as `1 row`, `2,000 rows`. `plural`: by default the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
