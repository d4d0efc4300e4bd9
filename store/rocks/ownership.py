"""Ownership: ensure that the directory of an open database is not replaced, and that it has one writer.

    PATH ─ resolved once ─▶ a descriptor ─▶ LOCK: flock ─▶ RocksDB ─▶ db/LOCK: a lock of the descriptor
                                │
              all files are opened through it (/proc/self/fd/N): wherever the directory is moved,
              writes follow it, and never reach a directory that replaced it

    four times a second: does PATH lead to this directory, and are its files the same? no ─▶ writing ends

Every writer locks LOCK: an open database, a rebuild or restore into the directory, repair, drop. The
lock is on the file itself, whatever its path, and ends with its process.

A record lock (fcntl), as RocksDB takes on db/LOCK, belongs to the process, and ends when the process
first closes *any* descriptor of that file. So a lock of one descriptor (F_OFD_SETLK) replaces it, which
keeps out older versions of everlog.

The owner may remove everything that everlog created in the directory, and nothing else (`remove`, `clear`):

    LOCK, locked ─▶ HEAD, OWNER ─▶ db becomes db.dropped ─▶ the directories ─▶ EVERLOG ─▶ LOCK
                 ─▶ PATH, if it is empty then

Invariants
  (1) of all processes and all objects in them, one writes to a directory;
  (2) closing other descriptors ends no lock;
  (3) nothing is written to a directory that replaced this one;
  (4) a lock ends after RocksDB is closed, not before;
  (5) a removal that is killed leaves a database, possibly an empty one, that can be removed again.

Without /proc (macOS) files are opened by path, and RocksDB may write to another directory until the next
check. Without F_OFD_SETLK (macOS) older versions are kept out by RocksDB's own lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import socket
import stat
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from everlog.store.errors import DiskError, OpenError
from everlog.store.process import Held
from everlog.store.program_log import about
from everlog.store.rocks import files
from everlog.store.rocks.errors import reason
from everlog.store.rocks.files import KEYS

LOCK = "LOCK"
LOOK_S = 0.25
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs")

_OFD = getattr(fcntl, "F_OFD_SETLK", None)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_ESCAPED = re.compile(r"\\(\d{3})")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit systems

HALF = "REBUILDING"  # instead of EVERLOG, while a database is rebuilt into the directory

DATABASE, DROPPED = "db", "db.dropped"
_DIRECTORIES = (DROPPED, "db.damaged-*", "repair")
SMALL = (KEYS, files.HEAD, files.OWNER, files.ARCHIVE, files.BOOKMARKS, files.HOLDS)
_FILES = (*SMALL, *(f"{name}.new" for name in (*SMALL, files.MARKER)))

logger = logging.getLogger("everlog")


class Ownership:
    """The directory of one open database. With `writing` it is locked. Writes the file LOCK.

    Raises OpenError if another process or object has the lock.
    """

    def __init__(self, path: Path, *, writing: bool) -> None:
        self.path = path
        self.lost: DiskError | None = None  # why writing has ended
        self._descriptors = threading.RLock()  # guards the descriptors
        self._on_lost: weakref.WeakMethod[Callable[[DiskError], None]] | None = None
        self._known: dict[str, os.stat_result] = {}
        self._db: Held | None = None
        self._rocksdb_lock: Held | None = None
        self._engine: weakref.ref[object] | None = None
        self._closed = False
        try:
            self._directory = Held(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise OpenError(f"{path}: the directory cannot be opened: {error.strerror}") from error
        self.at = _through(self._directory, path)
        """A path that leads to the directory even after it was moved, to open the files in it."""
        self._inode = _inode(os.fstat(self._directory.fileno()))
        self._lock: Held | None = None
        if not writing:
            weakref.finalize(self, self._directory.close)
            return
        try:
            self._lock = self._locked()
        except BaseException:
            self._directory.close()
            raise
        with _lock:
            _owned[self._inode] = self
        self._warn_of_network()

    # RocksDB

    def enter_rocksdb(self, engine: object) -> str:
        """Return the path at which `engine` opens RocksDB. Creates the directory if it is missing. Raises
        OSError."""
        with self._descriptors:
            directory = self._directory.fileno()
            with contextlib.suppress(FileExistsError):
                os.mkdir("db", stat.S_IMODE(os.fstat(directory).st_mode) & 0o777, dir_fd=directory)
                os.fsync(directory)
            if self._db is not None:
                self._db.close()
            self._db = Held(os.open("db", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory), below=True)
            self._engine = weakref.ref(engine)
            # RocksDB identifies an open database by the text of its path, and a forked child inherits the
            # list: with the same descriptor number it would refuse to open. So each fork makes another text.
            return f"{_through(self._db, self.path / 'db')}{'/.' * _forks}"

    def hold_rocksdb(self) -> None:
        """Replace the record lock of the open RocksDB by a lock of one descriptor. Raises OpenError if
        another process took it meanwhile."""
        assert self._db is not None
        if _OFD is None:
            return
        with self._descriptors:
            lock = Held(os.open("LOCK", os.O_RDWR | os.O_CLOEXEC, dir_fd=self._db.fileno()))
            self._rocksdb_lock = lock
            fcntl.lockf(lock.fileno(), fcntl.LOCK_UN)
            try:
                fcntl.fcntl(lock.fileno(), _OFD, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}:
                    raise self.taken() from None
                try:
                    fcntl.lockf(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise self.taken() from None

    def leave_rocksdb(self) -> None:
        """Release the locks after RocksDB was closed. They stay while something still refers to RocksDB,
        because that keeps it open."""
        self.narrow()
        with self._descriptors:
            if not self._is_rocksdb_open():
                self._drop_rocksdb()

    def _drop_rocksdb(self) -> None:
        for held in (self._rocksdb_lock, self._db):
            if held is not None:
                held.close()
        self._rocksdb_lock = self._db = None

    def _is_rocksdb_open(self) -> bool:
        """Whether this process has RocksDB's own descriptor of db/LOCK."""
        ours = self._rocksdb_lock
        if ours is None or ours.fileno() < 0:
            return False
        known = os.fstat(ours.fileno())
        with contextlib.suppress(OSError):
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if int(name) != ours.fileno() and os.path.samestat(
                        os.stat(f"/proc/self/fd/{name}"), known
                    ):
                        return True
        return False

    # the watch

    def watch(self, on_lost: Callable[[DiskError], None]) -> None:
        """Check the files four times a second from now on. When they were moved or replaced, the method
        `on_lost` is called once, on another thread, with the reason."""
        with self._descriptors:
            self._on_lost = weakref.WeakMethod(on_lost)
            assert self._db is not None
            directory, db = self._directory.fileno(), self._db.fileno()
            for name in (LOCK, files.MARKER, "db"):
                self._known[name] = os.stat(name, dir_fd=directory, follow_symlinks=False)
            self._known["db/LOCK"] = os.stat("LOCK", dir_fd=db, follow_symlinks=False)
        self.narrow()
        _watch()

    @property
    def is_closed(self) -> bool:
        """Whether `release` was called; the lock may still be held, see `leave_rocksdb`."""
        return self._closed

    def look(self) -> DiskError | None:
        """Check the files now. Return why writing has ended; None if they are those of this database."""
        with self._descriptors:
            if self.lost is not None or self._closed or self._on_lost is None or self._db is None:
                return self.lost
            why = self._missed()
            if not why:
                return None
            self.lost = DiskError(
                f"{self.path}: {why}. Nothing more is written. Close the database, and open it where its"
                " files are now",
                outcome="nothing written",
                path=str(self.path),
            )
            on_lost = self._on_lost()
        if on_lost is not None:
            on_lost(self.lost)
        return self.lost

    def remember(self) -> None:
        """As a reader: remember which files these are, for `check_place`."""
        for name in (files.MARKER, "db"):
            with contextlib.suppress(OSError):  # the next check reports it
                self._known[name] = os.stat(name, dir_fd=self._directory.fileno(), follow_symlinks=False)

    def check_place(self) -> None:
        """Raise OpenError if the path leads to other files than those that were opened."""
        with self._descriptors:
            if not self._closed and (why := self._missed()):
                raise OpenError(
                    f"{self.path}: {why}. What was read before stays readable here. To see more, close the"
                    " database, and open it where its files are now",
                    path=str(self.path),
                )

    def _missed(self) -> str:  # noqa: PLR0911  one return for each answer
        """Return what changed, in words; empty if nothing did."""
        directory = self._directory.fileno()
        try:
            there = os.stat(self.path)
        except OSError as error:
            if error.errno not in _GONE:
                return ""  # not readable now, which proves nothing
            return f"the directory was {self._where()}"
        if not os.path.samestat(there, os.fstat(directory)):
            return f"another directory is in this place now, and its own was {self._where()}"
        for name, known in self._known.items():
            try:
                now = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _GONE:
                    continue
                return f"{name} was removed"
            if not os.path.samestat(now, known):
                return f"{name} was replaced by another"
        if self._db is not None and not any(
            self._has_log() for _ in range(3)
        ):  # a file may be renamed while its directory is read
            return "files of db were removed"
        return ""

    def _has_log(self) -> bool:
        """Whether the files exist that RocksDB always has."""
        assert self._db is not None
        names = os.listdir(self._db.fileno())
        return "CURRENT" in names and any(name.endswith(".log") for name in names)

    def _where(self) -> str:
        """Return where the directory is now, in words."""
        directory = os.fstat(self._directory.fileno())
        try:
            where = os.readlink(f"/proc/self/fd/{self._directory.fileno()}")
        except OSError:  # no /proc
            return "moved or removed"
        if not directory.st_nlink or where.endswith(" (deleted)"):
            return "removed"
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(where), directory):
                return f"moved to {where}"
        return "unmounted, or hidden by another mount"

    def narrow(self) -> None:
        """Restrict the modes of RocksDB's files, which follow the umask, to that of the directory."""
        with self._descriptors:
            if self._db is None or self._closed:
                return
            db, most = self._db.fileno(), files.file_mode(os.fstat(self._directory.fileno()))
            # Without a descriptor left for it, the next look tries again.
            with contextlib.suppress(OSError), os.scandir(db) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # it went, or is another user's
                        mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                        if mode & ~most & 0o777 and entry.is_file(follow_symlinks=False):
                            os.chmod(entry.name, mode & most, dir_fd=db)

    # the lock

    def _locked(self) -> Held:
        while True:
            try:
                mode = files.file_mode(os.fstat(self._directory.fileno()))
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                held = Held(os.open(LOCK, flags, mode, dir_fd=self._directory.fileno()))
            except OSError as error:
                raise OpenError(
                    f"{self.path} cannot be opened for writing: {LOCK}: {reason(error, self.path)}"
                ) from error
            try:
                if self._lock_file(held) and self._is_named(held):
                    return held
            except BaseException:
                held.close()
                raise
            held.close()  # its holder has just removed the database: lock the new file

    def _lock_file(self, held: Held) -> bool:
        try:
            fcntl.flock(held.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with _lock:
                other = _owned.get(self._inode)
            if other is not None and other.end_if_over():
                return self._lock_file(held)
            if other is not None and other.is_closed:
                raise OpenError(
                    f"{self.path} was closed in this process, but something still reads it: an iteration"
                    " that has not ended, or a kept error. Release it",
                    busy=True,
                ) from None
            raise self.taken(here=other is not None) from None
        except OSError as error:
            raise OpenError(
                f"{self.path} cannot be locked ({error.strerror}) on its file system"
                f" ({file_system(self.path) or 'unknown'}), and without a lock two processes could destroy"
                " it. Put the database on a local disk, and connect to its server from elsewhere"
            ) from error
        return True

    def _is_named(self, held: Held) -> bool:
        try:
            there = os.stat(LOCK, dir_fd=self._directory.fileno(), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(held.fileno()))

    def taken(self, *, here: bool = False) -> OpenError:
        """Return the error for a second writer; `here`: the first one is in this process."""
        owner = None
        with contextlib.suppress(OpenError):
            owner = files.read(self.at / files.OWNER, files.Owner)
        return taken(self.path, owner, here=here)

    def is_open_here(self) -> bool:
        """Whether this process has the directory open for writing."""
        with _lock:
            return self._inode in _owned

    def _warn_of_network(self) -> None:
        kind = file_system(self.path)
        if kind in NETWORK:
            logger.warning(
                "%s lies on a network file system (%s): its lock keeps out other machines only if the server"
                " and all mounts of it support locks, and a sync is durable only if the server reports it"
                " correctly. Put the database on a local disk, and connect to its server from elsewhere",
                self.path,
                kind,
                extra=about("disk.network", database=str(self.path)),
            )

    def drop_lock_file(self) -> None:
        """Remove the file LOCK together with its database. The lock is held until `release`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOCK, dir_fd=self._directory.fileno())

    def is_here(self) -> bool:
        """Whether the path still leads to this directory."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._directory.fileno()))
        except OSError:
            return False

    def release(self) -> None:
        """Release the directory and the lock, or do so as soon as nothing refers to RocksDB any more. May be
        called twice."""
        with self._descriptors:
            self._closed = True
            self._on_lost = None
        if not self.end_if_over():
            _watch()

    def end_if_over(self) -> bool:
        """End the lock if the database is released and RocksDB is closed. Return whether it has ended."""
        with self._descriptors:
            given_up = self._on_lost is not None and self._engine is not None and self._engine() is None
            over = self._closed or given_up
            if not over or self._is_rocksdb_open():
                return False
            self._closed = True
            self._drop_rocksdb()
            if self._lock is not None:
                with _lock:
                    if _owned.get(self._inode) is self:
                        del _owned[self._inode]
                self._lock.close()
            self._directory.close()
            return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Ownership]:
    """Lock a database against all other writers, older versions of everlog included, for the block. Raises
    OpenError if it has a writer."""
    owner = Ownership(resolve(path), writing=True)
    try:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(owner.at / "db" / "LOCK", "ab", opener=files.private))
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (FileNotFoundError, NotADirectoryError):
                pass  # no RocksDB, so nothing that an older version could open
            except BlockingIOError:
                raise owner.taken() from None
            yield owner
    finally:
        owner.release()


