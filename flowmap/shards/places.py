"""Where shards are looked for, and what is said of what lies there and is none. Torch-free."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from flowmap.files.names import expanded

_PART = ".part-"  # flowmap.files.folder.SKIP_PREFIX; that module would be the only slow import of `check` here
_MOST = 50_000  # files and folders below a pattern with **: seconds, and far more than anybody's tars
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma")
_PACKED_TARS = (".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tlz")


def named(path: str) -> list[Path]:
    """What a folder has in it, or a pattern matches, sorted; unfinished files are left out."""
    place = expanded(path)
    try:
        if _too_wide(place):
            return []
        found = list(place.iterdir()) if place.is_dir() else [Path(p) for p in glob.glob(str(place), recursive=True)]
    except (OSError, ValueError):
        return []  # `nothing_at` says why
    return sorted(p for p in found if not p.name.startswith(_PART)) if path else []


def _too_wide(place: Path) -> bool:
    """Whether a pattern with ** looks through so much that `check` would take long, or through a circle of links."""
    parts = place.parts
    if "**" not in parts or place.is_dir():
        return False
    start = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    looked = itertools.accumulate(
        len(dirs) + len(files) for _, dirs, files in os.walk(Path(*parts[:start]), followlinks=True)
    )
    return any(number > _MOST for number in looked)


def is_tar(path: Path) -> bool:
    """Whether it is called a tar."""
    return path.suffix.lower() == ".tar"


def why_not(path: Path) -> str:
    """Why something that should be a tar is not read; empty if it is read, or should be none."""
    if is_tar(path):
        if path.is_file():
            return ""
        if path.is_symlink() and not path.exists():
            return "it is a link to a file that is not there"
        return "it is a folder, and no tar" if path.is_dir() else "it is no file"
    twin = path.with_suffix("") if path.suffix.lower() in _PACKED else path.with_suffix(".tar")
    if _packed(path) and not twin.is_file():
        return "it is a compressed tar, which is not read; unpack it to a .tar"
    return ""


def nothing_at(path: str, loose: Mapping[str, str] | None = None) -> str:
    """Say that `path` names no tar, what it names instead, and from where it was looked for.

    `loose` says of files that are samples by themselves, by suffix, what is to be done with them.
    """
    whence = f"(looked from {Path.cwd()})"
    try:
        return (
            _nothing_in(expanded(path), path, whence, loose or {})
            if path
            else f"the path of the shards is empty {whence}"
        )
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror} {whence}"
    except ValueError as error:
        return f"'{path!a}' is no path: {error}"


def _nothing_in(place: Path, path: str, whence: str, loose: Mapping[str, str]) -> str:
    if _too_wide(place):
        return (
            f"'{path}' looks through more than {_MOST:,} files and folders {whence}; name a folder nearer to the tars"
        )
    if not place.is_dir():
        return (
            f"'{path}' is a file, and no .tar {whence}"
            if place.is_file()
            else (f"no .tar file or folder matches '{path}' {whence}")
        )
    what, inside = f"there is no .tar in the folder {path} {whence}", sorted(place.iterdir())
    if packed := next((p for p in inside if _packed(p)), None):
        return f"{what}; {packed.name} is compressed: unpack it to a .tar"
    if next(place.glob("*/*.tar"), None):
        return f"{what}, but in folders of it: name them as {path}/*/*.tar"
    if sample := next((p for p in inside if p.suffix.lower() in loose), None):
        return f"{what}; {sample.name} lies there as it is: {loose[sample.suffix.lower()]}"
    return what


def _packed(path: Path) -> bool:
    """Whether it is called a compressed tar."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes[-1:] in [[s] for s in _PACKED_TARS] or (suffixes[:1] == [".tar"] and suffixes[-1] in _PACKED)
