"""The master key of a server: only its configuration names the next one, and all clients continue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.crypto import vault
from everlog.store.crypto.master_key import LocalMaster, Successive
from everlog.store.errors import AccessError, Error, OpenError, ReadOnlyError, SealedError
from everlog.store.progress import Progress
from tests.store.models import declare
from tests.store.people import MASTER, OTHER_MASTER, PATIENTS, open_people, patient

PEOPLE = 700


@pytest.fixture
def next_key(tmp_path: Path) -> Path:
    path = tmp_path / "next.key"
    path.write_bytes(OTHER_MASTER)
    return path


@contextmanager
def served(path: Path, next_key: Path | None) -> Iterator[RemoteDatabase]:
    """Return a server with the old master key, and the file of the next."""
    master = Successive(LocalMaster(MASTER), next_key) if next_key else LocalMaster(MASTER)
    with EmbeddedDatabase(path, master_key=master) as db:
        if not db.schema.version:
            declare(db, PATIENTS)
            db.load(PATIENTS, [patient(n, f"s-{n}", name=str(n)) for n in range(PEOPLE)])
        with (
            Server({"clinic": db}, next_master_key=next_key) as server,
            RemoteDatabase(server.url("clinic")) as remote,
        ):
            yield remote
        assert list(db.admin.check()) == []


def test_the_server_goes_on_with_the_next_master_key(tmp_path: Path, next_key: Path) -> None:
    path, told = tmp_path / "clinic", list[Progress]()
    with served(path, next_key) as remote:
        assert remote.people.rotate_key(progress=told.append) == PEOPLE + 1
        assert told
        assert all(one.step == "rotate keys" and one.total == PEOPLE + 1 for one in told)
        assert remote.count(PATIENTS) == PEOPLE
        remote.put(PATIENTS, patient(PEOPLE, "somebody new"))
        assert remote.people.forget(PATIENTS, 3).rows == 1
        assert remote.people.rotate_key() == 0
    with open_people(path, master_key=OTHER_MASTER) as db:
        assert len(list(db.scan(PATIENTS))) == PEOPLE
    with pytest.raises(OpenError, match="these keys are under another master key"):
        open_people(path)
    with served(path, next_key) as remote:  # started again with the same settings
        assert remote.count(PATIENTS) == PEOPLE
        assert remote.people.rotate_key() == 0


def test_the_log_says_whose_token_it_was_and_why(tmp_path: Path, next_key: Path) -> None:
    master = Successive(LocalMaster(MASTER), next_key)
    with EmbeddedDatabase(tmp_path / "clinic", master_key=master) as db:
        declare(db, PATIENTS)
        db.put(PATIENTS, patient(1, "s-1"))
        with (
            Server(
                {"clinic": db}, tokens={"dpo": "salt"}, roles={"dpo": ("operator",)}, next_master_key=next_key
            ) as server,
            RemoteDatabase(server.url("clinic").replace("://", "://:salt@")) as remote,
        ):
            with pytest.raises(AccessError):
                remote.people.rotate_key(actor="ann")
            assert remote.people.rotate_key(reason="once a year") == 2
        last = db.log.commit(db.head)
        assert (last.notice.kind, last.actor, last.reason) == (vault.ROTATED, "dpo", "once a year")


def test_the_file_of_the_next_need_not_be_there_before(tmp_path: Path) -> None:
    path, later = tmp_path / "clinic", tmp_path / "later.key"
    with served(path, later) as remote:
        with pytest.raises(OpenError, match=r"later\.key: the master key cannot be read"):
            remote.people.rotate_key()
        later.write_bytes(b"half of it")
        with pytest.raises(OpenError, match=r"later\.key: expected 32 bytes"):
            remote.people.rotate_key()
        assert remote.count(PATIENTS) == PEOPLE
        later.write_bytes(OTHER_MASTER)
        assert remote.people.rotate_key() == PEOPLE + 1


def test_no_call_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERLOG_NEXT_MASTER_KEY_FILE", raising=False)
    path = tmp_path / "clinic"
    with served(path, None) as remote:
        with pytest.raises(Error, match="a master key is never sent: pass none"):
            remote.people.rotate_key(OTHER_MASTER)
        with pytest.raises(OpenError, match="everlog serve --next-master-key"):
            remote.people.rotate_key()
        with RemoteDatabase(remote.url, read_only=True) as reader, pytest.raises(ReadOnlyError):
            reader.people.rotate_key()
    with open_people(path) as db:
        assert db.count(PATIENTS) == PEOPLE


def test_without_the_master_key_there_is_nothing_to_change(
    tmp_path: Path, next_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERLOG_MASTER_KEY", "EVERLOG_MASTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with served(tmp_path / "clinic", next_key):
        pass
    with (
        EmbeddedDatabase(tmp_path / "clinic") as db,
        Server({"clinic": db}, next_master_key=next_key) as server,
        RemoteDatabase(server.url("clinic")) as remote,
        pytest.raises(SealedError, match="no master key was given"),
    ):
        remote.people.rotate_key()


def test_of_those_who_ask_at_once_one_does_it_and_the_others_are_told(tmp_path: Path, next_key: Path) -> None:
    with served(tmp_path / "clinic", next_key) as remote:
        counts, told, together = list[int](), list[str](), threading.Barrier(3)

        def ask() -> None:
            together.wait()
            try:
                counts.append(remote.people.rotate_key())
            except Error as error:
                told.append(str(error))

        run([threading.Thread(target=ask) for _ in range(3)])
        assert len(counts) + len(told) == 3
        assert sorted(counts) == [*[0] * (len(counts) - 1), PEOPLE + 1]
        assert all("is being changed already; wait for it, and ask again" in one for one in told)
        assert remote.people.rotate_key() == 0


def test_others_write_read_and_forget_meanwhile(
    tmp_path: Path, next_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "EACH", 10)
    path, done, errors = tmp_path / "clinic", threading.Event(), list[BaseException]()
    written, forgotten = list[int](), list[int]()
    with served(path, next_key) as remote:

        def until_done(step: Callable[[int], None]) -> Callable[[], None]:
            def work() -> None:
                number = 0
                try:
                    while number < 20 or not done.is_set():
                        step(number)
                        number += 1
                except BaseException as error:  # noqa: BLE001  it is raised below
                    errors.append(error)

            return work

        def write(number: int) -> None:
            remote.put(PATIENTS, patient(10_000 + number, f"new-{number}", name=str(number)))
            written.append(10_000 + number)

        def read(number: int) -> None:
            row = remote.get(PATIENTS, 300 + number % 300)
            assert row is not None

        def forget(number: int) -> None:
            if number < 200:
                remote.people.forget(PATIENTS, number)
                forgotten.append(number)

        threads = [threading.Thread(target=until_done(step)) for step in (write, read, forget)]
        for thread in threads:
            thread.start()
        remote.people.rotate_key()
        done.set()
        for thread in threads:
            thread.join(60)
        assert errors == []
    with open_people(path, master_key=OTHER_MASTER) as db:
        rows = {row.id for row in db.scan(PATIENTS)}
        assert rows == {*range(PEOPLE), *written} - set(forgotten)
        assert list(db.admin.check()) == []


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
