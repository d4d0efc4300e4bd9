"""Besides: what else changes a schema, where migrations wait for approval, and who may do it.

    up, load             nobody: what they would do has not been shown
    rollback             who may approve what is taken back, once nothing waits or runs
    complete, baseline   who may approve: they bring no schema, and change no row
    accept               who may approve: the folder is other code than that which was approved
    cancel               who may approve (`Approval.cancel`)

Each wants a name and a reason, as a decision does. docs/checked.md, "Who may".
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
    """Check that `actor` may do this, and keep other decisions and migrations out for the block. Raises
    MigrationError. Writes nothing itself."""
    _check(approval, verb, actor, reason)  # before the wait for a running migration
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
