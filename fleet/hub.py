"""Hub: the coordinator with its connected members. Knows links, not the transport behind them.

    link ─ receive ─▶ registry: is it a member? ─▶ coordinator ─▶ ledger ─▶ orders ─▶ links of their members
                  ─▶ answers ─▶ Asked (tasks.py), which operators wait for
    thread, each TICK_S ─▶ expire, retry ─▶ orders;  members that changed ─▶ the table `members`

A process has one link for all its databases. Reports are in memory; the ledger has votes and ends.

Invariants
  (1) an order is sent to a member only over the link that it reported on last, and not to one whose report
      contradicts what is known of it;
  (2) an order is repeated until its member has carried it out: at once over a new link, otherwise after 1 s,
      2 s … 30 s, for each member by itself;
  (3) the lock of the live state is never held during a write to disk.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from everlog.feed import cursor
from everlog.fleet.approvals import PlanApprovals
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import LedgerDatabase, LedgerStore
from everlog.fleet.planner import Planner
from everlog.fleet.protocol import Order, Phase, Run, Target
from everlog.fleet.registry import Registry, contradiction, refusal
from everlog.fleet.rollouts import RolloutStore
from everlog.fleet.runner import Hook, Runner
from everlog.fleet.status import FleetStatus, MemberReport, MemberStatus, stragglers_first
from everlog.fleet.tasks import Answer, Asked, MemberTask
from everlog.migrations.proposal import Rules
from everlog.proto import log_pb2
from everlog.store.errors import Error, MigrationError
from everlog.store.program_log import about

TICK_S = 0.25
RETRY_S, RETRY_MAX_S = 1.0, 30.0  # between an order and its repetition
SEEN_S = 60.0  # between two writes of a member of which only the position has changed
AGAIN_S = 5.0  # between a task and its repetition
TWIN_S = 90.0  # how long an alarm lasts that a database is connected from two places

logger = logging.getLogger("everlog")


class Link(Protocol):
    """The stream of a process. Its methods return at once, and are for any thread."""

    process: bytes
    peer: str
    left: bool  # set by the hub: what it still reports is of no link

    def send(
        self,
        *,
        orders: Sequence[Order] = (),
        tasks: Sequence[MemberTask] = (),
        known: Sequence[log_pb2.Cursor] = (),
        refused: Sequence[tuple[bytes, str]] = (),
    ) -> None: ...

    def end(self, why: str) -> None: ...


class Live:
    """A member, in memory."""

    __slots__ = (
        *("due", "handled", "link", "sent", "status", "twin", "unsure", "wait_s", "written", "written_s"),
    )

    def __init__(self, status: MemberStatus) -> None:
        self.status = status
        self.link: Link | None = None
        self.handled: object = None  # the report that the coordinator has recorded
        self.unsure = False  # its log was not compared yet with what is known of it
        self.sent: Order | None = None
        self.wait_s = self.due = 0.0
        self.twin: tuple[str, float] = ("", 0.0)  # an alarm, and when it ends
        self.written: MemberStatus | None = None  # as the table has it
        self.written_s = 0.0


class Hub:
    """Coordinates the fleet of a ledger between `start` and `close`. Safe to use from many threads.

    `db` has the schema of `ledger.SOURCE`. `mark`: see LedgerStore. `checked`: a run starts only with a plan
    that was approved. `rules`: who may approve plans. `hook`: a check after each wave that has one.
    """

    def __init__(
        self,
        db: LedgerDatabase,
        mark: Path,
        *,
        name: str = "coordinator",
        checked: bool = False,
        rules: Rules | None = None,
        hook: Hook | None = None,
    ) -> None:
        store = LedgerStore(db, mark)
        self._coordinator = FleetCoordinator(store, name=name, checked=checked)
        self.approvals = PlanApprovals(store, rules)
        self._runner = Runner(self, RolloutStore(store, checked=checked), actor=name, hook=hook)
        self.planner = Planner(self, self.approvals, self._runner, checked=checked)
        self._registry = Registry(db, actor=name)
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # of the table of the members
        self._live: dict[bytes, Live] = {}
        self._names: dict[str, bytes] = {}
        self._links: dict[bytes, Link] = {}  # by process
        self._asked: dict[bytes, Asked] = {}  # by task
        self._problem = ""
        self._halted = False
        self._again_s, self._wait_s = 0.0, RETRY_S  # of a takeover after a failed commit
        self._write_s = 0.0  # when the members may be written again
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlog-fleet", daemon=True)
        self._numbers = itertools.count(1)
        self.changes = 0  # another number after each change of the status

    def start(self, *, accept: bool = False) -> None:
        """Take over, and repeat orders from now on. `accept`: see FleetCoordinator.take_over. Writes. Raises
        MigrationError for a ledger that was restored, forked or replaced."""
        self._coordinator.take_over(accept=accept)
        self._runner.load()
        for one in self._registry.load():
            live = self._live[one.report.database] = Live(one)
            live.written = one
            self._names[one.report.name] = one.report.database
        self._thread.start()

    def close(self) -> None:
        """Stop. Members that are connected are not notified: their links end by themselves."""
        self._closed.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
            self._write()
        self._runner.close()

    # members

    def _changed(self) -> None:
        """Note that the status has changed. For any thread."""
        self.changes = next(self._numbers)

    def receive(
        self,
        link: Link,
        reports: Iterable[MemberReport],
        left: Iterable[bytes] = (),
        answers: Iterable[Answer] = (),
    ) -> None:
        """Take in what a process reports of its databases, which of them it has closed, and what they answer.
        Writes votes and ends."""
        with self._lock:
            if link.left:
                return
            before = self._links.get(link.process)
            if before is not link:
                self._links[link.process] = link
                if before is not None:
                    before.left = True
                    self._drop(before)
                    before.end("another stream of the same process has taken its place")
            found = [live for one in reports if (live := self._seen(link, one)) is not None]
            for database in left:
                gone = self._live.get(database)
                if gone is not None and gone.link is link:
                    self._away(gone)
            for answer in answers:
                said = self._live.get(answer.database)
                asked = self._asked.get(answer.id)
                if asked is not None and said is not None and said.link is link:
                    asked.answered(answer)
            self._changed()
        for live in found:
            self._record(live)

    def leave(self, link: Link) -> None:
        """End a link: its members are not connected any more."""
        with self._lock:
            link.left = True
            if self._links.get(link.process) is link:
                del self._links[link.process]
            self._drop(link)
            self._changed()

    def _drop(self, link: Link) -> None:
        for live in self._live.values():
            if live.link is link:
                self._away(live)

    def _away(self, live: Live) -> None:
        live.link, live.sent = None, None
        live.status = msgspec.structs.replace(live.status, connected=False, peer="")

    def _seen(self, link: Link, report: MemberReport) -> Live | None:
        """Note a report; None: its database receives no orders."""
        live = self._live.get(report.database)
        holder = self._live.get(self._names.get(report.name, b""))
        others = len(self._live) if live is None else 0
        why = refusal(report, holder.status.report if holder is not None else None, others)
        if not why and live is not None and live.link is not None and live.link is not link:
            now = time.monotonic()
            why = (
                f"database {cursor.name(report.database)} is connected from {live.link.peer} as"
                f" {live.status.report.name}, and from {link.peer} as {report.name}: one of them is a copy;"
                " stop it, or restore it with a UUID of its own"
            )
            live.twin = why, now + TWIN_S
            live.status = self._alarmed(live, live.status)
        if why:
            logger.warning("%s", why, extra=about("fleet.refused", peer=link.peer))
            link.send(refused=[(report.database, why)])
            return None
        if live is None:
            live = self._live[report.database] = Live(MemberStatus(report))
        known = live.status.report
        if report.error and not report.seq:  # it cannot be read
            report = msgspec.structs.replace(
                known, name=report.name, labels=report.labels, error=report.error
            )
        if live.link is None:  # it connects
            live.handled, live.sent = None, None
            live.unsure = known.seq < report.seq
            if live.unsure:
                at = log_pb2.Cursor(database=known.database, seq=known.seq, checksum=known.checksum)
                link.send(known=[at])
        live.link = link
        live.unsure = live.unsure and report.compared < known.seq
        if known.name != report.name:
            self._names.pop(known.name, None)
        self._names[report.name] = report.database
        bad = contradiction(known, report)
        if bad or live.unsure:  # the known position stays, to compare the next report with
            report = msgspec.structs.replace(
                report, seq=known.seq, checksum=known.checksum, diverged=report.diverged or bad
            )
        status = MemberStatus(report, connected=True, last_seen_ns=time.time_ns(), peer=link.peer, alarm=bad)
        live.status = self._alarmed(live, status)
        return None if bad or live.unsure else live

    @staticmethod
    def _alarmed(live: Live, status: MemberStatus) -> MemberStatus:
        why, until = live.twin
        if why and time.monotonic() >= until:
            live.twin = why, until = "", 0.0
        return msgspec.structs.replace(status, alarm=status.alarm or why)

    def _record(self, live: Live) -> None:
        """Give a report to the coordinator, unless it has recorded the same; send the orders that follow."""
        report = live.status.report.report
        said = (self._coordinator.epoch, report)
        if live.handled == said or not said[0]:
            return
        try:
            orders = self._coordinator.receive(report)
        except MigrationError as error:
            if "decision_id" in error.facts:  # a contradiction
                self._alarm(live, str(error))
                return
            self._failed(error)
            return
        except Error as error:
            self._failed(error)
            return
        live.handled = said
        self._changed()  # of its run
        if not self._coordinator.epoch:
            self._halted = True
            self._failed(
                MigrationError(
                    f"member {live.status.report.name} has obeyed a coordinator with epoch {report.fence},"
                    f" this one has {said[0]}: another one took over, or the ledger was restored. Nothing is"
                    " coordinated here; stop this one, or restart it to take over"
                )
            )
        self._send(orders)

    def _alarm(self, live: Live, why: str) -> None:
        with self._lock:
            if live.status.alarm != why:
                logger.warning("%s", why, extra=about("fleet.alarm"))
            live.status = msgspec.structs.replace(live.status, alarm=why)
            self._changed()

    def _failed(self, error: Error) -> None:
        """Note why this coordinator has stopped to coordinate, or may have."""
        self._problem = str(error)
        self._changed()
        logger.error("the fleet is not coordinated: %s", error, extra=about("fleet.failed"))

    def _send(self, orders: Iterable[Order], *, again: bool = False) -> None:
        """Send orders to members that are connected. `again`: only those that are new, or due."""
        now = time.monotonic()
        with self._lock:
            sending: dict[int, tuple[Link, list[Order]]] = {}
            for order in orders:
                live = self._live.get(order.target.database)
                if live is None or live.link is None or live.unsure or live.status.report.diverged:
                    continue
                same = order == live.sent
                if again and same and now < live.due:
                    continue
                live.wait_s = min(RETRY_MAX_S, 2 * live.wait_s) if same else RETRY_S
                live.sent, live.due = order, now + live.wait_s
                sending.setdefault(id(live.link), (live.link, []))[1].append(order)
        for link, some in sending.values():
            link.send(orders=some)

    # tasks

    def ask(self, asked: Asked) -> Asked:
        """Give members a task, repeatedly until they have answered, or `dismiss`."""
        with self._lock:
            self._asked[asked.id] = asked
        self._give(asked)
        return asked

    def dismiss(self, asked: Asked) -> None:
        """Give a task no more."""
        with self._lock:
            self._asked.pop(asked.id, None)

    def _give(self, asked: Asked) -> None:
        """Send a task to the members that have not answered: at once over a new link, then repeatedly."""
        now, fence = time.monotonic(), self._coordinator.epoch
        if not fence:
            return
        with self._lock:
            sending: dict[int, tuple[Link, list[MemberTask]]] = {}
            for target in asked.waiting:
                live = self._live.get(target.database)
                if live is None or live.link is None or live.unsure or live.status.alarm:
                    continue
                link, due = asked.sent.get(target.database, (None, 0.0))
                if link is live.link and now < due:
                    continue
                asked.sent[target.database] = live.link, now + AGAIN_S
                task = asked.task(target, fence)
                sending.setdefault(id(live.link), (live.link, []))[1].append(task)
        for to, tasks in sending.values():
            to.send(tasks=tasks)

    def members(self) -> list[MemberStatus]:
        """Return all members. Read-only."""
        with self._lock:
            return [self._alarmed(live, live.status) for live in self._live.values()]

    def run(self, decision_id: bytes) -> Run | None:
        """Return a run, also one that has ended; None: there is none. Read-only."""
        return self._coordinator.run(decision_id)

    def is_connected(self, database: bytes) -> bool:
        """Whether a member is connected, without an alarm."""
        live = self._live.get(database)
        return live is not None and live.link is not None and not live.status.alarm

    # operators

    def begin(
        self,
        decision_id: bytes,
        plan: Iterable[Target],
        *,
        deadline_s: float,
        digest: bytes = b"",
        actor: str = "",
        reason: str = "",
    ) -> Run:
        """Start a run whose votes are expected within `deadline_s`. `digest`: see FleetCoordinator.start.
        Writes. Raises MigrationError if it is refused: nothing was done."""
        deadline_ns = time.time_ns() + int(deadline_s * 1e9)
        orders = self._coordinator.start(
            decision_id, plan, deadline_ns=deadline_ns, digest=digest, actor=actor, reason=reason
        )
        return self._ordered(decision_id, orders)

    def abort(self, decision_id: bytes, *, actor: str = "", reason: str = "") -> Run:
        """Abort a run. Writes. Raises MigrationError if it is unknown or decided."""
        return self._ordered(decision_id, self._coordinator.abort(decision_id, actor=actor, reason=reason))

    def remove(self, decision_id: bytes, database: bytes, *, actor: str = "", reason: str = "") -> Run:
        """Remove a member from a run, which aborts it there alone. Writes. Raises MigrationError if the run
        is decided, or has no such member."""
        orders = self._coordinator.remove(decision_id, database, actor=actor, reason=reason)
        return self._ordered(decision_id, orders)

    def contract(self, decision_id: bytes, *, actor: str = "", reason: str = "") -> Run:
        """End the time of two versions at all members of a run. Writes. Raises MigrationError before each has
        committed."""
        return self._ordered(decision_id, self._coordinator.contract(decision_id, actor=actor, reason=reason))

    def forget(self, database: bytes, *, actor: str = "", reason: str = "") -> None:
        """Forget a member: its name is free, and the next report of its database is accepted as that of a new
        member. Writes. Raises MigrationError for a member that a run waits for, and for an unknown one."""
        with self._lock:
            live = self._live.get(database)
            if live is None:
                raise MigrationError(
                    f"the fleet has no member with database {cursor.name(database)}; `everlog fleet status`"
                    " lists them"
                )
            name = live.status.report.name
            if live.link is not None and not live.status.report.diverged:
                raise MigrationError(f"member {name} is connected: end its process first")
            for run in self._coordinator.runs:
                seat = run.seat(database)
                if seat is not None and seat.end is None:
                    raise MigrationError(
                        f"member {name} has not ended run {cursor.name(run.decision_id)}, which waits for it;"
                        " nothing was done"
                    )
        with self._writing:
            self._registry.forget(database, actor=actor, reason=reason or f"forget member {name}")
            with self._lock:
                self._live.pop(database, None)
                self._names.pop(name, None)
                self._changed()
        if live.link is not None:
            live.link.end(f"member {name} was forgotten; connect again")

    def _ordered(self, decision_id: bytes, orders: Iterable[Order]) -> Run:
        self._changed()
        self._send(orders)
        run = self._coordinator.run(decision_id)
        assert run is not None
        return run

    def status(self) -> FleetStatus:
        """Return the state of the fleet, stragglers first. Read-only."""
        runs, ended = self._coordinator.runs, self._coordinator.ended()
        members = self.members()
        epoch = self._coordinator.epoch
        return FleetStatus(
            epoch,
            "" if epoch else self._problem,
            stragglers_first(members, runs),
            list(runs),
            ended,
            self._coordinator.checked,
        )

    # by itself

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._tick()
            except Error as error:
                self._failed(error)
            self._wake.wait(TICK_S)
            self._wake.clear()

    def _tick(self) -> None:
        if not self._coordinator.epoch and not self._took_over():
            return
        expired = self._coordinator.expire(now_ns=time.time_ns())
        if expired:
            self._changed()
        self._send(expired)
        self._send(self._coordinator.retry(), again=True)
        try:
            self._runner.tick()
        except Error as error:  # what is due stays due
            logger.warning("a rollout did not continue: %s", error, extra=about("fleet.rollout"))
        for asked in list(self._asked.values()):
            self._give(asked)
        self._write()

    def _took_over(self) -> bool:
        """Take over again after a failed commit, at growing intervals; not if another one took over."""
        now = time.monotonic()
        if self._halted or now < self._again_s:
            return False
        self._wait_s = min(RETRY_MAX_S, 2 * self._wait_s)
        self._again_s = now + self._wait_s
        self._coordinator.take_over()
        self._runner.load()
        self._wait_s = RETRY_S
        self._changed()
        return True

    def _write(self) -> None:
        """Write the members that have changed."""
        with self._writing:
            self._write_changed()

    def _write_changed(self) -> None:
        now, changed = time.monotonic(), []
        if now < self._write_s:
            return
        with self._lock:
            for live in self._live.values():
                written = live.written
                if written is not None and _position(live.status) == _position(written):
                    continue
                same = written is not None and _lasting(live.status) == _lasting(written)
                if not same or now - live.written_s >= SEEN_S:
                    changed.append((live, live.status))
        try:
            self._registry.save(status for _, status in changed)
        except Error as error:  # the live state is in memory, and orders do not depend on it
            logger.warning(
                "the members of the fleet were not written: %s", error, extra=about("fleet.members")
            )
            self._write_s = now + RETRY_MAX_S
            return
        with self._lock:
            for live, status in changed:
                live.written, live.written_s = status, now


def _position(status: MemberStatus) -> tuple[object, ...]:
    return _lasting(status), status.last_seen_ns


def _lasting(status: MemberStatus) -> tuple[object, ...]:
    """Return what the table says at once of a member."""
    one = status.report
    held = (one.phase, one.decision_id) if one.phase is not Phase.IDLE else ()
    code = (one.version, one.newest, one.pending, one.folder_digest, one.release)
    return one.name, one.labels, code, held, status.connected, status.alarm
