"""Permits: whether an identity may change migrations, and if not, why, and who may.

The server decides; the same checks here keep a button from a page whose click would be refused.

    right      a rule of a role of the identity allows the call (docs/access.md)
    approver   with `serve --migrate checked`, the name is one of --approver, and not that of the proposal
"""

from __future__ import annotations

from typing import NamedTuple

from everlog.console.web.page import View
from everlog.migrations.proposal import Proposal, ProposalState, Rules
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, UnavailableError
from everlog.store.upkeep.roles import READY

# What is done, with the right that it needs.
VERBS = {
    "approve": ("approve", "approve it"),
    "reject": ("approve", "reject it"),
    "cancel": ("migrate", "cancel it"),
    "complete": ("migrate", "complete it"),
    "rollback": ("rollback", "roll it back"),
    "propose": ("propose", "propose it again"),
    "apply": ("migrate", "apply it"),
    "abort": ("migrate", "abort the run"),
    "contract": ("migrate", "end the time of two versions"),
    "remove": ("migrate", "remove it from the run"),
    "forget": ("migrate", "forget it"),
    "plan": ("propose", "plan an upgrade"),
    "start": ("migrate", "start it"),
}
_DECIDES = {"approve", "reject", "cancel", "complete", "rollback"}
_OWN = {"approve", "rollback"}  # not about one's own proposal


class Permit(NamedTuple):
    """Whether something may be done: `why` is empty, or says why not and who may."""

    why: str

    def __bool__(self) -> bool:
        return not self.why


class Permits:
    """What the identity of a page may do in one database. Asks the server twice."""

    def __init__(self, view: View, db: RemoteDatabase) -> None:
        caller = db.access.whoami()
        self.name, self.roles, self.rights = caller.name, caller.roles, frozenset(caller.rights)
        try:
            self.rules: Rules | None = db.migrations.rules()
        except (AccessError, UnavailableError):  # not visible to the identity, or an older server
            self.rules = None
        self.named = bool(self.name)

    @property
    def sees_folders(self) -> bool:
        """Whether the identity may see folders and events, as the RPC `Show` declares."""
        return not self.rights.isdisjoint(("migrate", "propose", "approve", "audit"))

    def of(self, verb: str, proposal: Proposal | None = None) -> Permit:
        """Return whether the identity may do this. `proposal`: the one that it is about, or that was
        finished."""
        right, words = VERBS[verb]
        who = self.name or "You"
        if right not in self.rights:
            of = f"its roles ({', '.join(self.roles)}) lack" if self.roles else "it has no role with"
            ready = [role.name for role in READY.values() if any(right in one.rights for one in role.rules)]
            return Permit(
                f"{who} may not {words}: {of} the right {right}."
                f" {_listed(ready, 'role')} it.{self._approvers()}"
            )
        if self.rules is None or verb not in _DECIDES:
            return Permit("")
        if self.named and self.rules.approvers and self.name not in self.rules.approvers:
            return Permit(f"{who} may not {words}.{self._approvers()}")
        own = proposal is not None and proposal.proposed.actor == self.name and bool(self.name)
        finished = proposal is None or verb != "rollback" or proposal.state is ProposalState.FINISHED
        if verb in _OWN and own and finished and not self.rules.own:
            return Permit(
                f"{who} proposed this migration, so somebody else has to {words}.{self._approvers()}"
            )
        return Permit("")

    def _approvers(self) -> str:
        names = sorted(self.rules.approvers) if self.rules is not None else []
        if not names:
            return ""
        return f" The approvers of this server are: {', '.join(names)}."


def _listed(names: list[str], noun: str) -> str:
    if len(names) == 1:
        return f"The {noun} {names[0]} has"
    return f"The {noun}s {', '.join(names[:-1])} and {names[-1]} have"
