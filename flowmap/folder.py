"""A run's folder: one writer at a time, files that are whole or absent, errors that say what is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from flowmap.errors import FlowmapError

SKIP_PREFIX = ".part-"
"""Files and folders of this prefix are unfinished; whoever finds one may delete it."""


class StoppedError(FlowmapError):
    """The work stopped, what was saved before is intact, and it can go on.

    `first` is a shell command that must be run before going on, if any. Whoever knows the command that goes on
    adds it to the message.
    """

    def __init__(self, message: str, code: int = 1, first: str = "") -> None:
        super().__init__(message, code)
        self.first = first


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failing write under `path` into a StoppedError that says why, and that nothing is lost."""
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
        else:
            why = str(error)
        raise StoppedError(f"cannot write {path}: {why}. What was saved before is untouched.") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; raises FlowmapError at once if another run holds it.

    The lock lies beside the folder, so that the folder itself can be renamed under it.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FlowmapError(
                f"{folder}: another flowmap run is writing here; wait for it, stop it, or give this recipe another name"
            ) from None
    try:
        yield
    finally:
        lock.release()


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and force their entries to disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir()
        sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part."""
    write_whole_file(path, lambda part: part.write_text(text))


def write_whole_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Write the file `path` by `fill`, which is given another to write; a reader sees the old one or the new one."""
    with writing(path):
        make_folder(path.parent)
        part = path.with_name(SKIP_PREFIX + path.name)
        fill(part)
        sync(part)
        part.replace(path)
        sync(path.parent)


def write_whole_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` with the files that `fill` writes into the folder it is given; all or nothing."""
    part = path.with_name(SKIP_PREFIX + path.name)
    with writing(path):
        try:
            shutil.rmtree(part, ignore_errors=True)
            make_folder(part)
            fill(part)
            for file in part.iterdir():
                sync(file)
            sync(part)
            part.rename(path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def readable(path: Path) -> None:
    """Let others read a file as far as the umask does: safetensors writes for its owner only."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def remove_folder(path: Path) -> None:
    """Delete a folder so that it is never seen half deleted."""
    with writing(path):
        doomed = path.with_name(SKIP_PREFIX + "gone-" + path.name)
        path.rename(doomed)
        shutil.rmtree(doomed)


def set_aside(path: Path) -> Path | None:
    """Rename a folder to the first free `<name>.old-N`; returns the new path, or None if there was nothing."""
    if not path.exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    with writing(path):
        path.rename(aside)
    return aside


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a lines file; a last line cut off by a kill is left out.

    Raises FlowmapError, naming the line, if another one is not JSON.
    """
    try:
        *whole, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None
    found: list[dict[str, Any]] = []
    for number, line in enumerate(whole, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise FlowmapError(f"{path}, line {number}: damaged, this is no JSON; delete the line", code=1) from None
    return found


def rewrite_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a lines file as a whole."""
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object and hand it to the system at once, so that a killed process loses no line."""
    # Opened anew for each line: a file that stays open would keep what a full disk refused, and fail again later.
    with writing(path), path.open("a") as file:
        file.write(json.dumps(line) + "\n")
