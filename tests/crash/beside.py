"""Operations of the second maintenance thread, while the first one migrates and rebuilds.

Old log goes to one of two archives, but for what is held; checkpoints are signed and kept in the log; lives
end; people are forgotten; files of the log are merged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from everlog.audit import archive, holds, note, proof
from everlog.audit import manifest as manifests
from everlog.audit.note import Signer
from everlog.audit.place import place
from everlog.audit.prover import LocalProver, checkpoint, origin_of, prove
from everlog.audit.verify_backup import verify_backup
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import Error, RowError
from everlog.store.keys import SEQ
from tests.crash import disk
from tests.crash.maintenance import Maintenance
from tests.crash.people import SUBJECTS

SIGNER = Signer("torture", bytes(range(32)))
ARCHIVES = ("archive-0", "archive-1")
HOLDS = ("auditor", "follower")
FREED_S = 15.0  # by then a closed snapshot keeps nothing on the disk


def archive_old(maintenance: Maintenance) -> None:
    """Archive old records; held records stay."""
    held = holds.read(maintenance.db.path)
    target = maintenance.scratch / maintenance.random.choice(ARCHIVES)
    done = archive(maintenance.db, target, keep_records=maintenance.random.choice((1, 30, 300)))
    assert all(done.base < seq for seq in held.values()), (done, held)
    maintenance.journal.say(archived=done.base, held=done.held)


def archive_beside_snapshot(maintenance: Maintenance) -> None:
    """Archive while a snapshot is open: it reads all its rows, and closing it frees the disk space."""
    way = maintenance.way()
    with maintenance.db.snapshot() as snapshot:
        before = snapshot.count(way.table)
        archive_old(maintenance)
        assert len(list(snapshot.scan(way.table))) == before
        base = maintenance.db.log.trimmed.base
    until = time.monotonic() + FREED_S
    while not disk.is_failing() and not _is_freed(maintenance.db, base):
        assert time.monotonic() < until, f"archived up to {base}, and the disk still has it"
        time.sleep(0.1)


def _is_freed(db: EmbeddedDatabase, base: int) -> bool:
    """Return whether files of the log begin with a record, and with no mark of removed records."""
    return all(first >= SEQ.pack(base) for _, first, _ in db.engine.log_files())


def hold(maintenance: Maintenance) -> None:
    """Hold the log from some record on, or release a hold."""
    name = maintenance.random.choice(HOLDS)
    if name in holds.read(maintenance.db.path):
        holds.release(maintenance.db.path, name)
    else:
        seq = maintenance.random.randrange(maintenance.db.log.trimmed.base, maintenance.db.head) + 1
        holds.hold(maintenance.db.path, name, seq)
        maintenance.journal.say(hold=name, seq=seq)


def sign(maintenance: Maintenance) -> None:
    """Sign a checkpoint, which must stay valid permanently, and which the log must not lose."""
    text, _ = checkpoint(LocalProver(maintenance.db), SIGNER)
    maintenance.journal.say(signed=text)


def expire(maintenance: Maintenance) -> None:
    """Delete expired rows, unless the clock jumped: then nothing expires."""
    try:
        maintenance.db.admin.expire()
    except Error as error:
        if not maintenance.clock.jumps or "jumped" not in str(error):
            raise


def correct_clock(maintenance: Maintenance) -> None:
    """Confirm that the clock is correct, like an operator."""
    with maintenance.clock.right() as right:
        if right:
            maintenance.db.admin.correct_clock()


def forget(maintenance: Maintenance) -> None:
    """Forget a person with all their rows."""
    subject, op = f"s-{maintenance.random.randrange(SUBJECTS)}", f"forget {maintenance.name}"
    maintenance.journal.say(op=op, forget=subject, durability="sync", id="")
    try:
        done = maintenance.db.people.forget("people", person=subject, correlation_id=op)
    except RowError:
        maintenance.journal.say(no=op)  # no row has that person
    except Error as error:
        if "being rebuilt" not in str(error):
            raise
        maintenance.journal.say(no=op)
    else:
        maintenance.journal.say(yes=op, seq=done.seq)


def merge_log(maintenance: Maintenance) -> None:
    maintenance.db.engine.flush()
    if (thread := maintenance.db.log.merger.start()) is not None:
        thread.join()


# operation: its share, among all of these.
OPERATIONS: dict[Callable[[Maintenance], None], int] = {
    archive_old: 4,
    archive_beside_snapshot: 2,
    hold: 1,
    sign: 3,
    expire: 2,
    correct_clock: 1,
    forget: 4,
    merge_log: 2,
}


def _whole_archives(db: EmbeddedDatabase, scratch: Path) -> None:
    """Check that each archive is complete, and that held records are in the log itself."""
    for name in ARCHIVES:
        if (scratch / name).exists() and manifests.read(place(scratch / name)) is not None:
            problems = [one for one in verify_backup(scratch / name) if "a killed backup left it" not in one]
            assert problems == [], problems
    assert all(db.log.trimmed.base < seq for seq in holds.read(db.path).values())
    assert next(iter(db.log.scan()), (0, b""))[0] == 1, "the archive has all of it from the first record on"


def agree_signed(db: EmbeddedDatabase, signed: list[str]) -> None:
    """Check that checkpoints are of this log, are stored in it, and prove any record that they cover."""
    prover = LocalProver(db)
    kept = {one.note for one in prover.kept(0)}
    for text in signed:
        found = proof.open_checkpoint(text, SIGNER.verifier, origin_of(prover))
        assert prover.head(found.size)[1] == found.root, f"another root of {found.size} records"
        assert prove(prover, found.size // 2 + 1, text).note == text
        assert text in kept or len(kept) >= 100, f"not in the log: {note.split(text)[0]}"


def _freed(db: EmbeddedDatabase, scratch: Path) -> None:
    """Check that archived records are no longer on the disk, when no snapshot reads them."""
    db.engine.flush()
    for _ in range(2):  # the first may have begun earlier
        if (thread := db.log.merger.start()) is not None:
            thread.join()
    assert _is_freed(db, db.log.trimmed.base), "archived, and the disk still has it"


# What must hold after a kill, of the results that the operations leave beside the database.
AFTER: tuple[Callable[[EmbeddedDatabase, Path], None], ...] = (_whole_archives, _freed)
