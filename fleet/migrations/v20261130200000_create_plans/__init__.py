"""The plans that were proposed, and what was decided about them."""

from everlog.fleet.migrations.v20261130200000_create_plans.model_pb2 import Plan
from everlog.migrations import BYTES, Fields, Migration, Table

__all__ = ["MIGRATION", "PLANS", "Plan"]

DIGEST = Fields(Plan)("digest", 1, BYTES)

PLANS = Table("plans", Plan, key=DIGEST)

MIGRATION = Migration(tables=[PLANS])
