"""Mailbox: an SMTP server that keeps the messages it receives."""

from __future__ import annotations

import email
import email.policy
import threading
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller


class _Controller(Controller):
    """Listens on any free port."""

    def _trigger_server(self) -> None:
        server: Any = self.server
        self.port = server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


class Mailbox:
    """`received` are the messages, in order, while it is entered."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        self._changed = threading.Condition()
        self._server = _Controller(self, hostname="127.0.0.1", port=0)

    @property
    def url(self) -> str:
        """The URL with which Apprise sends to it."""
        where = f"127.0.0.1:{self._server.port}"
        return f"mailto://{where}/ops@example.com?from=everlog@example.com&mode=insecure&format=text"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        with self._changed:
            self.received.append(message)
            self._changed.notify_all()
        return "250 OK"

    def wait_for(self, number: int) -> list[EmailMessage]:
        """Return the messages when there are `number` of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= number, 30), self.received
            return list(self.received)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
