"""Server: serve databases of this process over gRPC.

    Server({"flights": db}) ─ start ─▶ a thread with an event loop ─▶ one servicer for each service file
                              stop  ─▶ health is NOT_SERVING, subscriptions end (their clients resume
                                       elsewhere or later), running calls may finish

    with Server({"flights": db}, "127.0.0.1:7420") as server: server.wait()

Invariants
  (1) a server that other machines can reach has TLS and a token, or does not start (security.py);
  (2) two servers never share a port;
  (3) acknowledged commits are durable: stopping loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from everlog.audit.note import Signer
from everlog.fleet.hub import Hub
from everlog.migrations.approval.approval import Approval
from everlog.proto import (
    access_pb2,
    access_pb2_grpc,
    admin_pb2,
    admin_pb2_grpc,
    archive_pb2,
    archive_pb2_grpc,
    consumers_pb2,
    consumers_pb2_grpc,
    feed_pb2,
    fleet_pb2,
    fleet_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    migrations_pb2,
    migrations_pb2_grpc,
    people_pb2,
    people_pb2_grpc,
    proofs_pb2,
    proofs_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
)
from everlog.rpc import security, traces
from everlog.rpc.address import Networks, host_port, listening
from everlog.rpc.http2.connection import Connection
from everlog.rpc.http2.grpc import Calls
from everlog.rpc.http2.limits import CHECK_S, Turns
from everlog.rpc.http2.listener import Listener
from everlog.rpc.server import reflection
from everlog.rpc.server.access import AccessService
from everlog.rpc.server.activity import SLOW_MS, Activity
from everlog.rpc.server.admin import AdminService, ArchiveService, ConsumersService, ProofsService
from everlog.rpc.server.auth import Auth, check_tokens
from everlog.rpc.server.feed import PATH, FeedService
from everlog.rpc.server.fleet import FleetService
from everlog.rpc.server.health import HealthService, Readiness
from everlog.rpc.server.history import HistoryService
from everlog.rpc.server.host import Hosting
from everlog.rpc.server.issuer import Issuer, Jwt, check_rules
from everlog.rpc.server.migrations import MigrationsService, Problems
from everlog.rpc.server.people import PeopleService
from everlog.rpc.server.quotas import Quota, Quotas
from everlog.rpc.server.rights import Rights, Tokens
from everlog.rpc.server.running import RunningCalls
from everlog.rpc.server.store import StoreService
from everlog.rpc.server.threads import Work
from everlog.store.crypto.master_key import MasterKey
from everlog.store.database import Database
from everlog.store.errors import Error, OpenError
from everlog.store.process import close_at_end
from everlog.store.program_log import about

DESCRIPTORS = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (store_pb2, "Store"),
        (feed_pb2, "Feed"),
        (migrations_pb2, "Migrations"),
        (admin_pb2, "Admin"),
        (history_pb2, "History"),
        (people_pb2, "People"),
        (archive_pb2, "Archive"),
        (consumers_pb2, "Consumers"),
        (proofs_pb2, "Proofs"),
        (access_pb2, "Access"),
        (fleet_pb2, "Fleet"),
    )
)
SERVICES = tuple(service.full_name for service in DESCRIPTORS)


def register(
    calls: Any,
    hosting: Hosting,
    *,
    signer: Signer | None,
    next_master_key: MasterKey | None,
    archives: Mapping[str, str],
    migrations: Mapping[str, str],
    approvals: Mapping[str, Approval],
    starting: Mapping[str, asyncio.Future[None]],
    problems: Problems,
    readiness: Readiness,
    running: RunningCalls,
    fleets: Mapping[str, Hub],
) -> tuple[FeedService, FleetService]:
    """Register every service with `calls`, through the interface that generated code expects; return those
    whose responses do not end by themselves."""
    feed = FeedService(hosting)
    calls.add_raw(PATH, feed.subscribe, feed_pb2.SubscribeRequest.FromString)
    access_pb2_grpc.add_AccessServicer_to_server(AccessService(hosting), calls)
    store = StoreService(hosting)
    running.leases = store.leases
    store_pb2_grpc.add_StoreServicer_to_server(store, calls)
    admin_pb2_grpc.add_AdminServicer_to_server(AdminService(hosting, readiness, running, fleets), calls)
    archive_pb2_grpc.add_ArchiveServicer_to_server(ArchiveService(hosting, archives), calls)
    consumers_pb2_grpc.add_ConsumersServicer_to_server(ConsumersService(hosting), calls)
    history_pb2_grpc.add_HistoryServicer_to_server(HistoryService(hosting), calls)
    people_pb2_grpc.add_PeopleServicer_to_server(PeopleService(hosting, next_master_key), calls)
    proofs_pb2_grpc.add_ProofsServicer_to_server(ProofsService(hosting, signer), calls)
    migrating = MigrationsService(hosting, migrations, approvals, starting, problems)
    migrations_pb2_grpc.add_MigrationsServicer_to_server(migrating, calls)
    fleet = FleetService(hosting, fleets)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, calls)
    return feed, fleet


GRACE_S = 5.0
FILES_S = 1.0  # between two looks at the files of certificates
WARN_EVERY_S = 24 * 3600.0
BEAT_S = 0.5  # between two beats of the event loop, and two looks at the health

logger = logging.getLogger("everlog")
WRITES = SERVICES[0]  # the service whose health shows whether writes are accepted


class Server:
    """Serves databases; the caller opens and closes them.

    `address` is HOST:PORT; port 0 is any free port. `token` is the token without a name, `tokens` maps names
    to tokens, `roles` names to the roles that they have in all databases (others have those that a database's
    log grants them), `acting` names those that may write rows for others, and `keys_for` those that may have
    the keys of people, to follow sealed tables. `migrations` names the package of each database's migrations;
    `jwt`: whose JSON Web Tokens are accepted.
    `approvals` belong to databases whose migrations wait for approval; `problems` says of others why a
    migration in progress cannot continue. `signer` signs checkpoints. `next_master_key` is the key for
    `rotate_key`; None: that of the environment. `archives` maps a database to the target of its archive.
    `slow_ms`: calls that take longer are logged, 0: none. `quota`: how much callers may have. `readiness`
    tells its health; see health.py. `sockets`: TCP sockets that listen already, and take the place of
    `address`. `services`: those of a program, in addition. `fleets`: coordinators, by the databases that are
    their ledgers. `proxies`: addresses and networks of proxies that send the header of the PROXY protocol.

    Raises OpenError for an invalid address, and for a server that other machines could reach without TLS and
    a token.
    """

    def __init__(
        self,
        databases: Mapping[str, Database],
        address: str = "127.0.0.1:0",
        *,
        token: str = "",
        tokens: Mapping[str, str] | None = None,
        roles: Mapping[str, Iterable[str]] | None = None,
        acting: Iterable[str] = (),
        keys_for: Iterable[str] = (),
        tls: security.Tls | None = None,
        jwt: Jwt | None = None,
        migrations: Mapping[str, str] | None = None,
        approvals: Mapping[str, Approval] | None = None,
        problems: Mapping[str, str] | None = None,
        actor: str = "",
        reason: str = "",
        signer: Signer | None = None,
        next_master_key: MasterKey | None = None,
        archives: Mapping[str, str] | None = None,
        slow_ms: float = SLOW_MS,
        quota: Quota | None = None,
        readiness: Readiness | None = None,
        sockets: Iterable[socket.socket] = (),
        services: Sequence[reflection.Service] = (),
        fleets: Mapping[str, Hub] | None = None,
        proxies: Iterable[str] = (),
    ) -> None:
        self.readiness = readiness or Readiness()
        self.activity = Activity(frozenset(databases), slow_ms=slow_ms)
        for db in databases.values():
            db.committer.watch(tracer=traces.tracing)
        self.host, self.port = listening(address)
        self._proxies = Networks(proxies)
        self._sockets = list(sockets)
        if self._sockets:
            self.host, self.port = self._sockets[0].getsockname()[:2]
        check_tokens(token, tokens or {})
        self._tokens = {"": token} | dict(tokens or {})
        self._issuer = Issuer(jwt) if jwt is not None else None
        self._check_open(self._tokens, tls)
        self.rights = Rights(
            databases,
            Tokens(self._tokens, roles or {}),
            (*DESCRIPTORS, *(one.descriptor for one in services)),
            certified=_certified(tls),
            issuer=self._issuer,
            ledgers=fleets or (),
        )
        auth = self._auth(self._tokens, acting, keys_for, tls)
        self.hosting = Hosting(databases, auth, self.rights)
        self.hosting.on_limit = self.activity.limited
        for pool in self.hosting.pools:
            pool.on_limit = self.activity.limited
        self._tls = security.ServerTls(tls) if tls else None
        self._acting, self._keys_for = tuple(acting), tuple(keys_for)
        self._services = tuple(services)
        self._fleets = dict(fleets or {})
        self._signer = signer
        self._next_master_key = next_master_key
        self._archives = dict(archives or {})
        self._migrations = dict(migrations or {})
        self._approvals = dict(approvals or {})
        self._problems = Problems(problems or {})
        self._starts = {
            name: functools.partial(approval.start, actor=actor, reason=reason)
            for name, approval in self._approvals.items()
        }
        self.loop: asyncio.AbstractEventLoop | None = None
        self.connections: set[Connection] = set()
        self.quota = quota or Quota()
        self._quotas: Quotas | None = None  # while it runs
        self.hosting.limit_heavy(self._heavy)
        self.hosting.limits_of = self._limits_of
        self._connections_max = 0
        self._thread = threading.Thread(target=self._run, name="everlog-server", daemon=True)
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._stopping: asyncio.Event | None = None
        self._grace_s = GRACE_S
        self.on_warnings: Callable[[Mapping[str, str]], None] = lambda _: None  # see security.warnings
        self.on_beat: Callable[[], None] = lambda: (
            None
        )  # called every BEAT_S, in the thread of the event loop

    @property
    def address(self) -> str:
        return host_port(self.host, self.port)

    def url(self, database: str) -> str:
        """Return the URL of one of its databases, without the token."""
        return f"everlog{'' if self._tls else '+insecure'}://{self.address}/{database}"

    # what metrics read

    @property
    def databases(self) -> Mapping[str, Database]:
        return self.hosting.databases

    @property
    def sources(self) -> Mapping[str, str]:
        return self._migrations

    @property
    def subscribers(self) -> Mapping[str, int]:
        return self.hosting.subscribers

    @property
    def connected(self) -> tuple[int, int]:
        return len(self.connections), self._connections_max

    @property
    def tls_files(self) -> security.Tls | None:
        return self._tls.files if self._tls else None

    def start(self) -> Self:
        """Start, and return once the server accepts calls. Raises OpenError if the port is not available."""
        self.hosting.start()
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        close_at_end(self)  # before its databases, which are older
        return self

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Drain: accept no new calls, and give running ones `grace_s` seconds to finish. Idempotent."""
        self._grace_s = grace_s
        self._stop.set()
        if self.loop is not None and self._stopping is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                self.loop.call_soon_threadsafe(self._stopping.set)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop it, at the end of the process at the latest."""
        self.stop()

    def reload(
        self,
        *,
        token: str = "",
        tokens: Mapping[str, str] | None = None,
        roles: Mapping[str, Iterable[str]] | None = None,
        acting: Iterable[str] | None = None,
        keys_for: Iterable[str] | None = None,
        jwt: Jwt | None = None,
    ) -> None:
        """Replace the tokens, `acting`, `keys_for` and `jwt` (None: unchanged), and read the certificates
        again. Calls whose token is gone end within a second; connections keep the certificate that they began
        with. Raises OpenError, and changes nothing, for an invalid file or token, if the server would be open
        to other machines without TLS and a token, and for `jwt` if the server began without an issuer."""
        check_tokens(token, tokens or {})
        named = {"": token} | dict(tokens or {})
        files = self._tls.files if self._tls else None
        self._check_open(named, files)
        if any(self._tokens.values()) and not any(named.values()):
            raise OpenError(
                "expected a token, because the server started with tokens, found none; to serve without"
                " tokens, restart it"
            )
        may_act = self._acting if acting is None else tuple(acting)
        may_have = self._keys_for if keys_for is None else tuple(keys_for)
        auth = self._auth(named, may_act, may_have, files)
        if jwt is not None:
            if self._issuer is None:
                raise OpenError(
                    "the server started without an issuer of JWTs, and a reload cannot add one; restart it"
                    " with the issuer"
                )
            check_rules(jwt)
        if self._tls is not None:
            self._tls.load()
            self._log_warnings()
        self._acting, self._keys_for = may_act, may_have
        self._tokens, self.hosting.auth = named, auth
        self.rights.replace(Tokens(named, roles or {}))
        if jwt is not None and self._issuer is not None and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                self.loop.call_soon_threadsafe(self._issuer.replace, jwt)

    def limit(self, quota: Quota) -> None:
        """Limit callers by another quota from now on."""
        self.quota, quotas = quota, self._quotas
        if quotas is not None and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                self.loop.call_soon_threadsafe(quotas.replace, quota, self.connections)

    def _check_open(self, tokens: Mapping[str, str], tls: security.Tls | None) -> None:
        identifies = any(tokens.values()) or self._issuer is not None
        for host in {self.host, *(one.getsockname()[0] for one in self._sockets)}:
            security.check_server(host, identifies=identifies, tls=tls)
        if self._proxies and not identifies:
            raise OpenError(
                "the clients of a proxy are on other machines, and without a token every one of them would be"
                " owner; start the server with --tokens FILE"
            )

    def _auth(
        self,
        tokens: Mapping[str, str],
        acting: Iterable[str],
        keys_for: Iterable[str],
        tls: security.Tls | None,
    ) -> Auth:
        return Auth(tokens, acting, keys_for, certified=_certified(tls) or self._issuer is not None)

    def on_signals(self, reload: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Return a context in which, in the main thread, SIGTERM and SIGINT stop the server, and SIGHUP calls
        `reload`."""
        return _on_signals(self._stop.set, reload)

    def wait(self) -> None:
        """Block until the server is stopped. In the main thread SIGTERM and SIGINT stop it."""
        with self.on_signals():
            self._stop.wait()
        self.stop(self._grace_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  raised in `start`
            self._error = error
        finally:
            self._ready.set()
            self._stop.set()
            self.hosting.close()

    async def _serve(self) -> None:
        self.loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        quotas = self._quotas = Quotas(self.quota, self.activity.limited)
        calls: Any = Calls(self.activity, self.rights, quotas)  # a server, as generated code expects it
        starting = {name: self.hosting.begin(start) for name, start in self._starts.items()}
        endless = register(
            calls,
            self.hosting,
            signer=self._signer,
            next_master_key=self._next_master_key,
            archives=self._archives,
            migrations=self._migrations,
            approvals=self._approvals,
            problems=self._problems,
            starting=starting,
            readiness=self.readiness,
            running=RunningCalls(
                self.activity, self.hosting, self.connections, lambda: self._connections_max
            ),
            fleets=self._fleets,
        )
        checker = HealthService(self.rights.knows)
        health_pb2_grpc.add_HealthServicer_to_server(checker, calls)
        for service in self._services:
            service.add(calls)
        reflection.register(calls, SERVICES, self._services)
        connections, turns = self.connections, Turns()
        listener = Listener(
            self.host,
            self.port,
            lambda client: self._connection(client, calls, turns, quotas),
            connections,
            tls=self._tls.context if self._tls else None,
            greeting_s=CHECK_S,
            proxied=self._proxies.has,
            on_full=lambda: self.activity.limited("connections"),
            sockets=self._sockets,
        )
        self._connections_max = listener.connections_max
        quotas.share(listener.connections_max)
        self.port = listener.port
        for name in SERVICES:
            checker.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._issuer is not None:
            await self._issuer.refresh()
        kept = [self.loop.create_task(one) for one in (self._warn(), self._watch_files())]
        if self._issuer is not None:
            kept.append(self.loop.create_task(self._issuer.keep()))
        watching = self.loop.create_task(self.rights.watch(self.hosting.read))
        self.readiness.serve(self.hosting.databases, self._approvals, self._problems.of)
        with self._watching_disks(checker):
            self._log_start()
            self._ready.set()
            await self._stopping.wait()
            self.readiness.stop()
        logger.info(
            "the server stops: %d calls run", len(self.activity.running), extra=about("server.stopping")
        )
        for task in kept:
            task.cancel()
        watching.cancel()
        for approval in self._approvals.values():
            approval.stop.set()
        self.hosting.stop()
        listener.close()
        checker.drain()
        for one in endless:
            one.drain()
        for connection in list(connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while connections:
                    await next(iter(connections)).closed.wait()
        for connection in list(connections):
            connection.abort()
        logger.info("the server has stopped", extra=about("server.stopped"))

    def _heavy(self, work: Work) -> int:
        return self.quota.heavy(work.key, work.call.scope if work.call is not None else None)

    def _limits_of(self, name: str, peer: str) -> dict[str, float]:
        quota = self.quota if self._quotas is None else self._quotas.quota
        return quota.of_caller(name, peer)._asdict()  # noqa: SLF001  a named tuple's own

    def _connection(self, client: str, calls: Calls, turns: Turns, quotas: Quotas) -> Connection:
        made = Connection(calls.answer, self.connections, turns, client)
        made.on_made, made.on_lost = quotas.connected, quotas.lost
        if self._tls is not None:
            made.names = self._tls.files.client_names
        made.on_failed = self.activity.dropped
        return made

    def _log_start(self) -> None:
        names, tokens = sorted(self.hosting.databases), sum(map(bool, self._tokens.values()))
        extra = about("server.started", address=self.address, tls=self._tls is not None, tokens=tokens)
        logger.info("serving %s on %s", ", ".join(names), self.address, extra=extra)
        if self.rights.open:
            logger.warning(
                "every program on this machine is owner of the databases that never had a token; to require"
                " tokens: serve --tokens FILE",
                extra=about("server.open"),
            )

    async def _warn(self) -> None:
        """Log once a day the certificates that are about to end, and report them in the status."""
        while self._tls is not None:
            self._log_warnings()
            await asyncio.sleep(WARN_EVERY_S)

    async def _watch_files(self) -> None:
        """Load the files of certificates again when they have changed."""
        while self._tls is not None:
            await asyncio.sleep(FILES_S)
            try:
                if await asyncio.to_thread(self._tls.look):
                    logger.info("reloaded the certificates", extra=about("certificate.reloaded"))
                    self._log_warnings()
            except OpenError as error:
                logger.error(  # noqa: TRY400  the message suffices
                    "the changed certificates are not used, the previous ones stay in use: %s",
                    error,
                    extra=about("certificate.unusable"),
                )

    def _log_warnings(self) -> None:
        assert self._tls is not None
        try:
            found = security.warnings(self._tls.files)
            for sentence in found.values():
                logger.warning(sentence, extra=about("certificate.ends"))
            found.pop("", None)
            self.hosting.warnings = list(found.values())
            self.on_warnings(found)
        except OpenError as error:  # a file is being replaced: the loaded one stays in use
            logger.warning(
                "the ends of certificates are unknown: %s", error, extra=about("certificate.unread")
            )

    async def _beat(self) -> None:
        while True:
            self.readiness.beat()
            self.on_beat()
            await asyncio.sleep(BEAT_S)

    async def _watch_health(self, changed: asyncio.Event, checker: HealthService) -> None:
        """Show the health at each change that is notified, and every BEAT_S for the others."""
        while True:
            changed.clear()
            self._show_health(checker)
            await self.hosting.read(self._look)
            self._show_health(checker)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await changed.wait()

    def _look(self) -> None:
        """Read what the health and the status show of the past. For a thread that may wait for the disk."""
        self.readiness.look()
        for name in self.hosting.databases:
            with contextlib.suppress(Error):  # it is closed
                self.hosting.samples[name].take()

    def _show_health(self, checker: HealthService) -> None:
        checker.show(self.readiness, self.hosting.databases, WRITES)
        self.readiness.report()

    @contextlib.contextmanager
    def _watching_disks(self, checker: HealthService) -> Iterator[None]:
        """Keep the health up to date: when a disk refuses or accepts writes, when migrations can be applied,
        and what else changes."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(shown)

        def shown() -> None:
            self._show_health(checker)
            event.set()

        refusals = [db.engine.refusal for db in self.hosting.databases.values()]
        for one in refusals:
            one.on_change(changed)
        for approval in self._approvals.values():
            approval.on_problem = changed
        self._problems.on_change = changed
        self._show_health(checker)
        watching = [loop.create_task(one) for one in (self._beat(), self._watch_health(event, checker))]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            for one in refusals:
                one.off_change(changed)


def _certified(tls: security.Tls | None) -> bool:
    """Return whether clients present certificates."""
    return tls is not None and tls.client_ca is not None


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None], reload: Callable[[], None] | None) -> Iterator[None]:
    """Handle SIGTERM and SIGINT (stop) and SIGHUP (reload), in the main thread only.

    A SIGHUP that was blocked until now is handled at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    does: dict[int, Callable[[], None]] = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if reload is not None:
        does[signal.SIGHUP] = reload

    # Not in the handler: it would wait for locks that the interrupted main thread holds.
    came: SimpleQueue[int] = SimpleQueue()

    def act() -> None:
        while number := came.get():  # each in a thread: a reload must not delay a stop
            threading.Thread(target=does[number], name="everlog-signal", daemon=True).start()

    threading.Thread(target=act, name="everlog-signals", daemon=True).start()
    before = {number: signal.signal(number, lambda number, _: came.put(number)) for number in does}
    if reload is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        came.put(0)
