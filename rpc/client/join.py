"""Join: the databases of this process as members of a fleet, over one stream.

    thread  dials out ─ Join ─▶ reports ─▶ coordinator          reconnects after 0.2 s, 0.4 s … 30 s
                             ◀─ orders ──┬─▶ 2 threads: builds, and tasks that build
                                         ├─▶ 1 thread:  commit, abort, contract, report
                                         └─▶ 1 thread:  tasks that read, as surveys

Without a coordinator a database works as always. A member that is prepared waits for its decision.

Invariants
  (1) closing a database ends its build, and waits for what is carried out there; then it is no member;
  (2) a report is read from the database when it is sent;
  (3) an order that fails is answered with its error, and comes again; so does a task without an answer;
  (4) a forked child has none of it: neither threads nor members.
"""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

import grpc
import msgspec

from everlog.fleet.member import FleetMember
from everlog.fleet.protocol import Order, Report, Verb
from everlog.fleet.selector import check_labels, check_name, parse_labels
from everlog.fleet.status import MemberReport
from everlog.fleet.tasks import Answer, JoinedDatabase, Kind, MemberTask, carry_out
from everlog.proto import fleet_pb2 as pb
from everlog.proto import fleet_pb2_grpc, log_pb2
from everlog.rpc import errors
from everlog.rpc.address import parse
from everlog.rpc.client.channel import Channel
from everlog.rpc.fleet import message_of_answer, message_of_report, order_of, task_of
from everlog.store import VERSION
from everlog.store.errors import ClosedError, CursorError, Error, OpenError, RowError
from everlog.store.process import Lock, close_at_end, notify_in_child
from everlog.store.program_log import about
from everlog.store.progress import Progress, interruptible, yielding

BUILDS = 2  # at a time in one process
SHARE = 0.125  # of the time that a build works while others commit
BEAT_S = 10.0  # between two messages, at most
BUILDING_S = 1.0  # between two reports of a build
FIRST_S, WAIT_MAX_S = 0.2, 30.0  # between two attempts to connect
LEAVE_S = 30.0  # how long a database waits for what is carried out there
REPORTS_MAX = 50  # in one message
BUILDING = (Kind.APPLY, Kind.ROLL_BACK)  # tasks that build

Jobs: TypeAlias = "SimpleQueue[Callable[[], None] | None]"

logger = logging.getLogger("everlog")


