"""Files and folders that are whole or absent, whenever a kill comes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from flowmap.files.folder import SKIP_PREFIX, make_folder, sync, sync_tree, writing


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
