"""Proofs: the commands keygen, checkpoint, prove, tiles, verify and audit.

keygen ─▶ a private key in a file       checkpoint ─▶ the current state of the log, signed
prove  ─▶ a proof in a file             tiles      ─▶ the tree in a directory, for other tools
verify ─▶ a file, without a database    audit      ─▶ every record, and copies of the log
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import directory_of, is_remote, open_database
from everlog.console.cli.options import Renamed, Settings, common, pass_settings
from everlog.console.output import show_progress
from everlog.store.environment import read_file, read_secret
from everlog.store.errors import Error, quantity

if TYPE_CHECKING:
    from everlog.audit.known_hashes import Copy
    from everlog.audit.note import Signer, Verifier
    from everlog.audit.proof import Checkpoint, Inclusion
    from everlog.audit.prover import Prover


FILE = click.Path(path_type=Path, dir_okay=False)

_key = click.option(
    "--signing-key",
    "key_file",
    cls=Renamed,
    was=("--key",),
    type=FILE,
    metavar="FILE",
    help="File of the private key (`everlog keygen`).",
)
_origin = click.option("--origin", metavar="TEXT", help="First line of checkpoints.  [default: everlog/UUID]")
_by = click.option(
    "--signed-by",
    "vkey",
    metavar="VKEY",
    help="Use only checkpoints signed by this public key, or by the one in this file.",
)
_out = click.option(
    "--out", type=FILE, metavar="FILE", help="Write it to this file.  [default: standard output]"
)


@click.command()
@click.argument("file", type=FILE)
@click.option("--name", metavar="NAME", help="Name of the signer.  [default: everlog/UUID of the database]")
@common
@pass_settings
def keygen(settings: Settings, *, file: Path, name: str | None) -> None:
    """Create a private key that signs checkpoints, readable by its owner only, and print the public
    key.

    Give the public key to verifiers yourself, not through the database.

    \b
    Examples:
      everlog -u file:flights.db keygen flights.key
      everlog keygen flights.key --name example.com/flights
    """
    from everlog.audit.note import Signer

    if name is None:
        from everlog.audit.prover import origin_of

        with open_database(settings, read_only=True) as db:
            name = origin_of(db.proofs)
    signer = Signer.generate(name)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Error(f"{file} exists already, and a key is never overwritten; name another file") from None
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(signer.secret() + "\n")
        out.flush()
        os.fsync(out.fileno())
    print_result(settings, str(signer.verifier), {"key": str(signer.verifier), "path": str(file)})


@click.command()
@_key
@_origin
@_out
@common
@pass_settings
def checkpoint(settings: Settings, *, key_file: Path | None, origin: str | None, out: Path | None) -> None:
    """Sign the current state of the log, record the checkpoint in the log, and print it. Store a copy
    elsewhere.

    A server with a key signs by itself. Without new records the last checkpoint is printed.

    \b
    Examples:
      everlog -u file:flights.db checkpoint --signing-key flights.key
      everlog -u everlog://db.example.com/flights checkpoint > flights.checkpoint
    """
    with open_database(settings) as db, show_progress() as progress:
        note, new = _checkpoint(db.proofs, key_file, origin, progress)
    found = _read(note)
    facts = {"origin": found.origin, "size": found.size, "root": found.root.hex(), "new": new, "note": note}
    _write(settings, note, out, facts)


@click.command()
@click.option("--seq", type=click.IntRange(1), metavar="SEQ", help="Prove that this record is in the log.")
@click.option(
    "--from-size",
    "first",
    cls=Renamed,
    was=("--from",),
    type=click.IntRange(0),
    metavar="SIZE",
    help="Prove that the log still begins with the SIZE records of an earlier checkpoint.",
)
@_key
@click.option("--checkpoint", "given", type=FILE, metavar="FILE", help="Use this checkpoint.")
@_by
@_origin
@click.option(
    "--quick", is_flag=True, help="With --from-size: trust the stored tree, without reading the records."
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
    """Write a proof of the log's content, for holders of the public key.

    The proof refers to the newest checkpoint in the log that covers the records; with --signing-key, to a new
    one. With --signed-by, checkpoints of other signers are ignored.

    \b
    Examples:
      everlog prove --seq 812 --signed-by flights.pub --out 812.tlog-proof
      everlog prove --from-size 500 --signing-key flights.key > growth.proof
    """
    from everlog.audit import prover as room

    if (seq is None) == (first is None):
        raise click.UsageError("expected one of --seq and --from-size")
    if quick and first is None:
        raise click.UsageError("--quick works only with --from-size, because --seq reads one record")
    if bool(key_file) + bool(given) + bool(vkey) > 1:
        raise click.UsageError("expected one of --signing-key, --checkpoint and --signed-by")
    by = verifier_in(vkey) if vkey else None
    with open_database(settings, read_only=key_file is None) as db, show_progress() as progress:
        prover = db.proofs
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
    help="Read and repair the files of earlier exports.  [default: verify]",
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
    """Update a directory to the newest checkpoint: the tree as C2SP tlog-tiles, and the hash of each
    record.

    Any web server can serve it; third-party tools and `audit --tiles` can check it.

    \b
    Examples:
      everlog -u file:flights.db tiles /mnt/elsewhere/flights --signing-key flights.key
    """
    from everlog.audit.export import export
    from everlog.audit.prover import newest

    if key_file and vkey:
        raise click.UsageError("expected one of --signing-key and --signed-by")
    settings.resume = "run it again to resume from the stored checkpoint"
    with open_database(settings, read_only=key_file is None) as db, show_progress() as progress:
        prover = db.proofs
        if key_file:
            note = _checkpoint(prover, key_file, origin, progress)[0]
        else:
            note = newest(prover, by=verifier_in(vkey) if vkey else None, origin=origin)
        done = export(prover, note, directory, progress, verify=verify)
    new = done.size - done.before
    said = f"Exported: {quantity(done.size, 'record')}, {new:,} of them new, to {output.path(directory)}"
    facts = {"size": done.size, "before": done.before, "path": str(directory)}
    print_result(settings, said, {**facts, "repaired": done.repaired, "strange": done.strange})
    if not settings.json:
        for file in done.repaired:
            click.echo(f"Repaired: {file} was changed or missing")
        for file in done.strange:
            click.echo(f"Ignored: {file}, which is not part of the tree")


def _checkpoint(prover: Prover, key: Path | None, origin: str | None, progress: Any) -> tuple[str, bool]:
    from everlog.audit.prover import checkpoint as sign

    if key is not None:
        return sign(prover, signer_in(key), origin, progress=progress)
    found = prover.checkpoint()
    if found is None:
        raise Error(
            "expected --signing-key FILE, which signs the checkpoint; `everlog keygen FILE` makes one"
        )
    return found, True


def signer_in(path: Path, signed: Path | None = None) -> Signer:
    """Return the private key in a file; `signed`: the file that records what it signs (None: beside the key).
    Raises Error, without showing the key."""
    from everlog.audit.note import Signer

    text = read_secret(path, "the signing key").decode("utf-8", errors="surrogateescape")
    found = Signer.parse(text, str(path))
    found.signed = signed or path.resolve().with_name(f"{path.resolve().name}.signed")
    return found


def verifier_in(vkey: str) -> Verifier:
    """Return a public key, given as text or as the path of a file that contains it."""
    from everlog.audit.note import Verifier

    return Verifier.parse(read_text(Path(vkey)) if Path(vkey).is_file() else vkey)


def _read(note: str) -> Checkpoint:
    from everlog.audit import note as room
    from everlog.audit import proof

    return proof.read(room.split(note)[0])


def read_text(path: Path) -> str:
    """Return the text of a file. Bytes that are not UTF-8 become surrogates, which no proof contains."""
    return read_file(path, "the file", pipe=True).decode("utf-8", errors="surrogateescape")


def _write(settings: Settings, content: str, out: Path | None, facts: dict[str, Any]) -> None:
    if out is not None:
        out.write_bytes(content.encode())
        print_result(settings, f"Written: {output.path(out)}", {**facts, "path": str(out)})
    elif settings.json:
        output.echo(facts)
    else:
        sys.stdout.write(content)


def print_result(settings: Settings, said: str, facts: dict[str, Any]) -> None:
    """Print a sentence, or its facts as JSON."""
    output.echo(facts) if settings.json else click.echo(said)


_vkey = click.option(
    "--signed-by",
    "vkey",
    cls=Renamed,
    was=("--key",),
    metavar="VKEY",
    help="Public key that `keygen` printed, or a file that contains it.",
)


@click.command()
@click.argument("file", type=FILE)
@_vkey
@click.option("--origin", metavar="TEXT", help="Expected origin of the log.  [default: the name of the key]")
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="VKEY",
    help="Public key of a witness that must have cosigned; or a file of keys, a line each. May be repeated.",
)
@click.option(
    "--quorum",
    type=click.IntRange(1),
    metavar="N",
    help="Number of witnesses that must have cosigned.  [default: all]",
)
@click.option("--old", type=FILE, metavar="FILE", help="Earlier checkpoint, for a proof of --from-size.")
@common
@pass_settings
def verify(
    settings: Settings,
    *,
    file: Path,
    vkey: str | None,
    origin: str | None,
    witnesses: tuple[str, ...],
    quorum: int | None,
    old: Path | None,
) -> None:
    """Verify a proof or a checkpoint with a public key. Reads no database and no network.

    \b
    Examples:
      everlog verify 812.tlog-proof --signed-by everlog/0f8f…+8a1b2c3d+AQ…
      everlog verify growth.proof --old flights.checkpoint --signed-by flights.pub
      everlog verify 812.tlog-proof --signed-by flights.pub --witness witnesses.pub --quorum 2
    """
    from everlog.audit.proof import EMPTY, Consistency, Inclusion, open_checkpoint, parse

    verifier = _verifier(vkey)
    found = parse(read_text(file))
    text_of = found if isinstance(found, str) else found.note
    signed = open_checkpoint(text_of, verifier, origin)
    cosigned = _cosigned(text_of, witnesses, quorum)
    facts: dict[str, Any] = {"origin": signed.origin, "size": signed.size, "root": signed.root.hex()}
    if isinstance(found, Inclusion):
        found.verify(signed)
        facts |= {"seq": found.leaf_index + 1, "record": found.record.hex()}
        said = (
            f"Verified: record {found.leaf_index + 1} is in the log {signed.origin} of"
            f" {quantity(signed.size, 'record')}"
        )
    elif isinstance(found, Consistency):
        if old is not None:
            earlier = parse(read_text(old))
            before = open_checkpoint(earlier if isinstance(earlier, str) else earlier.note, verifier, origin)
        elif found.old:
            raise Error(
                "expected --old FILE, the earlier checkpoint that a proof of `prove --from-size` starts from"
            )
        else:  # the checkpoint of no records, with which every log begins; it needs no signature
            before = signed._replace(size=0, root=EMPTY)
        found.verify(before, signed)
        facts |= {"from": found.old}
        said = (
            f"Verified: the log {signed.origin} of {quantity(signed.size, 'record')} begins with its first"
            f" {found.old}"
        )
    else:
        said = (
            f"Verified: the log {signed.origin} had {quantity(signed.size, 'record')}, root"
            f" {signed.root.hex()}"
        )
    if cosigned:
        facts["cosigned"] = cosigned
        times = ", ".join(f"{name} at {output.moment(at * 10**9)}" for name, at in cosigned.items())
        said += f"; cosigned by {times}"
    print_result(settings, said, facts)


def _cosigned(note: str, keys: tuple[str, ...], quorum: int | None) -> dict[str, int]:
    """Return the witnesses that cosigned a checkpoint, with their times in seconds since the Unix epoch.
    Raises Error for fewer than the quorum."""
    from everlog.audit.note import Witness, cosigners

    if not keys:
        if quorum is not None:
            raise click.UsageError("--quorum needs --witness")
        return {}
    given = [read_text(Path(key)) if Path(key).is_file() else key for key in keys]
    lines = [line.strip() for one in given for line in one.splitlines()]
    witnesses = [Witness.parse(line) for line in lines if line and not line.startswith("#")]
    return cosigners(note, witnesses, quorum or len(witnesses))


@click.command()
@click.option(
    "--checkpoint", "kept", type=FILE, multiple=True, metavar="FILE", help="Checkpoint stored elsewhere."
)
@_vkey
@click.option("--origin", metavar="TEXT", help="Expected origin of the log.  [default: the name of the key]")
@click.option(
    "--tiles",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Tiles stored elsewhere; they show which record differs.",
)
@click.option(
    "--against",
    metavar="URL|DIR|FILE",
    help="Another copy of the database, a backup, or a proof of a record, to compare with.",
)
@click.option("--tables", is_flag=True, help="Also rebuild the tables from the log, and compare them.")
@common
@pass_settings
@click.pass_context
def audit(
    ctx: click.Context,
    settings: Settings,
    *,
    kept: tuple[Path, ...],
    vkey: str | None,
    origin: str | None,
    directory: Path | None,
    against: str | None,
    tables: bool,
) -> None:
    """Verify every record of a database on this machine, and compare its log with copies, checkpoints,
    tiles and proofs. Print each problem, and exit with 1 if there is any.

    \b
    Examples:
      everlog -u file:flights.db audit --checkpoint flights.checkpoint --signed-by flights.pub
      everlog -u file:flights.db audit --tiles /mnt/elsewhere/flights --tables
      everlog -u file:flights.db audit --against file:copy.db
      everlog -u file:flights.db audit --against /mnt/backup/flights
      everlog -u file:flights.db audit --against 812.tlog-proof --signed-by flights.pub
    """
    from everlog.audit.auditing import Audit

    directory_of(settings.url)  # raises for a database on a server
    file = Path(against) if against and not is_remote(against) and Path(against).is_file() else None
    if (vkey or origin) and not (kept or directory or file):
        raise click.UsageError(
            "expected --checkpoint, --tiles, or a proof (--against FILE) with --signed-by and --origin"
        )
    checkpoints = [_signed(read_text(path), vkey, origin) for path in kept]
    if directory and vkey:
        _signed(read_text(directory / "checkpoint"), vkey, origin)
    given = None if file is None else _proof_in(file)
    if given and vkey:
        checkpoints.append(_signed(given.note, vkey, origin))
        given.verify(checkpoints[-1])
    found_any = 0
    with (
        _other(settings, against if file is None else None) as other,
        open_database(settings, read_only=True) as db,
        show_progress() as progress,
    ):
        looked = Audit(
            db,  # type: ignore[arg-type]
            checkpoints=checkpoints,
            tiles=directory,
            against=given or other,
            progress=progress,
        )
        for problems in (looked.problems(), looked.tables()) if tables else (looked.problems(),):
            for problem in problems:
                found_any += 1
                print_result(settings, problem, {"problem": problem})
    if settings.json:
        output.echo(
            {"seq": looked.seq, "after": looked.after, "root": looked.root.hex(), "problems": found_any}
        )
    elif not found_any:
        before = f"the {looked.after:,} earlier ones are archived, " if looked.after else ""
        records = quantity(looked.seq - looked.after, "record")
        click.echo(f"OK: no problems found: {records}, {before}root {looked.root.hex()}")
        if 0 < looked.against_size < looked.seq:
            click.echo(
                f"The other copy ends at record {looked.against_size:,}; later records were not compared"
            )
    if found_any:
        ctx.exit(1)


def _signed(text: str, vkey: str | None, origin: str | None) -> Checkpoint:
    """Return the verified checkpoint in a text: a checkpoint, or a proof that contains one."""
    from everlog.audit.proof import open_checkpoint, parse

    found = parse(text)
    return open_checkpoint(found if isinstance(found, str) else found.note, _verifier(vkey), origin)


def _proof_in(file: Path) -> Inclusion:
    """Return the proof of a record in a file."""
    from everlog.audit.proof import Inclusion, parse

    found = parse(read_text(file))
    if not isinstance(found, Inclusion):
        raise Error(f"{file}: expected the proof of a record (`prove --seq`), found another file")
    return found


@contextmanager
def _other(settings: Settings, against: str | None) -> Iterator[Copy | None]:
    """Yield the other copy for the comparison: a backup, or another database; None: none was named."""
    if against is None:
        yield None
        return
    from everlog.audit.known_hashes import BackupCopy, is_backup

    scheme, there, _ = against.partition("://")
    if is_backup(Path(against.removeprefix("file:"))) or (
        there and scheme != "file" and not is_remote(against)
    ):
        yield BackupCopy(against)
        return
    with open_database(settings, url=against, read_only=True) as db:
        yield db.proofs


def _verifier(vkey: str | None) -> Verifier:
    if not vkey:
        raise Error(
            "expected --signed-by VKEY, the public key that `everlog keygen` printed, or a file that"
            " contains it"
        )
    return verifier_in(vkey)