class Seat:
    """One database of this process."""

    def __init__(self, db: JoinedDatabase, name: str, labels: Mapping[str, str], rate: float | None) -> None:
        self.db = db
        self.name = name
        self.labels = dict(labels)
        self.uuid = db.uuid
        self.rate = rate
        self.member = FleetMember(db, rate=rate, progress=self._note)
        self.left = False
        self.queued = self.building = False
        self.tasks: set[bytes] = set()  # that are queued or carried out
        self.answer: Answer | None = None  # the last one, which may have been lost
        self.running = 0  # orders that are carried out
        self.idle = threading.Condition()
        self.error = self.diverged = self.refused = ""
        self.head = -1  # as reported
        self.compared = 0
        self._at: Progress | None = None
        self._began = (0, 0.0)  # rows and time

    def _note(self, at: Progress) -> None:
        if self._at is None or self._at.step != at.step:
            self._began = at.done, time.monotonic()
        self._at = at

    def check(self) -> None:
        """Raise ClosedError once the database is being closed."""
        if self.left:
            raise ClosedError(f"{self.db.url} is closed; its fleet continues when it is opened again")

    def report(self, answer: Report | None = None) -> MemberReport:
        """Return what to report now. `answer`: to an order that is not in the log. Read-only."""
        said = answer or self.member.report()
        held = self.member.held  # of the report, or of the answer
        assert held is not None
        at, infos = self.db.cursor(), self.member.migrations
        self.head = at.seq
        made = MemberReport(
            self.name,
            self.uuid,
            self.labels,
            at.seq,
            at.checksum,
            held.version,
            max((one.version for one in infos), default=0),
            sum(one.version > held.version for one in infos),
            held.folder_digest,
            said.phase,
            said.decision_id,
            said.fence,
            said.refusal,
            error=self.error,
            diverged=self.diverged,
            release=VERSION,
            compared=self.compared,
        )
        progress = self._at
        if self.building and progress is not None:
            rows, since = self._began
            seconds = time.monotonic() - since
            made = msgspec.structs.replace(
                made,
                rows=progress.done,
                total=progress.total or 0,
                rate=(progress.done - rows) / seconds if seconds > 0 else 0.0,
            )
        if self.queued and not self.building:
            made = msgspec.structs.replace(made, waits_for="another build of its process")
        return made

    def carry_out(self, order: Order) -> Report | None:
        """Carry out an order; return the answer, None if it failed. Writes."""
        with self._busy() as going:
            if not going:
                return None
            share = SHARE if order.verb is Verb.PREPARE else 0.0
            try:
                with interruptible(self.check), yielding(share) if share else nullcontext():
                    answer = self.member.obey(order)
                self.error = ""
                return answer
            except Error as error:
                if not self.left:
                    self._failed(order.verb.value, str(error))
            except Exception as error:  # noqa: BLE001  of user code: its text may have values of rows
                self._failed(order.verb.value, _fault(error))
        return None

    def perform(self, task: MemberTask) -> Answer | None:
        """Carry out a task; return the answer, None: there is none, and the task comes again. May write."""
        if self.answer is not None and self.answer.id == task.id:
            return self.answer
        with self._busy() as going:
            if not going:
                return None
            try:
                with interruptible(self.check):
                    self.member.holding()
                    if task.kind in BUILDING and not self.member.is_current(task.fence):
                        return None
                    self.answer = carry_out(
                        self.db,
                        task,
                        name=self.name,
                        labels=self.labels,
                        rate=self.rate,
                        progress=self._note,
                    )
                    self.error = ""
            except Error as error:
                if not self.left:
                    self._failed(task.kind.value, str(error))
                return None
            except Exception as error:  # noqa: BLE001  as above
                self.answer = Answer(self.uuid, task.id, _fault(error))
        return self.answer

    @contextmanager
    def _busy(self) -> Iterator[bool]:
        """Yield whether something may be carried out in the block, whose end `leave` waits for."""
        with self.idle:
            going = not self.left
            self.running += going
        try:
            yield going
        finally:
            with self.idle:
                self.running -= going
                self.idle.notify_all()

    def _failed(self, what: str, why: str) -> None:
        self.error = why
        logger.warning(
            "%s: %s of the fleet failed, and is repeated: %s",
            *(self.name, what, why),
            extra=about("fleet.order"),
        )

    def compare(self, known: log_pb2.Cursor) -> None:
        """Note whether the log has the record that the coordinator knows. Read-only."""
        try:
            with self.db.feed(known, bounded=True) as feed:
                next(feed.batches(), None)
            self.diverged = ""
        except CursorError as error:
            self.diverged = str(error) if error.facts.get("why") in {"ahead", "diverged"} else ""
        self.compared = known.seq

    def leave(self) -> None:
        """End what is carried out, and wait for its end."""
        with self.idle:
            self.left = True
            self.idle.wait_for(lambda: not self.running, LEAVE_S)


