"""Registry: the members that a coordinator knows, in the table `members` of its ledger.

    report ─▶ refusal ─▶ why the coordinator does not accept the database as a member
           ─▶ contradiction ─▶ why it is not the database that was known: it was restored or forked

The table says where each member was: it is written when something else than the position of a member has
changed, and once a minute. The live state is in memory (hub.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from everlog.feed import cursor
from everlog.fleet.ledger import LedgerDatabase
from everlog.fleet.migrations.v20261130220000_create_members import MEMBERS, Label, Member
from everlog.fleet.protocol import Phase
from everlog.fleet.selector import check_labels, check_name
from everlog.fleet.status import MemberReport, MemberStatus
from everlog.store.errors import RowError
from everlog.store.tx.transaction import Transaction

MEMBERS_MAX = 20_000


class Registry:
    """The table `members` of a ledger."""

    def __init__(self, db: LedgerDatabase, *, actor: str) -> None:
        self._db = db
        self._actor = actor

    def load(self) -> list[MemberStatus]:
        """Return all members as they were seen last, not connected. Read-only."""
        return self._db.run(lambda tx: [_status(row) for row in tx.scan(MEMBERS)])

    def save(self, changed: Iterable[MemberStatus]) -> None:
        """Write these members in one commit. Writes, if there are any."""
        rows = list(changed)
        if not rows:
            return

        def write(tx: Transaction) -> None:
            for one in rows:
                known = tx.get(MEMBERS, one.report.database)
                tx.put(MEMBERS, _row(one, known.first_seen_ns if known else one.last_seen_ns))

        named = ", ".join(sorted(one.report.name for one in rows)[:3])
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        self._db.run(write, actor=self._actor, reason=f"seen: {named}{more}", durability="os")

    def forget(self, database: bytes, *, actor: str, reason: str) -> None:
        """Delete a member. Writes."""
        self._db.run(lambda tx: tx.delete(MEMBERS, database), actor=actor, reason=reason, durability="sync")


def refusal(report: MemberReport, holder: MemberReport | None, count: int) -> str:
    """Return why a database is not accepted as a member; empty: it is. `holder`: the member that has its
    name. `count`: of the other members, if it is new."""
    try:
        check_name(report.name)
        check_labels(report.labels)
    except RowError as error:
        return str(error)
    if holder is not None and holder.database != report.database:
        return (
            f"expected database {cursor.name(holder.database)} as member {report.name}, found database"
            f" {cursor.name(report.database)}: give this one another name (EVERLOG_FLEET_NAME,"
            f" `fleet_name=`), or forget the other (`everlog fleet remove {report.name} --forget`)"
        )
    if count >= MEMBERS_MAX:
        return (
            f"the fleet has {MEMBERS_MAX:,} members, which is the limit; forget those that are gone"
            " (`everlog fleet remove NAME --forget`)"
        )
    return ""


def contradiction(known: MemberReport, report: MemberReport) -> str:
    """Return why a report is not of the database that was known under this UUID; empty: it may be."""
    if report.diverged:
        why = report.diverged
    elif report.seq < known.seq:
        why = f"its newest record is {report.seq}, it was {known.seq} before"
    elif report.seq == known.seq and report.checksum != known.checksum:
        why = f"its record {known.seq} has checksum {report.checksum:08x}, it had {known.checksum:08x} before"
    else:
        return ""
    return (
        f"{why}: the database was restored or forked, and receives no orders. Connect the known one again, or"
        f" accept this one (`everlog fleet remove {known.name} --forget`)"
    )


def _status(row: Member) -> MemberStatus:
    report = MemberReport(
        row.name,
        row.database,
        {one.name: one.value for one in row.labels},
        row.seq,
        row.checksum,
        row.version,
        row.newest,
        row.pending,
        row.folder_digest,
        Phase(row.phase),
        row.decision_id,
        release=row.release,
    )
    return MemberStatus(report, last_seen_ns=row.last_seen_ns, alarm=row.alarm)


def _row(status: MemberStatus, first_seen_ns: int) -> Member:
    one = status.report
    return Member(
        database=one.database,
        name=one.name,
        labels=[Label(name=name, value=value) for name, value in sorted(one.labels.items())],
        version=one.version,
        newest=one.newest,
        pending=one.pending,
        folder_digest=one.folder_digest,
        seq=one.seq,
        checksum=one.checksum,
        decision_id=one.decision_id,
        phase=one.phase.value,
        connected=status.connected,
        alarm=status.alarm,
        release=one.release,
        first_seen_ns=first_seen_ns,
        last_seen_ns=status.last_seen_ns,
    )
