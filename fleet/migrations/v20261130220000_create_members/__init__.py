"""The members of the fleet."""

from everlog.fleet.migrations.v20261130220000_create_members.model_pb2 import Label, Member
from everlog.migrations import BYTES, Fields, Migration, Table

__all__ = ["MEMBERS", "MIGRATION", "Label", "Member"]

DATABASE = Fields(Member)("database", 1, BYTES)

MEMBERS = Table("members", Member, key=DATABASE)

MIGRATION = Migration(tables=[MEMBERS])