class Membership:
    """The members of this process in one fleet. `url`: the database at a server that is the fleet's ledger.
    Raises OpenError for an invalid URL."""

    def __init__(self, url: str) -> None:
        self._channel = Channel(parse(url))
        self._process = os.urandom(16)
        self._seats: dict[bytes, Seat] = {}
        self._lock = threading.Lock()
        self._outbox: SimpleQueue[Callable[[], pb.JoinRequest] | None] = SimpleQueue()
        self._closed = threading.Event()
        self._forked = False
        self._problem = ""
        self._builds: Jobs = SimpleQueue()
        self._others: Jobs = SimpleQueue()
        self._reads: Jobs = SimpleQueue()
        self._queues = [*[self._builds] * BUILDS, self._others, self._reads]
        self._threads = [
            threading.Thread(target=self._run, name="everlog-member", daemon=True),
            *(
                threading.Thread(target=self._work, args=(one,), name="everlog-member-orders", daemon=True)
                for one in self._queues
            ),
        ]
        notify_in_child(self)
        close_at_end(self)
        for thread in self._threads:
            thread.start()

    def add(
        self, db: JoinedDatabase, name: str, labels: Mapping[str, str], *, rate: float | None = None
    ) -> Callable[[], None]:
        """Make a database a member; return the function that ends this, before it is closed."""
        seat = Seat(db, name, labels, rate)
        with self._lock:
            other = self._seats.setdefault(seat.uuid, seat)
        if other is not seat:
            raise OpenError(
                f"{db.url} is a copy of {other.db.url}, which is a member of the same fleet; restore it as a"
                " database of its own (`everlog restore`), or open it without `fleet`",
                database=seat.uuid.hex(),
            )
        close_at_end(self)  # before the databases, which are older then
        self._say(seat)
        return lambda: self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        if self._forked:
            return
        seat.leave()
        with self._lock:
            if self._seats.get(seat.uuid) is seat:
                del self._seats[seat.uuid]
            last = not self._seats
        self._outbox.put(lambda: pb.JoinRequest(left=[seat.uuid]))
        if last:
            _end(self)

    def forked(self) -> None:
        """Forget everything, in a forked child."""
        self._forked = True
        self._closed = threading.Event()
        self._closed.set()
        self._seats = {}

    def close(self) -> None:
        """End the stream and the threads. Idempotent."""
        if self._forked or self._closed.is_set():
            return
        self._closed.set()
        for seat in list(self._seats.values()):
            seat.left = True
        for queue in self._queues:
            queue.put(None)
        self._outbox.put(None)
        self._channel.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(LEAVE_S)

    # the stream

    def _run(self) -> None:
        wait_s = FIRST_S
        while not self._closed.is_set():
            try:
                if self._converse():
                    wait_s = FIRST_S
            except Error as error:
                if not self._closed.is_set() and str(error) != self._problem:
                    self._problem = str(error)
                    logger.warning(
                        "no connection to the coordinator of the fleet: %s", error, extra=about("fleet.away")
                    )
            spread = random.uniform(0.5, 1.0)  # noqa: S311  so that processes do not all reconnect at once
            self._closed.wait(wait_s * spread)
            wait_s = min(WAIT_MAX_S, 2 * wait_s)

    def _converse(self) -> bool:
        """Report and take orders until the stream ends. Return whether the coordinator has responded."""
        outbox = self._outbox = SimpleQueue()
        stub = fleet_pb2_grpc.FleetStub(self._channel.grpc)
        call = self._channel.started(
            lambda: stub.Join(self._requests(outbox), metadata=self._channel.metadata)
        )
        responded = False
        try:
            for response in call:
                responded = True
                self._take(response)
        except grpc.RpcError as error:
            raise errors.translate(error, self._channel.url) from None
        finally:
            outbox.put(None)
            call.cancel()
        return responded

    def _requests(self, outbox: SimpleQueue[Callable[[], pb.JoinRequest] | None]) -> Iterator[pb.JoinRequest]:
        """Yield the messages of one stream. Runs in a thread of gRPC."""
        database = self._channel.address.database
        yield pb.JoinRequest(database=database, process=self._process)
        seats = list(self._seats.values())
        for seat in seats:
            seat.diverged, seat.compared = "", 0
        beat = 0.0
        while not self._closed.is_set():
            for start in range(0, len(seats), REPORTS_MAX):
                reports = [made for one in seats[start : start + REPORTS_MAX] if (made := _report(one))]
                if reports:
                    yield pb.JoinRequest(reports=reports)
                    beat = time.monotonic() + BEAT_S
            building = [one for one in self._seats.values() if one.building]
            due_s = beat - time.monotonic()
            try:
                said = outbox.get(timeout=max(0.01, min(due_s, BUILDING_S) if building else due_s))
            except Empty:
                seats = building
                if time.monotonic() >= beat:
                    seats = [one for one in self._seats.values() if one in building or _moved(one)]
                    yield pb.JoinRequest()
                    beat = time.monotonic() + BEAT_S
                continue
            if said is None:
                return
            seats = []
            yield said()

    def _say(self, seat: Seat, answer: Report | None = None) -> None:
        """Report a member soon. Without a stream it is reported when there is one."""
        self._outbox.put(lambda: pb.JoinRequest(reports=[made] if (made := _report(seat, answer)) else []))

    # orders

    def _take(self, response: pb.JoinResponse) -> None:
        self._problem = ""
        for refusal in response.refused:
            seat = self._seats.get(refusal.member)
            if seat is not None and seat.refused != refusal.why:
                seat.refused = refusal.why
                logger.error(
                    "%s is not accepted by its fleet: %s",
                    *(seat.name, refusal.why),
                    extra=about("fleet.not_accepted"),
                )
        for known in response.known:
            seat = self._seats.get(known.database)
            if seat is not None:
                try:
                    seat.compare(known)
                except Error:  # it is being closed
                    continue
                self._say(seat)
        for message in response.orders:
            seat = self._seats.get(message.target.member)
            if seat is None or seat.diverged:
                continue
            if message.HasField("task"):
                self._assign(seat, task_of(message))
                continue
            order = order_of(message)
            if order.verb is not Verb.PREPARE:
                self._others.put(partial(self._obey, seat, order))
            elif seat.queued:
                self._say(seat)
            else:
                seat.queued = True
                self._builds.put(partial(self._build, seat, order))

    def _assign(self, seat: Seat, task: MemberTask | None) -> None:
        if task is not None and task.id not in seat.tasks:
            seat.tasks.add(task.id)
            queue = self._builds if task.kind in BUILDING else self._reads
            queue.put(partial(self._perform, seat, task))

    def _work(self, queue: Jobs) -> None:
        while (job := queue.get()) is not None and not self._closed.is_set():
            job()

    def _obey(self, seat: Seat, order: Order) -> None:
        answer = seat.carry_out(order)
        if not seat.left:
            self._say(seat, answer)

    def _build(self, seat: Seat, order: Order) -> None:
        seat.building = True
        try:
            answer = seat.carry_out(order)
        finally:
            seat.queued = seat.building = False
        if not seat.left:
            self._say(seat, answer)

    def _perform(self, seat: Seat, task: MemberTask) -> None:
        builds = task.kind in BUILDING
        if builds:
            seat.building = True
        try:
            answer = seat.perform(task)
        finally:
            if builds:
                seat.building = False
            seat.tasks.discard(task.id)
        if answer is not None:
            message = message_of_answer(answer)
            self._outbox.put(lambda: pb.JoinRequest(answers=[message]))
        if builds and not seat.left:
            self._say(seat)


