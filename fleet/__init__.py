"""Fleets: many databases upgraded in unison. Knows no transport."""

from everlog.fleet.approvals import PlanApprovals, PlanState, ProposedPlan
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.drift import Group, drift
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.member import FleetMember
from everlog.fleet.members_file import MemberSource, read_members, survey_all
from everlog.fleet.plan import FleetPlan, Refusal, changes, draft, refusals
from everlog.fleet.protocol import Ledger, Order, Phase, Report, Target, Verb
from everlog.fleet.rollouts import RolloutStore, settle
from everlog.fleet.selector import Selector
from everlog.fleet.survey import Survey, survey
from everlog.fleet.waves import Gate, Rollout, RolloutState, split

__all__ = [
    "FleetCoordinator",
    "FleetMember",
    "FleetPlan",
    "Gate",
    "Group",
    "Ledger",
    "LedgerStore",
    "MemberSource",
    "Order",
    "Phase",
    "PlanApprovals",
    "PlanState",
    "ProposedPlan",
    "Refusal",
    "Report",
    "Rollout",
    "RolloutState",
    "RolloutStore",
    "Selector",
    "Survey",
    "Target",
    "Verb",
    "changes",
    "draft",
    "drift",
    "read_members",
    "refusals",
    "settle",
    "split",
    "survey",
    "survey_all",
]
