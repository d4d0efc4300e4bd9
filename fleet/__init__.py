"""Fleets: many databases upgraded in unison. Knows no transport."""

from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.member import FleetMember
from everlog.fleet.plan import FleetPlan, Refusal, changes, draft, refusals
from everlog.fleet.protocol import Ledger, Order, Phase, Report, Target, Verb
from everlog.fleet.selector import Selector
from everlog.fleet.survey import Survey, survey

__all__ = [
    "FleetCoordinator",
    "FleetMember",
    "FleetPlan",
    "Ledger",
    "LedgerStore",
    "Order",
    "Phase",
    "Refusal",
    "Report",
    "Selector",
    "Survey",
    "Target",
    "Verb",
    "changes",
    "draft",
    "refusals",
    "survey",
]