@contextlib.contextmanager
def unwritten(path: Path) -> Iterator[Ownership]:
    """Keep all writers out for the block, as `locked`, but write nothing to the directory. Several processes
    can do so at a time. Raises OpenError if the database has a writer."""
    owner = Ownership(resolve(path), writing=False)
    try:
        with contextlib.ExitStack() as stack:
            for name, lock in ((LOCK, fcntl.flock), ("db/LOCK", fcntl.lockf)):
                try:
                    file = stack.enter_context(open(owner.at / name, "rb"))
                    lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # never opened for writing
                except BlockingIOError:
                    raise owner.taken(here=owner.is_open_here()) from None
                except PermissionError as error:
                    raise OpenError(f"{owner.path / name} cannot be read: {error.strerror}") from None
                except OSError:
                    pass  # without locks, the file system has no writer either
            yield owner
    finally:
        owner.release()


def resolve(path: Path) -> Path:
    """Return the path without links, independent of the working directory."""
    return Path(os.path.realpath(path))


def taken(path: Path, owner: files.Owner | None, *, here: bool = False) -> OpenError:
    """Return the error for a second writer; `owner` is the first, None if it is unknown; `here`: it is in
    this process."""
    who = f"process {owner.pid} on {owner.host}, since {owner.since}" if owner else "another process"
    ended = ""
    if owner is not None and owner.host == socket.gethostname() and not Path(f"/proc/{owner.pid}").exists():
        ended = (
            ". If that process has ended, one that it started still has its files open:"
            f" `fuser -v {path / LOCK}` names it"
        )
    remedy = "close it there, connect to its server"
    if here:
        who, remedy = f"{who}, which is this process", "use that object, or close it first"
    return OpenError(
        f"{path} is open for writing by {who}; {remedy}, or open it read_only{ended}",
        owner=owner,
        busy=True,
    )


