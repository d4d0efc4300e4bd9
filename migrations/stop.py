"""Stop: how what takes long is stopped where it can be gone on with: through its progress.

somebody ─ set ─▶ Stop ─ through(progress) ─▶ the next sign of progress raises ClosedError
"""

from __future__ import annotations

import threading

from everlog.store.errors import ClosedError
from everlog.store.progress import OnProgress, Progress


class Stop:
    """Once it is set, it stays so. Safe to use from many threads."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def set(self) -> None:
        self._set.set()

    def through(self, progress: OnProgress | None) -> OnProgress:
        """Hands progress on, and raises ClosedError once it is to stop."""

        def told(at: Progress) -> None:
            if self._set.is_set():
                raise ClosedError(f"the server stopped while it was at: {at.step}; the next start goes on")
            if progress is not None:
                progress(at)

        return told
