"""Deciding: the same calls whether the database is here or on a server.

here         with the folders of --migrations-dir; EVERLOG_APPROVERS says who may
a server     as it was started
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlog.console.cli.options import Settings
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.environment import variable

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.migrations.approval.approval import Approval
    from everlog.migrations.proposal import Proposal
    from everlog.migrations.status import MigrationInfo
    from everlog.store.progress import OnProgress

APPROVERS_VARIABLE = "EVERLOG_APPROVERS"


def proposals(db: AnyDatabase) -> list[Proposal]:
    """Return the proposals, oldest first. Read-only."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.proposals(db)
    from everlog.migrations.proposal import proposals

    return proposals(db)


def propose(db: AnyDatabase, settings: Settings, *, actor: str, reason: str) -> Proposal | None:
    """Propose the pending migrations. Return the proposal, None if nothing is pending."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.propose(db, actor=actor, reason=reason)
    return _approval(db, settings).propose(actor=actor, reason=reason, again=True)


def approve(
    db: AnyDatabase,
    settings: Settings,
    digest: str,
    *,
    actor: str,
    reason: str,
    despite_errors: bool,
    progress: OnProgress | None,
) -> Proposal:
    """Approve a proposal, and apply it."""
    by: dict[str, Any] = {"actor": actor, "reason": reason, "despite_errors": despite_errors}
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.approve(db, digest, **by, progress=progress)
    return _approval(db, settings).approve_and_run(digest, **by, progress=progress)


def reject(db: AnyDatabase, settings: Settings, digest: str, *, actor: str, reason: str) -> Proposal:
    """Reject a proposal."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.reject(db, digest, actor=actor, reason=reason)
    return _approval(db, settings).reject(digest, actor=actor, reason=reason)


def cancel(db: AnyDatabase, settings: Settings, *, actor: str, reason: str) -> MigrationInfo:
    """Stop the running migration and give it up. Where migrations need approval, only approvers may."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.cancel(db, actor=actor, reason=reason)
    from everlog import migrations
    from everlog.migrations.proposal import ProposalState

    approval = _approval(db, settings)
    found = approval.proposals()
    if approval.rules.approvers or (found and found[-1].state is ProposalState.APPROVED):
        return approval.cancel(actor=actor, reason=reason)
    return migrations.cancel(db, actor=actor, reason=reason)


def check_approver(actor: str, verb: str, name: str) -> None:
    """Raise MigrationError unless EVERLOG_APPROVERS names `actor`, or nobody."""
    from everlog.migrations.proposal import Rules

    if approvers := _approvers():
        Rules(approvers).check_name(actor, verb, name)


def _approvers() -> frozenset[str]:
    return frozenset(variable(APPROVERS_VARIABLE).split())


def _approval(db: EmbeddedDatabase, settings: Settings) -> Approval:
    from everlog.migrations.approval.approval import Approval
    from everlog.migrations.proposal import Rules

    return Approval(db, settings.migrations, db.path.stem, Rules(_approvers()))
