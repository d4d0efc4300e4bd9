"""Systemd: what `serve` tells the service manager, and the sockets that it inherits.

    NOTIFY_SOCKET             ◀─ READY=1, STATUS=…, WATCHDOG=1, RELOADING=1, STOPPING=1    (sd_notify(3))
    WATCHDOG_USEC             how often WATCHDOG=1 is expected; it comes from the event loop
    LISTEN_PID, LISTEN_FDS    sockets 3, 4, … that systemd listens on for this process     (sd_listen_fds(3))

Without these variables nothing happens. They are removed, so that children do not use them.

Invariants
  (1) a service manager that does not read delays nothing: messages that do not fit are dropped;
  (2) only listening TCP sockets are taken, and none is inherited by children.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from everlog.store.errors import OpenError
from everlog.store.upkeep.status import Health, HealthState

if TYPE_CHECKING:
    from everlog.rpc.server.health import Readiness

FIRST_FD = 3
FDS_MAX = 64
STATUS_MAX = 500  # characters


class ServiceManager:
    """The service manager that started this process. `address`: its socket; empty: there is none."""

    def __init__(self, address: str = "", *, watchdog_s: float = 0.0) -> None:
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_s = watchdog_s / 2
        self._beaten = 0.0

    @classmethod
    def of_environment(cls) -> Self:
        """Return the one that the environment names, and remove its variables."""
        address, usec = os.environ.pop("NOTIFY_SOCKET", ""), os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        mine = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address if address[:1] in ("/", "@") else "", watchdog_s=int(usec) / 1e6 if mine else 0.0)

    def tell(self, *lines: str) -> None:
        """Send assignments such as READY=1. Does nothing without a service manager."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is restarting, or does not read
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def show(self, found: Health) -> None:
        """Send the health, which `systemctl status` shows."""
        stopping = ["STOPPING=1"] if found.state == HealthState.STOPPING else []
        self.tell(*stopping, _status(found))

    def ready(self, found: Health) -> None:
        """Say that the process serves; `found` is its health."""
        self.tell("READY=1", _status(found))

    def beat(self) -> None:
        """Say that the process is alive, twice in each period that the watchdog expects. Call it at least
        that often."""
        now = time.monotonic()
        if self._every_s and now - self._beaten >= self._every_s:
            self._beaten = now
            self.tell("WATCHDOG=1")

    def reloading(self, reload: Callable[[], None], readiness: Readiness) -> Callable[[], None]:
        """Return `reload` with the messages that systemd expects around it."""

        def run() -> None:
            usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self.tell("RELOADING=1", f"MONOTONIC_USEC={usec}")
            try:
                reload()
            finally:
                self.ready(readiness.whole)

        return run

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _status(found: Health) -> str:
    text = f"{found.state}: {found.reason}" if found.reason else found.state
    return f"STATUS={' '.join(text.split())[:STATUS_MAX]}"


def inherited_sockets() -> list[socket.socket]:
    """Return the sockets that systemd listens on for this process, and remove their variables; an empty list
    if there are none. Raises OpenError for a socket that is not a listening TCP socket."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_inherited(FIRST_FD + number) for number in range(min(int(count), FDS_MAX))]


def _inherited(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        found = socket.socket(fileno=fd)
        tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
        if tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.setblocking(False)
            return found
        found.detach()
    except OSError:
        pass
    raise OpenError(
        f"expected descriptor {fd} of LISTEN_FDS as a listening TCP socket; use ListenStream=HOST:PORT in"
        " the socket unit, with Accept=no"
    )
