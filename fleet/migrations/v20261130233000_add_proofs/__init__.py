"""How those who proposed and decided a plan were authenticated."""

from everlog.fleet.migrations.v20261130233000_add_proofs.model_pb2 import Plan
from everlog.migrations import BYTES, Fields, Migration, Table

__all__ = ["MIGRATION", "PLANS", "Plan"]

DIGEST = Fields(Plan)("digest", 1, BYTES)

PLANS = Table("plans", Plan, key=DIGEST)

MIGRATION = Migration(tables=[PLANS])
