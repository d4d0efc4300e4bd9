"""Signals: what stops a command, raised as KeyboardInterrupt where it can leave no lock held.

    SIGINT, SIGTERM, SIGHUP ─▶ handler ─▶ may the main thread be interrupted here?
                                  ▲            yes: raise KeyboardInterrupt, and look again in LOST_S
                                  │            no: look again in RETRY_S
                                  └── SIGALRM ─┘

Python calls a handler between any two instructions of the main thread. What is raised there may leave a lock
of `threading` held forever (https://bugs.python.org/issue29988), break an object of gRPC that is half made,
or be lost in a finalizer. So:

- Code of UNSAFE modules is interrupted only while it waits for another thread; see `interruptible`.
- What was lost is raised again until the command handles it, or says that it has ended: `ended`.
"""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from types import FrameType

RETRY_S = 0.01
LOST_S = 0.25
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNSAFE = frozenset({"threading", "contextlib", "importlib", "grpc", "weakref", "_weakrefset"})
# Functions of these modules that wait, and hold nothing that they do not release when they are interrupted.
WAITS = {
    "threading": frozenset({"join", "_wait_for_tstate_lock"}),
    "grpc": frozenset({"_blocking"}),
}


class StopSignals:
    """The signals that stop a command. The main thread installs them; a second signal interrupts again."""

    def __init__(self) -> None:
        self.number = signal.SIGINT  # of the last signal
        self._stopped = False

    def install(self) -> None:
        """Handle the signals from now on, except those that are ignored, such as SIGHUP by nohup."""
        signal.signal(signal.SIGALRM, self._again)
        # Python restores the default at the end, which kills.
        atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)
        sys.unraisablehook = _unraisable
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def ended(self) -> None:
        """Note that the command has ended: nothing is raised any more for a signal that came before."""
        if self._stopped:
            self._stopped = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def ignore(self) -> None:
        """Ignore the signals while the process exits: Python would restore their defaults, which kill it."""
        self.ended()
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.number = signal.Signals(number)
        self._stopped = True
        self._interrupt(frame)

    def _again(self, _: int, frame: FrameType | None) -> None:
        if not self._stopped:
            return
        if _handled(sys.exc_info()[1]):
            signal.setitimer(signal.ITIMER_REAL, LOST_S)
        else:
            self._interrupt(frame)

    def _interrupt(self, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt if the frame may be interrupted; otherwise try again soon."""
        safe = frame is None or interruptible(frame)
        signal.setitimer(signal.ITIMER_REAL, LOST_S if safe else RETRY_S)
        if safe:
            raise KeyboardInterrupt


def interruptible(frame: FrameType) -> bool:
    """Return whether an exception between two instructions of the frame leaves nothing locked or half made.

    Below `threading.Condition.wait` that is so once it has released its lock: it takes it again whatever
    happens. A caller inside gRPC is only interrupted there, and in calls that wait for one response.
    """
    if frame.f_code is threading.Condition.wait.__code__:
        return "gotit" in frame.f_locals  # set directly before the block that takes the lock again
    package = _package(frame)
    if package in UNSAFE:
        return frame.f_code.co_name in WAITS.get(package, ())
    caller: FrameType | None = frame
    while caller is not None:
        if caller.f_code.co_name == "__del__" or _package(caller) == "grpc":
            return False
        caller = caller.f_back
    return True


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Report an exception that was lost, unless it will be raised again."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _package(frame: FrameType) -> str:
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0]


def _handled(error: BaseException | None) -> bool:
    """Return whether the error is a KeyboardInterrupt, or follows from one."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
