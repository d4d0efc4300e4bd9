"""One writer for each directory, whatever its path, and no writes to a directory that replaces it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everlog.audit.backup import backup
from everlog.audit.restore import restore
from everlog.store.database import Database
from everlog.store.errors import DiskError, OpenError
from everlog.store.rocks import files
from everlog.store.rocks.ownership import LOCK, file_system, remove
from everlog.store.upkeep.repair import repair
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item, declare

IN_USE = "is open for writing by process"
ROOT = Path(__file__).parents[3]


def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program beside this one."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def tree(path: Path) -> dict[str, bytes]:
    while True:
        try:
            return {
                str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
            }
        except FileNotFoundError:
            continue  # RocksDB deleted it meanwhile, after a compaction


def refused(db: Database) -> DiskError:
    """Return the error of the first refused commit; earlier ones are accepted."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            db.put(ITEMS, Item(id=1), durability="os")
        except DiskError as error:
            return error
    raise AssertionError("every commit was taken")


@contextlib.contextmanager
def bound(source: Path, target: Path) -> Iterator[Path]:
    """Yield another mount of a directory."""
    target.mkdir()
    done = subprocess.run(["mount", "--bind", source, target], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this user may not mount")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", target], check=True)


OPEN = """
    import sys
    from everlog.store.database import Database
    from everlog.store.errors import OpenError
    try:
        held = Database(sys.argv[1]); held.close()
    except OpenError as error:
        sys.exit(str(error))
"""
# An everlog that uses no lock except RocksDB's.
OPEN_AS_BEFORE = """
    import sys
    from rocksdict import Options, Rdict
    options = Options(raw_mode=True)
    names = Rdict.list_cf(sys.argv[1] + "/db", options)
    Rdict(sys.argv[1] + "/db", options, {name: Options(raw_mode=True) for name in names}).close()
"""


