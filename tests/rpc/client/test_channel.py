"""Channel: how long calls are repeated."""

from __future__ import annotations

import threading
import time

import pytest

from everlog.rpc.client.channel import Outage, Patience
from everlog.store.errors import UnavailableError

RETRY_S = 0.01


def fail_slowly(patience: Patience) -> None:
    for _ in range(20):
        patience.after(UnavailableError("gone"))
        time.sleep(2 * RETRY_S)  # the next attempt


def test_attempts_that_take_longer_than_the_patience_end_as_well() -> None:
    with pytest.raises(UnavailableError, match="gone"):
        fail_slowly(Patience(RETRY_S, threading.Event(), "everlog://x", Outage(), None))
