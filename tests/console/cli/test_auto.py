"""Servers that apply pending migrations when they start, in their own processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console import shop
from tests.console.conftest import Run
from tests.console.served import serving
from tests.migrations.receiver import Receiver


def test_auto_applies_what_is_pending_and_then_serves(everlog: Run, one: Path) -> None:
    with serving("--migrate", "auto", "--actor", "deploy", "--reason", "release 7") as served:
        (status,) = everlog("-u", served.url, "status", "--json").json
        assert (status["schema_version"], status["pending"]) == (shop.SECOND, 0)
        commit = everlog("-u", served.url, "log", "--json", "--actor", "deploy").json[-1]
        assert (commit["reason"], commit["migration"]["step"]) == ("release 7", "FINISHED")


@pytest.mark.long
def test_auto_tells_operators_what_it_does(everlog: Run, one: Path) -> None:
    with Receiver() as receiver:
        how = ("--migrate", "auto", "--notify", receiver.url, "--actor", "deploy")
        for _ in range(2):
            with serving(*how):
                receiver.wait_for(2)
        title = f"books: the migration to {shop.SECOND} "
        assert [one.removeprefix(title) for one in receiver.titles] == ["has started", "has finished"]


def test_auto_does_not_serve_what_it_cannot_migrate(everlog: Run, one: Path, project: Path) -> None:
    edited = next(project.glob(f"v{shop.FIRST}_*")) / "__init__.py"
    before = edited.read_text()
    try:
        edited.write_text(before + "EDITED = 1\n")
        ended = everlog("serve", "--migrate", "auto", "--listen", "127.0.0.1:0")
        assert (ended.code, "was edited after commit 2 applied it" in ended.err) == (1, True)
        assert "Serving" not in ended.out
    finally:
        edited.write_text(before)
    assert everlog("status", "--json").json[0]["schema_version"] == shop.FIRST


@pytest.mark.long
def test_auto_leaves_out_what_was_rejected_or_rolled_back_and_serves_what_is_there(
    everlog: Run, one: Path
) -> None:
    by = ("--actor", "bob", "--reason", "not on a Friday")
    everlog("propose", "--actor", "deploy")
    (found,) = everlog("migrations", "proposals", "--json").json
    assert everlog("reject", found["digest"], *by).code == 0
    ended = everlog("up")
    assert (ended.code, "was rejected by bob in commit 4 (not on a Friday)" in ended.err) == (1, True)
    with Receiver() as receiver:
        how = ("--migrate", "auto", "--notify", receiver.url)
        for _ in range(2):
            with serving(*how) as served:
                receiver.wait_for(1)
                (status,) = everlog("-u", served.url, "status", "--json").json
                assert (status["schema_version"], status["pending"]) == (shop.FIRST, 1)
        assert everlog("propose", "--actor", "deploy").code == 0
        *_, again = everlog("migrations", "proposals", "--json").json
        assert everlog("approve", again["digest"], "--actor", "ann", "--reason", "it is Monday").code == 0
        with serving(*how) as served:
            assert everlog("-u", served.url, "rollback", *by).code == 0
            assert receiver.wait_for(2)[1]["title"].endswith(f"{shop.SECOND}_index_books was rolled back")
        with serving(*how) as served:
            (status,) = everlog("-u", served.url, "status", "--json").json
            assert (status["schema_version"], status["pending"]) == (shop.FIRST, 1)
            receiver.wait_for(3)
            assert everlog("-u", served.url, "up").code == 0
    assert [one["type"] for one in receiver.received] == ["warning"] * 3
