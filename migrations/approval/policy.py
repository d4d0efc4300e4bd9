"""Policy: who may change the schema in other ways, where migrations wait for approval.

    up, load             nobody: their effect has not been reviewed
    rollback             who may approve the migration, if no proposal waits or runs
    complete, baseline   who may approve: they bring no schema, and change no row
    accept               who may approve: the folder has different code than the approved one
    cancel               who may approve (`Approval.cancel`)

Each needs a name and a reason, like a decision. See docs/checked.md, "Who may".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from everlog.migrations.approval.approval import Approval
from everlog.migrations.lock import lock
from everlog.migrations.proposal import ProposalState, check_reason

REFUSED = ("up", "load")
_SAYS = {
    "rollback": "roll back",
    "complete": "complete a migration of",
    "baseline": "baseline",
    "accept": "accept folders of",
}


@contextmanager
def allowed(approval: Approval, verb: str, *, actor: str, reason: str) -> Iterator[None]:
    """Check that `actor` may do this, and exclude other decisions and migrations during the block.

    Raises MigrationError. Writes nothing itself.
    """
    _check(approval, verb, actor, reason)  # fail before waiting for the lock
    with lock(approval.db.uuid, actor, reenter=True):
        _check(approval, verb, actor, reason)
        yield
    approval.changed()


def _check(approval: Approval, verb: str, actor: str, reason: str) -> None:
    if verb in REFUSED:
        approval.refuse(verb)
    found, rules, name = approval.proposals(), approval.rules, approval.name or approval.db.url
    newest = found[-1] if found else None
    if verb == "rollback" and newest is not None:
        if newest.state in (ProposalState.WAITING, ProposalState.APPROVED):
            approval.refuse(verb)
        if newest.state is ProposalState.FINISHED:
            rules.check(actor, newest, _SAYS[verb])
    rules.check_name(actor, _SAYS[verb], name)
    check_reason(reason)
