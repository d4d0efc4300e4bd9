"""Campaign: one database whose process is killed again and again, and compared with a model each time.

    python -m tests.crash.campaign --seed 7        prints its actions; the seed repeats them
    python -m tests.crash.campaign --minutes 10    runs one seed after another

    run  ─▶ killed: at a random moment │ at a named point │ with a power failure at either │ while the
            disk fails │ ended without closing │ its files moved away, or replaced by others │ killed
            after its disk was full and had space again │ or while its clock jumped
         ─▶ opened again ─▶ check() ─▶ the log against the journal ─▶ the tables against the model
         ─▶ the follower against the tables ─▶ the results of the operations ─▶ in some runs a rebuild,
         or an old key store restored ─▶ the next run

The directory of a campaign with a finding stays, and is printed. The code calls a run a life.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from everlog.audit.tree import Tree
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.errors import OpenError
from everlog.store.rocks.files import KEYS
from tests.crash import beside, broken, disk, operations, points
from tests.crash.clocks import TURNED
from tests.crash.ends import sweep
from tests.crash.folders import FIRST, Folders, opened
from tests.crash.journal import Told
from tests.crash.model import Model
from tests.crash.worker import FAILING, LEFT, MOVED, OPEN_MIRROR

ROOT = Path(__file__).parents[2]
LIVES = 8
FULL = "full"  # a file: as long as it exists, the disk is full
LONG = 0.15  # share of runs that are long enough for delayed work
PAST = 3  # earlier positions that are read after each run
REFILL_S = 15.0  # RocksDB tries again every five seconds, and may meet each failure once
RESUMED_S = 40.0
MOVED_S = 10.0  # by then a process has noticed that its files are gone
LIFE_S = 60.0  # a run that is not over by then did not pass its point


class Campaign:
    """One campaign. `say` receives one line about each run."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        say: Callable[[str], object] = print,
        way: str | None = None,
        lasting_s: float = 0.0,
    ) -> None:
        self.directory, self.seed, self.say, self.way, self.lasting_s = directory, seed, say, way, lasting_s
        self.random = random.Random(seed)
        self.folders = Folders(directory)
        self.model = Model()

    def run(self, lives: int = LIVES) -> None:
        for life in range(1, lives + 1):
            self.live(life)

    def live(self, life: int) -> None:
        """Execute one run, and check everything that must hold after it."""
        chance = random.Random(f"{self.seed} {life}")
        ways = ["moment", "point", "point", "exit", "moved", "clock"]
        ways += ["power", "power", "disk", "refill"] if disk.library() else []
        way = self.way or chance.choice(ways)
        point, environment, after_s = "", {}, chance.uniform(0.05, 1.5)
        if chance.random() < LONG:
            after_s = chance.uniform(10, 20)
        if way == "point" or (way == "power" and chance.random() < 0.5):
            call, side = chance.choice(list(points.every()))
            point = str(points.Point(call, side, chance.randrange(1, points.OFTEN.get(call, 3) + 1)))
            after_s = chance.uniform(2.0, 4.0)
        under, synced = self.directory / "db", self.directory / f"synced-{life}"
        power = way == "power" or (way == "disk" and chance.random() < 0.5)
        if power:
            environment = disk.telling(under, synced)
        if way == "disk":
            environment |= disk.failing(under, chance)
            after_s = chance.uniform(1.0, 3.0)
        elif way == "refill":
            nth, times = chance.randrange(20, 300), chance.choice((1, 2))
            if chance.random() < 0.5:
                environment = disk.filling(under, self.directory / FULL)
                after_s = chance.uniform(0.5, 2.0)
            else:
                environment = disk.nth_failing(under, "write", nth, times, errno.ENOSPC)
                after_s = REFILL_S
        elif way == "moved":
            environment = {MOVED: "1"}
        elif way == "clock":
            environment = {TURNED: "1"}
            after_s = chance.uniform(1.0, 5.0)
        if self.lasting_s and way in {"moment", "clock"}:
            after_s = self.lasting_s
        replaced = chance.random() < 0.5
        lasted = self._killed(
            life, chance.randrange(1 << 32), point, environment, after_s, way=way, replaced=replaced
        )
        if way == "refill" and lasted:
            _resumed(self.directory / f"journal-{life}")
        lost = disk.lose(under, synced, chance) if power else []
        told = Told.read(self.directory / f"journal-{life}")
        assert not told.failed, told.failed[0]
        opened_ns = time.time_ns()
        with _opened_again(under, lost) as db:
            swept_ns = sweep(db)
            self.model.take(db, told, opened_ns, power=power, turned=way == "clock")
            self.model.agree(db, self.folders, swept_ns)
            if chance.random() < 0.5:
                self.model.agree_now(db)
            remembered = list(self.model.past)
            some = chance.sample(remembered, min(PAST, len(remembered)))
            self.model.agree_before(db, self.folders, some)
            for mirror, tables in (("mirror", None), OPEN_MIRROR) if db.schema.version >= FIRST else ():
                self.model.follow(db, self.directory / f"{mirror}.sqlite", tables)
            for look in (*operations.AFTER, *beside.AFTER):
                look(db, self.directory)
            if db.schema.version and chance.random() < 0.3:
                db.admin.rebuild()
            if chance.random() < 0.3:  # the next run creates them again
                Tree(db).forget()
                db.past.forget()
            self.say(
                f"  life {life}: {way}{point and ', '}{point}; {len(told.yes)} acknowledged,"
                f" {len(told.no)} refused, {len(told.did)} operations, {len(lost)} files cut; head {db.head},"
                f" {len(self.model.rows)} rows at version {db.schema.version}"
            )
        if self.model.ends.keys and chance.random() < 0.3:
            self._old_keys(f"forget after {life}", chance.choice(sorted(self.model.ends.keys)))

    def _old_keys(self, op: str, subject: str) -> None:
        """An old copy of the key store restores no forgotten person, and loses no other."""
        keys = self.directory / "db" / KEYS
        old = keys.read_bytes()
        with opened(self.directory / "db") as db:
            self.model.ops[op] = {"forget": subject, "id": ""}
            db.people.forget("people", person=subject, correlation_id=op)
        keys.write_bytes(old)
        opened_ns = time.time_ns()
        with opened(self.directory / "db") as db:
            swept_ns = sweep(db)
            self.model.take(db, Told.read(self.directory / "none"), opened_ns, power=False)
            assert op in self.model.found
            self.model.agree(db, self.folders, swept_ns)

    def _killed(
        self,
        life: int,
        seed: int,
        point: str,
        environment: dict[str, str],
        after_s: float,
        *,
        way: str,
        replaced: bool,
    ) -> bool:
        """Start a process and end it; return whether it ran until then."""
        lasted = False
        words = [sys.executable, "-m", "tests.crash.worker", str(self.directory), str(life), str(seed)]
        with (
            (self.directory / f"stderr-{life}").open("w+b") as errors,
            subprocess.Popen(
                [*words, point] if point else words,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=os.environ | environment,
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            fuse = threading.Timer(LIFE_S, process.kill)
            fuse.start()
            opened = process.stdout.readline() == b"open\n"
            if opened:
                try:
                    process.wait(after_s)
                except subprocess.TimeoutExpired:
                    lasted = True
                    if way == "moved":
                        self._moved(process, replaced=replaced)
                    if disk.FULL in environment:
                        self._filled(life, process)
                    if way == "exit":
                        process.terminate()
                    else:
                        process.kill()
            code = process.wait()
            with contextlib.suppress(ProcessLookupError):  # its children would open the database instead
                os.killpg(process.pid, signal.SIGKILL)
            fuse.cancel()
            errors.seek(0)
            said = errors.read().decode()
        if not environment.get(FAILING):
            assert opened or point, f"it did not open: {said}"
            expected = LEFT if way == "exit" else -signal.SIGKILL
            failed = Told.read(self.directory / f"journal-{life}").failed
            assert code == expected or failed or way == "moved", f"ended with {code}: {said}"
        return lasted

    def _filled(self, life: int, process: subprocess.Popen[bytes]) -> None:
        """Fill the disk and free it, several times: writing resumes by itself."""
        chance = random.Random(f"{self.seed} {life} full")
        full, journal = self.directory / FULL, self.directory / f"journal-{life}"
        for _ in range(chance.randrange(1, 4)):
            full.touch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.2, 3.0))
            full.unlink()
            before, until = len(Told.read(journal).yes), time.monotonic() + RESUMED_S
            while len(Told.read(journal).yes) <= before:
                assert process.poll() is None, "it ended because its disk was full for a while"
                assert time.monotonic() < until, "the disk has room, and nothing is written"
                time.sleep(0.2)

    def _moved(self, process: subprocess.Popen[bytes], *, replaced: bool) -> None:
        """Move the files, and replace them by others in some runs: the process stops writing, and touches
        neither.
        """
        path, away = self.directory / "db", self.directory / "away"
        path.rename(away)
        if replaced:
            Database(path).close()
        before = _contents(path)
        try:
            process.wait(MOVED_S)  # its threads end with an error, so it does
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("it continued although its files were moved away") from None
        after = _contents(path)
        wrote = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        assert not wrote, f"it wrote to files that are not its own: {wrote}"
        shutil.rmtree(path, ignore_errors=True)
        away.rename(path)


