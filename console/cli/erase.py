"""Erase: the commands forget, people and rotate-key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from everlog.console import output
from everlog.console.cli import connect
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import (
    Renamed,
    Settings,
    actor_option,
    common,
    dry_run,
    pass_settings,
    writes,
)
from everlog.console.output import show_progress
from everlog.store.crypto.master_key import NEXT_VARIABLE
from everlog.store.database import Database
from everlog.store.errors import quantity
from everlog.store.rocks.files import KEYS
from everlog.store.schema.descriptors import descriptor_of, resolve
from everlog.store.schema.schema import TableInfo
from everlog.store.upkeep.personal_data import elements


def say_sealed(path: Path) -> None:
    """Print a remedy if a new database has sealed rows and no keys."""
    if (path / KEYS).exists():
        return
    with Database(path, read_only=True) as db:
        sealed = [name for name, info in sorted(db.schema.tables.items()) if info.sealed]
    if sealed:
        click.echo(
            f"Sealed: the rows of {', '.join(sealed)}; to read them, put a copy of {KEYS}, which is stored"
            f" separately from the log, into {path}",
            err=True,
        )


@click.command()
@connect.table_argument
@click.argument("key", nargs=-1)
@click.option(
    "--person", metavar="VALUE", help="Identify the person by this value, instead of by the KEY of a row."
)
@click.option(
    "--reason", required=True, metavar="WHY", help="Reason, kept in the log. Do not name a person in it."
)
@actor_option
@dry_run
@common
@pass_settings
def forget(
    settings: Settings,
    table: str,
    key: tuple[str, ...],
    *,
    person: str | None,
    reason: str,
    actor: str,
    dry_run: bool,
) -> None:
    """Erase one person: delete all their rows in all tables, and destroy the key that seals them.
    Cannot be undone.

    \b
    Examples:
      everlog forget patients 17 --reason "asked for it on 3 May"
      everlog forget patients --person s-1 --reason "asked for it on 3 May"
    """
    _check_one(key, person)
    with open_database(settings, read_only=dry_run) as db:
        handle, info = connect.named(db, table)
        who = _who(info, key, person)
        if dry_run:
            _would_forget(settings, db.people.stream(handle, **who))
            return
        done = db.people.forget(handle, **who, reason=reason, actor=actor)
    if settings.json:
        left = msgspec.to_builtins(done.remaining)
        output.echo({"seq": done.seq, "key_id": done.key_id.hex(), "rows": done.rows, "remaining": left})
    else:
        click.echo(f"Forgotten: {quantity(done.rows, 'row')}, key {done.key_id.hex()}, commit {done.seq}")
        for one in done.remaining:
            click.echo(f"Still readable: {one.text}")


def _check_one(key: tuple[str, ...], person: str | None) -> None:
    """Raise UsageError unless exactly one of KEY and --person is given."""
    if bool(key) == (person is not None):
        raise click.UsageError("expected the KEY of a row, or --person")


def _who(info: TableInfo, key: tuple[str, ...], person: str | None) -> dict[str, Any]:
    """Return the named person as arguments of `People.forget` and `stream`. Raises RowError."""
    if person is None:
        return {"key": output.values(info.key_fields, key, f"the key of {info.name}")}
    fields = (resolve(descriptor_of(info.model), info.proto.person.numbers),)
    return {"person": output.values(fields, (person,), f"the person of {info.name}")}


def _would_forget(settings: Settings, held: Iterable[bytes]) -> None:
    """Print the number of rows and versions that `forget` would delete."""
    rows, versions = Counter[str](), 0
    for section, one in elements(held):
        versions += section == "versions"
        if section == "rows":
            rows[one["table"]] += 1
    if settings.json:
        output.echo({"rows": rows, "versions": versions, "dry_run": True})
        return
    listed = (
        ", ".join(f"{quantity(count, 'row')} of {name}" for name, count in sorted(rows.items())) or "no rows"
    )
    click.echo(f"Would forget: {listed}, and {quantity(versions, 'version')} of them in the log")


@click.group()
@common
def people() -> None:
    """Export the data about one person, or list personal data that is readable without keys.

    \b
    Examples:
      everlog people export patients 17 > person.json
      everlog people readable
    """


@people.command("export")
@connect.table_argument
@click.argument("key", nargs=-1)
@click.option(
    "--person", metavar="VALUE", help="Identify the person by this value, instead of by the KEY of a row."
)
@common
@pass_settings
def export_(settings: Settings, table: str, key: tuple[str, ...], *, person: str | None) -> None:
    """Print all data about one person as one JSON object: rows of all tables, every version in the log
    with author and reason, texts that mention the person, and the state of the key.

    If it fails, the exit code is not 0 and the output is not a complete object.

    \b
    Examples:
      everlog people export patients 17 > person.json
      everlog -u everlog://db.example.com/clinic people export patients --person s-1
    """
    _check_one(key, person)
    with open_database(settings, read_only=True) as db:
        handle, info = connect.named(db, table)
        for piece in db.people.stream(handle, **_who(info, key, person)):
            click.echo(piece.replace(b"\n", b"") if settings.json else piece, nl=False)
        if settings.json:
            click.echo()


@people.command()
@common
@pass_settings
def readable(settings: Settings) -> None:
    """List personal data that the log holds in readable form: rows from before their table was sealed,
    errors and plans of migrations with rows, primary keys that identify people. Exit with 1 if there
    is any.

    \b
    Examples:
      everlog people readable --json
    """
    with open_database(settings, read_only=True) as db:
        found = db.people.readable()
    for one in found:
        if settings.json:
            output.echo(msgspec.to_builtins(one))
        else:
            click.echo(one.text)
    if not found and not settings.json:
        click.echo("OK: no personal data is readable without keys")
    if found:
        raise click.exceptions.Exit(1)


@click.command("rotate-key")
@click.option(
    "--next-master-key",
    "file",
    cls=Renamed,
    was=("--to",),
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help=f"New master key: 32 bytes, raw or in base64. A server has its own.  [env: {NEXT_VARIABLE}]",
)
@writes
@common
@pass_settings
def rotate_key(settings: Settings, file: str | None, *, reason: str, actor: str) -> None:
    """Encrypt the keys of all people under another master key.

    EVERLOG_MASTER_KEY_FILE or EVERLOG_MASTER_KEY gives the current one. The log records who did it, when
    and why. Run the command again to resume after an interruption.

    A server uses the key of `everlog serve --next-master-key`; give no FILE.

    \b
    Examples:
      openssl rand -base64 32 > new.key
      everlog rotate-key --next-master-key new.key --reason "once a year" --actor ann
      everlog -u everlog://db.example.com/clinic rotate-key
    """
    settings.resume = "run the same command to resume; until then the old master key opens all rows"
    with open_database(settings) as db, show_progress() as progress:
        count = db.people.rotate_key(file, progress, reason=reason, actor=actor)
    if settings.json:
        output.echo({"keys": count})
    elif count:
        click.echo(f"Done: {quantity(count, 'key')} moved to the new master key; use that one from now on")
    else:
        click.echo("Done: all keys are under that master key already")
