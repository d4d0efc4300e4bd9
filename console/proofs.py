"""Proofs: keys, checkpoints, proofs, and the tree as files.

    keygen ─▶ a private key in a file          checkpoint ─▶ how the log is now, signed
    prove  ─▶ a file                           tiles      ─▶ a directory for others' tools

Who verifies them: audit.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Renamed, Settings, common, pass_settings
from everlog.store.errors import Error
from everlog.store.head import read_secret

if TYPE_CHECKING:
    from everlog.audit.note import Signer, Verifier
    from everlog.audit.proof import Checkpoint
    from everlog.audit.prover import Prover
    from everlog.console.opening import AnyDatabase

FILE = click.Path(path_type=Path, dir_okay=False)

_key = click.option(
    "--signing-key",
    "key_file",
    cls=Renamed,
    was=("--key",),
    type=FILE,
    metavar="FILE",
    help="Private key that signs (`keygen`).",
)
_origin = click.option("--origin", metavar="TEXT", help="First line of checkpoints.  [default: everlog/UUID]")
_by = click.option(
    "--signed-by",
    "vkey",
    metavar="VKEY",
    help="Go by checkpoints that this public key signed; or a file of it.",
)
_out = click.option("--out", type=FILE, metavar="FILE", help="Write it there.  [default: print it]")


@click.command()
@click.argument("file", type=FILE)
@click.option("--name", metavar="NAME", help="Who signs.  [default: everlog/UUID of the database]")
@common
@pass_settings
def keygen(settings: Settings, *, file: Path, name: str | None) -> None:
    """Makes a key that signs checkpoints, in a file that only you can read; prints the public one.

    Whoever verifies needs the public key, from you and not from the database.

    \b
    Examples:
      everlog -u file:flights.db keygen flights.key
      everlog keygen flights.key --name example.com/flights
    """
    from everlog.audit.note import Signer

    if name is None:
        from everlog.audit.prover import origin_of

        with open_database(settings, read_only=True) as db:
            name = origin_of(prover_of(db))
    signer = Signer.generate(name)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Error(f"{file} is there already, and a key is never overwritten; name another file") from None
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(signer.secret() + "\n")
        out.flush()
        os.fsync(out.fileno())
    tell(settings, str(signer.verifier), {"key": str(signer.verifier), "path": str(file)})


@click.command()
@_key
@_origin
@_out
@common
@pass_settings
def checkpoint(settings: Settings, *, key_file: Path | None, origin: str | None, out: Path | None) -> None:
    """Signs how the log is now, keeps that in the log, and prints it: keep it elsewhere, too.

    A server that has a key signs by itself. If nothing was written since the last one, that is printed.

    \b
    Examples:
      everlog -u file:flights.db checkpoint --signing-key flights.key
      everlog -u everlog://db.example.com/flights checkpoint > flights.checkpoint
    """
    with open_database(settings) as db, shown() as progress:
        note, new = _checkpoint(prover_of(db), key_file, origin, progress)
    found = _read(note)
    facts = {"origin": found.origin, "size": found.size, "root": found.root.hex(), "new": new, "note": note}
    _write(settings, note, out, facts)


@click.command()
@click.option("--seq", type=click.IntRange(1), metavar="SEQ", help="That this record is in the log.")
@click.option(
    "--from-size",
    "first",
    cls=Renamed,
    was=("--from",),
    type=click.IntRange(0),
    metavar="SIZE",
    help="That it begins with so many.",
)
@_key
@click.option("--checkpoint", "given", type=FILE, metavar="FILE", help="Prove it by this checkpoint.")
@_by
@_origin
@click.option(
    "--quick", is_flag=True, help="With --from-size: believe the tree, and do not read the records."
)
@_out
@common
@pass_settings
def prove(
    settings: Settings,
    *,
    seq: int | None,
    first: int | None,
    key_file: Path | None,
    given: Path | None,
    vkey: str | None,
    origin: str | None,
    quick: bool,
    out: Path | None,
) -> None:
    """Makes a file that proves what is in the log to whoever has the public key.

    It goes back to the newest checkpoint of that log, and in it, that covers it; with --signing-key to a
    new one. With --signed-by it passes over checkpoints of other signers.

    \b
    Examples:
      everlog prove --seq 812 --signed-by flights.pub --out 812.tlog-proof
      everlog prove --from-size 500 --signing-key flights.key > growth.proof
    """
    from everlog.audit import prover as room

    if (seq is None) == (first is None):
        raise click.UsageError("expected one of --seq and --from-size")
    if quick and first is None:
        raise click.UsageError("--quick goes with --from-size: of --seq the record alone is read")
    if bool(key_file) + bool(given) + bool(vkey) > 1:
        raise click.UsageError("expected one of --signing-key, --checkpoint and --signed-by")
    by = verifier_in(vkey) if vkey else None
    with open_database(settings, read_only=key_file is None) as db, shown() as progress:
        prover = prover_of(db)
        note = read_text(given) if given else None
        if key_file:
            note = _checkpoint(prover, key_file, origin, progress)[0]
        if seq is not None:
            proof = room.prove(prover, seq, note, by=by, origin=origin).text()
        else:
            assert first is not None
            found = room.prove_from(
                prover, first, note, by=by, origin=origin, check=not quick, progress=progress
            )
            proof = found.text()
    _write(settings, proof, out, {"proof": proof})


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@_key
@_by
@_origin
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Read and mend the files of earlier exports.  [default: verify]",
)
@common
@pass_settings
def tiles(
    settings: Settings,
    *,
    directory: Path,
    key_file: Path | None,
    vkey: str | None,
    origin: str | None,
    verify: bool,
) -> None:
    """Brings a directory to the newest checkpoint: the tree as the tiles of C2SP tlog-tiles, and the hash
    of each record. Any web server can serve it, others' tools can check it, and `audit --tiles` can.

    \b
    Examples:
      everlog -u file:flights.db tiles /mnt/elsewhere/flights --signing-key flights.key
    """
    from everlog.audit.export import export
    from everlog.audit.prover import newest

    if key_file and vkey:
        raise click.UsageError("expected one of --signing-key and --signed-by")
    settings.resume = "run it again: it goes on from the checkpoint that is there"
    with open_database(settings, read_only=key_file is None) as db, shown() as progress:
        prover = prover_of(db)
        if key_file:
            note = _checkpoint(prover, key_file, origin, progress)[0]
        else:
            note = newest(prover, by=verifier_in(vkey) if vkey else None, origin=origin)
        done = export(prover, note, directory, progress, verify=verify)
    said = (
        f"Exported: {done.size:,} records, {done.size - done.before:,} of them new, to {text.path(directory)}"
    )
    facts = {"size": done.size, "before": done.before, "path": str(directory)}
    tell(settings, said, {**facts, "mended": done.mended, "strange": done.strange})
    if not settings.json:
        for file in done.mended:
            click.echo(f"Mended: {file}, which had been changed or removed")
        for file in done.strange:
            click.echo(f"Left alone: {file}, which is no part of the tree")


def prover_of(db: AnyDatabase) -> Prover:
    """Who shows what a database holds."""
    from everlog.feed.embedded import EmbeddedDatabase

    if isinstance(db, EmbeddedDatabase):
        from everlog.audit.prover import LocalProver

        return LocalProver(db)
    from everlog.rpc.remote_proofs import RemoteProver

    return RemoteProver(db)


def _checkpoint(prover: Prover, key: Path | None, origin: str | None, progress: Any) -> tuple[str, bool]:
    from everlog.audit.prover import checkpoint as sign

    if key is not None:
        return sign(prover, signer_in(key), origin, progress=progress)
    found = prover.signed()
    if found is None:
        raise Error(
            "expected --signing-key FILE, which signs the checkpoint; `everlog keygen FILE` makes one"
        )
    return found, True


def signer_in(path: Path, signed: Path | None = None) -> Signer:
    """The private key in a file, and what it has signed in `signed`, or beside it. Raises Error without
    showing it."""
    from everlog.audit.note import Signer

    text = read_secret(path, "the signing key").decode("utf-8", errors="surrogateescape")
    found = Signer.parse(text, str(path))
    found.signed = signed or path.resolve().with_name(f"{path.resolve().name}.signed")
    return found


def verifier_in(vkey: str) -> Verifier:
    """A public key, or what is in a file of it."""
    from everlog.audit.note import Verifier

    return Verifier.parse(read_text(Path(vkey)) if Path(vkey).is_file() else vkey)


def _read(note: str) -> Checkpoint:
    from everlog.audit import note as room
    from everlog.audit import proof

    return proof.read(room.split(note)[0])


def read_text(path: Path) -> str:
    """A file of text; bytes that are no UTF-8 come as surrogates, which no proof has."""
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def _write(settings: Settings, content: str, out: Path | None, facts: dict[str, Any]) -> None:
    if out is not None:
        out.write_bytes(content.encode())
        tell(settings, f"Written: {text.path(out)}", {**facts, "path": str(out)})
    elif settings.json:
        text.echo(facts)
    else:
        sys.stdout.write(content)


def tell(settings: Settings, said: str, facts: dict[str, Any]) -> None:
    """Prints a sentence, or what it says as JSON."""
    text.echo(facts) if settings.json else click.echo(said)
