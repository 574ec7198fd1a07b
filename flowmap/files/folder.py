"""A run's folder: one writer at a time, files that are whole or absent, errors that say what is lost."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout
from pydantic import BaseModel
from safetensors import SafetensorError

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, parse_json, shaped
from flowmap.phases import each

SKIP_PREFIX = ".part-"
"""Files and folders of this prefix are unfinished; whoever finds one may delete it."""
OLD = ".old-"
"""Between the name of a folder that was set aside and its number."""

LOCKED = ".lock"
"""The lock of a folder lies in it: by whatever name the folder is reached, there is one lock."""

_LOOKED_AT = 4096  # bytes at a time
_GONE = (errno.ENOENT, errno.ESTALE)


class StoppedError(FlowmapError):
    """The work stopped, what was saved before is intact, and it can go on.

    `first` is a shell command that must be run before going on, if any. Whoever knows the command that goes on
    adds it to the message.
    """

    def __init__(self, message: str, code: int = 1, first: str = "") -> None:
        super().__init__(message, code)
        self.first = first


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
def locked(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold it for this process; raises FlowmapError at once if another run holds it.

    While it is held, it is not made again if it vanishes. Raises FlowmapError too if its name is no UTF-8, in which
    safetensors can write no file.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise FlowmapError(f"{folder}: the name of a folder on the way is no UTF-8; choose another") from None
    new = not folder.exists()
    with writing(folder):
        _hold(folder)
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


def _hold(folder: Path) -> None:
    try:
        _held[folder] = _Held.take(folder)
    except Timeout:
        raise FlowmapError(
            f"{folder}: another flowmap run is writing here; wait for it, stop it, or give this recipe another name"
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


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part."""
    # What no UTF-8 has, such as a folder's name in another encoding, is written as what it is made of.
    write_whole_file(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_whole_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Write the file `path` by `fill`, which is given another to write; a reader sees the old one or the new one."""
    with writing(path):
        make_folder(path.parent)
        part = path.with_name(SKIP_PREFIX + path.name)
        fill(part)
        sync(part)
        part.replace(path)
        sync(path.parent)


def write_together(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write several files, each by a function that is given another path; none has its name before all are written."""
    parts = {path.with_name(SKIP_PREFIX + path.name): path for path in files}
    try:
        for part, path in parts.items():
            with writing(path):
                files[path](part)
                sync(part)
        for part, path in parts.items():
            with writing(path):
                part.replace(path)
    finally:
        for part in parts:
            with suppress(OSError):  # what went wrong before is said, and unfinished files may stay
                part.unlink(missing_ok=True)


def write_whole_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` with the files that `fill` writes into the folder it is given; all or nothing."""
    part = path.with_name(SKIP_PREFIX + path.name)
    with writing(path):
        try:
            shutil.rmtree(part, ignore_errors=True)
            make_folder(part)
            fill(part)
            sync_tree(part)
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


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, without the last one if a kill has cut it off; none if there is no file.

    Raises FlowmapError if the file cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None


def cut_off(path: Path) -> str:
    """Say that the last line of a file is no whole one, and is left out by whoever reads lines; nothing if it is whole.

    Raises FlowmapError if the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            whole, size = _whole_and_all(file)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None
    rest = size - whole
    return f"{path} ends within a line; its last {rest} bytes are left out" if rest else ""


def parsed(lines: Iterable[bytes], shape: type[BaseModel] | None = None) -> list[dict[str, Any]]:
    """The JSON objects of `lines`, as `shape` has them; raises TextError, naming the line, for any other."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_object(line) if shape is None else vars(shaped(line, shape)))
        except TextError as error:
            raise TextError(f"line {number}: damaged, {shortened(str(error))}") from None
    return found


def read_lines(path: Path, shape: type[BaseModel] | None = None) -> list[dict[str, Any]]:
    """The JSON objects of a lines file, as `shape` has them; a last line cut off by a kill is left out.

    Raises FlowmapError, naming the line, if another one is no JSON object, or not of that shape.
    """
    try:
        return parsed(whole_lines(path), shape)
    except TextError as error:
        raise FlowmapError(f"{path}, {error}; delete the line", code=1) from None


def _object(line: bytes) -> dict[str, Any]:
    found = parse_json(line)
    if not isinstance(found, dict):
        raise TextError("this is no JSON object")
    return found


def shortened(text: str) -> str:
    """At most 200 characters of `text`."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def as_line(line: Mapping[str, Any]) -> bytes:
    """One JSON object as a line of a file. What is no finite number is a string: JSON has neither NaN nor infinity."""
    return (json.dumps(_in_json(line), allow_nan=False) + "\n").encode()


def _in_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def rewrite_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a lines file as a whole."""
    write_whole_file(path, lambda part: part.write_bytes(b"".join(map(as_line, lines))))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object to a file that is there, and hand it to the system at once: a killed process loses none.

    What a full disk has left of an earlier line is cut off first, or the two would be one.
    """
    # Opened anew for each line: a file that stays open would keep what a full disk refused, and fail again later.
    with writing(path), path.open("r+b", buffering=0) as file:
        _cut_off_torn(file)
        content = as_line(line)
        while content:
            content = content[file.write(content) :]


def _cut_off_torn(file: io.FileIO) -> None:
    """Leave a lines file at its end, which is that of a line."""
    whole, size = _whole_and_all(file)
    if whole < size:
        file.truncate(whole)
    file.seek(whole)


def _whole_and_all(file: io.FileIO) -> tuple[int, int]:
    """The bytes of a lines file that are whole lines, and all of them; only its end is read."""
    size = end = file.seek(0, os.SEEK_END)
    found = -1
    # The last byte alone is nearly always enough.
    span = 1
    while end and found < 0:
        start = max(0, end - span)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        end, span = start, _LOOKED_AT
    return end + found + 1, size
