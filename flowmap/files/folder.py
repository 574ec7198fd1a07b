"""A run's folder: one writer at a time, files that are whole or absent, errors that say what is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from safetensors import SafetensorError

from flowmap.errors import FlowmapError
from flowmap.phases import each

if TYPE_CHECKING:
    from filelock import FileLock

SKIP_PREFIX = ".part-"
"""Files and folders of this prefix are unfinished; whoever finds one may delete it."""
OLD = ".old-"
"""Between the name of a folder that was set aside and its number."""

LOCKED = ".lock"
"""The lock of a folder lies in it: by whatever name the folder is reached, there is one lock."""

_GONE = (errno.ENOENT, errno.ESTALE)


class StoppedError(FlowmapError):
    """The work stopped, what was saved before is intact, and it can go on.

    `first` is a shell command that must be run before going on, if any. Whoever knows the command that goes on
    adds it to the message.
    """

    def __init__(self, message: str, code: int = 1, first: str = "") -> None:
        super().__init__(message, code)
        self.first = first

    def before(self, command: str) -> str:
        """What is typed to go on by `command`: that, after what must be run first."""
        return f"{self.first} && {command}" if self.first else command


@final
@dataclass
class _Held:
    """A folder that this process holds: as what it was found, and its lock."""

    folder: Path
    identity: tuple[tuple[int, int], tuple[int, int]]
    lock: FileLock

    @classmethod
    def take(cls, folder: Path) -> _Held:
        """Make the folder, if need be, and hold it; raises Timeout at once if another process does."""
        from filelock import FileLock  # brings asyncio, which `flowmap check` has no use for

        make_folder(folder)
        lock = FileLock(folder / LOCKED)
        lock.acquire(timeout=0)
        return cls(folder, _identity(folder), lock)

    def check(self) -> None:
        """Raise StoppedError unless the folder is still the one that was taken, under the name that it had."""
        try:
            same = _identity(self.folder) == self.identity
        except OSError:
            same = False
        if not same:
            raise StoppedError(
                f"{self.folder} is no longer the folder that this run works in: it, or its lock, was deleted, renamed "
                "or replaced meanwhile. Nothing more is written; what was saved is where that folder is now. If it "
                "was moved, move it back first."
            )


_held: dict[Path, _Held] = {}  # what this process writes to: a lock is the whole process's


def _identity(folder: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """What tells the folder and its lock from any other of their names."""
    found = folder.stat(), (folder / LOCKED).stat()
    return (found[0].st_dev, found[0].st_ino), (found[1].st_dev, found[1].st_ino)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failing write under `path` into a StoppedError that says why, and that nothing is lost.

    Nothing is written into a folder that this process holds once that is not the same any more.
    """
    for folder, held in list(_held.items()):
        if path == folder or folder in path.parents:
            held.check()
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        full = code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            why = "the disk is full; free some space"
        elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "it is not writable; change its permissions or choose another folder"
        elif code in (errno.ENOTDIR, errno.EEXIST):
            why = "a file stands where a folder is needed; move it or choose another folder"
        elif code in _GONE:
            why = "it, or a folder above it, is not there any more: deleted or renamed while this was at work"
        else:
            why = str(error)
        raise StoppedError(f"cannot write {path}: {why}. What was saved before is untouched.") from error


@contextmanager
def locked(folder: Path, otherwise: str = "give this recipe another name") -> Iterator[None]:
    """Make `folder`, and hold it for this process; raises FlowmapError at once if another run holds it.

    `otherwise` is what to do for who cannot wait.
    While it is held, it is not made again if it vanishes. Raises FlowmapError too if its name is no UTF-8, in which
    safetensors can write no file.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise FlowmapError(f"{folder}: the name of a folder on the way is no UTF-8; choose another") from None
    new = not folder.exists()
    with writing(folder):
        _hold(folder, otherwise)
    try:
        yield
    finally:
        if held := _held.pop(folder, None):
            _let_go(held, new)


def _let_go(held: _Held, new: bool) -> None:
    """Release the lock, and leave none behind; a `new` folder into which nothing was written goes too."""
    with suppress(OSError, StoppedError):
        # Whoever has opened it meanwhile holds a lock without a name, which FileLock and `take` both see.
        held.check()
        (held.folder / LOCKED).unlink()
        if new and not any(held.folder.iterdir()):
            held.folder.rmdir()
    held.lock.release()


def _hold(folder: Path, otherwise: str = "") -> None:
    from filelock import Timeout

    try:
        _held[folder] = _Held.take(folder)
    except Timeout:
        raise FlowmapError(
            f"{folder}: another flowmap run is writing here; wait for it, stop it, or {otherwise}"
        ) from None


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force all that is in a folder to disk, what is inside before what holds it."""
    name = folder.name.removeprefix(SKIP_PREFIX)
    for inner, _, files in each(list(os.walk(folder, topdown=False)), f"waiting for the disk to have {name}"):
        for file in files:
            sync(Path(inner, file))
        sync(Path(inner))


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and force their entries to disk.

    A folder that this process holds is not made again: raises FileNotFoundError if it is gone.
    """
    if path.is_dir():
        return
    if path in _held:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder so that it is never seen half deleted."""
    with writing(path):
        doomed = path.with_name(SKIP_PREFIX + "gone-" + path.name)
        path.rename(doomed)
        shutil.rmtree(doomed)


def clear(folder: Path) -> None:
    """Delete all that is in a folder but its lock."""
    with writing(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCKED:
                path.unlink()


def set_aside(path: Path) -> Path | None:
    """Rename a folder to the first free `<name>.old-N`; returns the new path, or None if there was nothing.

    One that this process holds is made anew and held again.
    """
    held = _held.get(path)
    if not path.exists() or (held is not None and [p.name for p in path.iterdir()] == [LOCKED]):
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}{OLD}{number}")).exists():
        number += 1
    with writing(path):
        path.rename(aside)
        if held is not None:
            _held.pop(path).lock.release()
            (aside / LOCKED).unlink(missing_ok=True)
            _hold(path)
    return aside
