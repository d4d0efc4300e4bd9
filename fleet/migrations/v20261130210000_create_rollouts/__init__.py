"""The plans that are carried out in waves, with what has become of each member."""

from everlog.fleet.migrations.v20261130210000_create_rollouts.model_pb2 import StoredRollout
from everlog.migrations import BYTES, Fields, Migration, Table

__all__ = ["MIGRATION", "ROLLOUTS", "StoredRollout"]

DIGEST = Fields(StoredRollout)("digest", 1, BYTES)

ROLLOUTS = Table("rollouts", StoredRollout, key=DIGEST)

MIGRATION = Migration(tables=[ROLLOUTS])