def _fault(error: Exception) -> str:
    """Say that the code of a migration failed, without the text of its error."""
    return f"{type(error).__name__} in its code; the log of its process has more"


def _report(seat: Seat, answer: Report | None = None) -> pb.MemberReport | None:
    """Return the report of a member; None: it is closed, or cannot be read."""
    if seat.left:
        return None
    try:
        return message_of_report(seat.report(answer))
    except ClosedError:
        return None
    except Error as error:
        logger.warning(
            "%s cannot be reported to its fleet: %s", seat.name, error, extra=about("fleet.report")
        )
        return message_of_report(
            MemberReport(seat.name, seat.uuid, seat.labels, error=str(error), release=VERSION)
        )


def _moved(seat: Seat) -> bool:
    try:
        return not seat.left and seat.db.head != seat.head
    except Error:  # it is being closed
        return False


class _Memberships:
    """Those of this process, by URL."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.known: dict[str, Membership] = {}
        notify_in_child(self)

    def forked(self) -> None:
        self.known = {}


_memberships = _Memberships()


def join(
    url: str, db: JoinedDatabase, *, name: str, labels: Mapping[str, str], rate: float | None = None
) -> Callable[[], None]:
    """Make an open database a member of the fleet whose ledger `url` names; return the function that ends
    this, to be called before it is closed. All databases of a process share a stream for each URL.

    `name`: unique in the fleet. `labels`: for selections. `rate`: the most rows a second that it builds.
    Returns at once: the connection is made by a thread. Raises OpenError for an invalid URL, and for a copy
    of another member in this process, and RowError for an invalid name or label.
    """
    name, labels = check_name(name), check_labels(labels)
    with _memberships.lock:
        found = _memberships.known.get(url)
        if found is None:
            found = _memberships.known[url] = Membership(url)
        return found.add(db, name, labels, rate=rate)


def _end(membership: Membership) -> None:
    """Close the membership of a process whose last database has left."""
    with _memberships.lock:
        if membership._seats:  # noqa: SLF001  another database has just joined
            return
        for url, one in list(_memberships.known.items()):
            if one is membership:
                del _memberships.known[url]
    membership.close()


def default_name(path: os.PathLike[str] | str) -> str:
    """Return the name of a member that was given none: the name of this machine, and of the directory."""
    words = f"{socket.gethostname()}/{Path(path).name}"
    return re.sub(r"[^\w./:@+-]", "-", words, flags=re.ASCII)


def rate_of(text: str) -> float:
    """Return a rate in rows a second in a text. Raises RowError."""
    try:
        return float(text)
    except ValueError:
        raise RowError(f"expected rows a second, as EVERLOG_FLEET_RATE=1000, found {text!r}") from None


def labels_of(text: str) -> dict[str, str]:
    """Return the labels in a text such as `region=eu,tenant=42`. Raises RowError."""
    return parse_labels(filter(None, (one.strip() for one in text.split(","))))