def file_system(path: Path) -> str:
    """Return the type of the file system of a directory, such as `nfs4`; empty if it is unknown."""
    found, longest = "", -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            before, dash, after = line.partition(" - ")
            point = _ESCAPED.sub(lambda one: chr(int(one[1], 8)), before.split(" ")[4]) if dash else ""
            if point and (path == Path(point) or Path(point) in path.parents) and len(point) >= longest:
                found, longest = after.split(" ")[0], len(point)
    return found


def _through(directory: Held, path: Path) -> Path:
    """Return the path of the directory through its descriptor, or its plain path without /proc."""
    through = Path(f"/proc/self/fd/{directory.fileno()}")
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(through), os.fstat(directory.fileno())):
            return through
    return path


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


_lock = threading.Lock()
_owned: dict[tuple[int, int], Ownership] = {}
_watching: threading.Thread | None = None
_forks = 0  # from the first process down to this one


def _watch() -> None:
    """Start the thread that checks all owned directories, unless it runs."""
    global _watching  # noqa: PLW0603  one for the process
    with _lock:
        if _watching is None or not _watching.is_alive():
            _watching = threading.Thread(target=_look, name="everlog-watch", daemon=True)
            _watching.start()


def _look() -> None:
    global _watching  # noqa: PLW0603  one for the process
    rest = threading.Event()
    while True:
        rest.wait(LOOK_S)
        with _lock:
            everything = list(_owned.values())
            if not everything:
                _watching = None
                return
        while everything:
            one = everything.pop()
            with contextlib.suppress(OSError):  # the next check finds out
                if not one.end_if_over():
                    one.look()
                    one.narrow()
            del one  # otherwise the thread would keep the last one alive until the next round