def _opened_again(path: Path, lost: list[str]) -> EmbeddedDatabase:
    """Open the database, after any child that was forked at the moment of the kill has ended.

    An error also states what was `lost` with the power.
    """
    until = time.monotonic() + LIFE_S
    while True:
        try:
            return opened(path)
        except OpenError as error:
            if "owner" not in error.facts or time.monotonic() > until:
                error.add_note("\n".join(("lost with the power:", *lost)))
                raise
        time.sleep(0.05)


def _resumed(journal: Path) -> None:
    """Check that a commit was acknowledged after the last refusal of the disk."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    refused = [number for number, line in enumerate(lines) if line.startswith('{"disk"')]
    said = [number for number, line in enumerate(lines) if line.startswith('{"yes"')]
    assert not refused or (said and said[-1] > refused[-1]), "the disk has room, and nothing is written"


def _contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def run(
    seed: int,
    lives: int = LIVES,
    say: Callable[[str], object] = print,
    way: str | None = None,
    lasting_s: float = 0.0,
) -> None:
    """Run one campaign in its own directory, which is removed if there was no finding."""
    directory = Path(tempfile.mkdtemp(prefix=f"everlog-torture-{seed}-"))
    say(f"EVERLOG_SEED={seed}")
    try:
        Campaign(directory, seed, say, way, lasting_s).run(lives)
    except BaseException:
        say(f"found with seed {seed}, in {directory}")
        raise
    shutil.rmtree(directory)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.campaign")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--lives", type=int, default=LIVES)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("EVERLOG_SEED", "0")))
    parser.add_argument(
        "--way", help="Each life ends so: moment, point, power, disk, refill, exit, moved, clock."
    )
    parser.add_argument("--lasting", type=float, default=0.0, help="Seconds of a life that ends at a moment.")
    given = parser.parse_args()
    broken.apply()
    until = time.monotonic() + given.minutes * 60
    seed, found = given.seed or random.SystemRandom().randrange(1 << 32), 0
    while True:
        try:
            run(seed, given.lives, way=given.way, lasting_s=given.lasting)
        except Exception:  # noqa: BLE001  the next seed may find something else
            traceback.print_exc()
            found += 1
        if given.seed or time.monotonic() >= until or (found and broken.is_broken()):
            raise SystemExit(bool(found))
        seed = random.SystemRandom().randrange(1 << 32)


if __name__ == "__main__":
    main()
