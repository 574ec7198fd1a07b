"""Within a process under test: count what it does to the files of a folder, and at one of these be killed or refuse.

What Python opens for writing, renames, makes and deletes is heard of by an audit hook; writes of Python's files, of
safetensors and `fsync` are wrapped. What other libraries write behind both is met by a limit on the size of files.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import signal
import sys
import tarfile
from pathlib import Path
from typing import Any

_GROWING = ("open", "write", "fsync", "mkdir", "tensors")
"""What needs room; a full disk still renames and deletes."""

_AUDITED = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.truncate": "truncate",
    "os.symlink": "symlink",
    "os.link": "link",
}


def install(folder: str, do: str, at: int = 0, log: str = "", rank: int | None = None) -> None:
    """Count the operations below `folder` and, at number `at` (from 1), `do` it.

    `do` is `count` (each is noted in the file `log`), `kill` (this process), `kill all` (its group), or the name of an
    error: from then on every operation that such a disk refuses raises it. In another process than the `rank` of those
    that share a run nothing happens.
    """
    if rank is not None and int(os.environ.get("RANK", "0")) != rank:
        return
    _Injector(os.path.realpath(folder), do, at, log).listen()


class _Injector:
    def __init__(self, folder: str, do: str, at: int, log: str) -> None:
        self._folder, self._do, self._at = folder + os.sep, do, at
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else None
        # Shared with the processes that this one forks: a disk is full for all of them.
        self._count = mmap.mmap(-1, 8)

    def listen(self) -> None:
        import safetensors.torch

        sys.addaudithook(self._hear)
        opened, synced, tensors = builtins.open, os.fsync, safetensors.torch.serialize_file

        def watched(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            found = opened(file, mode, *more, **named)
            if isinstance(file, int) or not set(mode) & set("wax+") or not self._ours(os.fspath(file)):
                return found
            return _Watched(found, os.fspath(file), self)

        def fsync(descriptor: int) -> None:
            self.meet("fsync", _name_of(descriptor))
            synced(descriptor)

        def serialize_file(content: Any, filename: Any, *more: Any, **named: Any) -> None:
            if (why := self.refusal("tensors", os.fspath(filename))) is not None:
                # A part of it is written, as on a disk that becomes full meanwhile.
                Path(filename).write_bytes(b"\x10\0\0\0\0\0\0\0{")
                message = f"Error while serializing: I/O error: {os.strerror(why)} (os error {why})"
                raise safetensors.SafetensorError(message)
            tensors(content, filename, *more, **named)

        os.fsync = fsync
        safetensors.torch.serialize_file = serialize_file
        builtins.open = io.open = tarfile.bltn_open = watched  # type: ignore[attr-defined]

    def _ours(self, path: Any) -> bool:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        full = os.path.abspath(path)
        # What is printed goes to a log that is no part of the work.
        return full.startswith(self._folder) and not os.path.basename(full).startswith("log-")

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if isinstance(path, str | bytes) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.meet("open", path)
        elif event in _AUDITED:
            path, where = values[0], values[-1] if isinstance(values[-1], int) else -1
            if event in ("os.symlink", "os.link"):
                path = values[1]
            if isinstance(path, int):
                path = _name_of(path)
            if where >= 0 and event in ("os.remove", "os.rmdir"):
                path = os.path.join(_name_of(where), os.fsdecode(path))
            self.meet(_AUDITED[event], os.fspath(path))

    def meet(self, what: str, path: Any) -> None:
        """Count an operation; raises OSError if it is refused."""
        if (why := self.refusal(what, path)) is not None:
            raise OSError(why, os.strerror(why), os.fspath(path))

    def refusal(self, what: str, path: Any) -> int | None:
        """Count an operation; the number of the error with which it is refused, if it is."""
        if not self._ours(path):
            return None
        count = int.from_bytes(self._count[:8], "little") + 1
        self._count[:8] = count.to_bytes(8, "little")
        if self._do == "count":
            if self._log is not None:
                os.write(self._log, f"{what} {os.path.abspath(os.fsdecode(path))}\n".encode())
        elif self._do in ("kill", "kill all"):
            if count == self._at:
                if self._do == "kill all":
                    os.killpg(os.getpgrp(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
        elif count >= self._at and (count == self._at or self._do == "EROFS" or what in _GROWING):
            return int(getattr(errno, self._do))
        return None


class _Watched:
    """A file that is being written, each write of which is an operation."""

    def __init__(self, file: Any, path: Any, injector: _Injector) -> None:
        self._file, self._path, self._injector = file, path, injector

    def write(self, content: Any) -> Any:
        if (why := self._injector.refusal("write", self._path)) is not None:
            # What there is room for is written: lines are torn so.
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise OSError(why, os.strerror(why))
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Watched:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)


def _name_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return os.devnull
