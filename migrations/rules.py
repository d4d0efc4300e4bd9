"""Rules: who may decide of a proposal, and what a decision must say."""

from __future__ import annotations

from dataclasses import dataclass

from everlog.migrations.proposal import Proposal
from everlog.store.errors import MigrationError


@dataclass(frozen=True)
class Rules:
    """Who may decide. `approvers`: names; none: everybody may. `own`: one's own proposal, too."""

    approvers: frozenset[str] = frozenset()
    own: bool = False

    def check(self, who: str, proposal: Proposal, verb: str) -> None:
        """Raises MigrationError if `who` may not decide."""
        digest = proposal.short
        if not who:
            raise MigrationError(f"expected who would {verb} {digest}, found nobody; say it with --actor")
        if self.approvers and who not in self.approvers:
            raise MigrationError(
                f"{who} may not {verb} {digest}; those who may are: {', '.join(sorted(self.approvers))}",
                actor=who,
            )
        if verb == "approve" and not self.own and who == proposal.proposed.actor:
            raise MigrationError(
                f"{who} proposed {digest} and may not approve it; somebody else must, or the server is"
                " started with --approve-own",
                actor=who,
            )


def check_reason(reason: str) -> None:
    """Raises MigrationError if there is none."""
    if not reason.strip():
        raise MigrationError("expected a reason, found none; say with --reason why")
