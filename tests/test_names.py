"""Names: a call of the library, its RPC and its verb share one word, or have a row with the reason here.

The three lists are read from the protocols, the descriptors and the commands. A verb may omit the handle:
`db.consumers.remove`, `Consumers.Remove`, `everlog consumers remove`; `db.people.forget`, `People.Forget`,
`everlog forget`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

import click

from everlog.audit.prover import Prover
from everlog.console.cli.main import cli
from everlog.proto import (
    access_pb2,
    admin_pb2,
    archive_pb2,
    consumers_pb2,
    feed_pb2,
    fleet_pb2,
    history_pb2,
    migrations_pb2,
    people_pb2,
    proofs_pb2,
    store_pb2,
)
from everlog.rpc import handles
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.client.fleet import RemoteFleet
from everlog.rpc.embedded import EmbeddedDatabase

PROTOS = (
    *(admin_pb2, archive_pb2, consumers_pb2, feed_pb2, history_pb2),
    *(migrations_pb2, people_pb2, proofs_pb2, store_pb2, access_pb2, fleet_pb2),
)
PROTOCOLS = {
    **{name.lower(): getattr(handles, name) for name in handles.__all__},
    "proofs": Prover,
    "fleet": RemoteFleet,
}
# Services that are not named as a handle, and where their calls are: "" is the database itself.
HOMES = {"Store": "", "Feed": "", "History": "past"}
FACES = ("audit", "consumers", "migrations")


class Row(NamedTuple):
    """One thing that is done, by its names; empty: it has none there."""

    method: str
    rpc: str
    verb: str
    reason: str


WIRE = "the name on the wire cannot change"
EVERYDAY = "for programs: a shell reads with get and scan, and writes with import"
PROGRAMS = "for programs: a shell has no use for it"
DBMATE = "the verb is dbmate's"
HERE = "runs at the caller, over other calls"
SHELL = "about this machine or the shell, not about an open database"
TOKEN = "the shell has a group of verbs for tokens"
SERVER = "of a server, not of one database"
OPTION = "an option of the verb that shows or does the rest"

ROWS = [
    # the database
    *(Row(name, "", "", EVERYDAY) for name in ("put", "insert", "update", "delete", "run", "version")),
    *(Row(name, "", "", PROGRAMS) for name in ("close", "opener", "snapshot", "expires_ns")),
    *(Row(name, "Store.Describe", "", WIRE) for name in ("cursor", "refresh")),
    Row("transaction", "Store.Commit", "", "the RPC is the end of a transaction; " + EVERYDAY),
    Row("run", "Store.Turn", "", "`run` takes a turn after conflicts; " + EVERYDAY),
    Row("get_many", "Store.BatchGet", "", WIRE),
    Row("count", "Store.Count", "scan --count", OPTION),
    Row("load", "Store.Load", "import", "`load` is dbmate's, for a schema; `import` is Python's"),
    Row("", "", "export", "`scan` of a whole table into a file"),
    Row("feed", "Feed.Subscribe", "follow", f"{WIRE}; the verb applies the feed to a sink"),
    Row("at", "History.At", "get --at", OPTION),
    Row("past.at", "History.At", "scan --at", OPTION),
    Row("past.positions", "History.Positions", "", "for the plots of the console"),
    Row("admin.rebuild_into", "", "rebuild --into", HERE),
    # admin
    Row("admin.hashes", "Admin.Status", "rebuild", f"{WIRE}; a shell sees them where they are compared"),
    Row("", "Admin.ListDatabases", "", SERVER),
    Row("admin.correct_clock", "Admin.CorrectClock", "clock --correct", OPTION),
    Row("admin.set_production", "Admin.SetProduction", "production", "the verb shows it as well"),
    Row("admin.samples", "Admin.Samples", "", "for the plots of the console"),
    Row("admin.calls", "Admin.Calls", "top", "the program that lists what runs has this name everywhere"),
    # archive
    Row("archive.backup", "", "backup", HERE),
    Row("archive.move", "Archive.Archive", "archive", "the handle has the word: db.archive"),
    Row("archive.removable", "Archive.Removable", "archive --dry-run", OPTION),
    Row("archive.holds", "Archive.Holds", "archive", "the verb prints them with every change"),
    Row("archive.hold", "Archive.Hold", "archive --add-hold", OPTION),
    Row("archive.release", "Archive.Release", "archive --release", OPTION),
    Row("audit.backup", "", "backup", "db.archive.backup is this for an open database"),
    Row("audit.archive", "", "archive", "db.archive.move is this for an open database"),
    Row("audit.restore", "", "restore", HERE),
    Row("audit.verify_backup", "", "verify-backup", HERE),
    # access
    Row("access.whoami", "Access.WhoAmI", "access whoami", "one word in Python and in shells"),
    Row("access.define", "Access.DefineRole", "access define", WIRE),
    Row("access.create_token", "Access.CreateToken", "token create", TOKEN),
    Row("access.rotate_token", "", "token rotate", f"{TOKEN}; runs create and revoke"),
    Row("access.revoke_token", "Access.RevokeToken", "token revoke", TOKEN),
    Row("", "", "token list", "a part of what `access show` shows"),
    Row("", "", "access roles", "a part of what `access show` shows"),
    # consumers
    Row("consumers.bookmark", "Consumers.Bookmark", "follow --consumer", "a follower does it"),
    Row("", "Consumers.List", "consumers", f"{WIRE}; the handle is iterated"),
    Row("consumers.open_sink", "", "follow --to", OPTION),
    Row("consumers.verify", "", "follow --verify", OPTION),
    # migrations
    Row("migrations.status", "Migrations.List", "status", WIRE),
    Row("migrations.problem", "Migrations.Status", "status", WIRE),
    Row("migrations.rules", "Migrations.Status", "", f"{WIRE}; for the console, which says who may decide"),
    Row("migrations.differences", "", "status --diff", OPTION),
    Row("migrations.lint", "", "lint", HERE),
    Row("migrations.apply", "Migrations.Apply", "up", DBMATE),
    Row("migrations.apply", "Migrations.Apply", "migrate", DBMATE),
    Row("migrations.rollback", "Migrations.Rollback", "down", DBMATE),
    Row("migrations.plan_rollback", "Migrations.PlanRollback", "rollback --dry-run", OPTION),
    Row("migrations.dump", "", "dump", HERE),
    Row("migrations.dump_schema", "", "dump", "db.migrations.dump is this for an open database"),
    Row("migrations.load_schema", "", "load", "`migrations.load` loads folders"),
    Row("migrations.load_testdata", "", "testdata", "the verb loads nothing else"),
    Row("migrations.restore_folders", "Migrations.Folders", "restore-folders", WIRE),
    *(Row(f"migrations.{name}", "", name, HERE) for name in ("new", "build", "squash")),
    # fleet
    Row("fleet.start", "Fleet.Start", "", "for programs; `fleet upgrade` starts a plan"),
    Row("fleet.survey", "Fleet.Survey", "fleet drift", "the verb compares the surveys"),
    *(
        Row(f"fleet.{method}", f"Fleet.{rpc}", f"fleet rollout {verb}", "the shell has a group for rollouts")
        for method, rpc, verb in (
            ("start_rollout", "StartRollout", "start"),
            ("rollouts", "Rollouts", "status"),
            ("approve_wave", "ApproveWave", "approve"),
            ("stop_rollout", "StopRollout", "stop"),
            ("roll_back", "RollBack", "roll-back"),
        )
    ),
    Row("", "Fleet.Join", "serve --join", OPTION),
    # people
    Row("people.stream", "People.Export", "people export", f"{WIRE}; `export` in pieces"),
    Row("", "People.Keys", "", "the keys of a remote `opener`"),
    # proofs
    Row("proofs.head", "Proofs.Head", "", PROGRAMS),
    Row("proofs.prove_from", "Proofs.ProveFrom", "prove --from-size", OPTION),
    *(Row(f"proofs.{name}", f"Proofs.{name.title()}", "checkpoint", OPTION) for name in ("keep", "kept")),
    Row("proofs.entries", "Proofs.Entries", "tiles", "the verb writes them to files"),
    # the shell
    *(
        Row("", "", verb, SHELL)
        for verb in ("create", "drop", "wait", "config", "completion", "keygen", "cert dev")
    ),
    *(Row("", "", verb, "reads files that others have made") for verb in ("verify", "audit")),
    Row("", "", "api", "calls any RPC, by the name of the RPC"),
    Row("", "", "repair", "a damaged database cannot be opened"),
    Row("", "", "console", "`everlog.console.web` is the console, without a public call"),
    Row("", "", "serve", "`everlog.rpc.server` is the server, without a public call"),
]


def methods() -> set[str]:
    own = {
        name
        for name in vars_of(EmbeddedDatabase) & vars_of(RemoteDatabase)
        if inspect.isfunction(inspect.getattr_static(EmbeddedDatabase, name))
    }
    for handle, protocol in PROTOCOLS.items():
        own |= {
            f"{handle}.{name}" for name in vars_of(protocol) if inspect.isfunction(getattr(protocol, name))
        }
    for face in FACES:
        module = import_module(f"everlog.{face}")
        own |= {f"{face}.{name}" for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    return own


def vars_of(found: type) -> set[str]:
    return {name for name in dir(found) if not name.startswith("_")}


def rpcs() -> set[str]:
    return {
        f"{service.name}.{method.name}"
        for module in PROTOS
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def verbs(options: bool = False) -> set[str]:
    return set(_verbs(cli, [], options))


def _verbs(found: click.Command, path: list[str], options: bool) -> Iterator[str]:
    name = " ".join(path)
    if isinstance(found, click.Group):
        for inner in found.list_commands(click.Context(found)):
            command = found.get_command(click.Context(found), inner)
            assert command is not None
            yield from _verbs(command, [*path, inner], options)
    if not isinstance(found, click.Group) or (path and found.invoke_without_command):
        yield name
        if options:
            yield from (f"{name} {option}" for each in found.params for option in each.opts)


def home_of(rpc: str) -> tuple[str, str]:
    service, _, name = rpc.partition(".")
    word = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    home = HOMES.get(service, service.lower())
    return home, word


def of(home: str, word: str) -> str:
    return f"{home}.{word}" if home else word


def shared() -> tuple[set[str], set[str], set[str]]:
    """Methods, RPCs and verbs that share one word, all three."""
    by_rpc = {of(*home_of(rpc)): rpc for rpc in rpcs()}
    in_rows = {row.method for row in ROWS}
    found: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for method in methods() - in_rows:
        home, _, word = method.rpartition(".")
        word = word.replace("_", "-")
        verb = next((verb for verb in (f"{home} {word}", word) if verb in verbs()), None)
        # at and history of the database are those of `db.past`
        rpc = by_rpc.get(method) or (by_rpc.get(f"past.{method}") if not home else None)
        if rpc and verb:
            for each, name in zip(found, (method, rpc, verb), strict=True):
                each.add(name)
    return found


def test_the_library_the_wire_and_the_shell_share_the_word() -> None:
    in_rows = {row.method for row in ROWS}, {row.rpc for row in ROWS}, {row.verb for row in ROWS}
    everything = methods(), rpcs(), verbs()
    for kind, names, same, rows in zip(
        ("methods", "RPCs", "verbs"), everything, shared(), in_rows, strict=True
    ):
        verbs_of_rows = {verb.partition(" --")[0] for verb in rows} if kind == "verbs" else rows
        missing = names - same - verbs_of_rows
        assert missing == set(), f"{kind} whose word is no other's: rename them, or give a row with a reason"


def test_every_row_names_what_there_is_and_differs() -> None:
    known = methods(), rpcs(), verbs(options=True)
    for row in ROWS:
        for name, names in zip(row[:3], known, strict=True):
            assert not name or name in names, f"{name!r} is no more: {row}"
        home, _, word = row.method.rpartition(".")
        by_word = row.rpc and home_of(row.rpc) == (home, word)
        assert not (by_word and row.verb.replace("-", "_") in (word, f"{home} {word}")), (
            f"a row without need: {row}"
        )


def test_the_lists_are_not_empty() -> None:
    assert {"get", "past.diff", "people.forget", "migrations.squash"} <= methods()
    assert {"Store.Get", "Migrations.PlanRollback"} <= rpcs()
    assert {"get", "consumers", "consumers remove"} <= verbs()
    same_methods, same_rpcs, same_verbs = shared()
    assert {"get", "past.diff", "consumers.remove"} <= same_methods
    assert {"Store.Get", "History.Diff", "Consumers.Remove"} <= same_rpcs
    assert {"get", "diff", "consumers remove"} <= same_verbs
