"""Typed migrations: load, check, plan, apply, roll back.

Everything that the constants of a migration's folder need can be imported from here.
"""

from everlog.migrations.approval.approval import Approval
from everlog.migrations.baseline import baseline, dump_schema, load_schema
from everlog.migrations.build import build
from everlog.migrations.details import Details, show
from everlog.migrations.estimate import Estimate
from everlog.migrations.in_progress import cancel, complete
from everlog.migrations.lint.lint import lint
from everlog.migrations.lint.rules import Finding, Severity
from everlog.migrations.loader import load
from everlog.migrations.migration import Key, Migration, Remake, Row, Transform
from everlog.migrations.plan import PlannedMigration, PlannedStep, plan
from everlog.migrations.prepared import Decision, DecisionState, abort_prepared, commit_prepared, prepare
from everlog.migrations.proposal import Rules
from everlog.migrations.recorded_folders import Restored, accept, restore_folders
from everlog.migrations.rollback import PlannedRollback, plan_rollback, rollback
from everlog.migrations.runner import apply
from everlog.migrations.scaffold import new
from everlog.migrations.squash import Squashed, squash
from everlog.migrations.status import MigrationInfo, State, differences, status
from everlog.migrations.testdata import Fake, load_testdata
from everlog.store.schema.codec import (
    BOOL,
    BYTES,
    DOUBLE,
    ENUM,
    FIXED32,
    FIXED64,
    FLOAT,
    INT32,
    INT64,
    MESSAGE,
    SFIXED32,
    SFIXED64,
    SINT32,
    SINT64,
    STRING,
    TIMESTAMP,
    UINT32,
    UINT64,
)
from everlog.store.schema.table import Field, Fields, Index, Table
from everlog.store.tx.reader import Reader

__all__ = [
    "BOOL",
    "BYTES",
    "DOUBLE",
    "ENUM",
    "FIXED32",
    "FIXED64",
    "FLOAT",
    "INT32",
    "INT64",
    "MESSAGE",
    "SFIXED32",
    "SFIXED64",
    "SINT32",
    "SINT64",
    "STRING",
    "TIMESTAMP",
    "UINT32",
    "UINT64",
    "Approval",
    "Decision",
    "DecisionState",
    "Details",
    "Estimate",
    "Fake",
    "Field",
    "Fields",
    "Finding",
    "Index",
    "Key",
    "Migration",
    "MigrationInfo",
    "PlannedMigration",
    "PlannedRollback",
    "PlannedStep",
    "Reader",
    "Remake",
    "Restored",
    "Row",
    "Rules",
    "Severity",
    "Squashed",
    "State",
    "Table",
    "Transform",
    "abort_prepared",
    "accept",
    "apply",
    "baseline",
    "build",
    "cancel",
    "commit_prepared",
    "complete",
    "differences",
    "dump_schema",
    "lint",
    "load",
    "load_schema",
    "load_testdata",
    "new",
    "plan",
    "plan_rollback",
    "prepare",
    "restore_folders",
    "rollback",
    "show",
    "squash",
    "status",
]
