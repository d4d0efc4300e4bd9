"""Rules: who may decide of a proposal, and what a decision must say."""

from __future__ import annotations

from dataclasses import dataclass

from everlog.migrations.proposal import Proposal
from everlog.store.errors import MigrationError

_NOT_ONES_OWN = {"approve": "approve it", "roll back": "roll it back"}


@dataclass(frozen=True)
class Rules:
    """Who may decide. `approvers`: names; none: everybody may. `own`: one's own proposal, too."""

    approvers: frozenset[str] = frozenset()
    own: bool = False

    def check(self, who: str, proposal: Proposal, verb: str) -> None:
        """Raises MigrationError if `who` may not decide."""
        digest = proposal.short
        self.check_name(who, verb, digest)
        if verb in _NOT_ONES_OWN and not self.own and who == proposal.proposed.actor:
            raise MigrationError(
                f"{who} proposed {digest} and may not {_NOT_ONES_OWN[verb]}; somebody else must, or the"
                " server is started with --approve-own",
                actor=who,
            )

    def check_name(self, who: str, verb: str, what: str) -> None:
        """Raises MigrationError if `who` is nobody, or none of those who decide."""
        if not who:
            raise MigrationError(f"expected who would {verb} {what}, found nobody; say it with --actor")
        if self.approvers and who not in self.approvers:
            raise MigrationError(
                f"{who} may not {verb} {what}; those who may are: {', '.join(sorted(self.approvers))}",
                actor=who,
            )


def check_reason(reason: str) -> None:
    """Raises MigrationError if there is none."""
    if not reason.strip():
        raise MigrationError("expected a reason, found none; say with --reason why")
