"""The first table: airports."""

from everlog.migrations import STRING, Fields, Migration, Table

from .model_pb2 import Airport

__all__ = ["AIRPORTS", "MIGRATION", "Airport"]

_airport = Fields(Airport)
FAA = _airport("faa", 1, STRING)

AIRPORTS = Table("airports", Airport, key=FAA)

MIGRATION = Migration(tables=[AIRPORTS])
