"""The outcomes of the runs, with their times."""

from everlog.fleet.migrations.v20261130230000_create_outcomes.model_pb2 import Outcome
from everlog.migrations import UINT64, Fields, Migration, Table

__all__ = ["MIGRATION", "OUTCOMES", "Outcome"]

EPOCH = Fields(Outcome)("epoch", 1, UINT64)

OUTCOMES = Table("outcomes", Outcome, key=EPOCH)

MIGRATION = Migration(tables=[OUTCOMES])
