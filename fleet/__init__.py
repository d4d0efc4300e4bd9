"""Fleets: many databases upgraded in unison. Knows no transport."""

from everlog.fleet.protocol import Ledger, Order, Phase, Report, Target, Verb

__all__ = ["Ledger", "Order", "Phase", "Report", "Target", "Verb"]
