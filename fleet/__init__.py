"""Fleets: many databases upgraded in unison. Knows no transport."""

from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.member import FleetMember
from everlog.fleet.protocol import Ledger, Order, Phase, Report, Target, Verb
from everlog.fleet.survey import Survey, survey

__all__ = [
    "FleetCoordinator",
    "FleetMember",
    "Ledger",
    "LedgerStore",
    "Order",
    "Phase",
    "Report",
    "Survey",
    "Target",
    "Verb",
    "survey",
]
