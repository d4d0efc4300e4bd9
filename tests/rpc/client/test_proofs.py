"""Proofs from a server: the same as those of the database itself, over the network."""

from __future__ import annotations

import pytest

from everlog.audit import proof, prover
from everlog.audit.note import Signer
from everlog.audit.proof import Checkpoint
from everlog.audit.prover import LocalProver
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store import record
from everlog.store.errors import CorruptionError, CursorError, PreconditionError
from everlog.store.keys import SEQ
from tests.audit.test_prover import signer_of
from tests.audit.test_tree import notes


def test_it_is_what_the_database_itself_shows(db: EmbeddedDatabase) -> None:
    notes(db, 300)
    local, signer = LocalProver(db), signer_of(db)
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        there = remote.proofs
        assert there.checkpoint() is None
        text, new = prover.checkpoint(there, signer)
        assert new
        assert prover.checkpoint(local, signer) == (text, False)
        assert there.kept(0) == local.kept(0)
        assert there.head() == local.head()
        assert there.head(7) == local.head(7)
        assert prover.prove(there, 7) == prover.prove(local, 7)
        assert prover.prove_from(there, 7) == prover.prove_from(local, 7)
        size = db.head
        assert b"".join(there.entries(5, size)) == b"".join(local.entries(5, size))


def test_a_server_proves_nothing_of_a_record_that_was_altered_in_place(db: EmbeddedDatabase) -> None:
    notes(db, 300)
    prover.checkpoint(LocalProver(db), signer_of(db))
    commit = db.log.commit(7)
    commit.ClearField("checksum")
    commit.notice.subject += " indeed"
    db.engine.append_record(SEQ.pack(7), record.frame(commit))
    db.log._recent.clear()  # noqa: SLF001  the cache has the earlier records
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        with pytest.raises(CorruptionError, match="record 7 of the log differs from the one"):
            prover.prove_from(remote.proofs, 100)
        with pytest.raises(CorruptionError, match="record 7 of the log differs from the one"):
            prover.prove(remote.proofs, 7)
        assert prover.prove_from(remote.proofs, 100, check=False).hashes


def test_a_server_with_a_key_signs_for_who_calls(db: EmbeddedDatabase) -> None:
    signer = Signer.generate("example.com/server")
    with (
        Server(
            {"x": db}, token="salt", tokens={"ann": "pepper"}, roles={"ann": ("owner",)}, signer=signer
        ) as server,
        RemoteDatabase(server.url("x").replace("://", "://:pepper@")) as remote,
    ):
        text = remote.proofs.checkpoint()
        assert text is not None
        found = proof.open_checkpoint(text, signer.verifier, prover.origin_of(LocalProver(db)))
        assert found.size == db.head - 1
        assert db.log.commit(db.head).actor == "ann"
        assert remote.proofs.checkpoint() == text, "nothing new"


def test_a_server_with_a_key_keeps_what_that_signed_and_nothing_else(db: EmbeddedDatabase) -> None:
    signer = signer_of(db)
    with Server({"x": db}, signer=signer) as server, RemoteDatabase(server.url("x")) as remote:
        there = remote.proofs
        size, root = there.head()
        now, other = Checkpoint(signer.name, size, root), Signer.generate(signer.name)
        with pytest.raises(
            PreconditionError, match=r"checkpoints of its own key, everlog/.*without --signing-key"
        ):
            there.keep(now.sign(other))
        assert db.head == size
        text, _ = prover.checkpoint(there, signer)
        assert prover.prove(there, 1).note == text


def test_errors_are_those_of_the_database_itself(db: EmbeddedDatabase) -> None:
    signer = signer_of(db)
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        there = remote.proofs
        size, _ = there.head()
        with pytest.raises(PreconditionError, match="is not one of this log"):
            there.keep(Checkpoint(signer.name, size, b"x" * 32).sign(signer))
        with pytest.raises(CursorError, match="expected a record from 1 to"):
            there.prove(size + 1, size)
        with pytest.raises(CursorError, match="expected a size from 0 to"):
            there.prove_from(1, size + 1)
    assert db.head == size
