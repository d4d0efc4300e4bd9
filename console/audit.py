"""Audit: proofs and checkpoints are verified with a public key alone, and a log with all that is known of it.

verify ─▶ whether a file is true, without a database      audit ─▶ whether a log is what it was
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from everlog.console import text
from everlog.console.opening import directory_of, is_remote, open_database
from everlog.console.progress import shown
from everlog.console.proofs import FILE, prover_of, read_text, tell, verifier_in
from everlog.console.settings import Renamed, Settings, common, pass_settings
from everlog.store.errors import Error

if TYPE_CHECKING:
    from everlog.audit.known import Copy
    from everlog.audit.note import Verifier
    from everlog.audit.proof import Checkpoint, Inclusion

_vkey = click.option(
    "--signed-by",
    "vkey",
    cls=Renamed,
    was=("--key",),
    metavar="VKEY",
    help="Public key, as `keygen` printed it; or a file of it.",
)


@click.command()
@click.argument("file", type=FILE)
@_vkey
@click.option("--origin", metavar="TEXT", help="Whose log it must be.  [default: the name of the key]")
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="VKEY",
    help="Public key of a witness that must have cosigned; or a file of keys, a line each. May be repeated.",
)
@click.option(
    "--quorum", type=click.IntRange(1), metavar="N", help="So many of them suffice.  [default: all]"
)
@click.option("--old", type=FILE, metavar="FILE", help="The earlier checkpoint, for a proof of --from-size.")
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
    """Verifies a proof or a checkpoint with a public key alone: it reads no database, and no network.

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
            f"Verified: record {found.leaf_index + 1} is in the log {signed.origin} of {signed.size} records"
        )
    elif isinstance(found, Consistency):
        if old is not None:
            earlier = parse(read_text(old))
            before = open_checkpoint(earlier if isinstance(earlier, str) else earlier.note, verifier, origin)
        elif found.old:
            raise Error(
                "a proof of --from-size is about an earlier checkpoint: give that which you kept, --old FILE"
            )
        else:  # of no records, which every log begins with, and nobody signs
            before = signed._replace(size=0, root=EMPTY)
        found.verify(before, signed)
        facts |= {"from": found.old}
        said = f"Verified: the log {signed.origin} of {signed.size} records begins with its first {found.old}"
    else:
        said = f"Verified: the log {signed.origin} had {signed.size} records, root {signed.root.hex()}"
    if cosigned:
        facts["cosigned"] = cosigned
        times = ", ".join(f"{name} at {text.moment(at * 10**9)}" for name, at in cosigned.items())
        said += f"; cosigned by {times}"
    tell(settings, said, facts)


def _cosigned(note: str, keys: tuple[str, ...], quorum: int | None) -> dict[str, int]:
    """Which witnesses cosigned a checkpoint, and when. Raises Error for fewer than the quorum."""
    from everlog.audit.note import Witness, cosigners

    if not keys:
        if quorum is not None:
            raise click.UsageError("--quorum goes with --witness, the keys that it is a number of")
        return {}
    given = [read_text(Path(key)) if Path(key).is_file() else key for key in keys]
    lines = [line.strip() for one in given for line in one.splitlines()]
    witnesses = [Witness.parse(line) for line in lines if line and not line.startswith("#")]
    return cosigners(note, witnesses, quorum or len(witnesses))


@click.command()
@click.option(
    "--checkpoint", "kept", type=FILE, multiple=True, metavar="FILE", help="One that was kept elsewhere."
)
@_vkey
@click.option("--origin", metavar="TEXT", help="Whose log it must be.  [default: the name of the key]")
@click.option(
    "--tiles",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Tiles that were kept elsewhere: they tell which record differs.",
)
@click.option(
    "--against",
    metavar="URL|DIR|FILE",
    help="Another copy of the database, a backup, or a proof of a record.",
)
@click.option("--tables", is_flag=True, help="Look at the tables, too, and make them anew from the log.")
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
    """Verifies every record of a database of this machine, and that the log is the one that is known from
    elsewhere. Prints what is not as it must be, and exits with 1 if anything is not.

    \b
    Examples:
      everlog -u file:flights.db audit --checkpoint flights.checkpoint --signed-by flights.pub
      everlog -u file:flights.db audit --tiles /mnt/elsewhere/flights --tables
      everlog -u file:flights.db audit --against file:copy.db
      everlog -u file:flights.db audit --against /mnt/backup/flights
      everlog -u file:flights.db audit --against 812.tlog-proof --signed-by flights.pub
    """
    from everlog.audit.auditing import Audit

    directory_of(settings.url)  # or it says that this is on a server
    file = Path(against) if against and not is_remote(against) and Path(against).is_file() else None
    if (vkey or origin) and not (kept or directory or file):
        raise click.UsageError(
            "--signed-by and --origin go with what they verify: --checkpoint, --tiles, or a proof,"
            " --against FILE"
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
        shown() as progress,
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
                tell(settings, problem, {"problem": problem})
    if settings.json:
        text.echo(
            {"seq": looked.seq, "after": looked.after, "root": looked.root.hex(), "problems": found_any}
        )
    elif not found_any:
        before = f"the {looked.after:,} before are archived, " if looked.after else ""
        records = f"{looked.seq - looked.after:,} records"
        click.echo(f"OK: no problems found: {records}, {before}root {looked.root.hex()}")
        if 0 < looked.against_size < looked.seq:
            click.echo(
                f"The other copy ends at record {looked.against_size:,}: only those were compared with it"
            )
    if found_any:
        ctx.exit(1)


def _signed(text: str, vkey: str | None, origin: str | None) -> Checkpoint:
    """The checkpoint that a file is, or that is in the proof that it is, verified."""
    from everlog.audit.proof import open_checkpoint, parse

    found = parse(text)
    return open_checkpoint(found if isinstance(found, str) else found.note, _verifier(vkey), origin)


def _proof_in(file: Path) -> Inclusion:
    """The proof of a record that a file is."""
    from everlog.audit.proof import Inclusion, parse

    found = parse(read_text(file))
    if not isinstance(found, Inclusion):
        raise Error(f"{file}: expected the proof of a record (`prove --seq`), found another file")
    return found


@contextmanager
def _other(settings: Settings, against: str | None) -> Iterator[Copy | None]:
    """Another copy that a database is compared with."""
    if against is None:
        yield None
        return
    from everlog.audit.known import BackupCopy, is_backup

    scheme, there, _ = against.partition("://")
    if is_backup(Path(against.removeprefix("file:"))) or (
        there and scheme != "file" and not is_remote(against)
    ):
        yield BackupCopy(against)
        return
    with open_database(settings, url=against, read_only=True) as db:
        yield prover_of(db)


def _verifier(vkey: str | None) -> Verifier:
    if not vkey:
        raise Error(
            "expected --signed-by VKEY, the public key that `everlog keygen` printed, or a file of it"
        )
    return verifier_in(vkey)
