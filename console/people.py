"""People: one is forgotten; and the master key, under which the keys of all are, is changed."""

from __future__ import annotations

from pathlib import Path

import click

from everlog.console import tables, text
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, pass_settings
from everlog.store.database import Database
from everlog.store.fields import descriptor_of, resolve
from everlog.store.master import NEXT_VARIABLE
from everlog.store.slots import KEYS


def say_sealed(path: Path) -> None:
    """Where a database that was made has rows that are sealed, and has no keys: says so, and the remedy."""
    if (path / KEYS).exists():
        return
    with Database(path, read_only=True) as db:
        sealed = [name for name, info in sorted(db.schema.tables.items()) if info.sealed]
    if sealed:
        click.echo(
            f"Sealed: the rows of {', '.join(sealed)}; they open once a copy of {KEYS}, which is kept apart"
            f" from the log, is put into {path}",
            err=True,
        )


@click.command()
@tables.table_argument
@click.argument("key", nargs=-1)
@click.option(
    "--person", metavar="VALUE", help="Whoever has this value, instead of a KEY of one of the rows."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why; the log keeps it. Name nobody in it.")
@click.option("--actor", default="", metavar="NAME", help="Who does it.")
@common
@pass_settings
def forget(
    settings: Settings, table: str, key: tuple[str, ...], *, person: str | None, reason: str, actor: str
) -> None:
    """Erases one person: deletes all their rows, of all tables, and shreds the key under which they
    are sealed. It cannot be undone.

    \b
    Examples:
      everlog forget patients 17 --reason "asked for it on 3 May"
      everlog forget patients --person s-1 --reason "asked for it on 3 May"
    """
    if bool(key) == (person is not None):
        raise click.UsageError("expected the KEY of a row, or --person")
    with open_database(settings) as db:
        handle, info = tables.named(db, table)
        if person is not None:
            fields = (resolve(descriptor_of(info.model), info.proto.person.numbers),)
            who = text.values(fields, (person,), f"the person of {table}")
            done = db.forget(handle, person=who, reason=reason, actor=actor)
        else:
            value = text.values(info.key_fields, key, f"the key of {table}")
            done = db.forget(handle, value, reason=reason, actor=actor)
    if settings.json:
        text.echo({"seq": done.seq, "key_id": done.key_id.hex(), "rows": done.rows})
    else:
        click.echo(f"Forgotten: {done.rows:,} rows, key {done.key_id.hex()}, commit {done.seq}")


@click.command("rotate-key")
@click.option(
    "--to",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The new master key: 32 bytes, as they are or in base64.  [default: that of"
    f" {NEXT_VARIABLE}; at a server, of its own]",
)
@click.option("--reason", default="", metavar="TEXT", help="Why; the log keeps it.")
@click.option("--actor", default="", metavar="NAME", help="Who does it.")
@common
@pass_settings
def rotate_key(settings: Settings, file: str | None, *, reason: str, actor: str) -> None:
    """Puts the keys of all people under another master key. The one before is that of the environment.
    Killed, it is resumed by running it again. The log says who did it, when and why.

    At a server no key is given: it takes the one of `everlog serve --next-master-key`.

    \b
    Examples:
      openssl rand -base64 32 > new.key
      everlog rotate-key --to new.key --reason "once a year" --actor ann
      everlog -u everlog://db.example.com/clinic rotate-key
    """
    settings.resume = "the same command goes on where it stopped; until then the old master key opens all"
    with open_database(settings) as db, shown() as progress:
        count = db.rotate_key(file, progress, reason=reason, actor=actor)
    if settings.json:
        text.echo({"keys": count})
    elif count:
        click.echo(f"Done: {count:,} keys are under the new master key; give that one from now on")
    else:
        click.echo("Done: all keys are under that master key already")
