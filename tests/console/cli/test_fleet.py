"""Fleet: the members and runs of a fleet, as lines and as JSON, and the commands that control them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

import everlog as program
from everlog import migrations
from everlog.console.cli.fleet import page
from everlog.fleet.hub import Hub
from everlog.fleet.ledger import SOURCE
from everlog.fleet.protocol import Decision, Phase, Run, Seat, Target, Vote
from everlog.fleet.status import EndedRun, FleetStatus, MemberReport, MemberStatus
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console.conftest import Run as Command
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

PATIENCE_S = 60.0
START, END = 20260101000000, 20260101000001
A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with EmbeddedDatabase(tmp_path / "ledger") as db:
        migrations.apply(db, SOURCE)
        hub = Hub(db, tmp_path / "ledger.mark")
        hub.start()
        with Server({"ledger": db}, fleets={"ledger": hub}) as server:
            yield server.url("ledger")
        hub.close()


def test_the_commands_of_a_fleet_say_what_they_did(everlog: Command, url: str, tmp_path: Path) -> None:
    done = everlog("-u", url, "fleet", "status")
    assert (done.code, done.out) == (0, "0 members, 0 connected\n")
    with program.open(tmp_path / "shop", fleet=url, fleet_name="shop", fleet_labels={"region": "eu"}):
        until = time.monotonic() + PATIENCE_S
        while not (found := json.loads(everlog("-u", url, "fleet", "status", "--json").out))["members"]:
            assert time.monotonic() < until
        (one,) = found["members"]
        assert (one["name"], one["labels"], one["state"]) == ("shop", {"region": "eu"}, "current")
        assert found["runs"] == []
        for words, said in (
            (["upgrade"], "none of 1 member has a pending migration"),
            (["upgrade", "--select", "region=us"], "no member is selected by 'region=us'"),
            (["abort"], "the fleet has no run that is undecided"),
            (["abort", "1"], "expected the UUID of a run, found '1'"),
            (["contract"], "the fleet has no run that is committed"),
            (["remove", "nobody"], "the fleet has no member nobody"),
            (["remove", "shop"], "the fleet has no run that is undecided"),
            (["remove", "shop", "--forget"], "member shop is connected: end its process first"),
        ):
            done = everlog("-u", url, "fleet", *words)
            assert (done.code, done.out) == (1, "")
            assert said in done.err
        done = everlog("-u", url, "fleet", "drift")
        assert (done.code, done.out) == (0, "1 member at version 0: shop\n")
        found = json.loads(everlog("-u", url, "fleet", "drift", "--json").out)
        assert found == {"groups": [{"version": 0, "members": ["shop"], "differences": []}], "problems": []}
        done = everlog("-u", url, "fleet", "watch", "--until-ended")
        assert done.code == 0
        assert done.out.startswith("shop: current")
    done = everlog("-u", url, "fleet", "drift")
    assert done.code == 1
    assert done.out.startswith("not surveyed: shop: it is not connected; start its process, or leave it out")
    members = tmp_path / "members.toml"
    urls = {name: f'url = "file:{tmp_path / name}"' for name in ("shop", "gone")}
    members.write_text("\n".join(f"[members.{name}]\n{url}" for name, url in urls.items()))
    done = everlog("fleet", "drift", "--members", str(members))
    assert done.code == 1
    assert done.out.startswith("1 member at version 0: shop\nnot surveyed: gone: ")
    done = everlog("-u", f"file:{tmp_path / 'ledger'}", "fleet", "status")
    assert "expected the ledger of a fleet at its server" in done.err


def test_a_plan_is_shown_approved_and_started(
    everlog: Command, url: str, project: Project, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "first") as db:
        airports = Airports(project, db, 3)
    with EmbeddedDatabase(tmp_path / "shop") as db:
        migrations.apply(db, airports.path, to=START)
    how = {"migrations": airports.path, "fleet": url, "fleet_name": "shop"}
    with program.open(tmp_path / "shop", **how) as shop:  # type: ignore[arg-type]
        until = time.monotonic() + PATIENCE_S
        while not json.loads(everlog("-u", url, "fleet", "status", "--json").out)["members"]:
            assert time.monotonic() < until
        done = everlog("-u", url, "fleet", "upgrade", "--select", "name!=gone")
        assert done.code == 1
        assert done.out.startswith("Waiting: plan ")
        assert f", 1 member to {END}_two in unison\n  " in done.out
        assert "was proposed and not started; start it with `everlog fleet upgrade" in done.err
        done = everlog("-u", url, "fleet", "plan", "--actor", "ann")
        assert (done.code, done.out.splitlines()[-1][:9]) == (0, "in all 0 ")
        told = [json.loads(line) for line in everlog("-u", url, "fleet", "plans", "--json").out.splitlines()]
        assert [(one["state"], one["proposed_by"]) for one in told] == [
            ("superseded", ""),
            ("waiting", "ann"),
        ]
        short = told[1]["digest"][:12]
        assert [one["name"] for one in told[1]["plan"]["members"]] == ["shop"]
        for words, said in (
            (["approve", short, "--actor", "ann", "--reason", "x"], "ann proposed"),
            (["approve", short, "--actor", "bob"], "expected a reason"),
            (["approve", "123456", "--actor", "bob", "--reason", "x"], "expected the digest of a plan"),
            (["reject", told[0]["digest"], "--actor", "bob", "--reason", "x"], "was superseded by another"),
            (["upgrade", short, "--select", "name=shop"], "--select would have no effect beside a DIGEST"),
            (["plan", "--to-version", "7"], "none of 1 member has a pending migration to 7"),
        ):
            done = everlog("-u", url, "fleet", *words)
            assert done.code != 0
            assert said in done.err
        done = everlog("-u", url, "fleet", "approve", short, "--actor", "bob", "--reason", "looked at it")
        assert done.out == f"Approved: plan {short}, 1 member to {END}_two in unison\n"
        done = everlog("-u", url, "fleet", "upgrade", short)
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1].endswith(": contracted, 1 of 1 member")
        assert shop.schema.version == END
        done = everlog("-u", url, "fleet", "plans")
        assert (
            f"\n{short}  started: 1 member to {END}_two in unison, proposed by ann, decided by bob"
            in done.out
        )


def test_a_plan_goes_in_waves(everlog: Command, url: str, project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "first") as db:
        airports = Airports(project, db, 3)
    with EmbeddedDatabase(tmp_path / "shop") as db:
        migrations.apply(db, airports.path, to=START)
    how = {"migrations": airports.path, "fleet": url, "fleet_name": "shop"}
    with program.open(tmp_path / "shop", **how) as shop:  # type: ignore[arg-type]
        until = time.monotonic() + PATIENCE_S
        while not json.loads(everlog("-u", url, "fleet", "status", "--json").out)["members"]:
            assert time.monotonic() < until
        done = everlog("-u", url, "fleet", "rollout", "status")
        assert (done.code, done.out) == (1, "")
        assert "the fleet has no rollout; `everlog fleet rollout start` begins one" in done.err
        short = json.loads(everlog("-u", url, "fleet", "plan", "--for-waves", "--json").out)["digest"][:12]
        done = everlog("-u", url, "fleet", "rollout", "start", short, "--waves", "region=eu")
        assert "1 member would be in no wave, the first is shop; end the waves with `rest`" in done.err
        done = everlog("-u", url, "fleet", "rollout", "start", short, "--waves", "name=shop,!canary; rest")
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1].endswith(": finished, wave 1 of 1, 1 of 1 member upgraded")
        assert shop.schema.version == END
        told = json.loads(everlog("-u", url, "fleet", "rollout", "status", "--json").out)
        (wave,) = told["waves"]
        assert (told["state"], wave[0]["name"], wave[0]["upgraded"]) == ("finished", "shop", True)
        for words, said in (
            (["stop", "--reason", "x"], "the rollout is finished and cannot be stopped"),
            (["approve", "--actor", "ann"], "the rollout does not wait for approval after wave 1"),
            (["start", short], "was started in waves, and cannot be started"),
        ):
            done = everlog("-u", url, "fleet", "rollout", *words)
            assert (done.code, done.out) == (1, "")
            assert said in done.err
        done = everlog("-u", url, "fleet", "rollout", "roll-back", "--reason", "prices are wrong")
        assert done.out.splitlines()[-1].endswith(": rolled back, wave 1 of 1, 0 of 1 member upgraded")
        assert shop.schema.version == START


def test_no_command_writes_the_ledger(everlog: Command, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "ledger") as db:
        migrations.apply(db, SOURCE)
    (tmp_path / "plans.jsonl").write_text("{}")
    for words in (["import", "plans", str(tmp_path / "plans.jsonl")], ["rollback", "--yes"], ["up"]):
        done = everlog("-u", f"file:{tmp_path / 'ledger'}", *words)
        assert done.code == 1
        assert "is the ledger of a fleet, and only its coordinator writes there" in done.err


def test_a_screen_shows_stragglers_with_what_they_wait_for() -> None:
    plan = [Target(one, 1, 2, b"") for one in (A, B, C)]
    run = Run(C, (Seat(plan[0]), Seat(plan[1], Vote.PREPARED), Seat(plan[2])), 1_767_225_600_000_000_000)
    building = MemberReport(
        "a", A, version=1, phase=Phase.PREPARING, decision_id=C, rows=500, total=2000, rate=150.0
    )
    members = [
        MemberStatus(MemberReport("c", C, version=1), connected=False),
        MemberStatus(building, connected=True),
        MemberStatus(MemberReport("b", B, version=1, phase=Phase.PREPARED, decision_id=C), connected=True),
    ]
    ended = EndedRun(
        decision_id=B,
        decision=Decision.ABORT,
        members=3,
        upgraded=0,
        started_ns=1_767_225_600_000_000_000,
        decided_ns=1_767_225_612_000_000_000,
        ended_ns=1_767_225_612_500_000_000,
        actor="ann",
        reason="release 2",
        why="no room",
    )
    lines = page(FleetStatus(7, "", members, [run], [ended]), 200)
    assert lines == [
        "3 members, 2 connected",
        f"run {UUID(bytes=C)}: preparing, 1 of 3 members voted, until 2026-01-01T00:00:00Z",
        f"run {UUID(bytes=B)}: aborted, 0 of 3 members, ended 2026-01-01T00:00:12Z after 12.5 s: no room",
        "",
        "MEMBER  STATE      VERSION          ROWS   RATE  LEFT",
        "c       away             1",
        "a       preparing        1  500 of 2,000  150/s  10 s",
        "b       prepared         1",
    ]