def _forked() -> None:
    global _lock, _watching, _forks
    _lock, _watching, _forks = threading.Lock(), None, _forks + 1
    _owned.clear()


os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def removed_if_failed(path: Path) -> Iterator[None]:
    """Remove a database that the block created and left empty, and the directories created for it, if the
    block raises.

    A database that existed before, or has a second record, stays. The block closes the database.
    """
    path = path.absolute()
    missing = [one for one in (path, *path.parents) if not one.exists()]
    was_there = path.is_dir() and any(path.iterdir())
    try:
        yield
    except BaseException:
        if not was_there and _is_empty(path):
            with contextlib.suppress(OpenError, OSError):  # the error of the block is the one to report
                remove(path)
                if path not in missing:
                    path.mkdir()
                for one in missing[1:]:
                    one.rmdir()
        raise


def _is_empty(path: Path) -> bool:
    """Return whether the log had at most its first record when it was closed."""
    if files.read_marker(path) is None:
        return False
    known = files.read_head(path)
    if known is None:
        return not (path / DATABASE / "CURRENT").exists()  # RocksDB was not created
    return known.seq == 1


def clear(path: Path) -> None:
    """Remove everything in a database's directory except the file that marks it as one. The database must not
    be open. Raises OSError."""
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    if (path / DATABASE).exists():
        shutil.rmtree(path / DROPPED, ignore_errors=True)
        (path / DATABASE).rename(path / DROPPED)
    for pattern in _DIRECTORIES:
        for found in files.matching(path, pattern):
            shutil.rmtree(found)
    for recorded in files.matching(path / files.READS, f"*{files.READS_SUFFIX}"):
        recorded.unlink()
    with contextlib.suppress(OSError):  # none, or with files of others
        (path / files.READS).rmdir()


def clear_owned(owner: Ownership) -> None:
    """Do `clear` for the owned directory, but not for another one that replaced it."""
    if owner.at != owner.path or owner.is_here():
        clear(owner.at)


def remove(path: Path) -> list[Path]:
    """Remove a database that is not open anywhere, and its directory if that is empty then.

    Returns the remaining files of others. Raises OpenError if the database is open, and OSError.
    """
    with locked(path) as owner:
        return remove_owned(owner)


def remove_owned(owner: Ownership) -> list[Path]:
    """Do `remove` for the holder of the lock."""
    clear_owned(owner)
    for name in (files.MARKER, HALF):
        (owner.at / name).unlink(missing_ok=True)
    owner.drop_lock_file()
    left = sorted(owner.path / file.name for file in owner.at.iterdir())
    if not left and owner.is_here():
        owner.path.rmdir()
    return left