def test_a_directory_is_opened_for_writing_once_by_whatever_path(
    opening: Opener, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    db = opening()
    for spelled in (
        path,
        Path(os.path.relpath(path)),
        tmp_path / "d" / ".." / path.relative_to(tmp_path),
        tmp_path / "link.db",
        tmp_path / "d" / "up" / path.relative_to(tmp_path),
    ):
        with pytest.raises(OpenError, match=f"{IN_USE} {os.getpid()} "):
            Database(spelled)
        for use in (repair, remove, db.admin.rebuild_into):
            with pytest.raises(OpenError, match=f"{IN_USE} {os.getpid()} |is not empty"):
                use(spelled)
    db.put(ITEMS, Item(id=1))
    assert not list(db.admin.check())


def test_another_mount_of_a_directory_is_the_same_directory(
    opening: Opener, path: Path, tmp_path: Path
) -> None:
    opening()
    with bound(path, tmp_path / "bound") as other, pytest.raises(OpenError, match=IN_USE):
        Database(other)


def test_no_close_of_a_file_in_it_lets_another_process_in(
    opening: Opener, path: Path, tmp_path: Path
) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    for name in (LOCK, "db/LOCK", "EVERLOG"):
        (path / name).open("rb").close()
        with (path / name).open("ab") as file:
            fcntl.lockf(file, fcntl.LOCK_UN)
    shutil.copytree(path, tmp_path / "copy")
    with pytest.raises(OpenError):
        repair(path)
    for script in (OPEN, OPEN_AS_BEFORE):
        assert run(script, path).returncode
    db.put(ITEMS, Item(id=2))
    db.close()
    for script in (OPEN, OPEN_AS_BEFORE):
        assert run(script, path).returncode == 0
    with Database(tmp_path / "copy") as copy:
        assert copy.get(ITEMS, 1) is not None


def test_who_knows_no_other_lock_than_that_of_rocksdb_keeps_others_out(opening: Opener, path: Path) -> None:
    opening().close()
    held = textwrap.dedent(OPEN_AS_BEFORE).replace("\nRdict", "\nheld = Rdict").replace(").close()", ")")
    script = f"{held}\nprint(flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for use in (Database, repair, remove):
            with pytest.raises(OpenError, match="is open for writing by"):
                use(path)
        other.communicate(b"\n")
    opening()


def test_a_lock_ends_with_its_process_and_not_with_its_number(path: Path) -> None:
    """In a container, the next process has the same process id as the previous one."""
    killed = run(
        """
        import os, signal, sys
        from everlog.store.database import Database
        db = Database(sys.argv[1])
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
    )
    assert killed.returncode == -signal.SIGKILL
    owner = files.read(path / files.OWNER, files.Owner)
    assert owner is not None
    files.write(path / files.OWNER, files.Owner(os.getpid(), owner.host, owner.since), sync=False)
    assert repair(path).cut == 0
    Database(path).close()
    files.write(path / files.OWNER, files.Owner(os.getpid(), owner.host, owner.since), sync=False)
    assert remove(path) == []
    assert not path.exists()


def test_the_first_process_of_a_container_follows_one_that_was_killed(path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make namespaces")
    script = """
        import os, sys
        from everlog.store.database import Database
        from everlog.store.rocks.ownership import remove
        from everlog.store.upkeep.repair import repair
        assert os.getpid() == 1
        if len(sys.argv) == 3:
            assert repair(sys.argv[1]).cut == 0
            Database(sys.argv[1]).close()
            os.write(1, b"repaired\\n")
            assert remove(sys.argv[1]) == []
            os._exit(0)
        db = Database(sys.argv[1])
        os.write(1, b"open\\n")
        sys.stdin.read()
    """
    command = [*inside, sys.executable, "-c", textwrap.dedent(script), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline() == b"open\n"
        serving.kill()
    again = subprocess.run([*command, "again"], check=False, capture_output=True, text=True, timeout=60)
    assert (again.stdout, again.returncode) == ("repaired\n", 0), again.stderr
    assert not path.exists()


def test_a_child_of_a_killed_process_does_not_keep_its_lock(path: Path) -> None:
    script = """
        import os, signal, sys
        from everlog.store.database import Database
        db = Database(sys.argv[1])
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        print("here", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.wait(30)
        Database(path).close()  # while the child is running
        process.communicate(b"")


def moved(path: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    return "the directory was moved to .*elsewhere"


def above_moved(path: Path) -> str:
    path.parent.rename(path.parent.with_name("above-elsewhere"))
    return "the directory was moved to .*above-elsewhere"


def take_away(path: Path) -> None:
    while path.exists():
        with contextlib.suppress(OSError):  # RocksDB creates and deletes its own files meanwhile
            shutil.rmtree(path)


# The changes take time, and the watch may run in between: words name each intermediate state.


def removed(path: Path) -> str:
    take_away(path)
    return "(was|were) removed"


def emptied(path: Path) -> str:
    for file in path.iterdir():
        take_away(file) if file.is_dir() else file.unlink()
    return "(was|were) removed"


def replaced(path: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    shutil.copytree(path.with_name("kept"), path)
    return "was moved to .*elsewhere"


def restored(path: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    restore(path.with_name("backup"), path)
    return "was moved to .*elsewhere"


def linked(path: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("kept"))
    return "was moved to .*elsewhere"


def files_replaced(path: Path) -> str:
    take_away(path / "db")
    shutil.copytree(path.with_name("kept") / "db", path / "db")
    return "db was replaced by another|(was|were) removed"


def marker_replaced(path: Path) -> str:
    kept = path.with_name("kept") / "EVERLOG"
    shutil.copy2(kept, path / "EVERLOG.other")
    (path / "EVERLOG.other").replace(path / "EVERLOG")
    return "EVERLOG was replaced by another"


def lock_removed(path: Path) -> str:
    (path / LOCK).unlink()
    return "LOCK was removed"


def log_removed(path: Path) -> str:
    for file in (path / "db").glob("*.log"):
        file.unlink()
    return "files of db were removed"


def test_a_commit_that_is_in_the_log_when_the_files_go_is_never_said_to_be_unwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, elsewhere = tmp_path / "db", tmp_path / "elsewhere"
    with Database(path) as db:
        declare(db, ITEMS)
        append = db.log.append

        def append_and_move(framed: list[bytes]) -> None:
            append(framed)
            path.rename(elsewhere)
            while db.refused is None:  # the watch runs four times a second
                time.sleep(0.01)

        with monkeypatch.context() as patched:
            patched.setattr(db.log, "append", append_and_move)
            with pytest.raises(DiskError) as told:
                db.put(ITEMS, Item(id=1))
        assert told.value.outcome == "unknown"
        assert refused(db).outcome == "nothing written"
    with Database(elsewhere) as db:
        assert [row.id for row in db.scan(ITEMS)] == [1]


@pytest.mark.parametrize(
    "happens",
    [
        moved,
        above_moved,
        removed,
        emptied,
        replaced,
        restored,
        linked,
        files_replaced,
        marker_replaced,
        lock_removed,
        log_removed,
    ],
)
def test_files_that_are_no_longer_these_are_noticed_and_nothing_is_written_to_others(
    tmp_path: Path, happens: Callable[[Path], str]
) -> None:
    path = tmp_path / "above" / "db"
    with Database(path) as db:
        declare(db, ITEMS)
        db.put(ITEMS, Item(id=1))
        backup(db, path.with_name("backup"))
    shutil.copytree(path, path.with_name("kept"))
    os.chdir(path.parent)
    db = Database(Path(path.name))
    os.chdir(ROOT)
    db.put(ITEMS, Item(id=2))
    words = happens(path)
    there = tree(tmp_path)
    error = refused(db)
    assert error.outcome == "nothing written"
    assert re.search(f"{path}: .*({words}).*Nothing more is written", str(error))
    assert str(db.refused) == str(error)
    assert db.get(ITEMS, 1) is not None
    with contextlib.suppress(DiskError):
        db.tables.flush()
    db.close()
    own = path.with_name("elsewhere") if path.with_name("elsewhere").exists() else None
    after = tree(tmp_path)
    foreign = {name for name in there if not (own and (tmp_path / name).is_relative_to(own))}
    if path.exists() and happens in {replaced, restored, linked}:
        assert {name: after.get(name) for name in foreign} == {name: there[name] for name in foreign}
        with Database(path) as other:
            assert other.get(ITEMS, 2) is None
            assert not list(other.admin.check())
    if own is not None:  # all acknowledged commits are in the moved files
        with Database(own) as here:
            assert here.get(ITEMS, 2) is not None
            assert not list(here.admin.check())


def test_a_mount_over_it_and_a_lazy_unmount_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "disk").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "none", tmp_path / "disk"], check=False, capture_output=True
    ).returncode:
        pytest.skip("this user may not mount")
    over, under = Database(tmp_path / "db"), Database(tmp_path / "disk" / "db")
    for db in (over, under):
        declare(db, ITEMS)
    subprocess.run(["mount", "--bind", tmp_path / "other", tmp_path / "db"], check=True)
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)
    try:
        assert "another directory is in this place now, and its own was unmounted, or hidden" in str(
            refused(over)
        )
        assert "the directory was unmounted, or hidden by another mount" in str(refused(under))
        over.close()
        under.close()
        assert not list((tmp_path / "other").iterdir())
    finally:
        subprocess.run(["umount", tmp_path / "db"], check=True)
    with Database(tmp_path / "db") as db:
        assert not list(db.admin.check())


def test_a_rebuild_and_a_restore_lock_the_directory_that_they_make(
    opening: Opener, path: Path, tmp_path: Path
) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    made, link = tmp_path / "made", tmp_path / "link"
    link.symlink_to(made)
    backup(db, tmp_path / "backup")
    for make in (db.admin.rebuild_into, lambda at, told: restore(tmp_path / "backup", at, progress=told)):
        seen = list[str]()

        def told(_: object, seen: list[str] = seen) -> None:
            for other in (lambda: db.admin.rebuild_into(link), lambda: Database(link), lambda: repair(link)):
                with pytest.raises(OpenError) as caught:
                    other()
                seen.append(str(caught.value))

        make(made, told)
        assert f"another process rebuilds into {made} now" in seen[0]
        assert f"{made}: a rebuild into it is running or was killed" in seen[1]
        remove(made)


def test_what_took_the_place_of_a_directory_that_is_being_made_is_left_alone(
    opening: Opener, tmp_path: Path
) -> None:
    db, made, other = opening(), tmp_path / "made", tmp_path / "other"
    db.put(ITEMS, Item(id=1))
    db.admin.rebuild_into(other)
    there = tree(other)

    def told(_: object) -> None:
        if other.exists():
            made.rename(tmp_path / "elsewhere")
            other.rename(made)

    with pytest.raises(OpenError, match="was moved or removed while a database was created in it"):
        db.admin.rebuild_into(made, told)
    assert tree(made) == there
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_database_that_is_not_closed_is_free_once_nothing_refers_to_it(path: Path) -> None:
    db = Database(path)
    declare(db, ITEMS)
    db.put(ITEMS, Item(id=1))
    threads = [
        one for one in threading.enumerate() if one.name.startswith("everlog-") and "watch" not in one.name
    ]
    del db
    for one in threads:  # the threads that maintain it
        one.join(60)
    gc.collect()
    with Database(path) as again:
        assert again.get(ITEMS, 1) is not None


def test_what_still_refers_to_rocksdb_keeps_the_lock(path: Path) -> None:
    db = Database(path)
    held = db.engine.log.iter()
    db.close()
    with pytest.raises(OpenError, match="was closed in this process, but something still reads it"):
        Database(path)
    assert run(OPEN, path).returncode
    del held
    Database(path).close()


def test_a_database_is_made_by_one_of_several_processes(path: Path) -> None:
    others = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(OPEN).replace("held.close()", "sys.stdin.read()"),
                str(path),
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    refused = 0
    for other in others:
        assert other.stderr is not None
    done = [other.communicate(b"\n", timeout=60) for other in others]
    for other, (_, said) in zip(others, done, strict=True):
        if other.returncode:
            refused += 1
            assert IN_USE in said.decode() or "by another process" in said.decode()
    assert refused < 3
    with Database(path) as db:
        assert not list(db.admin.check())


def test_files_are_as_open_as_their_directory(path: Path, tmp_path: Path) -> None:
    def modes(at: Path) -> set[tuple[bool, int]]:
        return {(one.is_dir(), one.stat().st_mode & 0o777) for one in (at, *at.rglob("*"))}

    before = os.umask(0o022)
    try:
        with Database(path) as db:
            declare(db, ITEMS)
            db.put(ITEMS, Item(id=1))
            db.engine.flush()
            db.log.write_head_file(sync=False)
            db.core.owner.narrow()  # as it is done four times a second
            assert modes(path) == {(True, 0o700), (False, 0o600)}
            backup(db, tmp_path / "backup")
            db.admin.rebuild_into(tmp_path / "made")
        assert modes(path) == {(True, 0o700), (False, 0o600)}
        assert modes(tmp_path / "backup") == {(True, 0o700), (False, 0o600)}
        restore(tmp_path / "backup", tmp_path / "restored")
        for made in ("made", "restored"):
            assert modes(tmp_path / made) == {(True, 0o700), (False, 0o600)}
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o750)
        with Database(shared) as db:
            declare(db, ITEMS)
        assert modes(shared) == {(True, 0o750), (False, 0o640)}
    finally:
        os.umask(before)


def test_a_file_system_is_known_by_its_kind(tmp_path: Path) -> None:
    mounted = tmp_path / "with space"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        assert file_system(mounted) == file_system(mounted / "in" / "it") == "tmpfs"
        assert file_system(tmp_path) not in {"tmpfs", ""} or file_system(Path("/tmp")) == "tmpfs"  # noqa: S108
    finally:
        subprocess.run(["umount", mounted], check=True)
