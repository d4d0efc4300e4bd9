"""Keys: a follower's opener of sealed rows, with keys from a server.

    changes ─▶ unknown key_ids ─▶ Keys, some thousand at a time ─▶ ciphers, cached in memory
                                        a Notice that one is destroyed drops it ─┘

Invariants
  (1) keys are in memory only, at most KEYS_MAX, the most recently used;
  (2) permission is requested before following, so that a refusal comes at once, and the log names the
  receiver
      before the end of a run is decided.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from everlog.proto import log_pb2, people_pb2, people_pb2_grpc
from everlog.rpc.client.channel import Channel
from everlog.rpc.protocol import ASKED_KEYS_MAX
from everlog.store.crypto.cipher import Cipher
from everlog.store.errors import CorruptionError
from everlog.store.keys import SPACE

KEYS_MAX = 10_000  # that are kept


class RemoteKeys:
    """Opens sealed rows of a database on a server. `ask`: request permission now, not with the first row."""

    def __init__(self, channel: Channel, *, ask: bool) -> None:
        self._channel = channel
        self._stub = people_pb2_grpc.PeopleStub(channel.grpc)
        self._ciphers: OrderedDict[bytes, Cipher | None] = OrderedDict()  # None: it was forgotten
        self._sealed_in = b""
        if ask:
            self._ask([])

    def open(self, changes: Sequence[log_pb2.Change]) -> list[bytes | None]:
        known = self._known({change.key_id for change in changes})
        return [self._row(known[change.key_id], change) for change in changes]

    def drop(self, key_id: bytes) -> None:
        self._ciphers.pop(key_id, None)

    def _row(self, cipher: Cipher | None, change: log_pb2.Change) -> bytes | None:
        if cipher is None:
            return None
        row = cipher.open(change.row, self._sealed_in + SPACE.pack(change.space) + change.key)
        if row is None:
            raise CorruptionError(
                f"a sealed row is not what was sealed under key {change.key_id.hex()}: it was changed, or"
                " moved"
            )
        return row

    def _known(self, key_ids: Iterable[bytes]) -> dict[bytes, Cipher | None]:
        found: dict[bytes, Cipher | None] = {}
        missing = list[bytes]()
        for key_id in key_ids:
            if key_id in self._ciphers:
                found[key_id] = self._ciphers[key_id]
            else:
                missing.append(key_id)
        for at in range(0, len(missing), ASKED_KEYS_MAX):
            found |= self._ask(missing[at : at + ASKED_KEYS_MAX])
        for key_id, cipher in found.items():
            self._ciphers[key_id] = cipher
            self._ciphers.move_to_end(key_id)
        while len(self._ciphers) > KEYS_MAX:
            self._ciphers.popitem(last=False)
        return found

    def _ask(self, key_ids: Sequence[bytes]) -> dict[bytes, Cipher | None]:
        request = people_pb2.KeysRequest(database=self._channel.address.database, key_ids=key_ids)
        answer = self._channel.call(self._stub.Keys, request)
        self._sealed_in = answer.sealed_in
        given = {one.key_id: Cipher(one.key) for one in answer.keys}
        return {key_id: given.get(key_id) for key_id in key_ids}
