"""Actors: what a server with named tokens writes into the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from everlog import AccessError, OpenError
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.tx.transaction import new_commit_id
from tests.conformance.database_case import AIRPORTS, Airport

TOKENS = {"ann": "sesame", "bob": "thyme", "web": "basil"}
ROLES = dict.fromkeys(TOKENS, ("writer", "follower"))
JFK = Airport(faa="JFK", name="Kennedy")


@pytest.fixture
def server(db: EmbeddedDatabase) -> Iterator[Server]:
    with Server({"x": db}, token="salt", tokens=TOKENS, roles=ROLES, acting=["web"]) as server:
        yield server


def opened(server: Server, token: str) -> RemoteDatabase:
    return RemoteDatabase(f"{server.url('x')}?token={token}")


def actor(db: EmbeddedDatabase) -> str:
    """Return the actor of the newest commit."""
    return db.log.commit(db.head).actor


def test_who_says_nothing_is_whose_token_it_is(server: Server, db: EmbeddedDatabase) -> None:
    with opened(server, "sesame") as ann:
        ann.put(AIRPORTS, JFK)
        assert actor(db) == "ann"
        ann.put(AIRPORTS, JFK, actor="ann")
        assert actor(db) == "ann"
        ann.load(AIRPORTS, [JFK])
        assert actor(db) == "ann"


def test_who_says_another_name_is_refused_and_nothing_is_written(
    server: Server, db: EmbeddedDatabase
) -> None:
    head = db.head
    with opened(server, "sesame") as ann:
        for call in (
            lambda: ann.put(AIRPORTS, JFK, actor="bob"),
            lambda: ann.load(AIRPORTS, [JFK], actor="bob"),
        ):
            with pytest.raises(AccessError, match="names bob as actor, its token is that of ann") as caught:
                call()
            assert (caught.value.actor, caught.value.claimed) == ("ann", "bob")
    assert db.head == head


def test_a_token_without_a_name_says_any_name_but_those_of_tokens(
    server: Server, db: EmbeddedDatabase
) -> None:
    with opened(server, "salt") as somebody:
        somebody.put(AIRPORTS, JFK, actor="cy")
        assert actor(db) == "cy"
        somebody.put(AIRPORTS, JFK)
        assert actor(db) == ""
        with pytest.raises(AccessError, match="names ann as actor, without the token of ann"):
            somebody.put(AIRPORTS, JFK, actor="ann")


def test_a_program_that_acts_for_others_writes_in_their_names(server: Server, db: EmbeddedDatabase) -> None:
    with opened(server, "basil") as web:
        for who, written in (("ann", "ann"), ("a visitor", "a visitor"), ("", "web")):
            web.put(AIRPORTS, JFK, actor=who)
            assert actor(db) == written


def test_a_commit_that_is_sent_again_is_the_same_with_the_name_of_its_token(
    server: Server, db: EmbeddedDatabase
) -> None:
    with opened(server, "sesame") as ann:
        one = new_commit_id()
        ann.put(AIRPORTS, JFK, commit_id=one)
        head = db.head
        ann.put(AIRPORTS, JFK, commit_id=one, actor="ann")
        assert db.head == head


def test_who_acts_for_others_has_a_token(db: EmbeddedDatabase) -> None:
    with pytest.raises(OpenError, match="--acts-for-others: expected the name of a token, found 'cy'"):
        Server({"x": db}, tokens=TOKENS, acting=["cy"])


def test_the_log_says_how_it_is_known_who_wrote(server: Server, db: EmbeddedDatabase) -> None:
    def proofs() -> list[str]:
        return [log_pb2.Commit.Proof.Name(db.log.commit(seq).proof) for seq in range(head + 1, db.head + 1)]

    head = db.head
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("sesame", {}, "TOKEN"),
        ("sesame", {"actor": "ann"}, "TOKEN"),
        ("salt", {"actor": "cy"}, "CLAIMED"),
        ("basil", {"actor": "ann"}, "DELEGATED"),
        ("basil", {}, "TOKEN"),
    ]
    for token, more, expected in cases:
        head = db.head
        with opened(server, token) as client:
            client.put(AIRPORTS, JFK, **more)
            client.load(AIRPORTS, [JFK], **more)
            client.consumers.register(f"{token}-{len(more)}", **more)
        assert set(proofs()) == {expected}
    head = db.head
    db.put(AIRPORTS, JFK, actor="ann")
    assert proofs() == ["CLAIMED"]
    assert [entry.proof for entry in db.past.log(actor="ann")][-2:] == ["delegated", "claimed"]
